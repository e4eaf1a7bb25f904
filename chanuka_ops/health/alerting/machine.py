"""The state machine of an alert, (database, check, object) by itself: pure, and told the time.

A look that found it counts as bad, one that looked and did not as good, and one that could not look as neither: an
unknown fires by itself after a time of its own, and resolves nothing. What is silent goes on through its states, and
is told when the silence is over if it fires still.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from chanuka_ops.health.alerting.model import REACHABLE, Alert, Change, Event, Key, Look, Policy, Silence, State
from chanuka_ops.health.model import Finding, Scope, Status

_GRAVITY = (Status.UNKNOWN, Status.WARNING, Status.CRITICAL)
NOT_CHECKED = "it is no longer checked"


def advance(
    alerts: Mapping[Key, Alert], look: Look, policy: Policy, silences: Sequence[Silence] = ()
) -> tuple[dict[Key, Alert], list[Change]]:
    """Take one database's alerts through one look: what they are now, and what is to be told.

    `alerts` are all that are kept of that database. What isn't kept any more is not returned.
    """
    kept: dict[Key, Alert] = {}
    changes: list[Change] = []
    lately = _told_of(alerts.values(), look.at, policy)
    for key in sorted({*alerts, *_found(look)}):
        before = alerts.get(key)
        now = _next(before, key, look, policy)
        if now is None:
            continue
        silent = any(silence.covers(key, look.at) for silence in silences)
        # whoever was told that it fires is told that it's over, also in a silence
        told = [e for e in _to_be_told(before, now, policy, look) if not silent or e is Event.RESOLVED]
        if told == [Event.FIRING] and _waits(now, lately[key.check]):
            told = []  # with the next of its check it is one message
        if told:
            now = replace(now, told=now.severity if now.state is State.FIRING else None, told_at=look.at)
        changes += [Change(event, now) for event in told]
        kept[key] = now
    return kept, changes


def let_go(alerts: Iterable[Alert], at: datetime, reason: str) -> list[Change]:
    """Say that nobody looks any more at these, of whom it was told that they fire."""
    over = [alert for alert in alerts if alert.state is State.FIRING and alert.told is not None]
    gone = [replace(one, state=State.RESOLVED, resolved_at=at, told=None, told_at=at, reason=reason) for one in over]
    return [Change(Event.RESOLVED, alert) for alert in gone]


def _told_of(alerts: Iterable[Alert], at: datetime, policy: Policy) -> dict[str, list[Alert]]:
    """Return, by check, of whom somebody was told within `gather_s`."""
    found: dict[str, list[Alert]] = defaultdict(list)
    for alert in alerts:
        if alert.told_at is not None and 0 <= (at - alert.told_at).total_seconds() < policy.gather_s:
            found[alert.key.check].append(alert)
    return found


def _waits(now: Alert, lately: Iterable[Alert]) -> bool:
    """Tell whether somebody was told just now of another object of the check, and of nothing less grave."""
    grave = _GRAVITY.index(now.severity)
    return any(other.key != now.key and _GRAVITY.index(other.severity) >= grave for other in lately)


def _found(look: Look) -> Iterator[Key]:
    for check, object_ in look.bad:
        yield Key(look.database, check, object_)
    if not look.down:  # else it's the server that is told of, and not each check that could not ask it
        yield from (Key(look.database, check) for check in look.unknown)


def _next(before: Alert | None, key: Key, look: Look, policy: Policy) -> Alert | None:
    finding = look.bad.get((key.check, key.object))
    if finding is not None:
        return _bad(before, key, finding, look, policy)
    if key.check in look.unknown or (look.blind and key.check != REACHABLE):
        return _unseen(before, key, look, policy)
    if before is None:
        return None
    if key.check in look.judged:
        return _good(before, look, policy)
    if not look.whole:
        return before
    return _resolved(before, look.at, policy, NOT_CHECKED)


def _bad(before: Alert | None, key: Key, finding: Finding, look: Look, policy: Policy) -> Alert:
    fresh = before is None or before.state is State.RESOLVED or before.severity is Status.UNKNOWN
    now = Alert(
        key,
        State.PENDING if before is None or before.state is State.RESOLVED else before.state,
        finding.status,
        look.at if before is None or before.state is State.RESOLVED else before.since,
        look.at,
        finding.summary,
        finding.remedy,
        look.scopes.get(key.check, Scope.DATABASE),
        look.server,
        finding.value,
        finding.unit,
        bad=1 if fresh or before is None else before.bad + 1,
        fired=() if before is None else before.fired,
    )
    if before is not None and before.state is not State.RESOLVED:
        now = replace(now, told=before.told, told_at=before.told_at)
    needed = 1 if key.check in policy.at_once else policy.fires_after.get(now.severity, 1)
    return _fire_if(now, now.bad >= needed, look.at)


def _unseen(before: Alert | None, key: Key, look: Look, policy: Policy) -> Alert | None:
    """Take an alert through a look that could not look: what fires goes on firing, what was pending waits."""
    if look.down and before is None:
        return None
    if before is not None and before.state is not State.RESOLVED and before.severity is not Status.UNKNOWN:
        return before
    if look.down or key.object or key.check not in look.unknown:
        return before
    reason = look.unknown[key.check]
    live = before is not None and before.state is not State.RESOLVED
    now = Alert(
        key,
        before.state if live and before is not None else State.PENDING,
        Status.UNKNOWN,
        min(before.since, look.at) if live and before is not None else look.at,
        look.at,
        reason,
        "",
        look.scopes.get(key.check, Scope.DATABASE),
        look.server,
        bad=before.bad + 1 if live and before is not None else 1,
        told=before.told if live and before is not None else None,
        told_at=before.told_at if live and before is not None else None,
        fired=() if before is None else before.fired,
    )
    waited_s = (look.at - now.since).total_seconds()
    return _fire_if(now, waited_s >= policy.unknown_after_s, look.at)


def _fire_if(now: Alert, due: bool, at: datetime) -> Alert:  # noqa: FBT001 - a condition, not an option
    if now.state is State.FIRING or not due:
        return now
    return replace(now, state=State.FIRING, fired=(*now.fired, at))


def _good(before: Alert, look: Look, policy: Policy) -> Alert | None:
    if before.state is State.PENDING:
        return _forgotten(replace(before, state=State.RESOLVED, resolved_at=look.at), look.at, policy)
    if before.state is State.RESOLVED:
        return _forgotten(before, look.at, policy)
    if (before.key.check, before.key.object) in look.near and before.severity is not Status.UNKNOWN:
        return replace(before, seen_at=look.at, good=0, bad=0)
    good = before.good + 1
    needed = policy.steady_after if is_flapping(before, look.at, policy) else policy.clears_after
    if good < needed:
        return replace(before, seen_at=look.at, good=good, bad=0)
    return _resolved(before, look.at, policy, "")


def _resolved(before: Alert, at: datetime, policy: Policy, reason: str) -> Alert | None:
    if before.state is not State.FIRING:
        return _forgotten(replace(before, state=State.RESOLVED, resolved_at=before.resolved_at or at), at, policy)
    return replace(before, state=State.RESOLVED, resolved_at=at, seen_at=at, good=0, bad=0, reason=reason)


def _forgotten(resolved: Alert, at: datetime, policy: Policy) -> Alert | None:
    """Keep what is over only for as long as it tells that the alert flaps."""
    recent = _recent(resolved, at, policy)
    return replace(resolved, fired=recent) if recent else None


def _recent(alert: Alert, at: datetime, policy: Policy) -> tuple[datetime, ...]:
    oldest = at - timedelta(seconds=policy.flap_window_s)
    return tuple(moment for moment in alert.fired if moment > oldest)


def is_flapping(alert: Alert, at: datetime, policy: Policy) -> bool:
    """Tell whether an alert came and went so often lately that it has to be good for longer."""
    return len(_recent(alert, at, policy)) >= policy.flaps


def _to_be_told(before: Alert | None, now: Alert, policy: Policy, look: Look) -> Iterator[Event]:
    if look.blind and now.key.check != REACHABLE:
        return  # one message for a server that is down: what it hides is told when it can be seen again
    if now.state is State.RESOLVED:
        if before is not None and before.state is State.FIRING and before.told is not None:
            yield Event.RESOLVED
        return
    if now.state is not State.FIRING:
        return
    if now.told is None:
        if now.bad:  # else it's about to be over: what nobody was told of needs no end
            yield Event.FIRING
    elif _GRAVITY.index(now.severity) > _GRAVITY.index(now.told):
        yield Event.ESCALATED
    elif (
        now.told_at is not None and not now.good and not 0 <= (look.at - now.told_at).total_seconds() < policy.remind_s
    ):
        yield Event.REMINDER  # also where the clock was put back


def firing(alerts: Iterable[Alert]) -> list[Alert]:
    """Return those that fire, the worst first."""
    found = [alert for alert in alerts if alert.state is State.FIRING]
    return sorted(found, key=lambda alert: (-_GRAVITY.index(alert.severity), alert.key))

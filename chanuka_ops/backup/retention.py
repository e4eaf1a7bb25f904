"""Which backups stay and which expire. No I/O, no clock; every answer has its reasons, with the numbers.

What counts. A backup is *whole* where it can be read, says when it was taken, and no look at it failed. Only whole ones
count towards a number or speak for a day, so that a broken backup never makes a good one expire. Of equal instants the
greater id is the newer.

Periods are those that have a backup, not the calendar's: `daily = 7` is the newest backup of each of the seven latest
days (UTC) on which there is one. That is how restic and borg count. Where backups have stopped for a month, or the
clock has jumped a year ahead, nothing expires by the passing of time alone: only a newer backup lets an older one go.

For the same reason `maximum_age` is measured from the newest whole backup, not from now. Past it a backup expires even
if a number would keep it.

Three things are stronger than any number: a pin, being the newest proven backup, and being one of the `minimum` newest.

What can't be read never expires by itself: whether it was pinned or proven can't be read either. What a look disproved
stays for a person to look at, until it is past `maximum_age` and `minimum` whole ones are newer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from chanuka_ops.backup.answers import Expired, Kept, Listed, Retention
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.rules import CLOCK_TOLERANCE
from chanuka_ops.config import KeepSettings

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def decide(
    backups: Sequence[Listed],
    policy: KeepSettings,
    now: datetime,
    *,
    listing_problem: str | None = None,
    held_by: str | None = None,
) -> Retention:
    """Say of each backup of one database in one store whether it stays, and why.

    `listing_problem` says why the listing may be partial, `held_by` which operation holds the database's lock. With
    either, and where the clock ran backwards or the listing isn't of one database in one store, nothing expires.
    Errors: `ValueError` for a `now` without time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now has no time zone")
    catalogue = _Catalogue(backups)
    refused = _refusal(catalogue, now, listing_problem, held_by)
    fates: list[Kept | Expired]
    if refused is not None:
        fates = [Kept(backup_id=backup.backup_id, reasons=(refused,)) for backup in catalogue.backups]
    else:
        guards, rules = _guards(catalogue, policy), _rules(catalogue, policy)
        fates = [_fate(backup, catalogue, policy, guards, rules) for backup in catalogue.backups]
    first = catalogue.backups[0] if backups else None
    return Retention(
        database=first.database if first else None,
        store=first.store if first else None,
        keep=tuple(fate for fate in fates if isinstance(fate, Kept)),
        expire=tuple(fate for fate in fates if isinstance(fate, Expired)),
        refused=refused,
    )


class _Catalogue:
    """The backups, the newest first; when those that can be read were taken (UTC); the whole ones among them."""

    def __init__(self, backups: Sequence[Listed]) -> None:
        self.taken = {
            backup.backup_id: backup.created_at.astimezone(UTC)
            for backup in backups
            if backup.problem is None and backup.created_at is not None and backup.created_at.tzinfo is not None
        }
        self.backups = sorted(backups, key=self.newness, reverse=True)
        self.whole = [b for b in self.backups if b.backup_id in self.taken and b.disproved is None]

    def newness(self, backup: Listed) -> tuple[datetime, str]:
        """Return what is greater for a newer one."""
        return self.taken.get(backup.backup_id, _NEVER), backup.backup_id

    def behind(self, backup: Listed) -> timedelta | None:
        """Return how much older than the newest whole one it is; None where that can't be said."""
        taken = self.taken.get(backup.backup_id)
        return self.taken[self.whole[0].backup_id] - taken if taken is not None and self.whole else None


def _refusal(catalogue: _Catalogue, now: datetime, listing_problem: str | None, held_by: str | None) -> str | None:
    """Say why nothing may expire now."""
    databases = {backup.database for backup in catalogue.backups}
    stores = {backup.store for backup in catalogue.backups}
    twice = [backup_id for backup_id, times in Counter(b.backup_id for b in catalogue.backups).items() if times > 1]
    seen = [
        (at, backup.backup_id)
        for backup in catalogue.backups
        if backup.backup_id in catalogue.taken
        for at in (catalogue.taken[backup.backup_id], backup.proven_at)
        if at is not None and at.tzinfo is not None
    ]
    latest, latest_id = max(seen, default=(now, ""))
    reason = None
    if listing_problem is not None:
        reason = f"the listing may be partial: {listing_problem}"
    elif held_by is not None:
        reason = f"{held_by} works on the database"
    elif len(databases) > 1 or len(stores) > 1:
        reason = f"the listing is of {len(databases)} databases in {len(stores)} stores, and each is decided by itself"
    elif twice:
        reason = f"the listing names {twice[0]} more than once"
    elif latest - now > CLOCK_TOLERANCE:
        reason = f"the clock ran backwards: it says {_minute(now)}, and {latest_id} has a date of {_minute(latest)}"
    return f"nothing expires: {reason}" if reason else None


# ------------------------------------------------------------------ what keeps a backup


@dataclass(frozen=True, slots=True)
class _Rule:
    """One number of the policy: what it keeps and why, by id; how far back it reaches; the periods it has covered."""

    stated: str
    kept: dict[str, str]
    reach: str
    label: Callable[[datetime], str] | None = None
    covered: frozenset[str] = frozenset()

    def passed_over(self, taken: datetime) -> str:
        """Say why it doesn't keep a whole backup."""
        if self.label is not None and self.label(taken) in self.covered:
            return f"{self.stated}: a newer one stands for {self.label(taken)}"
        return f"{self.stated} reaches back to {self.reach}"


def _week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year:04}-W{week:02}"


_PERIODS: Final[tuple[tuple[str, str, Callable[[datetime], str]], ...]] = (
    ("hourly", "hour", lambda moment: f"{moment:%Y-%m-%d %H}h"),
    ("daily", "day", lambda moment: f"{moment:%Y-%m-%d}"),
    ("weekly", "week", _week),
    ("monthly", "month", lambda moment: f"{moment:%Y-%m}"),
    ("yearly", "year", lambda moment: f"{moment:%Y}"),
)


def _rules(catalogue: _Catalogue, policy: KeepSettings) -> list[_Rule]:
    """Apply each number of the policy; one that has none keeps every whole backup."""
    if not catalogue.whole:
        return []
    rules = [_last(catalogue, policy.last)] if policy.last else []
    rules += [
        _periodic(catalogue, setting, number, unit, label)
        for setting, unit, label in _PERIODS
        if (number := getattr(policy, setting))
    ]
    return rules or [_all(catalogue)]


def _all(catalogue: _Catalogue) -> _Rule:
    return _Rule("all", {b.backup_id: "keep sets no number of backups: every one stays" for b in catalogue.whole}, "")


def _last(catalogue: _Catalogue, number: int) -> _Rule:
    kept = catalogue.whole[:number]
    reasons = {backup.backup_id: f"last: {place} of {number}" for place, backup in enumerate(kept, 1)}
    return _Rule(f"last = {number}", reasons, _minute(catalogue.taken[kept[-1].backup_id]))


def _periodic(catalogue: _Catalogue, setting: str, number: int, unit: str, label: Callable[[datetime], str]) -> _Rule:
    newest: dict[str, str] = {}  # of each period, the latest period first
    for backup in catalogue.whole:
        period = label(catalogue.taken[backup.backup_id])
        if period not in newest and len(newest) == number:
            break
        newest.setdefault(period, backup.backup_id)
    reasons = {
        backup_id: f"{setting}: the newest of {period}, {unit} {place} of {number}"
        for place, (period, backup_id) in enumerate(newest.items(), 1)
    }
    return _Rule(f"{setting} = {number}", reasons, list(newest)[-1], label, frozenset(newest))


def _guards(catalogue: _Catalogue, policy: KeepSettings) -> dict[str, list[str]]:
    """Say what is stronger than any number and any age, by id."""
    guards = {b.backup_id: [f"pinned: {b.pinned}"] for b in catalogue.backups if b.pinned is not None}
    for place, backup in enumerate(catalogue.whole[: policy.minimum], 1):
        guards.setdefault(backup.backup_id, []).append(f"minimum: {place} of the {policy.minimum} that always stay")
    proven = next((backup for backup in catalogue.whole if backup.tier == Tier.PROVEN), None)
    if proven is not None:
        when = f", at {_minute(proven.proven_at)}" if proven.proven_at else ""
        guards.setdefault(proven.backup_id, []).append(f"the newest backup that was proven{when}")
    return guards


def _fate(
    backup: Listed, catalogue: _Catalogue, policy: KeepSettings, guards: dict[str, list[str]], rules: list[_Rule]
) -> Kept | Expired:
    backup_id, taken = backup.backup_id, catalogue.taken.get(backup.backup_id)
    reasons = list(guards.get(backup_id, ()))
    if taken is None:
        problem = backup.problem or "it does not say when it was taken"
        return Kept(backup_id=backup_id, reasons=(*reasons, f"a person has to look, for it can't be read: {problem}"))
    too_old = _too_old(backup, catalogue, policy)
    if too_old is not None and not reasons:
        return Expired(backup_id=backup_id, reason=too_old)
    if backup.disproved is not None:
        return Kept(backup_id=backup_id, reasons=(*reasons, f"a person has to look: {backup.disproved}"))
    reasons += [rule.kept[backup_id] for rule in rules if backup_id in rule.kept]
    if reasons:
        return Kept(backup_id=backup_id, reasons=tuple(reasons))
    return Expired(backup_id=backup_id, reason="; ".join(rule.passed_over(taken) for rule in rules))


def _too_old(backup: Listed, catalogue: _Catalogue, policy: KeepSettings) -> str | None:
    """Say so where a backup is past the maximum age, and `minimum` whole ones are newer than it."""
    behind = catalogue.behind(backup)
    if policy.maximum_age_hours is None or behind is None or len(catalogue.whole) < policy.minimum:
        return None
    most = timedelta(hours=policy.maximum_age_hours)
    if behind <= most or catalogue.newness(backup) > catalogue.newness(catalogue.whole[policy.minimum - 1]):
        return None
    return f"past the maximum age of {_span(most)}: it is {_span(behind)} older than the newest whole one"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _span(span: timedelta) -> str:
    """Write a span in days, hours and minutes, rounded down.

    >>> _span(timedelta(days=2, hours=5, seconds=119)), _span(timedelta(hours=36)), _span(timedelta(seconds=7))
    ('2 d 5 h 1 min', '1 d 12 h', '0 min')
    """
    parts = (span.days, "d"), (span.seconds // 3600, "h"), (span.seconds % 3600 // 60, "min")
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 min"

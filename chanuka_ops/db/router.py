"""Which node serves this: pure decisions over what was last seen of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

Role = Literal["primary", "standby"]

# exactly what `str` writes: a position that was damaged on its way could be one which every server has reached
_TOKEN = re.compile(r"(-?[0-9]+):([0-9]+):([0-9A-F]{1,8})/([0-9A-F]{1,8})")


@dataclass(frozen=True, slots=True)
class ConsistencyToken:
    """A point in the history of a database: whoever has replayed that far, on that timeline, holds what came before.

    `lsn` is the WAL position in bytes. As text it is `system:timeline:lsn`, fit for an op's output.
    """

    system_id: int
    timeline: int
    lsn: int

    def __str__(self) -> str:
        return f"{self.system_id}:{self.timeline}:{self.lsn >> 32:X}/{self.lsn & 0xFFFFFFFF:X}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote. Errors: `ValueError`."""
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no consistency token: expected system:timeline:lsn")
        system_id, timeline, high, low = match.groups()
        return cls(int(system_id), int(timeline), (int(high, 16) << 32) + int(low, 16))


@dataclass(frozen=True, slots=True)
class Observation:
    """What one look at a node saw, at `at_s` of the process's monotonic clock.

    `lsn` is written on a primary and replayed on a standby. `timeline` is None where it can't be known: on a standby,
    it's the WAL receiver's, which only a role with pg_read_all_stats sees. `behind_s` is the server's own idea of its
    delay, which also grows while there is nothing to replay; `waits` tells whether received WAL waits to be replayed.
    `flushed`, of a primary, is how far a standby can have come: less than `lsn` while a transaction is under way.
    """

    at_s: float
    role: Role
    system_id: int
    timeline: int | None
    lsn: int
    behind_s: float | None = None
    waits: bool = False
    flushed: int | None = None


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a standby is behind: `bytes` from the primary's position as last seen, `seconds` since it was there."""

    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class View:
    """A node as the router sees it. `observation` is None where it was never reached; `lag` where it isn't known."""

    name: str
    weight: int
    reachable: bool
    observation: Observation | None
    lag: Lag | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What makes a replica unfit to serve reads."""

    max_lag_bytes: int
    max_lag_s: float
    primary_fallback: bool


def system_of(views: Sequence[View]) -> int | None:
    """Return the system id of the cluster that is meant: the first node's; most nodes', where that was never seen."""
    seen = [view.observation.system_id for view in views if view.observation is not None]
    if not seen:
        return None
    return seen[0] if views[0].observation is not None else max(seen, key=seen.count)


def primary_of(views: Sequence[View]) -> View | None:
    """Return the node that takes writes. Of two that claim to, the one on the newer timeline was promoted later.

    That of another cluster, which stands among the servers by mistake, is none, whatever its timeline.
    """
    system_id = system_of(views)
    best: View | None = None
    newest = -1
    for view in views:
        seen = view.observation
        if view.reachable and seen is not None and seen.role == "primary" and seen.system_id == system_id:
            timeline = seen.timeline or 0
            if timeline > newest:
                best, newest = view, timeline
    return best


def usurps(claimant: Observation, views: Sequence[View]) -> str | None:
    """Say why a node that claims to be primary must not have the writes, whatever else can be reached; None if it may.

    A newer timeline was begun by a promotion: what the old primary took since, as its promoter couldn't stop it, is
    lost once it is rewound.
    """
    ours = [view.observation for view in views if view.observation is not None]
    if claimant.system_id != system_of(views):
        return f"belongs to another cluster (system {claimant.system_id})"
    newest = max((seen.timeline or 0 for seen in ours if seen.system_id == claimant.system_id), default=0)
    if (claimant.timeline or 0) < newest:
        return f"is the primary of timeline {claimant.timeline}, and timeline {newest} was begun already"
    return None


def lag_of(standby: Observation, history: Sequence[tuple[float, int]]) -> Lag | None:
    """Return a standby's lag; `history` is the primary's positions as seen, (monotonic seconds, LSN), oldest first.

    A standby that has all the primary had when last looked at is not behind, however long ago the last transaction
    was. None, where the primary was never seen: what was received says nothing of what was written.
    """
    if not history:
        return None
    behind = max(0, history[-1][1] - standby.lsn)
    if behind == 0:
        return Lag(0, 0.0)
    missed = [at_s for at_s, lsn in history if lsn > standby.lsn]
    if len(missed) < len(history):  # it had reached a position we know: behind since the first it had not
        return Lag(behind, max(0.0, standby.at_s - missed[0]))
    return Lag(behind, max(standby.at_s - missed[0], standby.behind_s or 0.0))


def ejected(view: View, policy: Policy, system_id: int | None) -> str | None:
    """Say why a node gets no reads, or None where it may have them."""
    seen = view.observation
    reason = None
    if not view.reachable or seen is None:
        reason = "it can't be reached"
    elif system_id is not None and seen.system_id != system_id:
        reason = f"it belongs to another cluster (system {seen.system_id}, not {system_id})"
    elif seen.role == "primary":
        reason = "it is the primary"
    elif view.weight == 0:
        reason = "its weight is 0"
    elif view.lag is None:
        reason = None  # no primary was seen to measure against: better than nothing, see `readers`
    elif view.lag.bytes > policy.max_lag_bytes:
        reason = f"it lags by {view.lag.bytes} bytes, more than {policy.max_lag_bytes}"
    elif view.lag.seconds > policy.max_lag_s:
        reason = f"it lags by {view.lag.seconds:.1f} s, more than {policy.max_lag_s:g}"
    return reason


def readers(
    views: Sequence[View],
    policy: Policy,
    *,
    roll: float,
    after: ConsistencyToken | None = None,
    without: frozenset[str] = frozenset(),
) -> list[str]:
    """Return the names of the nodes that may serve a read, the first to try first; `roll` is a number from 0 to 1.

    Replicas come by weight, those that are known to hold the token's data before the others. The primary comes after
    them, if reads may fall back on it, or it is all there is; a replica whose lag nobody could measure comes last.
    `without` leaves out nodes on which this read failed already.
    """
    primary = primary_of(views)
    system_id = system_of(views)
    fit = [view for view in views if ejected(view, policy, system_id) is None and view.name not in without]
    chosen = _by_weight([view for view in fit if view.lag is not None], roll)
    if after is not None:
        wanted = after.lsn
        chosen.sort(key=lambda view: view.observation is None or view.observation.lsn < wanted)
    names = [view.name for view in chosen]
    alone = all(view is primary or view.weight == 0 for view in views)
    if primary is not None and primary.name not in without and (policy.primary_fallback or alone):
        names.append(primary.name)
    return names + [view.name for view in fit if view.lag is None]


def _by_weight(views: list[View], roll: float) -> list[View]:
    """Rotate so that each comes first with its share of the weight."""
    target = roll * sum(view.weight for view in views)
    for position, view in enumerate(views):
        target -= view.weight
        if target < 0:
            return views[position:] + views[:position]
    return views


def proven(token: ConsistencyToken, seen: Observation) -> bool:
    """Tell whether a node, as just seen on the connection that will read, holds the data of the token.

    The timeline must be the token's own. On another, the same position may be another history: after a failover that
    lost writes, a standby can be past the position and never have had the data. The primary, as the one authority,
    may have moved on to a newer timeline; it then serves, unless it has not even come that far.
    """
    if seen.system_id != token.system_id or seen.lsn < token.lsn or seen.timeline is None:
        return False
    return seen.timeline == token.timeline or (seen.role == "primary" and seen.timeline > token.timeline)

"""The nouns of alerts. Frozen, and without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Self

from chanuka_ops.health.model import Finding, Scope, Status


class State(StrEnum):
    """Where an alert is. `resolved` is kept for as long as it tells whether the alert flaps."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Event(StrEnum):
    """What is told."""

    FIRING = "firing"
    ESCALATED = "escalated"
    REMINDER = "reminder"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Whose alert it is. `object` is empty where it is the database's, or the server's, as a whole."""

    database: str
    check: str
    object: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """When an alert fires, clears and is told again.

    It fires after `fires_after` looks in a row that found it, by severity; that of a check `at_once` with the first.
    It clears after `clears_after` good ones; a number that is better than its limit by less than `hysteresis` (a share
    of the limit) is no good look. One that fired `flaps` times within `flap_window_s` clears only after `steady_after`
    good looks. An `unknown` is told after `unknown_after_s`. Of a check that was told of, further objects wait for
    `gather_s`, and are told together: sessions come by the dozen.
    """

    fires_after: Mapping[Status, int]
    at_once: frozenset[str]
    clears_after: int
    hysteresis: float
    remind_s: float
    unknown_after_s: float
    flaps: int
    flap_window_s: float
    steady_after: int
    gather_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing is told of the alerts that the patterns name, from `begins` until `ends`.

    `id` 0: a maintenance window of the settings.
    """

    id: int
    database: str
    check: str
    object: str
    begins: datetime
    ends: datetime
    reason: str
    actor: str = ""

    def covers(self, key: Key, now: datetime) -> bool:
        """Tell whether an alert is silent now."""
        return (
            self.begins <= now < self.ends
            and fnmatchcase(key.database, self.database)
            and fnmatchcase(key.check, self.check)
            and fnmatchcase(key.object, self.object)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the keys of `health silences`."""
        return {**asdict(self), "begins": self.begins.isoformat(), "ends": self.ends.isoformat()}


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `since` is the first look that found it; `bad` and `good` count looks in a row.

    `told` is the severity that was told of last, None where nothing was; `fired` are the times it fired lately.
    """

    key: Key
    state: State
    severity: Status
    since: datetime
    seen_at: datetime
    summary: str
    remedy: str
    scope: Scope = Scope.DATABASE
    server: str = ""
    value: float | None = None
    unit: str = ""
    bad: int = 0
    good: int = 0
    told: Status | None = None
    told_at: datetime | None = None
    fired: tuple[datetime, ...] = ()
    resolved_at: datetime | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the keys of `health alerts`; the store keeps the same."""
        return {
            "database": self.key.database,
            "check": self.key.check,
            "object": self.key.object or None,
            "state": str(self.state),
            "severity": str(self.severity),
            "since": self.since.isoformat(),
            "seen_at": self.seen_at.isoformat(),
            "summary": self.summary,
            "remedy": self.remedy,
            "scope": str(self.scope),
            "server": self.server,
            "value": self.value,
            "unit": self.unit,
            "bad": self.bad,
            "good": self.good,
            "told": None if self.told is None else str(self.told),
            "last_notified_at": None if self.told_at is None else self.told_at.isoformat(),
            "fired": [moment.isoformat() for moment in self.fired],
            "resolved_at": None if self.resolved_at is None else self.resolved_at.isoformat(),
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            key=Key(kept["database"], kept["check"], kept["object"] or ""),
            state=State(kept["state"]),
            severity=Status(kept["severity"]),
            since=datetime.fromisoformat(kept["since"]),
            seen_at=datetime.fromisoformat(kept["seen_at"]),
            summary=kept["summary"],
            remedy=kept["remedy"],
            scope=Scope(kept["scope"]),
            server=kept["server"],
            value=kept["value"],
            unit=kept["unit"],
            bad=kept["bad"],
            good=kept["good"],
            told=None if kept["told"] is None else Status(kept["told"]),
            told_at=_moment(kept["last_notified_at"]),
            fired=tuple(map(datetime.fromisoformat, kept["fired"])),
            resolved_at=_moment(kept["resolved_at"]),
            reason=kept["reason"],
        )


def _moment(kept: str | None) -> datetime | None:
    return None if kept is None else datetime.fromisoformat(kept)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a database found, as alerts see it.

    `bad` are the findings of warning and above, by (check, object); `unknown` says by check why it could not look;
    `judged` are the checks that could. `whole` is false where only some checks were asked for: what is missing then
    means nothing. `near` are those, by (check, object), whose number is better than its limit by less than the
    hysteresis.
    """

    database: str
    server: str
    at: datetime
    bad: Mapping[tuple[str, str], Finding]
    unknown: Mapping[str, str]
    judged: frozenset[str]
    near: frozenset[tuple[str, str]] = frozenset()
    scopes: Mapping[str, Scope] = field(default_factory=dict)
    whole: bool = True

    @property
    def down(self) -> bool:
        """Whether the server could not be reached: then nothing else is known."""
        return any(check == REACHABLE for check, _ in self.bad)

    @property
    def blind(self) -> bool:
        """Whether nothing could be looked at, for that or another reason: the password can't be had, for one."""
        return self.down or REACHABLE in self.unknown


REACHABLE = "server.reachable"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be told of one alert."""

    event: Event
    alert: Alert

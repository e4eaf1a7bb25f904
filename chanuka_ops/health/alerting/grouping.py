"""One message for one incident: what fires at once of one database, the cause first, is told together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from chanuka_ops.health.alerting.model import REACHABLE, Alert, Change, Event, Key
from chanuka_ops.health.model import Scope, Status

# What a finding explains, so that it's read first. A queue behind DDL fills the slots; whoever holds the horizon keeps
# dead rows; a WAL directory grows because of who still needs it.
EXPLAINS: Final[Mapping[str, frozenset[str]]] = {
    "lock.ddl_queue": frozenset({"lock.blocked", "connections.saturation", "session.long_query", "lock.table_use"}),
    "lock.blocked": frozenset({"connections.saturation", "session.long_query"}),
    "session.idle_in_transaction": frozenset({"lock.blocked", "txn.xmin_horizon"}),
    "txn.xmin_horizon": frozenset(
        {"vacuum.dead_tuples", "vacuum.stale", "vacuum.freeze_age", "txn.wraparound", "table.bloat", "index.bloat"}
    ),
    "txn.prepared_orphan": frozenset({"txn.xmin_horizon", "vacuum.dead_tuples", "lock.blocked"}),
    "settings.autovacuum_off": frozenset({"vacuum.dead_tuples", "vacuum.stale", "stats.stale", "txn.wraparound"}),
    "archive.failing": frozenset({"wal.directory_size", "storage.disk_space"}),
    "replication.slot_inactive": frozenset({"wal.directory_size", "storage.disk_space", "txn.xmin_horizon"}),
    "wal.directory_size": frozenset({"storage.disk_space"}),
    "replication.standby_missing": frozenset({"replication.sync_missing", "replication.lag"}),
}
# Of one server they are the same for each of its databases; a wrong password or a missing database is one's own.
_OF_THE_SERVER = ("unavailable:", "starting:", "saturated:")
_LISTED = 20
_GRAVITY = (Status.UNKNOWN, Status.WARNING, Status.CRITICAL)


@dataclass(frozen=True, slots=True)
class Incident:
    """What is told in one message: of which databases, the changes with their causes first."""

    event: Event
    databases: tuple[str, ...]
    changes: tuple[Change, ...]

    @property
    def severity(self) -> Status:
        """The worst of them."""
        return max((change.alert.severity for change in self.changes), key=_GRAVITY.index)

    @property
    def checks(self) -> tuple[str, ...]:
        """The ids of the checks, the cause first."""
        return tuple(dict.fromkeys(change.alert.key.check for change in self.changes))

    def title(self) -> str:
        """Say in a line what is the matter."""
        first, more = self.changes[0].alert, len(self.changes) - 1
        where = f" of {first.key.object}" if first.key.object else ""
        tail = f", and {more} more" if more else ""
        return f"{_WORDS[self.event]}{first.key.check}{where}{tail}"

    def body(self) -> str:
        """Say each alert: what is found, since when, and what to do."""
        lines = []
        for change in self.changes[:_LISTED]:
            alert = change.alert
            end = f" ({alert.reason})" if alert.reason else ""
            worse = "worse: " if change.event is Event.ESCALATED and self.event is Event.FIRING else ""
            since = f"{alert.since:%Y-%m-%d %H:%M} UTC"
            lines.append(f"{worse}{alert.severity} {alert.key.check} since {since}: {alert.summary}{end}")
            if self.event is not Event.RESOLVED and alert.remedy:
                lines.append(f"    what to do: {alert.remedy}")
        if len(self.changes) > _LISTED:
            lines.append(f"and {len(self.changes) - _LISTED} more: chanuka-ops health alerts")
        if len(self.databases) > 1:
            lines.append(f"databases: {', '.join(self.databases)}")
        return "\n".join(lines)


_WORDS = {Event.FIRING: "", Event.ESCALATED: "worse: ", Event.REMINDER: "still: ", Event.RESOLVED: "resolved: "}


def incidents(changes: Iterable[Change]) -> list[Incident]:
    """Put changes together: by database, and by server what is the whole server's.

    What fires and what got worse is one message; of one thing that several databases of a server see, one line.
    """
    groups: dict[tuple[str, bool, str], list[Change]] = {}
    for change in changes:
        event = Event.FIRING if change.event is Event.ESCALATED else change.event
        shared = _is_the_servers(change.alert)
        whose = change.alert.server if shared else change.alert.key.database
        groups.setdefault((str(event), shared, whose), []).append(change)
    return [_incident(Event(event), found) for (event, _, _), found in sorted(groups.items(), key=lambda item: item[0])]


def once_a_server(
    changes: Sequence[Change], kept: Iterable[Alert], remind_s: float
) -> tuple[list[Change], dict[Key, datetime]]:
    """Leave out what is the whole server's where somebody was told of it by another of its databases.

    Databases of a server are not all looked at at once. `kept` are all alerts, after the looks. Who was told within
    `remind_s` is told of nothing but what is worse, and that it's over when it is for the last of them. Return what is
    to be told still, and for whoever was left out when it really was told.
    """
    now_told = {change.alert.key for change in changes}
    told_before: dict[tuple[str, str, str], list[Alert]] = {}
    for alert in kept:
        if alert.told is not None and alert.key not in now_told and _is_the_servers(alert):
            told_before.setdefault(_of_server(alert), []).append(alert)
    left: list[Change] = []
    moved: dict[Key, datetime] = {}
    for change in changes:
        told = _told_for(change, told_before, remind_s)
        if told is None:
            left.append(change)
        elif change.event is not Event.RESOLVED:
            moved[change.alert.key] = told
    return left, moved


def _told_for(
    change: Change, told_before: Mapping[tuple[str, str, str], Sequence[Alert]], remind_s: float
) -> datetime | None:
    """Return when somebody was told of the same by another database of the server, and nothing less grave."""
    alert = change.alert
    if not _is_the_servers(alert) or alert.told_at is None:
        return None
    grave = -1 if change.event is Event.RESOLVED else _GRAVITY.index(alert.severity)
    moments = [
        other.told_at
        for other in told_before.get(_of_server(alert), ())
        if other.told_at is not None
        and _GRAVITY.index(other.told or other.severity) >= grave
        and 0 <= (alert.told_at - other.told_at).total_seconds() < remind_s
    ]
    return max(moments, default=None)


def _of_server(alert: Alert) -> tuple[str, str, str]:
    return alert.server, alert.key.check, alert.key.object


def _is_the_servers(alert: Alert) -> bool:
    if alert.key.check == REACHABLE:
        return alert.summary.startswith(_OF_THE_SERVER)
    # what is unknown may be so for one role of one database only
    return alert.scope is Scope.CLUSTER and alert.severity is not Status.UNKNOWN


def _incident(event: Event, changes: Sequence[Change]) -> Incident:
    databases = tuple(sorted({change.alert.key.database for change in changes}))
    once = {(change.alert.key.check, change.alert.key.object): change for change in reversed(changes)}
    present = {check for check, _ in once}
    explained = {check for cause in present for check in EXPLAINS.get(cause, ())}

    def place(change: Change) -> tuple[bool, int, str, str]:
        key = change.alert.key
        return key.check in explained, -_GRAVITY.index(change.alert.severity), key.check, key.object

    ordered = tuple(sorted(once.values(), key=place))
    if event is Event.FIRING and all(change.event is Event.ESCALATED for change in ordered):
        event = Event.ESCALATED
    return Incident(event, databases, ordered)

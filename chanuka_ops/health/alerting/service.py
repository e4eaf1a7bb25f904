"""Turns reports into alerts, and alerts into what is to be told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from chanuka_ops.config import MonitoringSettings
from chanuka_ops.config.alerts import AlertSettings
from chanuka_ops.errors import KeepingError
from chanuka_ops.health import registry
from chanuka_ops.health.alerting import grouping, machine
from chanuka_ops.health.alerting.grouping import Incident
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.model import Alert, Change, Look, Policy, Silence
from chanuka_ops.health.model import Finding, HealthReport, Rows, Status

NOT_KNOWN = "the settings no longer name the database"
# What happened since the last look shows in one look only: a second one would never find it again.
AT_ONCE = frozenset({"lock.deadlocks"})
_ALERTING = (Status.WARNING, Status.CRITICAL)
_A_LONG_TIME = timedelta(days=1)  # a window's end isn't told: it's asked again at each look


@dataclass(frozen=True, slots=True)
class Looked:
    """A report, and what is to be known beside it: its server, when it was made, whether all checks were asked for."""

    report: HealthReport
    server: str
    at: datetime
    whole: bool = True


def evaluate(
    state_dir: Path, looks: Sequence[Looked], monitoring: MonitoringSettings, known: Collection[str] | None = None
) -> list[Incident]:
    """Take the alerts through these looks, and have what is new told: in the order in which it is delivered.

    `known` are the databases of the settings: the alerts of others are over. State and telling are written together.
    Errors: `KeepingError`; then nothing has changed.
    """
    if not looks:
        return []
    policy, now = policy_of(monitoring.alerts), max(looked.at for looked in looks)
    changes: list[Change] = []
    with AlertKeeper(state_dir).turn() as turn:
        before = turn.alerts()
        after = {database: dict(kept) for database, kept in before.items()}
        for looked in looks:
            look = look_of(looked, policy.hysteresis)
            silences = [*turn.silences(look.at), *windows(monitoring.alerts, look.at)]
            kept, found = machine.advance(after.get(look.database, {}), look, policy, silences)
            after[look.database] = kept
            changes += found
        for database in () if known is None else after.keys() - set(known):
            changes += machine.let_go(after[database].values(), now, NOT_KNOWN)
            after[database] = {}
        kept_now = [alert for alerts in after.values() for alert in alerts.values()]
        changes, moved = grouping.once_a_server(changes, kept_now, policy.remind_s)
        for key, told_at in moved.items():
            after[key.database][key] = replace(after[key.database][key], told_at=told_at)
        for database, alerts in after.items():
            if alerts != before.get(database, {}):
                turn.replace(database, alerts.values())
        incidents = grouping.incidents(changes)
        turn.tell([document(incident) for incident in incidents], now)
    return incidents


def policy_of(settings: AlertSettings) -> Policy:
    """Return the settings as the machine takes them."""
    return Policy(
        at_once=AT_ONCE,
        fires_after={Status.WARNING: settings.warning_after, Status.CRITICAL: settings.critical_after},
        clears_after=settings.clear_after,
        hysteresis=settings.hysteresis,
        remind_s=settings.remind_every_s,
        unknown_after_s=settings.unknown_after_s,
        flaps=settings.flaps,
        flap_window_s=settings.flap_window_s,
        steady_after=settings.steady_after,
        gather_s=settings.gather_s,
    )


def windows(settings: AlertSettings, now: datetime) -> list[Silence]:
    """Return the maintenance windows that are open, as silences."""
    return [
        Silence(0, database, check, "*", now, now + _A_LONG_TIME, window.reason)
        for window in settings.maintenance
        if window.covers(now)
        for database in window.databases
        for check in window.checks
    ]


def look_of(looked: Looked, hysteresis: float) -> Look:
    """Read a report as alerts see it."""
    report = looked.report
    bad: dict[tuple[str, str], Finding] = {}
    for finding in report.findings:
        key = (finding.check, finding.object or "")
        if finding.status in _ALERTING and (key not in bad or bad[key].status.rank < finding.status.rank):
            bad[key] = finding
    unknown = {
        result.check: result.reason or "it could not look"
        for result in report.checks
        if _could_not_look(result.findings) or result.status is Status.UNKNOWN
    }
    near = {
        (finding.check, finding.object or "")
        for result in report.checks
        for finding in result.near
        if finding.value is not None
        and finding.threshold is not None
        and finding.value >= finding.threshold * (1 - hysteresis)
    }
    return Look(
        database=report.database,
        server=looked.server,
        at=looked.at,
        bad=bad,
        unknown=unknown,
        judged=frozenset(result.check for result in report.checks) - unknown.keys(),
        near=frozenset(near),
        scopes={check.id: check.scope for check in registry.CHECKS},
        whole=looked.whole,
    )


def _could_not_look(findings: Iterable[Finding]) -> bool:
    return any(finding.status is Status.UNKNOWN for finding in findings)


def document(incident: Incident) -> dict[str, Any]:
    """Return what is told of an incident, as it is kept until it is told."""
    first = incident.changes[0].alert
    shared = len(incident.databases) > 1
    severity = "warning" if incident.severity is Status.UNKNOWN else str(incident.severity)
    return {
        "event": f"health.{incident.event}",
        "severity": severity,
        "database": first.key.database,
        "databases": list(incident.databases),
        "title": f"{incident.title()} ({len(incident.databases)} databases of one server)"
        if shared
        else incident.title(),
        "body": incident.body(),
        "checks": list(incident.checks),
        "routes": None,
    }


def undelivered(state_dir: Path, now: datetime) -> Rows:
    """Return what waits to be told and was tried, as the check of that takes it."""
    try:
        waiting = AlertKeeper(state_dir).undelivered()
    except KeepingError as error:
        return [{"unknown": str(error)}]
    return [
        {"unknown": None, "tries": one.tries, "age_s": (now - one.made_at).total_seconds(), "problem": one.problem}
        for one in waiting
    ]


def silenced(alert: Alert, silences: Collection[Silence], now: datetime) -> Silence | None:
    """Return the silence that keeps an alert from being told, if one does."""
    return next((silence for silence in silences if silence.covers(alert.key, now)), None)

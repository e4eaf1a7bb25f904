"""Turns reports into alerts, and alerts into what is to be told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from chanuka_ops.config import MonitoringSettings
from chanuka_ops.config.alerts import AlertSettings
from chanuka_ops.health import registry
from chanuka_ops.health.alerting import grouping, machine
from chanuka_ops.health.alerting.grouping import Incident
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.model import Alert, Change, Look, Policy, Silence
from chanuka_ops.health.model import Finding, HealthReport, Limits, Scope, Status

_ALERTING = (Status.WARNING, Status.CRITICAL)
_A_LONG_TIME = timedelta(days=1)  # a window's end isn't told: it's asked again at each look


@dataclass(frozen=True, slots=True)
class Looked:
    """A report, and what is to be known beside it: its server, when it was made, whether all checks were asked for."""

    report: HealthReport
    server: str
    at: datetime
    whole: bool = True
    limits: Mapping[str, Limits] | None = None


def evaluate(state_dir: Path, looks: Sequence[Looked], monitoring: MonitoringSettings) -> list[Incident]:
    """Take the alerts through these looks, and have what is new told: in the order in which it is delivered.

    State and telling are written together. Errors: `KeepingError`; then nothing has changed.
    """
    keeper, policy = AlertKeeper(state_dir), policy_of(monitoring.alerts)
    changes: list[tuple[str, Change]] = []
    with keeper.turn() as turn:
        for looked in looks:
            look = look_of(looked, policy.hysteresis)
            silences = [*turn.silences(look.at), *windows(monitoring.alerts, look.at)]
            kept, found = machine.advance(turn.alerts(look.database), look, policy, silences)
            turn.replace(look.database, kept.values())
            changes += [(look.server, change) for change in found]
        incidents = grouping.incidents(changes)
        if looks:
            turn.tell([document(incident) for incident in incidents], max(looked.at for looked in looks))
    return incidents


def policy_of(settings: AlertSettings) -> Policy:
    """Return the settings as the machine takes them."""
    return Policy(
        fires_after={Status.WARNING: settings.warning_after, Status.CRITICAL: settings.critical_after},
        clears_after=settings.clear_after,
        hysteresis=settings.hysteresis,
        remind_s=settings.remind_every_s,
        unknown_after_s=settings.unknown_after_s,
        flaps=settings.flaps,
        flap_window_s=settings.flap_window_s,
        steady_after=settings.steady_after,
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
    limits = looked.limits or {}
    near = {
        result.check
        for result in report.checks
        if result.value is not None and _is_near(result.value, limits.get(result.check), hysteresis)
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


def _is_near(value: float, limits: Limits | None, hysteresis: float) -> bool:
    return limits is not None and limits.first is not None and value >= limits.first * (1 - hysteresis)


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


def silenced(alert: Alert, silences: Collection[Silence], now: datetime) -> Silence | None:
    """Return the silence that keeps an alert from being told, if one does."""
    return next((silence for silence in silences if silence.covers(alert.key, now)), None)


def scope_of(check: str) -> Scope:
    """Return what a check's findings are about."""
    return next((one.scope for one in registry.CHECKS if one.id == check), Scope.DATABASE)

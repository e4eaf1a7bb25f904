"""Puts the page of health together: what is seen now, what is remembered, who is told."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chanuka_ops.config import Settings
from chanuka_ops.errors import KeepingError
from chanuka_ops.health import registry
from chanuka_ops.health.alerting import service as alerting
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.model import Alert, Silence, State
from chanuka_ops.health.exporting.model import Seen, listed
from chanuka_ops.health.keeping import Keeper
from chanuka_ops.health.model import HealthReport, Limits, Status
from chanuka_ops.health.sampling.model import Measurement
from chanuka_ops.orchestrators import looking
from chanuka_ops.report import model
from chanuka_ops.report import service as reports
from chanuka_ops.report.rules import utc

DEFAULT_DAYS = 7.0
SWEEP_DAYS = 1.0  # of hundreds of databases
MOST_PAGES = 50  # of runs, by database: a run each quarter of an hour must not fill the disk
RESOLVED_FOR = timedelta(days=1)  # what is over is listed for so long
FULL_FOR = timedelta(days=1)  # of what is older, each hour's worst is kept

_STATES = (State.FIRING, State.PENDING, State.RESOLVED)


def default_path(settings: Settings) -> Path:
    """Where the newest page goes."""
    return settings.state_dir / "reports" / "health.html"


def write(settings: Settings, seen: Sequence[Seen], path: Path, *, days: float = DEFAULT_DAYS) -> None:
    """Write the page of these looks, with `days` of history. Errors: `StoreError`."""
    reports.write_health(page(settings, seen, now=datetime.now(UTC), days=days), path)


def write_of_run(settings: Settings, report: HealthReport, run_id: str) -> Path:
    """Write a run's page beside those of the runs before it, of which the newest are kept. Errors: `StoreError`."""
    seen = Seen(report, datetime.now(UTC), looking.limits(settings, report.database))
    return _write_of_run(settings, [seen], run_id, f"health-{report.database}", DEFAULT_DAYS)


def write_of_sweep(settings: Settings, seen: Sequence[Seen], run_id: str) -> Path:
    """Write the one page of a run that looked at many databases, with a day of history. Errors: `StoreError`."""
    return _write_of_run(settings, seen, run_id, "health", SWEEP_DAYS)


def _write_of_run(settings: Settings, seen: Sequence[Seen], run_id: str, room: str, days: float) -> Path:
    room, run = (re.sub(r"[^A-Za-z0-9_.-]", "_", word) for word in (room, run_id))
    directory = settings.state_dir / "reports" / room
    path = directory / f"{run}.html"
    write(settings, seen, path, days=days)
    _keep_newest(directory)
    return path


def _keep_newest(directory: Path) -> None:
    """Remove the pages beyond those that are kept."""
    with suppress(FileNotFoundError):  # another run was quicker: it has done the same
        pages = sorted(directory.glob("*.html"), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in pages[MOST_PAGES:]:
            old.unlink()


def page(settings: Settings, seen: Sequence[Seen], *, now: datetime, days: float = DEFAULT_DAYS) -> model.HealthPage:
    """Return the page. What can't be remembered is said on it, and stops nothing."""
    since = now - timedelta(days=days)
    keeper = Keeper(settings.state_dir)
    alerts, note = _alerts(settings, {one.database for one in seen}, now)
    return model.HealthPage(
        generated_at=now,
        since=since,
        databases=tuple(_database(one, keeper, since) for one in seen),
        alerts=alerts,
        alerts_note=note,
        full_from=max(since, (now - FULL_FOR).replace(minute=0, second=0, microsecond=0)),
    )


def _alerts(
    settings: Settings, databases: Collection[str], now: datetime
) -> tuple[tuple[model.AlertRow, ...] | None, str]:
    """Return the alerts of these databases, what fires first, and what is to be said of them."""
    keeper = AlertKeeper(settings.state_dir)
    try:
        kept, waiting = keeper.alerts(), keeper.undelivered()
        silences = [*keeper.silences(now), *alerting.windows(settings.operations.monitoring.alerts, now)]
    except KeepingError as error:
        return None, f"The alerts can't be read: {error}"
    shown = [
        alert
        for alert in kept
        if alert.key.database in databases and (alert.resolved_at is None or now - alert.resolved_at < RESOLVED_FOR)
    ]
    shown.sort(key=lambda alert: (_STATES.index(alert.state), -alert.severity.rank, alert.since))
    rows = tuple(_alert(alert, alerting.silenced(alert, silences, now)) for alert in shown)
    tried = [one for one in waiting if one.tries]
    note = f"{len(tried)} messages could not be delivered yet: chanuka-ops health alerts." if tried else ""
    return rows, note


def _alert(alert: Alert, silence: Silence | None) -> model.AlertRow:
    note = alert.reason
    if silence is not None:
        until = f"silent until {utc(silence.ends)}" if silence.id else "silent for maintenance"
        note = f"{until}: {silence.reason}"
    return model.AlertRow(
        alert.key.database,
        alert.key.check,
        alert.key.object or None,
        str(alert.state),
        str(alert.severity),
        utc(alert.since),
        utc(alert.told_at) if alert.told_at else "nobody yet",
        note,
    )


def _database(seen: Seen, keeper: Keeper, since: datetime) -> model.DatabaseHealth:
    report = seen.report
    known = {check.id: check for check in registry.CHECKS}
    mentioned = {finding.check for finding in report.findings} & known.keys()
    note = ""
    remembered: Sequence[Measurement] = ()
    try:
        remembered = keeper.history(seen.database, since)
    except KeepingError as error:
        note = f"What was measured before can't be read: {error}"
    return model.DatabaseHealth(
        database=seen.database,
        server_version=report.server_version,
        status=str(report.status),
        at=seen.at,
        seconds=report.seconds,
        findings=tuple(_findings(seen)),
        checks=tuple(
            model.CheckRow(
                result.check,
                known[result.check].title if result.check in known else result.check,
                str(result.status),
                result.seconds,
                result.value,
                result.unit,
                result.reason,
            )
            for result in report.checks
        ),
        why={check: known[check].why for check in mentioned},
        links={check: known[check].link for check in mentioned},
        history=tuple(_series([*remembered, *_now(seen, remembered)], seen)),
        history_note=note,
    )


def _findings(seen: Seen) -> Iterable[model.FindingRow]:
    for finding in listed(seen.report):
        yield model.FindingRow(
            finding.check,
            str(finding.status),
            finding.object,
            finding.value,
            finding.unit,
            finding.threshold,
            finding.summary,
            finding.remedy,
        )


def _now(seen: Seen, remembered: Sequence[Measurement]) -> list[Measurement]:
    """Return this look's own numbers, where they are not remembered: the page shows now in any case."""
    began = seen.at - timedelta(seconds=seen.report.seconds)
    if remembered and remembered[-1].at >= began:
        return []
    return [
        Measurement(seen.at, seen.database, result.check, None, result.value, result.unit, result.status)
        for result in seen.report.checks
        if result.value is not None and result.status is not Status.UNKNOWN
    ]


def _series(measurements: Iterable[Measurement], seen: Seen) -> Iterable[model.Series]:
    titles = {check.id: check.title for check in registry.CHECKS}
    by_number: dict[tuple[str, str | None, str], list[Measurement]] = {}
    for one in measurements:
        by_number.setdefault((one.check, one.object, one.unit), []).append(one)
    for (check, object_, unit), of_it in by_number.items():
        limits = seen.limits.get(check, Limits())
        points = tuple(model.Point(one.at, one.value, str(one.status)) for one in of_it)
        yield model.Series(check, titles.get(check, check), object_, unit, points, limits.first, limits.second)

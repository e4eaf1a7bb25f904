"""Puts the page of health together: what is seen now, what is remembered, who is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chanuka_ops.config import Settings
from chanuka_ops.errors import KeepingError
from chanuka_ops.health import registry
from chanuka_ops.health.exporting.model import Seen, listed
from chanuka_ops.health.keeping import Keeper
from chanuka_ops.health.model import Limits, Status
from chanuka_ops.health.sampling.model import Measurement
from chanuka_ops.report import model
from chanuka_ops.report import service as reports

DEFAULT_DAYS = 7.0
FULL_FOR = timedelta(days=1)  # of what is older, each hour's worst is kept


def default_path(settings: Settings) -> Path:
    """Where the newest page goes."""
    return settings.state_dir / "reports" / "health.html"


def write(settings: Settings, seen: Sequence[Seen], path: Path, *, days: float = DEFAULT_DAYS) -> None:
    """Write the page of these looks, with `days` of history. Errors: `StoreError`."""
    reports.write_health(page(settings, seen, now=datetime.now(UTC), days=days), path)


def page(settings: Settings, seen: Sequence[Seen], *, now: datetime, days: float = DEFAULT_DAYS) -> model.HealthPage:
    """Return the page. What can't be remembered is said on it, and stops nothing."""
    since = now - timedelta(days=days)
    keeper = Keeper(settings.state_dir)
    return model.HealthPage(
        generated_at=now,
        since=since,
        databases=tuple(_database(one, keeper, since) for one in seen),
        full_from=max(since, (now - FULL_FOR).replace(minute=0, second=0, microsecond=0)),
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

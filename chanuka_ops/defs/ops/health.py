"""Health: findings as metadata that plots, and as a table."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from pydantic import Field

from chanuka_ops.defs.resources import DatabaseResource
from chanuka_ops.defs.tables import markdown
from chanuka_ops.defs.verdicts import due, evaluations, health_key
from chanuka_ops.health.exporting.model import listed
from chanuka_ops.health.model import HealthReport, Status
from chanuka_ops.orchestrators import health_page, looking
from chanuka_ops.orchestrators.database import known_names

Event = dg.AssetCheckEvaluation | dg.AssetMaterialization | dg.Output[None]


READER: Final = "run"  # with samples of its own: of what was counted since the last run
MOST_WORST: Final = 3


class HealthConfig(dg.Config):
    """Which checks to run."""

    only: list[str] = Field([], description="Ids of checks; empty: all.")
    every_database: bool = Field(
        default=False, description="Look at every database of the settings in this one run, eight at a time."
    )


@dg.op(tags={"kind": "health"})
def check_health(context: dg.OpExecutionContext, db: DatabaseResource, config: HealthConfig) -> Iterator[Event]:
    """Check the database's health. Findings don't fail the run; a server that can't be reached does.

    Of every database together, one that can't be reached is a finding too.
    """
    if config.every_database:
        yield from _sweep(context, db, config)
        return
    with db.working():
        db.orchestrator.probe()
        report = db.orchestrator.health(config.only or None, reader=READER)
        page = health_page.write_of_run(db.orchestrator.settings, report, context.run_id)
    metadata = {**health_metadata(report), "report": dg.MetadataValue.path(str(page))}
    yield dg.AssetMaterialization(health_key(db.database), metadata=metadata)
    yield from evaluations(report, due(context.instance, report, datetime.now(UTC)))
    yield dg.Output(None, metadata={**metadata, **db.connection_metadata()})


def _sweep(context: dg.OpExecutionContext, db: DatabaseResource, config: HealthConfig) -> Iterator[Event]:
    settings = db.orchestrator.settings
    with db.working():
        seen, _ = looking.sweep(settings, known_names(settings), only=config.only or None, reader=READER)
        page = health_page.write_of_sweep(settings, seen, context.run_id)
    for one in seen:
        yield dg.AssetMaterialization(health_key(one.database), metadata=_counts(one.report))
        yield from evaluations(one.report, due(context.instance, one.report, datetime.now(UTC)))
    worst_first = sorted(seen, key=lambda one: -one.report.status.rank)
    rows = [(one.report.status, one.database, "; ".join(_worst(one.report))) for one in worst_first]
    yield dg.Output(
        None,
        metadata={
            "databases": dg.MetadataValue.int(len(seen)),
            **{f"databases_{s}": dg.MetadataValue.int(sum(one.report.status == s for one in seen)) for s in Status},
            "health": markdown(("status", "database", "worst"), rows),
            "report": dg.MetadataValue.path(str(page)),
        },
    )


def _worst(report: HealthReport) -> list[str]:
    found = listed(report)
    return [f"{one.check}: {one.summary}" for one in found if one.status == found[0].status][:MOST_WORST]


def health_metadata(report: HealthReport) -> dict[str, dg.MetadataValue]:
    """Count the findings by status, add each plotted measurement, and list what is wrong."""
    wrong = [finding for finding in report.findings if finding.status != Status.OK]
    measured = {r.check: r.value for r in report.checks if r.value is not None and r.unit}
    rows = [(f.status, f.check, f.object or "", f.summary) for f in wrong]
    return {
        **_counts(report),
        **{name: dg.MetadataValue.float(float(value)) for name, value in measured.items()},
        "findings": markdown(("status", "check", "object", "summary"), rows),
    }


def _counts(report: HealthReport) -> dict[str, dg.MetadataValue]:
    wrong = [finding.status for finding in report.findings]
    return {
        "status": dg.MetadataValue.text(str(report.status)),
        "checks": dg.MetadataValue.int(len(report.checks)),
        "checks_unknown": dg.MetadataValue.int(sum(r.status == Status.UNKNOWN for r in report.checks)),
        "health_seconds": dg.MetadataValue.float(report.seconds),
        **{f"findings_{s}": dg.MetadataValue.int(wrong.count(s)) for s in Status if s != Status.OK},
    }

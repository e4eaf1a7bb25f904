"""Health: findings as metadata that plots, and as a table."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from chanuka_ops.defs.resources import DatabaseResource
from chanuka_ops.defs.tables import markdown
from chanuka_ops.defs.verdicts import evaluations, health_key
from chanuka_ops.health.keeping import DAEMON
from chanuka_ops.health.model import HealthReport, Status
from chanuka_ops.orchestrators import health_page

Event = dg.AssetCheckEvaluation | dg.AssetMaterialization | dg.Output[None]


class HealthConfig(dg.Config):
    """Which checks to run."""

    only: list[str] = Field([], description="Ids of checks; empty: all.")


@dg.op(tags={"kind": "health"})
def check_health(context: dg.OpExecutionContext, db: DatabaseResource, config: HealthConfig) -> Iterator[Event]:
    """Check the database's health. Findings don't fail the run; a server that can't be reached does."""
    with db.working():
        db.orchestrator.probe()
        report = db.orchestrator.health(config.only or None, reader=DAEMON)
        page = health_page.write_of_run(db.orchestrator.settings, report, context.run_id)
    metadata = {**health_metadata(report), "report": dg.MetadataValue.path(str(page))}
    yield dg.AssetMaterialization(health_key(db.database), metadata=metadata)
    yield from evaluations(report)
    yield dg.Output(None, metadata={**metadata, **db.connection_metadata()})


def health_metadata(report: HealthReport) -> dict[str, dg.MetadataValue]:
    """Count the findings by status, add each plotted measurement, and list what is wrong."""
    wrong = [finding for finding in report.findings if finding.status != Status.OK]
    counts = {f"findings_{status}": sum(f.status == status for f in wrong) for status in Status if status != Status.OK}
    measured = {r.check: r.value for r in report.checks if r.value is not None and r.unit}
    rows = [(f.status, f.check, f.object or "", f.summary) for f in wrong]
    return {
        "status": dg.MetadataValue.text(str(report.status)),
        "checks": dg.MetadataValue.int(len(report.checks)),
        "checks_unknown": dg.MetadataValue.int(sum(r.status == Status.UNKNOWN for r in report.checks)),
        "health_seconds": dg.MetadataValue.float(report.seconds),
        **{name: dg.MetadataValue.int(count) for name, count in counts.items()},
        **{name: dg.MetadataValue.float(float(value)) for name, value in measured.items()},
        "findings": markdown(("status", "check", "object", "summary"), rows),
    }

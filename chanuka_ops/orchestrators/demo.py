"""The demonstration: from nothing to a proven backup, every step through the orchestrators that Dagster's jobs call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chanuka_ops import context, errors
from chanuka_ops.config import Settings
from chanuka_ops.dataset import service as dataset
from chanuka_ops.dataset.model import DatasetSummary
from chanuka_ops.db.asking import Probe
from chanuka_ops.health.exporting.model import Seen
from chanuka_ops.migrator.model import Migrated
from chanuka_ops.migrator.rehearsal.service import Scripts
from chanuka_ops.orchestrators import applying, health_page, looking, nightly, reporting
from chanuka_ops.orchestrators.database import DatabaseOrchestrator, default_report_path
from chanuka_ops.orchestrators.migration import MigrationOrchestrator, Rehearsed
from chanuka_ops.orchestrators.nightly import Cycle
from chanuka_ops.orchestrators.steps import Step, Steps

# Looks harmless; on the copy it rewrites the largest table while everybody waits.
REHEARSED = Scripts("ALTER TABLE comments ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid();",
                    "ALTER TABLE comments DROP COLUMN token;")  # fmt: skip
_HOLDS_UP = {"": "nobody", "w": "writers", "rw": "readers and writers"}


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """What the demonstration did, and where its report is."""

    steps: tuple[Step, ...]
    cycle: Cycle
    rehearsed: Rehearsed
    report: Path
    health_report: Path | None  # None: health monitoring is off

    def to_json(self) -> dict[str, object]:
        """Return the document of `demo --json`."""
        drill = self.cycle.drill
        return {
            "steps": [step.to_json() for step in self.steps],
            "status": "done",
            "report": str(self.report),
            "backup_id": drill.backup_id,
            "tier": drill.tier,
            "tables_compared": drill.tables_compared,
            "rows_compared": drill.rows_compared,
            "mismatches": [item.model_dump() for item in (*drill.mismatches, *drill.structure_problems)],
            "rehearsal": {key: self.rehearsed.to_json()[key] for key in ("passed", "impact", "blocks", "backup_id")},
            "health": str(self.cycle.health.status) if self.cycle.health else None,
            "health_report": str(self.health_report) if self.health_report else None,
        }


def demonstrate(settings: Settings, name: str, *, scale: int, on_step: Callable[[Step], None]) -> Demonstrated:
    """Migrate, load the data set, then run the nightly cycle and write the report.

    Errors: `RefusedError` in production, and for a database that holds somebody's own tables; those of each step.
    """
    if settings.environment == "production":
        raise errors.RefusedError("environment is production: the demonstration loads invented data and is refused")
    steps = Steps(on_step)
    report = default_report_path(settings)
    with ExitStack() as stack:
        orchestrator = steps.run(
            "server",
            lambda: stack.enter_context(DatabaseOrchestrator.open(settings, name)),
            lambda opened: _server_said(opened.probe()),
        )
        _refuse_foreign(orchestrator)
        steps.run("migrate", lambda: applying.migrate(orchestrator, "up", "head").migrated, _migrate_said)
        steps.run("data", lambda: _load(orchestrator, scale), _data_said)
        cycle = nightly.cycle(orchestrator, steps)
        rehearsed = steps.run("rehearse", lambda: _rehearse(orchestrator, cycle.backup.backup_id), _rehearsed_said)
        _prove_from_afar(orchestrator, steps)
        steps.run("connections", orchestrator.status, _connections_said)
        version = _version(orchestrator.probe())
        page = steps.run("report", lambda: _write_reports(settings, report, cycle, steps, version), _reports_said)
    return Demonstrated(tuple(steps.done), cycle, rehearsed, report, page)


def _prove_from_afar(orchestrator: DatabaseOrchestrator, steps: Steps) -> None:
    """Take a second backup and prove the copy of it that lies in a bucket, where one is configured."""
    afar = next((name for name, stated in orchestrator.settings.backup_stores.items() if not stated.is_local), None)
    if afar is None:
        return
    created = steps.run("backup 2", orchestrator.backup, nightly.backup_said)
    steps.run(
        "drill 2",
        lambda: nightly.require_proven(orchestrator.drill(created.backup_id, store=afar)),
        lambda drill: f"{nightly.drill_said(drill)}; fetched from {orchestrator.backups.stores[afar].where}",
    )


def _rehearse(orchestrator: DatabaseOrchestrator, backup_id: str) -> Rehearsed:
    """Rehearse a change on a copy restored from the backup. Errors: `MigrationFailed` where it doesn't go through."""
    rehearsed = MigrationOrchestrator(orchestrator).rehearse(script=REHEARSED, backup_id=backup_id)
    if not rehearsed.passed:
        raise errors.MigrationFailed(f"the rehearsal failed: {rehearsed.ran.problem()}")
    return rehearsed


def _load(orchestrator: DatabaseOrchestrator, scale: int) -> DatasetSummary:
    with context.scope(operation="data"):
        return dataset.load(orchestrator.manager, scale=scale)


def _write_reports(settings: Settings, path: Path, cycle: Cycle, steps: Steps, version: str) -> Path | None:
    """Write the run's report and, where health was checked, the page of health; return the latter's path."""
    reporting.write(path, title="chanuka_ops demonstration", cycle=cycle, steps=steps.done, server_version=version)
    if cycle.health is None:
        return None
    page = health_page.default_path(settings)
    health_page.write(
        settings, [Seen(cycle.health, datetime.now(UTC), looking.limits(settings, cycle.health.database))], page
    )
    return page


def _reports_said(page: Path | None) -> str:
    return f"report.html, {page.name}" if page else "report.html"


def _refuse_foreign(orchestrator: DatabaseOrchestrator) -> None:
    """Keep the demonstration out of a database that is in use for something else."""
    if orchestrator.migration_plan().current is not None:
        return  # our schema; the data set itself refuses where its tables hold rows that it didn't make
    tables = dataset.tables_present(orchestrator.manager)
    if tables:
        listing = ", ".join(tables[:5])
        raise errors.RefusedError(
            f"database {orchestrator.name!r} already holds {len(tables)} tables ({listing}), and the demonstration"
            f" would mix its own with them. Point DATABASE_URL at an empty database. Nothing was changed."
        )


def _server_said(probe: Probe) -> str:
    return f"PostgreSQL {_version(probe)}, {probe.role}, {probe.latency_ms} ms away"


def _connections_said(status: dict[str, Any]) -> str:
    counts = Counter[str]()
    for node in status["nodes"]:
        counts.update(node["counts"])
    retried = sum(number for name, number in counts.items() if name.startswith("retries."))
    breakers = "/".join(sorted({node["breaker"] for node in status["nodes"]}))
    room = status["budget"]
    budget = f"; budget {room['needed']} of {room['available']}" if room else ""
    return f"{counts['connects']} made, {retried} tries repeated, breakers {breakers}{budget}"


def _version(probe: Probe) -> str:
    return f"{probe.major}.{probe.server_version % 10000}"


def _rehearsed_said(rehearsed: Rehearsed) -> str:
    worst = max(rehearsed.ran.statements, key=lambda item: (len(item.blocks), item.seconds))
    return (
        f"{len(rehearsed.ran.statements)} statements, up and down and up again on a restored copy: one holds up"
        f" {_HOLDS_UP[worst.blocks]} for {worst.seconds:.2f} s, reading {worst.scanned_rows_while_blocking:,} rows"
    )


def _migrate_said(migrated: Migrated) -> str:
    if not migrated.applied:
        return f"nothing to migrate, at {migrated.after}"
    return f"{len(migrated.applied)} revisions, now at {migrated.after}"


def _data_said(summary: DatasetSummary) -> str:
    rows = f"{sum(summary.tables.values()):,} rows in {len(summary.tables)} tables"
    return rows if summary.created else f"{rows}, already there"

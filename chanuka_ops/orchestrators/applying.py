"""A migration of a database: gate → apply → look at what it left → tell of it. What both faces call.

The gate's verdict is on files as they were then; another file, or another version of one, is not run.
"""

from __future__ import annotations

import contextvars
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chanuka_ops import context, errors
from chanuka_ops.health.model import HealthReport
from chanuka_ops.logs import redact
from chanuka_ops.migrator import aftermath, rules
from chanuka_ops.migrator.aftermath import Left
from chanuka_ops.migrator.model import Direction, Migrated
from chanuka_ops.migrator.rehearsal import prediction
from chanuka_ops.orchestrators.database import DatabaseOrchestrator, create_database
from chanuka_ops.orchestrators.gating import Gate, Seen

log = logging.getLogger(__name__)

_OUTCOMES: dict[type[errors.ChanukaError], str] = {
    errors.MigrationAborted: "aborted",
    errors.OutcomeUnknown: "unknown",
    errors.RefusedError: "refused",
}


@dataclass(frozen=True, slots=True)
class Run:
    """A migration that went through, and what was found before and after it. `seen` is None where no gate asks.

    `left` is what it left unfinished: new invalid indexes, NOT VALID constraints, foreign keys without an index.
    `report` is the page about it; None where nothing was to be done, or it couldn't be written.
    """

    migrated: Migrated
    seen: Seen | None = None
    left: tuple[Left, ...] = ()
    health: HealthReport | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document of `migrate up` and `migrate down`."""
        return {
            **self.migrated.to_json(),
            "gate": None if self.seen is None else self.seen.verdict.to_json(),
            "left": [item.to_json() for item in self.left],
            "health": None if self.health is None else str(self.health.status),
            "report": None if self.report is None else str(self.report),
        }


def migrate(database: DatabaseOrchestrator, direction: Direction, to: str) -> Run:
    """Migrate one database, if the gate lets it.

    Errors: `RefusedError` with all of the gate's reasons, and nothing was changed; those of
    `DatabaseOrchestrator.run_migrations`. Where a run of several revisions fails and operations.migration.on_failure is
    roll_back, those before the failed one are taken back, and the error says so.
    """
    started_at = datetime.now(UTC)
    gate, migration = Gate(database), database.settings.operations.migration
    asked = not gate.asks_nothing or migration.on_drift == "refuse" or migration.on_failure == "roll_back"
    seen = gate.look(direction, to) if asked else None  # a look is a process of its own: it takes its time
    try:
        run = replace(_allowed(database, direction, to, seen), started_at=started_at)
    except errors.ChanukaError as failure:
        if not isinstance(failure, errors.ConnectError):  # whom nobody can reach has no journal to show
            _report(database, direction, Run(Migrated(None, None, ()), seen, started_at=started_at), failure)
        raise
    return replace(run, report=_report(database, direction, run)) if run.migrated.applied else run


def expand(database: DatabaseOrchestrator) -> Run:
    """Migrate up to the first revision that takes something away, and not past it. Errors: as `migrate`."""
    plan = database.migration_plan()
    refused = rules.refusal(plan)
    if refused is not None:
        raise refused
    return migrate(database, "up", rules.before_contract(plan) or plan.current or rules.BASE)


def set_up(database: DatabaseOrchestrator) -> tuple[bool, Run]:
    """Make the database if it isn't there, and migrate it to the newest revision: (whether it was made, the run).

    Errors: `ConnectError`, `PermissionDenied`, and those of `migrate`.
    """
    created = create_database(database.name, database.manager.settings)
    return created, migrate(database, "up", rules.HEAD)


def _allowed(database: DatabaseOrchestrator, direction: Direction, to: str, seen: Seen | None) -> Run:
    if seen is not None and not seen.verdict.allowed:
        raise errors.RefusedError(f"{seen.verdict.words()}. Nothing was changed.")
    before = _unfinished(database)
    with ThreadPoolExecutor(max_workers=1) as beside:
        beside.submit(_prepare)
        health: list[Future[HealthReport | None]] = []
        in_context = contextvars.copy_context().run
        try:
            migrated = database.run_migrations(
                direction,
                to,
                expected=None if seen is None else seen.expected,
                bounds=() if seen is None else seen.bounds,
                once_applied=lambda: health.append(beside.submit(in_context, _health, database)),
            )
        except (errors.MigrationFailed, errors.LockTimeout) as failure:
            if direction == "up" and seen is not None:
                _roll_back(database, seen, failure)
            raise
        if not migrated.applied:
            return Run(migrated, seen)
        return Run(migrated, seen, aftermath.compare(before, _unfinished(database)), health[0].result())


def _prepare() -> None:
    """Import what comes after a migration, while it runs: that takes as long as a short one does."""
    from chanuka_ops.health import service as _health_service  # noqa: F401, PLC0415 - as said
    from chanuka_ops.report import service as _report_service  # noqa: F401, PLC0415 - as said


def _roll_back(database: DatabaseOrchestrator, seen: Seen, failure: errors.ChanukaError) -> None:
    """Go back to where the run began, if the policy says so. Errors: the failure again, saying what became of it."""
    if database.settings.operations.migration.on_failure != "roll_back":
        return
    stands = database.migration_plan().current
    if stands == seen.plan.current:
        return
    where = seen.plan.current or rules.BASE
    bounds = () if seen.rehearsal is None else prediction.bounds(seen.rehearsal, "down")
    try:
        database.run_migrations("down", where, bounds=bounds)
    except errors.ChanukaError as again:
        raise type(failure)(f"{failure} Rolling back to {where} failed too: {again}") from failure
    raise type(failure)(f"{failure} What came before it was rolled back: the database stands at {where}.") from failure


def _unfinished(database: DatabaseOrchestrator) -> frozenset[Left]:
    with database.manager.transaction(read_only=True) as connection:
        return aftermath.look(connection)


def _health(database: DatabaseOrchestrator) -> HealthReport | None:
    """Check the database's health after a migration; None where that is switched off, or can't be done."""
    if not database.settings.features.health_monitoring:
        return None
    with context.scope(operation="migrate"):
        try:
            return database.health()
        except errors.ChanukaError as failure:
            log.warning("the health after the migration isn't known: %s", failure, extra={"event": "migrate.health"})
            return None


def _report(
    database: DatabaseOrchestrator, direction: Direction, run: Run, failure: errors.ChanukaError | None = None
) -> Path | None:
    """Write the run's page. It tells of a migration, and is none: what fails here is a warning."""
    from chanuka_ops.report import service as reports  # noqa: PLC0415 - `_prepare` has imported it by now

    try:
        return reports.write_migration(
            database.settings.state_dir / "reports", _document(database, direction, run, failure)
        )
    except errors.ChanukaError as problem:
        log.warning("the migration's report was not written: %s", problem, extra={"event": "migrate.report"})
        return None


def _document(
    database: DatabaseOrchestrator, direction: Direction, run: Run, failure: errors.ChanukaError | None
) -> dict[str, Any]:
    who, seen = context.current(), run.seen
    journal = [entry for entry in database.migration_history() if entry.run_id == who.run_id]
    outcome = "done" if failure is None else _outcome(failure)
    return {
        "database": database.name,
        "run_id": who.run_id,
        "actor": who.actor,
        "started_at": run.started_at.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "direction": direction,
        "from": run.migrated.before,
        "to": run.migrated.after,
        "outcome": outcome,
        "error": None if failure is None else redact(str(failure)),
        "plan": None if seen is None else seen.plan.to_json(),
        "lint": None if seen is None else seen.lint,
        "gate": None if seen is None else seen.verdict.to_json(),
        "rehearsal": None if seen is None else seen.rehearsal,
        "applied": [step.to_json() for step in run.migrated.applied],
        "blockers": [{"revision": entry.revision, "message": entry.message} for entry in journal if entry.message],
        "journal": [entry.to_json() for entry in journal],
        "left": [item.to_json() for item in run.left] if failure is None else None,
        "health": None if run.health is None else str(run.health.status),
    }


def _outcome(failure: errors.ChanukaError) -> str:
    return next((word for kind, word in _OUTCOMES.items() if isinstance(failure, kind)), "failed")

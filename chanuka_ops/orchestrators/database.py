"""The composition root: settings → manager → services, opened and closed in order.

Where no database is configured, the embedded server is used, and runs for as long as it's used.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.backup.answers import Created, Drilled, Expiry, Listed, Retention, Verified
from chanuka_ops.backup.proving.service import Meanwhile
from chanuka_ops.backup.restoring.restored import Options, Restored
from chanuka_ops.backup.storing import flocks
from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.db.asking import Probe
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health import service as health_service
from chanuka_ops.health.keeping import BY_HAND
from chanuka_ops.health.model import HealthReport
from chanuka_ops.migrator import drift
from chanuka_ops.migrator import rules as migration_rules
from chanuka_ops.migrator.model import Direction, Entry, Migrated, Revision
from chanuka_ops.migrator.model import Plan as MigrationPlan
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.migrator.running.resolving import Resolution
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.optimisation.model import Applied
from chanuka_ops.optimisation.model import Plan as OptimisationPlan
from chanuka_ops.optimisation.service import Optimiser
from chanuka_ops.orchestrators.backups import BackupOperations, Taken
from chanuka_ops.orchestrators.health import Handing
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.server import embedded, embedded_major

log = logging.getLogger(__name__)

EMBEDDED_NAME = "main"  # in the settings' sense, where they name no database
EMBEDDED_DATABASE = "chanuka"
MAINTENANCE_DATABASE = "postgres"  # where one connects to make another database


class DatabaseOrchestrator:
    """Everything this program does with one database. Use `open()`."""

    def __init__(self, settings: Settings, manager: ConnectionManager) -> None:
        self.settings = settings
        self.manager = manager
        self.migrator = Migrator(manager, settings.operations.migration)
        self._backups = BackupOperations(settings, manager.name, manager)
        self.backups = self._backups.service
        self.optimiser = Optimiser(manager, settings.operations.optimisation)

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, name: str = "main") -> Iterator[Self]:
        """Open one database's services for the block; nothing connects before it's used.

        Errors: `ConfigurationError` for an unknown name; `ServerMissing`, `ServerError` for the embedded server.
        """
        with (
            context.scope(database=name),
            database_settings(settings, name) as database,
            ConnectionManager(name, database, features=settings.features, state_dir=settings.state_dir) as manager,
        ):
            yield cls(settings, manager)

    @property
    def name(self) -> str:
        """The database's name in the settings."""
        return self.manager.name

    def probe(self) -> Probe:
        """Ask the server what it is. Errors: `ConnectError`."""
        return self.manager.probe()

    def status(self) -> dict[str, Any]:
        """Look at every server of the database now, and say what is found and counted; the connection budget with it.

        A server that can't be reached is no error here: its role is "unknown".
        """
        self.manager.look()
        found = self.manager.snapshot()
        budget: dict[str, Any] | None = None
        with suppress(errors.DatabaseError):  # then the nodes say it
            counted = self.manager.budget()
            budget = {"needed": counted.needed, "available": counted.available, "fits": counted.fits}
        return {"database": self.name, **found, "budget": budget}

    def migration_plan(self) -> MigrationPlan:
        """Say what is pending, and whether the schema is as the last run left it.

        Errors: `ConnectError`, `ConfigurationError`.
        """
        with context.scope(operation="migrate"):
            return self._with_drift(self.migrator.plan())

    def foresee(self, direction: Direction, to: str) -> tuple[MigrationPlan, tuple[Revision, ...]]:
        """Say where the database stands and which revisions a migration would run. Errors: as `run_migrations`."""
        with context.scope(operation="migrate"):
            plan, steps = self.migrator.foresee(direction, to)
            seen = self._with_drift(plan)
        if direction == "up" and (refused := migration_rules.refusal(seen)) is not None:
            raise refused
        return seen, steps

    def run_migrations(
        self,
        direction: Direction,
        to: str,
        *,
        expected: Mapping[str, str] | None = None,
        bounds: Sequence[Bound] = (),
    ) -> Migrated:
        """Migrate, and record the schema as it is then. No gate: `applying.migrate` is what both faces call.

        `expected` and `bounds` are as `Migrator.up` takes them.

        Errors: `LockHeld`, `HeadsConflict`, `RefusedError`, `LockTimeout`, `MigrationFailed`, `OutcomeUnknown`.
        """
        operation = "migrate" if direction == "up" else "rollback"
        with context.scope(operation=operation), self._alone(self.settings.operations.migration.wait_s):
            migrated = (
                self.migrator.up(to, expected=expected, bounds=bounds)
                if direction == "up"
                else self.migrator.down(to, expected=expected)
            )
            if migrated.applied:
                self._record_schema(migrated.after)
        return migrated

    def migration_preview(self, direction: Direction, to: str) -> str:
        """Return the SQL that a migration would run. Errors: as `migrate`; nothing is run."""
        return self.migrator.preview(direction, to)

    def migration_history(self) -> list[Entry]:
        """Return the runs of revisions, newest first. Errors: `ConnectError`."""
        return self.migrator.history()

    def accept_migration(self, revision: str) -> str:
        """Take down that an applied revision's edited file may be as it is. Errors: `RefusedError`, `LockHeld`."""
        return self.migrator.accept(revision)

    def resolve_migration(self, resolution: Resolution) -> str:
        """Take down a person's word on a revision that was broken off. Errors: `RefusedError`, `LockHeld`."""
        return self.migrator.resolve(resolution)

    def health(self, only: Collection[str] | None = None, *, reader: str = BY_HAND) -> HealthReport:
        """Check the database's health; a server that is down is a finding, not an error.

        Counters are compared with the last look of the same `reader`: the daemon's are not disturbed by one by hand.

        Errors: `ConfigurationError` for an unknown check; `RefusedError` where health monitoring is switched off.
        """
        if not self.settings.features.health_monitoring:
            raise errors.RefusedError("features.health_monitoring is false: health checks are switched off")
        with context.scope(operation="health"):
            monitoring = self.settings.operations.monitoring
            handing = Handing(self.settings, self.manager, self.backups, self._drift, reader)
            return health_service.check(
                self.manager,
                monitoring,
                only=only,
                handed=lambda reached: handing.rows(only, reached=reached),
                keeper=handing.keeper(),
            )

    def backup(self) -> Created:
        """Take a backup. Errors: see `BackupService.create`."""
        return self.backup_all().created[0]

    def backup_all(self) -> Taken:
        """Take a backup, and one of each other database of the server that the settings name.

        Errors: see `BackupOperations.create`.
        """
        return self._backups.create(self.manager)

    def verify(self, backup_id: str) -> Verified:
        """Reread every copy's bytes. Errors: see `BackupService.verify`."""
        return self._backups.verify(backup_id)

    def drill(self, backup_id: str | None = None, *, store: str | None = None) -> Drilled:
        """Prove a backup, by default the newest. Errors: see `BackupService.drill`."""
        return self._backups.drill(backup_id, store=store)

    def drill_with(self, backup_id: str, meanwhile: Meanwhile) -> Drilled:
        """Prove a backup, and do something with its restored copy. Errors: as `drill`."""
        return self._backups.drill(backup_id, meanwhile=meanwhile)

    def restore(
        self, backup_id: str, *, into: str, dbname: str | None, options: Options, store: str | None = None
    ) -> Restored:
        """Restore a backup into a database of the settings, or into another one of its server.

        Errors: see `BackupService.restore`.
        """
        with database_settings(self.settings, into) as target:
            there = target.with_dbname(dbname) if dbname else target
            return self._backups.restore(backup_id, there, options, store=store)

    def retention(self) -> list[Retention]:
        """Say which backups would stay and go. Errors: `ConfigurationError`."""
        return self._backups.retention()

    def expire(self) -> list[Expiry]:
        """Delete the backups that the policy lets go. Errors: `LockHeld`; a store's own problem is in its answer."""
        return self._backups.expire()

    def backup_list(self) -> list[Listed]:
        """List this database's backups. Errors: `StoreError`."""
        return self.backups.catalogue(self.name)

    def _with_drift(self, plan: MigrationPlan) -> MigrationPlan:
        migration = self.settings.operations.migration
        if migration.on_drift == "off":
            return plan
        try:
            return self._drift().compared(plan)
        except (errors.ToolMissing, errors.ToolFailed, errors.ToolTooOld, errors.DatabaseError) as failure:
            return drift.unknown(plan, failure, migration)

    def _record_schema(self, revision: str | None) -> None:
        """Record what the next plan compares with. The migration is done: what fails here is told, not raised."""
        if self.settings.operations.migration.on_drift == "off":
            return
        try:
            self._drift().record(revision)
        except (errors.ToolMissing, errors.ToolFailed, errors.ToolTooOld, errors.DatabaseError) as failure:
            log.warning("the schema after the migration was not recorded, so drift won't be seen: %s", failure,
                        extra={"event": "migrate.drift"})  # fmt: skip

    def _drift(self) -> drift.Drift:
        tools = binaries.find(
            configured=self.settings.postgres.bin_dir,
            server_major=self.manager.probe().major,
            programs=(*binaries.CLIENT,),
        )
        return drift.Drift(self.manager, self.settings.operations.migration, tools)

    @contextmanager
    def _alone(self, wait_s: float) -> Iterator[None]:
        """Hold this machine's lock as well: who drills while the server is down has no other. Errors: `LockHeld`."""
        with flocks.operation(self.settings.state_dir, self.name, wait_s=wait_s):
            yield

    def optimise_plan(self, report: HealthReport | None = None) -> OptimisationPlan:
        """Turn health findings into advice. Errors: `DatabaseError`."""
        with context.scope(operation="optimise"):
            evidence = report or health_service.check(self.manager, self.settings.operations.monitoring)
            return self.optimiser.plan(evidence.findings)

    def optimise_apply(self, plan: OptimisationPlan, only: Collection[str] | None = None) -> list[Applied]:
        """Carry out what needs no approval: VACUUM and ANALYZE. Errors: `LockHeld`, `DatabaseError`."""
        with context.scope(operation="optimise"):
            return self.optimiser.apply(plan, only=only)


def known_names(settings: Settings) -> list[str]:
    """Return the names of the databases there are; the embedded one is called main."""
    return sorted(settings.databases) or [EMBEDDED_NAME]


@contextmanager
def database_settings(settings: Settings, name: str) -> Iterator[DatabaseSettings]:
    """Give a database's settings for the block: the configured one's, or the running embedded server's.

    Errors: `ConfigurationError`, `ServerMissing`, `ServerError`.
    """
    if settings.databases:
        yield settings.database(name)
        return
    if name != EMBEDDED_NAME:
        settings.database(name)  # says that it isn't configured
    try:
        found = binaries.find(
            configured=settings.postgres.bin_dir,
            server_major=embedded_major(settings.state_dir),
            programs=(*binaries.SERVER, *binaries.CLIENT),
        )
    except errors.ToolMissing as missing:
        raise errors.ServerMissing(
            f"no database is configured (DATABASE_URL, or databases.main.url in chanuka.toml), and no server can be"
            f" embedded: {missing}"
        ) from None
    with embedded(settings.state_dir, found) as server:
        database = server.settings(EMBEDDED_DATABASE)
        create_database(name, database)
        yield database


def create_database(name: str, database: DatabaseSettings) -> bool:
    """Make the database if it isn't there; return whether it was made. Errors: `ConnectError`, `PermissionDenied`."""
    with ConnectionManager(name, database) as manager:
        try:
            manager.probe()
        except errors.DatabaseMissing:
            pass
        else:
            return False
    dbname = database.sqlalchemy_url.database
    elsewhere = ConnectionManager(name, database.with_dbname(MAINTENANCE_DATABASE))
    with elsewhere, elsewhere.autocommit() as connection:
        quoted = connection.execute(text("select quote_ident(cast(:name as text))"), {"name": dbname}).scalar_one()
        connection.exec_driver_sql(
            f"create database {quoted} template template0 encoding 'UTF8'", execution_options={"no_parameters": True}
        )
    log.info("database %s was made", dbname, extra={"event": "database.created"})
    return True


def default_report_path(settings: Settings) -> Path:
    """Where the newest report goes."""
    return settings.state_dir / "reports" / "report.html"

"""The composition root: settings → manager → services, opened and closed in order.

Where no database is configured, the embedded server is used, and runs for as long as it's used.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.backup.storing import flocks
from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.db.asking import Probe
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import rules as migration_rules
from chanuka_ops.migrator.model import Direction, Entry, Migrated, Revision
from chanuka_ops.migrator.model import Plan as MigrationPlan
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.orchestrators import drifting
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.server import embedded, embedded_major

if TYPE_CHECKING:  # each is imported where it's used: a command, or a job, waits for what it needs only
    from chanuka_ops.backup.answers import Created, Drilled, Expiry, Listed, Retention, Verified
    from chanuka_ops.backup.proving.drill import Meanwhile
    from chanuka_ops.backup.restoring.restored import Options, Restored
    from chanuka_ops.backup.service import BackupService
    from chanuka_ops.health.model import HealthReport
    from chanuka_ops.migrator.running.bounds import Bound
    from chanuka_ops.migrator.running.resolving import Resolution
    from chanuka_ops.optimisation.model import Applied
    from chanuka_ops.optimisation.model import Plan as OptimisationPlan
    from chanuka_ops.optimisation.service import Optimiser
    from chanuka_ops.orchestrators.backups import BackupOperations, Taken

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

    @functools.cached_property
    def _backups(self) -> BackupOperations:
        from chanuka_ops.orchestrators.backups import BackupOperations  # noqa: PLC0415 - see the top

        return BackupOperations(self.settings, self.name, self.manager)

    @property
    def backups(self) -> BackupService:
        """What is known of the database's backups. Errors: `ConfigurationError` for a store that can't be."""
        return self._backups.service

    @functools.cached_property
    def optimiser(self) -> Optimiser:
        """What could make the database smaller, or faster."""
        from chanuka_ops.optimisation.service import Optimiser  # noqa: PLC0415 - see the top

        return Optimiser(self.manager, self.settings.operations.optimisation)

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
            return drifting.compared(self.settings, self.manager, self.migrator.plan())

    def foresee(self, direction: Direction, to: str) -> tuple[MigrationPlan, tuple[Revision, ...]]:
        """Say where the database stands and which revisions a migration would run. Errors: as `run_migrations`."""
        with context.scope(operation="migrate"):
            plan, steps = self.migrator.foresee(direction, to)
            seen = drifting.compared(self.settings, self.manager, plan)
        refused = migration_rules.refusal(migration_rules.meant(seen, direction, to)) if direction == "up" else None
        if refused is not None:
            raise refused
        return seen, steps

    def run_migrations(
        self,
        direction: Direction,
        to: str,
        *,
        expected: Mapping[str, str] | None = None,
        bounds: Sequence[Bound] = (),
        once_applied: Callable[[], object] = lambda: None,
    ) -> Migrated:
        """Migrate, and record the schema as it is then. No gate: `applying.migrate` is what both faces call.

        `expected` and `bounds` are as `Migrator.up` takes them. `once_applied` is called before the schema is recorded,
        where there is one to be: that takes a while, in which something else can be begun.

        Errors: `LockHeld`, `HeadsConflict`, `RefusedError`, `LockTimeout`, `MigrationFailed`, `OutcomeUnknown`.
        """
        operation = "migrate" if direction == "up" else "rollback"
        with context.scope(operation=operation), self._alone(self.settings.operations.migration.wait_s):
            migrated = (
                self.migrator.up(to, expected=expected, bounds=bounds)
                if direction == "up"
                else self.migrator.down(to, expected=expected, bounds=bounds)
            )
            if migrated.applied:
                once_applied()
                drifting.record(self.settings, self.manager, migrated.after)
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

    def health(self, only: Collection[str] | None = None, *, reader: str | None = None) -> HealthReport:
        """Check the database's health; a server that is down is a finding, not an error.

        Counters are compared with the last look of the same `reader`; by default that is whoever looks by hand.

        Errors: `ConfigurationError` for an unknown check; `RefusedError` where health monitoring is switched off.
        """
        if not self.settings.features.health_monitoring:
            raise errors.RefusedError("features.health_monitoring is false: health checks are switched off")
        from chanuka_ops.health import service as health_service  # noqa: PLC0415 - see the top
        from chanuka_ops.health.keeping import BY_HAND  # noqa: PLC0415 - likewise
        from chanuka_ops.orchestrators.health import Handing  # noqa: PLC0415 - likewise

        with context.scope(operation="health"):
            monitoring = self.settings.operations.monitoring
            drift = functools.partial(drifting.opened, self.settings, self.manager)
            handing = Handing(self.settings, self.manager, self.backups, drift, reader or BY_HAND)
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

    @contextmanager
    def _alone(self, wait_s: float) -> Iterator[None]:
        """Hold this machine's lock as well: who drills while the server is down has no other. Errors: `LockHeld`."""
        with flocks.operation(self.settings.state_dir, self.name, wait_s=wait_s):
            yield

    def optimise_plan(self, report: HealthReport | None = None) -> OptimisationPlan:
        """Turn health findings into advice. Errors: `DatabaseError`."""
        with context.scope(operation="optimise"):
            from chanuka_ops.health import service as health_service  # noqa: PLC0415 - see the top

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

"""Backups as operations: one at a time per database, told to whoever wants to know, silence noticed from outside.

Both faces call these. What needs no database alive works with none: the lock on the source is then passed over with a
warning, and this machine's own lock stands.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Self

from chanuka_ops import context, errors, notify
from chanuka_ops.backup import picking
from chanuka_ops.backup.answers import Created, Drilled, Expiry, Retention, Verified
from chanuka_ops.backup.restored import Options, Restored
from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.db.lock import operation_lock_if_reachable
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.notify import Notice, Severity

log = logging.getLogger(__name__)


class BackupOperations:
    """The backups of one database. `manager` is None where no server is configured to be asked."""

    def __init__(self, settings: Settings, name: str, manager: ConnectionManager | None) -> None:
        self._settings = settings
        self.name = name
        self._manager = manager
        self.service = BackupService(settings)

    @classmethod
    @contextmanager
    def from_store(cls, settings: Settings, name: str) -> Iterator[Self]:
        """Open a database's backups for the block. Its server, where one is configured, is asked for its lock only."""
        with ExitStack() as stack:
            stack.enter_context(context.scope(database=name))
            manager = None
            if name in settings.databases:
                manager = stack.enter_context(_manager(settings, name, settings.database(name)))
            yield cls(settings, name, manager)

    def create(self, manager: ConnectionManager) -> list[Created]:
        """Take a backup of the database, then of the others of its server that the settings name, each by itself.

        Errors: see `BackupService.create`. The first failure ends it; what was taken before stays.
        """
        with context.scope(operation="backup"), self._told("backup"):
            created = [self._create(manager)]
            patterns = self._settings.operations.backup.databases
            for dbname in picking.siblings(manager, patterns) if patterns else ():
                sibling = f"{self.name}.{dbname}"
                with (
                    context.scope(database=sibling),
                    _manager(self._settings, sibling, manager.settings.with_dbname(dbname)) as beside,
                ):
                    created.append(self._create(beside))
        return created

    def verify(self, backup_id: str, *, store: str | None = None) -> Verified:
        """Reread a backup's bytes. Errors: see `BackupService.verify`."""
        with context.scope(operation="verify"), self._told("verify"):
            verified = self.service.verify(backup_id, store=store)
            if verified.problems:
                listing = ", ".join(f"{p.store}: {p.file} ({p.kind})" for p in verified.problems[:10])
                self._tell("backup.damaged", "critical", f"backup {backup_id} is damaged", listing)
            if verified.unread:
                listing = ", ".join(f"{name}: {problem}" for name, problem in verified.unread.items())
                self._tell("verify.incomplete", "warning", f"backup {backup_id} was not read in every store", listing)
        return verified

    def drill(self, backup_id: str | None = None, *, store: str | None = None) -> Drilled:
        """Prove a backup, by default the newest; a proven one is a heartbeat. Errors: see `BackupService.drill`."""
        with context.scope(operation="drill"), self._told("drill"), self._excluded():
            drilled = self.service.drill(backup_id or self.service.newest(self.name), store=store)
            self._tell_drill(drilled)
        return drilled

    def restore(
        self,
        backup_id: str,
        target: DatabaseSettings,
        options: Options,
        *,
        store: str | None = None,
        verify: bool = True,
    ) -> Restored:
        """Restore a backup into another database, or (by name) in the place of one. Errors: `BackupService.restore`."""
        with context.scope(operation="restore"), self._told("restore"):
            restored = self.service.restore(backup_id, target, options, store=store, verify=verify)
            if restored.restored:
                said = f"{restored.tables} tables, {restored.rows:,} rows"
                self._tell("restore.done", "info", f"{backup_id} is in database {restored.database}", said)
            else:
                listing = "; ".join(f"{m.object}: {m.source}, restored {m.restored}" for m in restored.mismatches[:10])
                self._tell("restore.failed", "critical", f"{backup_id} was not put in place", listing)
        return restored

    def retention(self, *, store: str | None = None) -> list[Retention]:
        """Say what would stay and go. Errors: `ConfigurationError`."""
        held_by = None
        try:
            with self._excluded():
                pass
        except errors.LockHeld as held:
            held_by = str(held)
        return [
            decided
            for name in self.service.family(self.name)
            for decided in self.service.retention(name, store=store, held_by=held_by)
        ]

    def expire(self, *, store: str | None = None) -> list[Expiry]:
        """Delete what the policy lets go. Errors: `LockHeld`; a store's own problem is in its answer."""
        with context.scope(operation="expire"), self._told("expire"), self._excluded():
            done = [
                expiry for name in self.service.family(self.name) for expiry in self.service.expire(name, store=store)
            ]
            for expiry in done:
                if expiry.problem:
                    where = f"store {expiry.decided.store}"
                    self._tell("expire.refused", "warning", f"{where}: nothing more expires", expiry.problem)
        return done

    def _create(self, manager: ConnectionManager) -> Created:
        created = self.service.create(manager)
        title = f"backup {created.backup_id} taken"
        missing = ", ".join(f"{placed.store}: {placed.problem}" for placed in created.missing)
        facts = {"backup_id": created.backup_id, "tier": str(created.tier), "bytes": created.bytes}
        if missing:
            self._tell("backup.incomplete", "warning", f"{title}, but not in every store", missing, facts)
        else:
            self._tell("backup.taken", "info", title, f"{created.tables} tables, {created.rows:,} rows", facts)
        return created

    def _tell_drill(self, drilled: Drilled) -> None:
        facts = {"backup_id": drilled.backup_id, "tier": str(drilled.tier), "rto_seconds": drilled.rto_seconds}
        if drilled.proven:
            said = f"{drilled.tables_compared} tables, {drilled.rows_compared:,} rows compared, none differs"
            self._tell("backup.proven", "info", f"backup {drilled.backup_id} proven", said, facts)
            notify.heartbeat(
                self._settings.operations.backup.heartbeat, {"database": self.name, "backup_id": drilled.backup_id}
            )
        else:
            self._tell(
                "drill.failed", "critical", f"backup {drilled.backup_id} is not proven", drilled.failure(), facts
            )

    @contextmanager
    def _excluded(self) -> Iterator[None]:
        """Keep migrations and backups out for the block, if the source can be asked. Errors: `LockHeld`."""
        with ExitStack() as stack:
            if self._manager is not None:
                stack.enter_context(operation_lock_if_reachable(self._manager))
            yield

    @contextmanager
    def _told(self, operation: str) -> Iterator[None]:
        """Tell of an operation that fails; a refusal is its caller's business."""
        try:
            yield
        except errors.RefusedError:
            raise
        except errors.ChanukaError as error:
            self._tell(f"{operation}.failed", "critical", f"{operation} of {self.name} failed", str(error))
            raise

    def _tell(
        self, event: str, severity: Severity, title: str, body: str, facts: Mapping[str, object] | None = None
    ) -> None:
        tags = self._settings.databases[self.name].tags if self.name in self._settings.databases else {}
        notice = Notice(event=event, severity=severity, database=self.name, title=title, body=body, facts=facts or {})
        notify.send(notice, self._settings.operations.notify, tags=tags)


def _manager(settings: Settings, name: str, database: DatabaseSettings) -> ConnectionManager:
    return ConnectionManager(name, database, features=settings.features, state_dir=settings.state_dir)

"""Backups as operations: one at a time per database, told to whoever wants to know, silence noticed from outside.

Both faces call these. What needs no database alive works with none: the lock on the source is then passed over with a
warning, and this machine's own lock stands. No lock is held while people are told: that can take a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from chanuka_ops import context, errors
from chanuka_ops.backup import rules
from chanuka_ops.backup.answers import Created, Drilled, Expiry, Retention, Verified
from chanuka_ops.backup.proving.drill import Meanwhile
from chanuka_ops.backup.restoring.restored import Options, Restored
from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.taking import picking
from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.db.lock import operation_lock_if_reachable
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.logs import redact
from chanuka_ops.orchestrators.telling import Telling, configured

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """A sibling of which no backup could be taken, and why."""

    database: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The backups that were taken, the database's own first; and of which siblings there is none."""

    created: tuple[Created, ...]
    failed: tuple[Failed, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether there's a backup of every database, in every store."""
        return not self.failed and not any(created.missing for created in self.created)


class BackupOperations:
    """The backups of one database. `manager` is None where no server is configured to be asked."""

    def __init__(self, settings: Settings, name: str, manager: ConnectionManager | None) -> None:
        self._settings = settings
        self.name = name
        self._manager = manager
        self.service = BackupService(settings)
        self.telling = Telling(settings, name)

    @classmethod
    @contextmanager
    def from_store(cls, settings: Settings, name: str) -> Iterator[Self]:
        """Open a database's backups for the block. Its server, where one is configured, is asked for its lock only."""
        with ExitStack() as stack:
            stack.enter_context(context.scope(database=name))
            manager = None
            if (stated := _stated(settings, name)) is not None:
                manager = stack.enter_context(_manager(settings, name, stated))
            yield cls(settings, name, manager)

    def create(self, manager: ConnectionManager) -> Taken:
        """Take a backup of the database, then of the siblings that the settings name, each by itself.

        The database's own failure ends it. A sibling's is an answer (`failed`): it keeps nobody else back.
        Errors: `RefusedError` for a pattern that matches no database, and nothing was taken; `BackupService.create`'s.
        """
        with context.scope(operation="backup"):
            with self.telling.failures("backup"):
                patterns = self._settings.operations.backup.databases
                siblings = picking.siblings(manager, patterns) if patterns else []
                own = self.service.create(manager)
            self.telling.created(own)
            done = [self._create_beside(manager, dbname) for dbname in siblings]
        return Taken(
            created=(own, *(one for one in done if isinstance(one, Created))),
            failed=tuple(one for one in done if isinstance(one, Failed)),
        )

    def verify(self, backup_id: str, *, store: str | None = None) -> Verified:
        """Reread a backup's bytes. Errors: see `BackupService.verify`."""
        with self._of(backup_id, store) as here, context.scope(operation="verify"):
            with here.telling.failures("verify", asked_for=backup_id):
                verified = here.service.verify(backup_id, store=store)
            here.telling.verified(verified)
        return verified

    def drill(
        self, backup_id: str | None = None, *, store: str | None = None, meanwhile: Meanwhile | None = None
    ) -> Drilled:
        """Prove a backup, by default the newest; a proven one is a heartbeat. Errors: see `BackupService.drill`."""
        with self._of(backup_id, store) as here, context.scope(operation="drill"):
            with here.telling.failures("drill", asked_for=backup_id), here.excluded():
                wanted = backup_id or here.service.newest(here.name, store=store)
                drilled = here.service.drill(wanted, store=store, meanwhile=meanwhile)
            here.telling.drilled(drilled)
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
        with self._of(backup_id, store) as here, context.scope(operation="restore"):
            with here.telling.failures("restore", asked_for=backup_id):
                restored = here.service.restore(backup_id, target, options, store=store, verify=verify)
            here.telling.restored(restored)
        return restored

    def retention(self, *, store: str | None = None) -> list[Retention]:
        """Say what would stay and go. Errors: `ConfigurationError`."""
        held_by = None
        with context.scope(operation="expire"):
            try:
                with self.excluded():
                    pass
            except errors.LockHeld as held:
                held_by = held.holder
            return [
                decided
                for name in self.service.family(self.name)
                for decided in self.service.retention(name, store=store, held_by=held_by or self.service.holder(name))
            ]

    def expire(self, *, store: str | None = None) -> list[Expiry]:
        """Delete what the policy lets go; a store's own problem, or a sibling's lock, is in its answer.

        Errors: `LockHeld` where another operation works on the database; nothing was deleted then.
        """
        with context.scope(operation="expire"):
            with self.telling.failures("expire"), self.excluded():
                own, *siblings = self.service.family(self.name)
                done = self.service.expire(own, store=store)
                for name in siblings:
                    done += self._expire_beside(name, store)
            self.telling.expired(done)
        return done

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Keep migrations and backups out for the block, if the source can be asked. Errors: `LockHeld`."""
        with ExitStack() as stack:
            if self._manager is not None:
                stack.enter_context(operation_lock_if_reachable(self._manager))
            yield

    def _create_beside(self, manager: ConnectionManager, dbname: str) -> Created | Failed:
        sibling = f"{self.name}.{dbname}"
        telling = Telling(self._settings, sibling)
        try:
            with (
                context.scope(database=sibling),
                telling.failures("backup"),
                _manager(self._settings, sibling, manager.settings.with_dbname(dbname)) as beside,
            ):
                created = self.service.create(beside)
        except errors.ChanukaError as error:
            log.warning("no backup of %s: %s", sibling, error, extra={"event": "backup.failed"})
            return Failed(sibling, type(error).__name__, redact(str(error)))
        telling.created(created)
        return created

    def _expire_beside(self, sibling: str, store: str | None) -> list[Expiry]:
        """Let a sibling's backups go; where another operation works on it, they wait for the next time."""
        try:
            return self.service.expire(sibling, store=store)
        except errors.LockHeld as held:
            kept = self.service.retention(sibling, store=store, held_by=held.holder)
            return [Expiry(decided=decided, problem=decided.refused) for decided in kept]

    @contextmanager
    def _of(self, backup_id: str | None, store: str | None) -> Iterator[Self]:
        """Give the operations of the database that a backup is of: its lock counts, and its name is told.

        The manifest is read where the id isn't named for this database. Errors: `BackupNotFound`.
        """
        name = self.name
        if backup_id is not None and rules.slug_of(backup_id) != rules.slug(self.name):
            with suppress(errors.BackupDamaged, errors.StoreError):  # for the operation itself to find, and to tell
                name = self.service.show(backup_id, store=store)[0].database
        if name == self.name:
            yield self
            return
        with self.from_store(self._settings, name) as other:
            yield other


def _manager(settings: Settings, name: str, database: DatabaseSettings) -> ConnectionManager:
    return ConnectionManager(name, database, features=settings.features, state_dir=settings.state_dir)


def _stated(settings: Settings, name: str) -> DatabaseSettings | None:
    known = configured(settings, name)
    if known is None or known == name:
        return settings.databases.get(name)
    return settings.databases[known].with_dbname(name.partition(".")[2])

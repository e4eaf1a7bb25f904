"""The verbs of backups: create, list, show, verify, drill, expire, pin. Only `create` needs the source database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from chanuka_ops import errors
from chanuka_ops.backup import keeping, rules
from chanuka_ops.backup.answers import Catalogue, Created, Drilled, Expiry, Listed, Retention, Verified
from chanuka_ops.backup.model import Manifest, Status
from chanuka_ops.backup.proving import drill as drills
from chanuka_ops.backup.proving import service as proving
from chanuka_ops.backup.restoring import service as recovering
from chanuka_ops.backup.restoring.extract import Format
from chanuka_ops.backup.restoring.restored import Extracted, Options, Restored
from chanuka_ops.backup.storing import flocks, stores, sweeping
from chanuka_ops.backup.storing.fetching import Fetched
from chanuka_ops.backup.storing.store import Store
from chanuka_ops.backup.taking import service as taking
from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.db.manager import ConnectionManager


class BackupService:
    """Backups in the stores that the settings name. What needs no database works with none alive."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.stores = stores.from_settings(settings)

    @property
    def store(self) -> Store:
        """The first store: the one that is read from where another isn't named."""
        return next(iter(self.stores.values()))

    def create(self, manager: ConnectionManager) -> Created:
        """Take a backup and fingerprint its source in the same snapshot; the tier is `taken`.

        A store that fails is named in the answer (`missing`), and the others get theirs.
        Errors: `ConnectError`, `LockHeld`, `ToolMissing`, `ToolTooOld`, `PermissionDenied` naming the table,
        `ToolFailed`, `StoreError` where no store took it. After any of them nothing new is listed.
        """
        with self._alone(manager.name):
            return taking.create(manager, self._settings, self.stores)

    def catalogue(self, database: str | None = None, *, store: str | None = None) -> list[Listed]:
        """List backups, each once, the newest first. Errors: `StoreError` where any store can't be listed whole."""
        found = self.look(database, store=store)
        if found.problems:
            raise errors.StoreError(stores.unreadable(found.problems))
        return list(found.backups)

    def look(self, database: str | None = None, *, store: str | None = None) -> Catalogue:
        """List backups as far as the stores can be listed, and say which can't. Errors: `ConfigurationError`."""
        return stores.look(stores.chosen(self.stores, store), database)

    def show(self, backup_id: str, *, store: str | None = None) -> tuple[Manifest, Status]:
        """Return a backup's manifest and status. Errors: `BackupNotFound`, `BackupDamaged`, `StoreError`."""
        first, *_ = self._holding(backup_id, store)
        return first.manifest(backup_id), first.status(backup_id)

    def verify(self, backup_id: str, *, store: str | None = None) -> Verified:
        """Read every byte of every copy (or that of one store) against its manifest, and record the outcome.

        A damaged backup is an answer (`problems`), not an error; so is a store that can't be read (`unread`).
        Errors: `BackupNotFound`, `StoreError` where no copy can be read.
        """
        holders, unread = stores.holding(stores.chosen(self.stores, store), backup_id)
        return proving.verify_each(holders, backup_id, unread)

    def drill(self, backup_id: str, *, store: str | None = None, meanwhile: drills.Meanwhile | None = None) -> Drilled:
        """Fetch, restore into a scratch server, compare; lift the tier to `proven` or take it back.

        `meanwhile` is given the copy after it was compared, see `proving.drill`.

        A copy that differs is an answer (`mismatches`, `structure_problems`), not an error.
        Errors: `BackupNotFound`, `BackupDamaged` (no manifest to compare with), `ToolMissing`, `ToolTooOld`,
        `ToolFailed` (pg_restore's words), `ServerError`, `StoreError`, `DecryptionFailed`. A failure to restore is
        recorded first.
        """
        holders = self._holding(backup_id, store)
        manifest = proving.readable_manifest(holders[0], backup_id)
        with self._alone(manifest.database):
            return proving.drill(holders, manifest, self._settings, meanwhile)

    @contextmanager
    def fetched(self, backup_id: str, *, store: str | None = None, verify: bool = True) -> Iterator[Fetched]:
        """Give a backup's files, decrypted, in a directory of this machine; it can't expire in the block.

        Errors: as `drill`; a file that isn't as written is one of its `problems`.
        """
        first, *_ = self._holding(backup_id, store)
        manifest = proving.readable_manifest(first, backup_id)
        with proving.fetched(first, manifest, self._settings, verify=verify) as got:
            yield got

    @contextmanager
    def restored_copy(self, backup_id: str, *, store: str | None = None) -> Iterator[drills.RestoredCopy]:
        """Restore a backup into a scratch server for the block. Errors: as `drill`."""
        manifest, _ = self.show(backup_id, store=store)
        with self.fetched(backup_id, store=store) as got, proving.restored(got, manifest, self._settings) as copy:
            yield copy

    def restore(
        self,
        backup_id: str,
        target: DatabaseSettings,
        options: Options,
        *,
        store: str | None = None,
        verify: bool = True,
    ) -> Restored:
        """Restore a backup, or part of it, into a new, an empty or (by name) an existing database.

        Rows that differ from the manifest are an answer (`mismatches`): nothing was put in place then.
        Errors: see `recovering.into_database`.
        """
        first, *_ = self._holding(backup_id, store)
        manifest = proving.readable_manifest(first, backup_id)
        return recovering.into_database(first, manifest, self._settings, target, options, verify=verify)

    def extract(
        self, backup_id: str, table: str, *, to: Path | BinaryIO, form: Format, store: str | None = None,
        verify: bool = True,
    ) -> Extracted:  # fmt: skip
        """Write one table's rows to a file, with no server. Errors: see `recovering.one_table`."""
        first, *_ = self._holding(backup_id, store)
        manifest = proving.readable_manifest(first, backup_id)
        return recovering.one_table(first, manifest, self._settings, table, to=to, form=form, verify=verify)

    def retention(self, database: str, *, store: str | None = None, held_by: str | None = None) -> list[Retention]:
        """Say what of each store would stay and go, and why. Nothing is deleted. Errors: `ConfigurationError`."""
        policy = self._settings.operations.backup.keep
        return [keeping.decide(place, database, policy, held_by=held_by) for place in stores.chosen(self.stores, store)]

    def expire(self, database: str, *, store: str | None = None) -> list[Expiry]:
        """Delete what the policy lets go, store by store. One store's refusal or failure leaves the others to theirs.

        Errors: `LockHeld` where another operation works on the database's backups.
        """
        policy = self._settings.operations.backup.keep
        with self._alone(database):
            return [keeping.expire(place, database, policy) for place in stores.chosen(self.stores, store)]

    def pin(self, backup_id: str, reason: str | None) -> dict[str, str]:
        """Pin every copy of a backup for a reason, so that it never expires; None unpins it.

        Return by name the stores that couldn't be asked, and why: a copy there is as it was.
        Errors: `BackupNotFound`, `StoreError`.
        """
        holders, unread = stores.holding(self.stores.values(), backup_id)
        for holder in holders:
            keeping.pin(holder, backup_id, reason)
        return unread

    def newest(self, database: str, *, store: str | None = None) -> str:
        """Return the id of a database's newest whole backup (in one store), passing over what is dated in the future.

        Errors: `BackupNotFound`, `StoreError`.
        """
        found = self.look(database, store=store)
        newest = rules.newest(found.backups, datetime.now(UTC))
        if newest is not None:
            return newest.backup_id
        if found.problems:
            raise errors.StoreError(stores.unreadable(found.problems))
        where = ", ".join(place.where for place in stores.chosen(self.stores, store))
        raise errors.BackupNotFound(f"database {database!r} has no backup in {where}")

    def holder(self, database: str) -> str | None:
        """Say which process of this machine works on a database's backups; None where none does."""
        try:
            with flocks.operation(self._settings.state_dir, database):
                return None
        except errors.LockHeld as held:
            return held.holder

    def family(self, database: str) -> list[str]:
        """Return a database's name and those of its server's other databases that were backed up beside it."""
        found = {backup.database for backup in self.look().backups}
        return [database, *sorted(name for name in found if name.startswith(f"{database}."))]

    def _holding(self, backup_id: str, store: str | None) -> list[Store]:
        found, _ = stores.holding(stores.chosen(self.stores, store), backup_id)
        return found

    @contextmanager
    def _alone(self, database: str) -> Iterator[None]:
        """Hold this machine's lock of the database's backups; what killed ones left in clear is removed first."""
        with flocks.operation(self._settings.state_dir, database):
            sweeping.sweep(self._settings.state_dir)
            yield

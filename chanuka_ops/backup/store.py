"""The local store: a directory. The manifests in it are the catalogue; no database is asked.

::

    <store>/<database>/<backup_id>/manifest.json    sealed; written last
                                  /status.json      tier and evidence; replaced as a whole
                                  /dump/…  /globals/…
    <store>/.partial/<backup_id>/                   under way; its writer holds a flock on <backup_id>.lock,
                                                    which is there before the directory and after it

A backup appears by one atomic rename after every file and directory of it was fsynced, so that a backup that is
listed is whole, whatever killed its writer. What a killed writer left is removed by the next one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from chanuka_ops import errors
from chanuka_ops.backup import files, rules
from chanuka_ops.backup.model import File, Listed, Manifest, Status

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATUS = "status.json"
_OWN = frozenset({MANIFEST, STATUS})
_PARTIAL = ".partial"
_D = TypeVar("_D", Manifest, Status)


class LocalStore:
    """Backups in a directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    @contextmanager
    def writing(self, database: str, backup_id: str) -> Iterator[Path]:
        """Give a directory to write a new backup into; it's removed again unless `publish` was called.

        Errors: `StoreError` where the store can't be written.
        """
        partials = self.root / _PARTIAL
        with self._translated("written"):
            for needed in (self.root / rules.checked_name(database), partials):
                files.make(needed)
            self._sweep(partials)
            lock = _locked(partials / f"{backup_id}.lock")
        if lock is None:
            raise errors.StoreError(f"backup {backup_id} is being written by another process")
        partial = partials / backup_id
        try:
            with self._translated("written"):
                partial.mkdir(mode=0o700)
            yield partial
        finally:
            _remove(partial, lock)

    def publish(self, partial: Path, manifest: Manifest) -> None:
        """Write status and manifest, fsync all, and let the backup appear by one rename.

        Errors: `StoreError`.
        """
        with self._translated("written"):
            files.write(partial / STATUS, rules.seal(Status(backup_id=manifest.backup_id).model_dump(mode="json")))
            files.write(partial / MANIFEST, rules.seal(manifest.model_dump(mode="json")))
            for directory, _, _ in os.walk(partial, topdown=False):
                files.fsync(Path(directory))
            partial.rename(self._path(manifest.database, manifest.backup_id))
            files.fsync(self.root / manifest.database)
            files.fsync(self.root)

    def list(self, database: str | None = None) -> list[Listed]:
        """List the backups, the newest first; one whose manifest is damaged is listed with the reason.

        Errors: `StoreError` where the store can't be read: a partial listing is never shown as a whole one.
        """
        found = []
        for directory in self._directories(database):
            name = directory.parent.name
            try:
                rules.checked_id(directory.name)
                manifest, status = self._manifest(directory), self._status(directory)
            except (errors.BackupDamaged, errors.BackupNotFound) as damage:
                found.append(
                    Listed(
                        backup_id=directory.name, database=name, kind="?", tier="damaged", created_at=None,
                        bytes=None, server_version=None, problem=str(damage),
                    )
                )  # fmt: skip
                continue
            found.append(
                Listed(
                    backup_id=manifest.backup_id, database=name, kind=manifest.kind, tier=status.tier,
                    created_at=manifest.created_at, bytes=manifest.bytes,
                    server_version=manifest.source.server_version,
                )
            )  # fmt: skip
        return sorted(
            found, key=lambda b: (b.created_at is not None, b.created_at and b.created_at, b.backup_id), reverse=True
        )

    def directory(self, backup_id: str) -> Path:
        """Return a backup's directory.

        Errors: `BackupNotFound`, `StoreError`.
        """
        rules.checked_id(backup_id)
        for directory in self._directories(None):
            if directory.name == backup_id:
                return directory
        raise errors.BackupNotFound(
            f"no backup {backup_id} in {self.root}: `chanuka-ops backup list` shows what there is"
        )

    def manifest(self, backup_id: str) -> Manifest:
        """Read a manifest.

        Errors: `BackupNotFound`; `BackupDamaged` where it isn't as it was written, or belongs to another backup.
        """
        return self._manifest(self.directory(backup_id))

    def status(self, backup_id: str) -> Status:
        """Read a backup's tier and evidence.

        Errors: `BackupNotFound`; `BackupDamaged` where it isn't as it was written, or belongs to another backup.
        """
        return self._status(self.directory(backup_id))

    def change_status(self, backup_id: str, change: Callable[[Status], Status]) -> Status:
        """Replace a backup's tier and evidence by what `change` makes of them; two that look at once both count.

        One that is damaged says nothing of the backup any more: `change` then gets a fresh one.
        Errors: `BackupNotFound`, `StoreError`.
        """
        directory = self.directory(backup_id)
        temporary = directory.parent / f".{backup_id}.{STATUS}"  # beside, not inside: there it would be an extra file
        with self._translated("written"), _held(directory):
            try:
                before = self._status(directory)
            except errors.BackupDamaged:
                before = Status(backup_id=backup_id)
            status = change(before)
            files.write(temporary, rules.seal(status.model_dump(mode="json")))
            temporary.replace(directory / STATUS)
            files.fsync(directory)
        return status

    def files(self, backup_id: str) -> dict[str, File | None]:
        """Read every byte of a backup's files (manifest and status aside); None for one that can't be read."""
        directory = self.directory(backup_id)
        with self._translated("read"):
            return files.inventory(directory, label="verify", fsync=False, but=_OWN)

    def _directories(self, database: str | None) -> Iterator[Path]:
        try:
            if not self.root.exists():
                return
            all_of_them = sorted(self.root.iterdir())  # first of all: a store that can't be read is not an empty one
            databases = [self.root / database] if database else all_of_them
            for parent in databases:
                if parent.name.startswith(".") or not parent.is_dir():
                    continue
                yield from sorted(d for d in parent.iterdir() if d.is_dir() and not d.name.startswith("."))
        except OSError as error:
            raise errors.StoreError(f"the backup store {self.root} can't be read: {error.strerror}") from None

    def _path(self, database: str, backup_id: str) -> Path:
        return self.root / database / backup_id

    def _manifest(self, directory: Path) -> Manifest:
        return self._sealed(directory, MANIFEST, Manifest)

    def _status(self, directory: Path) -> Status:
        return self._sealed(directory, STATUS, Status)

    def _sealed(self, directory: Path, name: str, kind: type[_D]) -> _D:
        backup_id = directory.name
        try:
            document = kind.model_validate(rules.unseal((directory / name).read_bytes()))
        except OSError as error:
            raise errors.BackupDamaged(f"{backup_id}: {name} can't be read: {error.strerror}") from None
        except (errors.BackupDamaged, ValidationError) as error:
            reason = (
                str(error) if isinstance(error, errors.BackupDamaged) else "its fields are not those of this format"
            )
            raise errors.BackupDamaged(f"{backup_id}: {name}: {reason}") from None
        if document.backup_id != backup_id:
            raise errors.BackupDamaged(f"{backup_id}: {name} is that of {document.backup_id}")
        return document

    def _sweep(self, partials: Path) -> None:
        """Remove what killed writers left: whatever nobody holds the lock of."""
        for backup_id in sorted({found.name.removesuffix(".lock") for found in partials.iterdir()}):
            lock = _locked(partials / f"{backup_id}.lock")
            if lock is None:
                continue  # its writer lives
            _remove(partials / backup_id, lock)
            log.info("removed an unfinished backup: %s", backup_id, extra={"event": "backup.swept"})

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.root
            raise errors.StoreError(f"the backup store can't be {what}: {where}: {error.strerror}") from None


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock file's flock, None where somebody else does.

    The lock counts only if the file is still there by its name: one that was opened while another removed it is
    nobody's, and guards nothing.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _remove(partial: Path, lock: int) -> None:
    """Remove a partial backup, then its lock file, then let go of the lock: so no sweep sees it unguarded."""
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):
        partial.with_name(f"{partial.name}.lock").unlink()
    os.close(lock)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Hold a directory's own flock for the block: as long as it takes to write a small file."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

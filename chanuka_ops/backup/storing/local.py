"""The local store: a directory of this machine.

::

    <store>/<database>/<backup_id>/manifest.json    sealed; written last
                                  /status.json      tier and evidence; replaced as a whole
                                  /dump/…  /globals/…
    <store>/.partial/<backup_id>/                   under way; its writer holds a flock on <backup_id>.lock,
                                                    which is there before the directory and after it

A backup appears by one atomic rename after every file and directory of it was fsynced, so that a backup that is
listed is whole, whatever killed its writer; it disappears by one rename too. What a killed process left is removed by
the next one. Who reads a backup holds a shared flock on its manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from chanuka_ops import errors
from chanuka_ops.backup import documents, files, rules
from chanuka_ops.backup.answers import Listed
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.documents import MANIFEST, OWN, STATUS
from chanuka_ops.backup.model import File, Manifest, Status
from chanuka_ops.backup.storing import flocks
from chanuka_ops.backup.storing.placing import LocalWriter, translated
from chanuka_ops.backup.storing.store import Change, Condition

log = logging.getLogger(__name__)

_PARTIAL = ".partial"
LISTING_SPAN = 100  # backups that a thread takes at a time


class LocalStore:
    """Backups in a directory of this machine."""

    def __init__(self, root: Path, name: str = "default") -> None:
        self.root = root
        self.name = name

    def __repr__(self) -> str:
        return f"LocalStore({self.name!r}, {str(self.root)!r})"

    @property
    def where(self) -> str:
        """Its directory."""
        return str(self.root)

    @contextmanager
    def writing(self, database: str, backup_id: str) -> Iterator[LocalWriter]:
        """Write a new backup in the block; it's removed again unless it was published.

        Errors: `StoreError` where the store can't be written.
        """
        partials = self.root / _PARTIAL
        with self._translated("written"):
            for needed in (self.root / rules.checked_name(database), partials):
                files.make(needed)
            self._sweep(partials)
            lock = flocks.exclusive(partials / f"{backup_id}.lock")
        if lock is None:
            raise errors.StoreError(f"backup {backup_id} is being written by another process")
        partial = partials / backup_id
        try:
            with self._translated("written"):
                partial.mkdir(mode=0o700)
            yield LocalWriter(self.root, self.name, partial)
        finally:
            flocks.remove(partial, lock)

    def list(self, database: str | None = None) -> list[Listed]:
        """List the backups, the newest first; one that is damaged is listed with the reason.

        Errors: `StoreError` where the store can't be read: a partial listing is never shown as a whole one.
        """
        directories = list(self._directories(database))
        spans = [directories[start : start + LISTING_SPAN] for start in range(0, len(directories), LISTING_SPAN)]
        # first what lets other threads go on, and nothing beside it: one that must wait for this one waits long
        with ThreadPoolExecutor(max_workers=files.THREADS) as pool:
            hashes = list(chain.from_iterable(pool.map(_manifest_hashes, spans)))
        listed = map(self._listed, directories, hashes)
        return documents.newest_first(one for one in listed if one is not None)

    def manifest(self, backup_id: str) -> Manifest:
        """Read a manifest.

        Errors: `BackupNotFound`; `BackupDamaged` where it isn't as it was written, or belongs to another backup.
        """
        return documents.opened(_content(self.directory(backup_id), MANIFEST), Manifest, backup_id, MANIFEST)

    def status(self, backup_id: str) -> Status:
        """Read a backup's tier and evidence.

        Errors: `BackupNotFound`; `BackupDamaged` where it isn't as it was written, or belongs to another backup.
        """
        return documents.opened(_content(self.directory(backup_id), STATUS), Status, backup_id, STATUS)

    def change_status(self, backup_id: str, change: Change) -> Status:
        """Replace a backup's tier and evidence by what `change` makes of them; two that look at once both count.

        One that is damaged says nothing of the backup any more: `change` then gets a fresh one.
        Errors: `BackupNotFound`, `StoreError`.
        """
        directory = self.directory(backup_id)
        temporary = _unfinished_status(directory)
        with self._translated("written"), flocks.held(directory):
            try:
                before = self.status(backup_id)
            except errors.BackupDamaged:
                before = Status(backup_id=backup_id)
            status = change(before)
            try:
                files.write(temporary, documents.seal(status.model_dump(mode="json")))
                reached(f"local.status:{self.name}")
                temporary.replace(directory / STATUS)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            files.fsync(directory)
        return status

    def files(self, backup_id: str) -> dict[str, File | None]:
        """Read every byte of a backup's files (manifest and status aside); None for one that can't be read."""
        directory = self.directory(backup_id)
        with self._translated("read"):
            return files.inventory(directory, label="verify", fsync=False, but=OWN)

    def paths(self, backup_id: str) -> set[str]:
        """Name a backup's files (manifest and status aside). Errors: `BackupNotFound`, `StoreError`."""
        directory = self.directory(backup_id)
        with self._translated("read"):
            found = files.below(directory, strict=False)
        return {path.relative_to(directory).as_posix() for path in found} - OWN

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

    @contextmanager
    def open(self, backup_id: str, path: str) -> Iterator[BinaryIO]:
        """Read one file as a stream. Errors: `BackupNotFound`, `BackupDamaged` (no such file)."""
        try:
            stream = (self.directory(backup_id) / path).open("rb")
        except OSError as error:
            raise errors.BackupDamaged(f"{backup_id}: {path} can't be read: {error.strerror}") from None
        with stream:
            yield stream

    @contextmanager
    def reading(self, backup_id: str) -> Iterator[None]:
        """Keep a backup from being deleted in the block, by any process of this machine.

        Errors: `BackupNotFound`, also where it is deleted at this very moment.
        """
        with flocks.shared(self.directory(backup_id) / MANIFEST, backup_id):
            yield

    def delete(self, backup_id: str, if_still: Condition | None = None) -> None:
        """Delete a backup; it's unlisted by one rename first.

        Errors: `BackupNotFound`; `LockHeld` where somebody reads it, or its status isn't as it was; `BackupDamaged`
        where that can't be read; `StoreError`.
        """
        self.directory(backup_id)
        partials = self.root / _PARTIAL
        with self._translated("written"):
            files.make(partials)
            lock = flocks.exclusive(partials / f"{backup_id}.lock")
            if lock is None:
                raise errors.LockHeld(f"backup {backup_id} is being deleted by another process")
            try:
                directory = self.directory(backup_id)  # again: who deleted it just now held the lock
                with flocks.unread(directory / MANIFEST, backup_id):
                    if if_still is not None:
                        rules.require(if_still(self.status(backup_id)), backup_id)
                    directory.rename(partials / backup_id)
                files.fsync(directory.parent)
                _unfinished_status(directory).unlink(missing_ok=True)
                reached(f"local.unlisted:{self.name}")
            finally:
                flocks.remove(partials / backup_id, lock)
        log.info("backup %s deleted from %s", backup_id, self.root, extra={"event": "backup.deleted"})

    def _listed(self, directory: Path, manifest_sha256: str | None) -> Listed | None:
        """Return a backup's line; None where it was deleted since its directory was found."""
        database, backup_id = directory.parent.name, directory.name
        try:
            rules.checked_id(backup_id)
            if manifest_sha256 is None:
                _content(directory, MANIFEST)  # it says why
            status = documents.glimpsed(_content(directory, STATUS), backup_id)
            summary = status.summary
            if summary is None or manifest_sha256 != summary.manifest_sha256:
                content = _content(directory, MANIFEST)
                manifest = documents.opened(content, Manifest, backup_id, MANIFEST)
                summary = documents.summary(manifest, content)
        except (errors.BackupDamaged, errors.BackupNotFound) as damage:
            with self._translated("read"):
                if not directory.exists():
                    return None
            return documents.damaged(self.name, database, backup_id, str(damage))
        return documents.listed(self.name, status, summary)

    def _directories(self, database: str | None) -> Iterator[Path]:
        try:
            if not self._is_made():
                return
            all_of_them = _folders(self.root)  # first of all: a store that can't be read is not an empty one
            for name in [database] if database else all_of_them:
                parent = self.root / name
                if not name.startswith(".") and parent.is_dir():
                    yield from (parent / folder for folder in _folders(parent))
        except OSError as error:
            raise errors.StoreError(f"the backup store {self.root} can't be read: {error.strerror}") from None

    def _is_made(self) -> bool:
        """Tell whether there is such a store; a link that leads nowhere is one that can't be read."""
        try:
            self.root.lstat()
        except FileNotFoundError:
            return False
        return True

    def sweep(self) -> None:
        """Remove what killed writers and deleters left. Errors: `StoreError`."""
        partials = self.root / _PARTIAL
        with self._translated("written"):
            if partials.exists():
                self._sweep(partials)

    def _sweep(self, partials: Path) -> None:
        """Remove whatever nobody holds the lock of."""
        for backup_id in sorted({found.name.removesuffix(".lock") for found in partials.iterdir()}):
            lock = flocks.exclusive(partials / f"{backup_id}.lock")
            if lock is None:
                continue  # its writer lives
            flocks.remove(partials / backup_id, lock)
            log.info("removed an unfinished backup: %s", backup_id, extra={"event": "backup.swept"})

    def _translated(self, what: str) -> AbstractContextManager[None]:
        return translated(self.root, what)


def _folders(directory: Path) -> list[str]:
    """Name a directory's visible directories, in order. Errors: `OSError`."""
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_dir())


def _manifest_hashes(directories: Iterable[Path]) -> list[str | None]:
    """Hash their manifests; None for one that can't be read."""
    found: list[str | None] = []
    for directory in directories:
        try:
            found.append(hashlib.sha256(files.content(f"{directory}/{MANIFEST}")).hexdigest())
        except OSError:
            found.append(None)
    return found


def _content(directory: Path, name: str) -> bytes:
    try:
        return files.content(f"{directory}/{name}")
    except OSError as error:
        raise errors.BackupDamaged(f"{directory.name}: {name} can't be read: {error.strerror}") from None


def _unfinished_status(directory: Path) -> Path:
    """Return where a backup's next status is written: beside it, for inside it would be an extra file."""
    return directory.parent / f".{directory.name}.{STATUS}"

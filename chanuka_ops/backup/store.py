"""The local store: a directory. The manifests in it are the catalogue; no database is asked.

::

    <store>/<database>/<backup_id>/manifest.json    sealed; written last
                                  /status.json      tier and evidence; replaced as a whole
                                  /dump/…  /globals/…
    <store>/.partial/<backup_id>/                   under way; its writer holds a flock on <backup_id>.lock

A backup appears by one atomic rename after every file and directory of it was fsynced, so that a backup that is
listed is whole, whatever killed its writer. What a killed writer left is removed by the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from chanuka_ops import context, errors
from chanuka_ops.backup import rules
from chanuka_ops.backup.model import File, Listed, Manifest, Status

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATUS = "status.json"
_OWN = frozenset({MANIFEST, STATUS})
_PARTIAL = ".partial"
_CHUNK = 1 << 20
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
        partial = self.root / _PARTIAL / backup_id
        with self._translated("written"):
            (self.root / database).mkdir(parents=True, exist_ok=True)
            partial.parent.mkdir(exist_ok=True)
            self._sweep(partial.parent)
            lock = os.open(partial.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)  # at most as long as a sweep looks at it
        try:
            with self._translated("written"):
                partial.mkdir(mode=0o700)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):
                partial.with_suffix(".lock").unlink()
            os.close(lock)

    def publish(self, partial: Path, manifest: Manifest) -> None:
        """Write status and manifest, fsync all, and let the backup appear by one rename.

        Errors: `StoreError`.
        """
        with self._translated("written"):
            _write(partial / STATUS, rules.seal(Status(backup_id=manifest.backup_id).model_dump(mode="json")))
            _write(partial / MANIFEST, rules.seal(manifest.model_dump(mode="json")))
            for directory, _, _ in os.walk(partial, topdown=False):
                _fsync(Path(directory))
            partial.rename(self._path(manifest.database, manifest.backup_id))
            _fsync(self.root / manifest.database)
            _fsync(self.root)

    def list(self, database: str | None = None) -> list[Listed]:
        """List the backups, the newest first; one whose manifest is damaged is listed with the reason.

        Errors: `StoreError` where the store can't be read: a partial listing is never shown as a whole one.
        """
        found = []
        for directory in self._directories(database):
            name = directory.parent.name
            try:
                manifest, status = self.manifest(directory.name), self.status(directory.name)
            except errors.BackupDamaged as damage:
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
        manifest = self._sealed(backup_id, MANIFEST, Manifest)
        if manifest.backup_id != backup_id:
            raise errors.BackupDamaged(f"{backup_id}: {MANIFEST} is that of {manifest.backup_id}")
        return manifest

    def status(self, backup_id: str) -> Status:
        """Read a backup's tier and evidence.

        Errors: `BackupNotFound`, `BackupDamaged`.
        """
        return self._sealed(backup_id, STATUS, Status)

    def set_status(self, status: Status) -> None:
        """Replace a backup's tier and evidence, atomically.

        Errors: `StoreError`.
        """
        directory = self.directory(status.backup_id)
        temporary = (
            directory.parent / f".{status.backup_id}.{STATUS}"
        )  # beside, not inside: inside it would be an extra file
        with self._translated("written"):
            _write(temporary, rules.seal(status.model_dump(mode="json")))
            temporary.replace(directory / STATUS)
            _fsync(directory)

    def files(self, backup_id: str) -> dict[str, File | None]:
        """Read every byte of a backup's files (manifest and status aside); None for one that can't be read."""
        directory = self.directory(backup_id)
        return inventory(directory, label="verify", fsync=False)

    def _directories(self, database: str | None) -> Iterator[Path]:
        if not self.root.exists():
            return
        try:
            databases = [self.root / database] if database else sorted(self.root.iterdir())
            for parent in databases:
                if parent.name.startswith(".") or not parent.is_dir():
                    continue
                yield from sorted(d for d in parent.iterdir() if d.is_dir() and not d.name.startswith("."))
        except OSError as error:
            raise errors.StoreError(f"the backup store {self.root} can't be read: {error.strerror}") from None

    def _path(self, database: str, backup_id: str) -> Path:
        return self.root / database / backup_id

    def _sealed(self, backup_id: str, name: str, kind: type[_D]) -> _D:
        path = self.directory(backup_id) / name
        try:
            return kind.model_validate(rules.unseal(path.read_bytes()))
        except OSError as error:
            raise errors.BackupDamaged(f"{backup_id}: {name} can't be read: {error.strerror}") from None
        except (errors.BackupDamaged, ValidationError) as error:
            reason = (
                str(error) if isinstance(error, errors.BackupDamaged) else "its fields are not those of this format"
            )
            raise errors.BackupDamaged(f"{backup_id}: {name}: {reason}") from None

    def _sweep(self, partials: Path) -> None:
        """Remove what killed writers left: a directory whose lock nobody holds."""
        for lock in partials.glob("*.lock"):
            descriptor = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its writer lives
            else:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()
                log.info("removed an unfinished backup: %s", lock.stem, extra={"event": "backup.swept"})
            finally:
                os.close(descriptor)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.root
            raise errors.StoreError(f"the backup store can't be {what}: {where}: {error.strerror}") from None


def inventory(directory: Path, *, label: str, fsync: bool) -> dict[str, File | None]:
    """Read every file below a directory and return its size and SHA-256 by relative path; None if it can't be read."""
    paths = [Path(parent) / name for parent, _, names in os.walk(directory) for name in names]
    own = {directory / name for name in _OWN}
    sizes = {path: path.lstat().st_size for path in paths if path not in own}
    found: dict[str, File | None] = {}
    done, total = 0, sum(sizes.values())
    for path in sorted(sizes):
        relative = path.relative_to(directory).as_posix()
        try:
            found[relative] = _digest(path, relative, fsync=fsync)
        except OSError:
            if fsync:
                raise
            found[relative] = None
        done += sizes[path]
        context.progress(label, done, total, "bytes")
    return found


def _digest(path: Path, relative: str, *, fsync: bool) -> File:
    if path.is_symlink() or not path.is_file():
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256", _bufsize=_CHUNK)
        if fsync:
            os.fsync(file.fileno())
        return File(path=relative, bytes=os.fstat(file.fileno()).st_size, sha256=digest.hexdigest())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

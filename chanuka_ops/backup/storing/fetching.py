"""Gets a backup's files ready for pg_restore: fetched from their store, checked on the way, decrypted.

What lies in plain on this machine is used where it is. Everything else goes into a private directory that is gone
after the block; what a killed process left there in clear, the next one removes.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from chanuka_ops import errors
from chanuka_ops.backup import encryption, files, parallel, rules
from chanuka_ops.backup.answers import Problem
from chanuka_ops.backup.encryption import Identity
from chanuka_ops.backup.model import File, Manifest
from chanuka_ops.backup.parallel import Meter
from chanuka_ops.backup.storing import flocks
from chanuka_ops.backup.storing.store import Store
from chanuka_ops.logs import Stopwatch

log = logging.getLogger(__name__)

_PREFIX = "fetched-"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files of a backup in their plain layout (`dump/…`, `globals/…`), and the wall seconds it took.

    `bytes` are those of the stored files. With a problem nothing was decrypted, and nothing here may be used.
    """

    directory: Path
    fetch_seconds: float
    decrypt_seconds: float
    bytes: int
    problems: tuple[Problem, ...]


class _Unreadable(Exception):
    """A file of the store broke off with an error of its disk."""


@contextmanager
def fetched(
    store: Store,
    manifest: Manifest,
    *,
    identities: Sequence[Identity] | None,
    into: Path,
    jobs: int,
    only: Collection[str] | None = None,
    verify: bool = True,
) -> Iterator[Fetched]:
    """Give a directory with a backup's plain files, or `only` those (named as in the plain layout), for the block.

    A file that isn't as the manifest says is a problem, not an error, and is never used. What is used where it lies
    is read for that first, unless `verify` is off; all else is always checked. In the block nobody deletes the backup.

    Errors: `RefusedError` where `into` has too little room, before anything is fetched; `ConfigurationError` without
    the identity that is needed, or for a file there isn't; `DecryptionFailed`; `BackupNotFound`; `StoreError`.
    """
    wanted = _wanted(manifest, only)
    needs_key = manifest.encryption is not None
    keys = encryption.identities_of(None) if needs_key and identities is None else tuple(identities or ())
    with store.reading(manifest.backup_id):
        here = store.directory(manifest.backup_id)
        if here is not None and not needs_key:
            yield _in_place(store, manifest, wanted, here, jobs=jobs, whole=only is None, verify=verify)
            return
        with _private(into) as directory:
            _check_room(into, wanted, fetching=here is None, decrypting=needs_key, jobs=jobs)
            watch = Stopwatch()
            problems = _fetch(store, manifest, wanted, directory if here is None else None, jobs)
            if only is None and verify:
                problems += _extra(store, manifest)
            watch.stop()
            second = Stopwatch()
            if needs_key and not problems:
                _decrypt(manifest, wanted, here or directory, directory, keys, jobs=jobs)
            second.stop()
            total = sum(file.bytes for file in wanted)
            yield Fetched(directory, watch.seconds, second.seconds if needs_key else 0.0, total, problems)


def _wanted(manifest: Manifest, only: Collection[str] | None) -> list[File]:
    """Return the files that are to be fetched, the largest first."""
    named = {_plain_path(manifest, file): file for file in manifest.files}
    unknown = sorted(set(only or ()) - set(named))
    if unknown:
        raise errors.ConfigurationError(f"backup {manifest.backup_id} has no file {unknown[0]}")
    chosen = [file for plain, file in named.items() if only is None or plain in only]
    return sorted(chosen, key=lambda file: (-file.bytes, file.path))


def _plain_path(manifest: Manifest, file: File) -> str:
    """Return a file's path in the plain layout. Whoever can write the store must not write elsewhere by way of us."""
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or str(path) != file.path or not path.parts:
        raise errors.BackupDamaged(f"{manifest.backup_id}: {file.path!r} is no path inside a backup: don't restore it")
    if manifest.encryption is None:
        return file.path
    if path.suffix != encryption.SUFFIX:
        raise errors.BackupDamaged(f"{manifest.backup_id}: {file.path} is not encrypted, as its manifest says it is")
    return file.path.removesuffix(encryption.SUFFIX)


def _in_place(
    store: Store, manifest: Manifest, wanted: list[File], here: Path, *, jobs: int, whole: bool, verify: bool
) -> Fetched:
    watch = Stopwatch()
    problems: tuple[Problem, ...] = ()
    if verify and whole:  # an extra file is a problem too
        found = rules.file_problems(manifest.files, store.files(manifest.backup_id))
        problems = tuple(problem.model_copy(update={"store": store.name}) for problem in found)
    elif verify:
        problems = _fetch(store, manifest, wanted, None, jobs)
    return Fetched(here, watch.seconds, 0.0, sum(file.bytes for file in wanted), problems)


def _check_room(into: Path, wanted: list[File], *, fetching: bool, decrypting: bool, jobs: int) -> None:
    """Refuse what has no room: each file once, and twice those that are decrypted at the same moment."""
    needed = sum(file.bytes for file in wanted)
    if fetching and decrypting:
        needed += sum(file.bytes for file in wanted[:jobs])
    free = shutil.disk_usage(into).free
    if free < needed:
        raise errors.RefusedError(
            f"{into} has {free} bytes free, and the backup's files need {needed}: make room, or choose another place"
        )


@contextmanager
def _private(into: Path) -> Iterator[Path]:
    """Make a directory that only this account can enter, and remove it after the block with all that is in it."""
    directory = into / f"{_PREFIX}{secrets.token_hex(6)}"
    with _translated(into, "written"):
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(into)
        lock = flocks.exclusive(directory.with_name(f"{directory.name}.lock"))
    if lock is None:  # the name is random
        raise errors.StoreError(f"{directory} is in use by another process")
    try:
        with _translated(into, "written"):
            directory.mkdir(mode=0o700)
        yield directory
    finally:
        _remove(directory, lock)


def sweep(into: Path) -> None:
    """Remove what killed processes left: whatever nobody holds the lock of. Errors: `OSError`."""
    for found in sorted(into.glob(f"{_PREFIX}*.lock")):
        lock = None
        with suppress(PermissionError):  # another account's
            lock = flocks.exclusive(found)
        if lock is not None:
            _remove(found.with_suffix(""), lock)
            log.info("removed what a killed restore left: %s", found.stem, extra={"event": "backup.swept"})


def _remove(directory: Path, lock: int) -> None:
    flocks.remove(directory, lock)
    if directory.exists():
        log.warning("%s can't be removed: remove it by hand, it holds data", directory, extra={"event": "backup.left"})


def _fetch(
    store: Store, manifest: Manifest, wanted: list[File], directory: Path | None, jobs: int
) -> tuple[Problem, ...]:
    """Read each file from the store, into the directory if one is given, and compare it with the manifest."""
    work = functools.partial(_arrive, store, manifest.backup_id, directory)
    total = sum(file.bytes for file in wanted)
    with _translated(directory, "written"):
        outcomes = parallel.on_each(wanted, work, jobs=jobs, label="fetch", total_bytes=total)
    kinds = {file.path: kind for file, kind in zip(wanted, outcomes, strict=True) if kind is not None}
    return tuple(
        Problem.model_validate({"file": path, "kind": kinds[path], "store": store.name}) for path in sorted(kinds)
    )


def _extra(store: Store, manifest: Manifest) -> tuple[Problem, ...]:
    """Return the files of the store's copy that the manifest doesn't know of."""
    extra = sorted(store.paths(manifest.backup_id) - {file.path for file in manifest.files})
    return tuple(Problem(file=path, kind="extra", store=store.name) for path in extra)


def _arrive(store: Store, backup_id: str, directory: Path | None, file: File, meter: Meter) -> str | None:
    """Read one file to its end, and say what is wrong with it."""
    try:
        with store.open(backup_id, file.path) as stream:
            if directory is None:
                found = _read(stream, None, file, meter)
            else:
                target = directory / file.path
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with target.open("wb") as copy:
                    found = _read(stream, copy, file, meter)
    except errors.BackupDamaged:
        here = store.directory(backup_id)
        return "unreadable" if here is not None and os.path.lexists(here / file.path) else "missing"
    except _Unreadable:
        return "unreadable"
    if found.bytes != file.bytes:
        return "size"
    return "checksum" if found.sha256 != file.sha256 else None


def _read(stream: BinaryIO, copy: BinaryIO | None, file: File, meter: Meter) -> File:
    """Read a stream, and copy it; what is longer than stated isn't read to its end: the room was checked for less."""
    digest = hashlib.sha256()
    size = 0
    while size <= file.bytes and (chunk := _chunk(stream)):
        digest.update(chunk)
        size += len(chunk)
        if copy is not None:
            copy.write(chunk)
        meter.add(len(chunk))
    return File(path=file.path, bytes=size, sha256=digest.hexdigest())


def _chunk(stream: BinaryIO) -> bytes:
    try:
        return stream.read(files.CHUNK)
    except OSError as error:
        raise _Unreadable(error.strerror) from None


def _decrypt(
    manifest: Manifest, wanted: list[File], source: Path, directory: Path, keys: tuple[Identity, ...], *, jobs: int
) -> None:
    """Decrypt each file into the directory; one that was fetched there goes as soon as its plain form is there."""
    recipients = manifest.encryption.recipients if manifest.encryption is not None else ()

    def one(file: File, meter: Meter) -> None:
        target = directory / _plain_path(manifest, file)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{manifest.backup_id}: {file.path}"
        with (source / file.path).open("rb") as stream:
            encryption.decrypted(stream, target, keys, name=name, recipients=recipients, count=meter.add)
        if source == directory:
            (source / file.path).unlink()

    total = sum(file.bytes for file in wanted)
    with _translated(directory, "decrypted"):
        parallel.on_each(wanted, one, jobs=jobs, label="decrypt", total_bytes=total)


@contextmanager
def _translated(where: Path | None, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.StoreError(f"{error.filename or where} can't be {what}: {error.strerror}") from None

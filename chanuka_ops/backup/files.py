"""Files that last: read to the last byte, written and fsynced, with the directories above them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from chanuka_ops import errors
from chanuka_ops.backup.model import File
from chanuka_ops.backup.parallel import Meter, on_each
from chanuka_ops.durable import fsync, make, write

__all__ = ["CHUNK", "Begun", "below", "content", "copied", "fsync", "inventory", "make", "refuse", "write"]

CHUNK = 1 << 20
# SHA-256 of one file is slower than most disks, and with many at a time a spinning one only seeks
THREADS = min(4, os.cpu_count() or 1)


@dataclass(slots=True)
class Begun:
    """The hash of a file's first `offset` bytes, of which none changes any more."""

    offset: int = 0
    digest: Any = field(default_factory=hashlib.sha256)  # hashlib's type has no name


def inventory(
    directory: Path, *, label: str, fsync: bool, but: Collection[str] = (), begun: Mapping[Path, Begun] | None = None
) -> dict[str, File | None]:
    """Read every file below a directory, but those named, and return its size and SHA-256 by relative path.

    Several are read at a time, the largest first; where a file's hash was `begun`, only the rest of it. One that can't
    be read is None; with `fsync`, where each is also made to last, that's an `OSError`.
    """
    known = begun or {}
    paths = below(directory, strict=fsync)
    left_out = {directory / name for name in but}
    sizes = {path: path.lstat().st_size for path in paths if path not in left_out}

    def look(path: Path, meter: Meter) -> File | None:
        try:
            relative = path.relative_to(directory).as_posix()
            return _digest(path, relative, meter, known.get(path), fsync=fsync)
        except OSError:
            if fsync:
                raise
            return None

    largest_first = sorted(sizes, key=lambda path: (-sizes[path], path))
    found = on_each(largest_first, look, jobs=THREADS, label=label, total_bytes=sum(sizes.values()))
    return {
        path.relative_to(directory).as_posix(): file
        for path, file in sorted(zip(largest_first, found, strict=True), key=lambda pair: pair[0])
    }


def below(directory: Path, *, strict: bool) -> list[Path]:
    """Return every file below a directory, links too, and follow none.

    What lies in a directory that can't be read is left out; with `strict` that's an `OSError`: what is being made would
    else be whole without it.
    """
    return [
        Path(parent, name)
        for parent, directories, names in os.walk(directory, onerror=refuse if strict else None)
        for name in (*names, *(link for link in directories if Path(parent, link).is_symlink()))
    ]


def refuse(error: OSError) -> NoReturn:
    """Raise what os.walk would else pass over."""
    raise error


def copied(source: Path, target: Path) -> str:
    """Copy a file, make the copy last, and return the SHA-256 of what was read.

    Errors: `OSError` of the target; `StoreError` of the source, which is another store's.
    """
    digest = hashlib.sha256()
    with target.open("wb") as there:
        for chunk in _chunks(source):
            digest.update(chunk)
            there.write(chunk)
        there.flush()
        os.fsync(there.fileno())
    return digest.hexdigest()


def _chunks(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise errors.StoreError(f"{source} can't be read back: {error.strerror}") from None


def _digest(path: Path, relative: str, meter: Meter, begun: Begun | None, *, fsync: bool) -> File:
    if path.is_symlink() or not path.is_file():
        raise OSError(f"{path} is not a regular file")
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        if begun is not None and begun.offset <= os.fstat(file.fileno()).st_size:
            digest = begun.digest.copy()
            meter.add(file.seek(begun.offset))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            meter.add(len(chunk))
        if fsync:
            os.fsync(file.fileno())
        return File(path=relative, bytes=os.fstat(file.fileno()).st_size, sha256=digest.hexdigest())


def content(path: str) -> bytes:
    """Read a small file whole; thousands of them are what a listing takes. Errors: `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, CHUNK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)

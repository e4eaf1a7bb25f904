"""Files that last: read to the last byte, written and fsynced, with the directories above them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from chanuka_ops.backup.model import File
from chanuka_ops.backup.parallel import Meter, on_each
from chanuka_ops.durable import fsync, make, write

__all__ = ["CHUNK", "content", "fsync", "inventory", "make", "write"]

CHUNK = 1 << 20
THREADS = min(
    4, os.cpu_count() or 1
)  # SHA-256 of one is slower than most disks, and with more a spinning one only seeks


def inventory(directory: Path, *, label: str, fsync: bool, but: Collection[str] = ()) -> dict[str, File | None]:
    """Read every file below a directory, but those named, and return its size and SHA-256 by relative path.

    Several are read at a time, the largest first. One that can't be read is None; with `fsync`, where each is also made
    to last, that's an `OSError`.
    """
    paths = [
        Path(parent, name)
        for parent, below, names in os.walk(directory)
        for name in (*names, *(link for link in below if Path(parent, link).is_symlink()))
    ]
    left_out = {directory / name for name in but}
    sizes = {path: path.lstat().st_size for path in paths if path not in left_out}

    def look(path: Path, meter: Meter) -> File | None:
        try:
            return _digest(path, path.relative_to(directory).as_posix(), meter, fsync=fsync)
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


def _digest(path: Path, relative: str, meter: Meter, *, fsync: bool) -> File:
    if path.is_symlink() or not path.is_file():
        raise OSError(f"{path} is not a regular file")
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
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

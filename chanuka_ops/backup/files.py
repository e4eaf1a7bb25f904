"""Files that last: read to the last byte, written and fsynced, with the directories above them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from chanuka_ops import context
from chanuka_ops.backup.model import File
from chanuka_ops.durable import fsync, make, write

__all__ = ["CHUNK", "content", "fsync", "inventory", "make", "write"]

CHUNK = 1 << 20


def inventory(directory: Path, *, label: str, fsync: bool, but: Collection[str] = ()) -> dict[str, File | None]:
    """Read every file below a directory, but those named, and return its size and SHA-256 by relative path.

    One that can't be read is None; with `fsync`, where each is also made to last, that's an `OSError`.
    """
    paths = [
        Path(parent, name)
        for parent, below, names in os.walk(directory)
        for name in (*names, *(link for link in below if Path(parent, link).is_symlink()))
    ]
    left_out = {directory / name for name in but}
    sizes = {path: path.lstat().st_size for path in paths if path not in left_out}
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
        digest = hashlib.file_digest(file, "sha256", _bufsize=CHUNK)
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

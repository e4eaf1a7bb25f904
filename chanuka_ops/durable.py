"""Files that outlast a power cut: the content is made to last before it gets its name, then the name is."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Put a file in its place in one step: whoever looks, at any moment, finds the old one or the whole new one.

    Errors: `OSError`; unless it came after that step, the old one is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        write(unfinished, content)
        unfinished.replace(path)
        fsync(path.parent)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write a file and make its content last. The directory that names it is the caller's to fsync."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make(path: Path) -> None:
    """Make a directory and those above it, so that they last."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        fsync(directory.parent)


def fsync(directory: Path) -> None:
    """Make a directory's entries last."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

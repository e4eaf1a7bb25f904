"""Disks that fail: small ones that fill up, read-only ones, files whose every byte is an I/O error of the kernel's own.

What needs no mount needs no root: a link to /dev/full, which takes no byte, and one to /proc/self/mem, whose first byte
nobody can read or write.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")
FULL = Path("/dev/full")
BROKEN = Path("/proc/self/mem")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[None]:
    """A file system in memory at a directory, `size=4m` or `ro`, for the block."""
    directory.mkdir(parents=True, exist_ok=True)
    with _mount("-t", "tmpfs", "-o", options, "tmpfs", str(directory)):
        yield


@contextmanager
def broken(path: Path) -> Iterator[None]:
    """A file of which each byte that is read or written is an EIO, for the block."""
    with _mount("--bind", f"/proc/{os.getpid()}/mem", str(path)):
        yield


def leave(directory: Path, pages: int) -> Path:
    """Fill a small disk up to so many pages; return what to remove to make room again."""
    ballast = directory / "ballast"
    free = os.statvfs(directory).f_bavail
    ballast.write_bytes(bytes((free - pages) * PAGE))
    return ballast


@contextmanager
def _mount(*words: str) -> Iterator[None]:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this account can't mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", words[-1]], check=True)

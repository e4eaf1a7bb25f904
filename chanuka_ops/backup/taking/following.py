"""Hashes a dump's files while pg_dump writes them, so that hardly anything is left to be read back at its end.

It also has the kernel begin to write them to the disk, so that the fsync of each, at the end, waits for little. It asks
for nothing more: an fsync here would be told of an error that the last one must be told of.

pg_dump only ever appends to a table's file. So what was read of it stays as it is, and whoever finishes the hash reads
on from there: no file need be known to be complete. Of a dump larger than memory nothing is read from the disk twice.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from chanuka_ops.backup.files import CHUNK, Begun

log = logging.getLogger(__name__)

EVERY_S = 0.5
LEAST_BYTES = 4 << 20  # what is smaller is hashed as fast at the end
NICENESS = 10  # the dump goes first
_BEGIN_WRITING = 2  # SYNC_FILE_RANGE_WRITE: https://man7.org/linux/man-pages/man2/sync_file_range.2.html
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None


class Follower:
    """Follows the files of one directory while the block runs; `begun` is what it knows of each, by its path."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hashing", daemon=True)
        self._written: dict[Path, int] = {}
        self.begun: dict[Path, Begun] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while not self._stop.wait(EVERY_S):
            try:
                self.follow(go_on=lambda: not self._stop.is_set())
            except OSError as error:  # whoever reads the rest meets it too, and says so
                log.debug("a file can't be followed: %s", error, extra={"event": "backup.unfollowed"})

    def follow(self, *, go_on: Callable[[], bool] = lambda: True) -> None:
        """Read on in every file that has grown. Errors: `OSError`."""
        with suppress(FileNotFoundError), os.scandir(self._directory) as entries:  # before pg_dump has made it
            grown = [
                (Path(entry.path), entry.stat().st_size)
                for entry in entries
                if ".dat" in entry.name and entry.name != "toc.dat" and entry.is_file(follow_symlinks=False)
            ]
            for path, size in grown:
                if size != self._written.get(path, 0):
                    self._written[path] = size
                    _begin_writing(path)
                if size >= LEAST_BYTES:
                    self._read_on(path, go_on)

    def _read_on(self, path: Path, go_on: Callable[[], bool]) -> None:
        begun = self.begun.setdefault(path, Begun())
        with path.open("rb", buffering=0) as file:
            file.seek(begun.offset)
            while go_on() and (chunk := file.read(CHUNK)):
                begun.digest.update(chunk)
                begun.offset += len(chunk)


def _begin_writing(path: Path) -> None:
    if _sync_file_range is not None:
        with path.open("rb", buffering=0) as file:
            _sync_file_range(file.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), _BEGIN_WRITING)

"""The breakers' records, shared by all processes of the host through one small file, and the turn to try.

Every attempt of every op is a new process: what only one of them knew would be learnt anew each time. The file is
read with `pread`, not mapped: a mapped file that somebody truncates kills its readers with SIGBUS. Changes are made
under `flock`, which the kernel frees when its holder dies, as it does the turn (a lock on a file of its own). All of
this is advice: where the file can't be used, the records are this process's own, and begin closed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chanuka_ops.db import breaker
from chanuka_ops.db.breaker import Policy, Record, State
from chanuka_ops.db.classify import FailureClass

log = logging.getLogger(__name__)

_MAGIC = b"chanuka breaker 1\n".ljust(64, b"\0")
_KEY_BYTES = 16
_CLASSES = tuple(FailureClass)
_SLOT_BYTES = 256
_SLOTS = 1024
_FILE_BYTES = len(_MAGIC) + _SLOTS * _SLOT_BYTES
_PROBED = 16  # slots looked at for a key
LOCK_WAIT_S = 0.05  # its holder has microseconds of work; one that is stopped holds nobody up
TURN_LONGEST_S = 60.0


class BreakerFile:
    """Records by target and class: `path` is a directory, or None for records of this process alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._own: dict[tuple[str, FailureClass], Record] = {}
        self._turns: set[tuple[int, str, FailureClass]] = set()  # by process: a forked child has none of its parent's
        self._guard = threading.RLock()
        self._fd: int | None = None
        self._slots: dict[str, tuple[int, bytes]] = {}  # where a target's slot is, and the key that must stand there
        if path is not None:
            try:
                self._fd = self._opened(path)
            except OSError as error:
                log.warning(
                    "the breakers' file in %s can't be used (%s): this process counts for itself",
                    *(path, error),
                    extra={"event": "breaker.alone"},
                )

    @property
    def shared(self) -> bool:
        """Whether other processes see the records."""
        return self._fd is not None

    def close(self) -> None:
        """Close the file."""
        with self._guard:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def read(self, target: str, failure: FailureClass) -> Record:
        """Return a record as it is now."""
        return self.read_all(target)[_CLASSES.index(failure)]

    def read_all(self, target: str) -> tuple[Record, ...]:
        """Return a target's records, in the order of the classes; one read, no lock."""
        if self._fd is not None:
            with suppress(OSError):
                raw = self._slot(target)
                if raw is not None:
                    size = Record.LAYOUT.size
                    return tuple(Record.unpacked(raw[at : at + size]) for at in _positions(size))
        return tuple(self._own.get((target, one), Record()) for one in _CLASSES)

    def change(self, target: str, failure: FailureClass, how: Callable[[Record], Record]) -> tuple[Record, Record]:
        """Change a record, nobody else changing it meanwhile; return it as it was and as it is."""
        with self._guard, self._locked() as fd:
            before = self.read(target, failure)
            after = how(before)
            if after != before:
                self._own[target, failure] = after
                if fd is not None and self._written(fd, target, failure, after):
                    del self._own[target, failure]
        return before, after

    def _written(self, fd: int, target: str, failure: FailureClass, record: Record) -> bool:
        with suppress(OSError):
            offset = self._offset(target, make=True)
            if offset is not None:
                packed = record.packed()
                return os.pwrite(fd, packed, offset + _positions(len(packed))[_CLASSES.index(failure)]) == len(packed)
        return False

    @contextmanager
    def turn(self, target: str, failure: FailureClass, policy: Policy, deadline_s: float) -> Iterator[bool]:
        """Take the one try of a half-open breaker for the block: true for one at a time, until its own deadline."""
        lock = self._take(target, failure)
        now = time.time()
        taken = False

        def begin(record: Record) -> Record:
            nonlocal taken
            # its holder may be frozen: past its own deadline, the turn is free
            mine = lock is not None or breaker.overdue(record, now, longest_s=TURN_LONGEST_S)
            # between the look and the turn, another's try may have settled it
            taken = mine and breaker.state(record, now, policy) is not State.OPEN
            return breaker.probing(record, now, deadline_s=deadline_s, pid=os.getpid()) if taken else record

        try:
            self.change(target, failure, begin)
            yield taken
        finally:
            self._give_back(target, failure, lock)

    def _take(self, target: str, failure: FailureClass) -> int | None:
        with self._guard:
            if (os.getpid(), target, failure) in self._turns:
                return None
            fd = -1
            if self._path is not None and self._fd is not None:
                try:
                    name = f"{_digest(target).hex()}.{failure.value}.turn"
                    fd = os.open(self._path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                except OSError:
                    fd = -1
            if fd >= 0:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(fd)
                    return None
            self._turns.add((os.getpid(), target, failure))
            return fd

    def _give_back(self, target: str, failure: FailureClass, lock: int | None) -> None:
        if lock is None:
            return
        with self._guard:
            self._turns.discard((os.getpid(), target, failure))
        if lock >= 0:
            _unlock(lock)

    @staticmethod
    def _opened(path: Path) -> int:
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path / "records", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.pread(fd, len(_MAGIC), 0) != _MAGIC or os.fstat(fd).st_size != _FILE_BYTES:
                _lock(fd)
                if os.pread(fd, len(_MAGIC), 0) != _MAGIC or os.fstat(fd).st_size != _FILE_BYTES:
                    _make(fd)
                fcntl.flock(fd, fcntl.LOCK_UN)
        except OSError:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """Give a descriptor that holds the lock, or None where the records are this process's own.

        It is opened anew: a lock belongs to an open file, and a forked process shares the one it inherited.
        """
        fd = None
        if self._fd is not None and self._path is not None:
            with suppress(OSError):
                fd = self._same_file(self._path)
                try:
                    _lock(fd)
                except OSError:
                    os.close(fd)
                    fd = None
        try:
            yield fd
        finally:
            if fd is not None:
                _unlock(fd)

    def _same_file(self, path: Path) -> int:
        """Open the file again; where it was removed meanwhile, go on with the one that is there now."""
        fd = self._opened(path)
        if self._fd is not None and os.fstat(fd).st_ino != os.fstat(self._fd).st_ino:
            os.dup2(fd, self._fd, inheritable=False)
            self._slots.clear()
        return fd

    def _slot(self, target: str) -> bytes | None:
        """Read a target's slot; None where it has none."""
        offset, key = self._slots.get(target, (0, b""))
        for known in (bool(offset), False):
            if not known:
                offset, key = self._offset(target) or 0, _digest(target)
            if not offset or self._fd is None:
                return None
            raw = os.pread(self._fd, _SLOT_BYTES, offset)
            if len(raw) == _SLOT_BYTES and raw.startswith(key):  # else the file was made anew meanwhile
                return raw
        return None

    def _offset(self, target: str, *, make: bool = False) -> int | None:
        """Find a target's slot; with `make`, take a free one."""
        if self._fd is None:
            return None
        key = _digest(target)
        first = int.from_bytes(key[:4], "big")
        for step in range(_PROBED):
            offset = len(_MAGIC) + (first + step) % _SLOTS * _SLOT_BYTES
            there = os.pread(self._fd, _KEY_BYTES, offset)
            if there == bytes(_KEY_BYTES):  # slots are never freed: it is in none behind this one
                if not make:
                    return None
                os.pwrite(self._fd, key, offset)
                there = key
            if there == key:
                self._slots[target] = offset, key
                return offset
        return None


def _positions(size: int) -> tuple[int, ...]:
    return tuple(_KEY_BYTES + index * size for index in range(len(_CLASSES)))


def _digest(target: str) -> bytes:
    return hashlib.blake2b(target.encode(), digest_size=_KEY_BYTES).digest()


def _make(fd: int) -> None:
    """Make an empty file of it: written, not sparse, so that a full disk shows here. Errors: `OSError`."""
    if os.pwrite(fd, _MAGIC.ljust(_FILE_BYTES, b"\0"), 0) != _FILE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, _FILE_BYTES)


def _unlock(fd: int) -> None:
    """Unlock and close: closing alone would leave the lock to a child that was forked meanwhile."""
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _lock(fd: int) -> None:
    """Lock within a bound. Errors: `OSError` where another holds it for longer."""
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.001 * (1 + random.random()))  # noqa: S311 - jitter, no secret
        else:
            return

"""Who uses a server: the lease is a shared flock on a file, and the kernel lets go of it however its holder ends.

keeper.py is the other side of it: it stops the server when the exclusive lock is granted.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOP_TIMEOUT_S = 40.0
LAST_USER_PATIENCE_S = 0.5
_FILE = "lease"

# Keepers that this process started and that serve others now: they are not ours to wait for.
_handed_over: list[subprocess.Popen[bytes]] = []


class Lease:
    """One user's hold on a server. `keeper` is the one that this user started, if it did."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.keeper: subprocess.Popen[bytes] | None = None

    def let_go(self, data: Path) -> None:
        """Release the lease; where this was its last user, wait until the server has stopped."""
        self._wait_for_the_end(data)
        if self.keeper is None:
            return
        if running_pid(data) is None:
            self.keeper.wait(timeout=STOP_TIMEOUT_S)
        else:
            _handed_over.append(self.keeper)

    def _wait_for_the_end(self, data: Path) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        others_since: float | None = None
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while running_pid(data) is not None and time.monotonic() < deadline:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # the keeper has it: the server is stopping
                others_since = None
            else:  # somebody else uses it, or the keeper hasn't woken up yet
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                others_since = others_since or time.monotonic()
                if time.monotonic() - others_since > LAST_USER_PATIENCE_S:
                    return
            time.sleep(0.02)


@contextmanager
def leased(home: Path) -> Iterator[Lease]:
    """Hold a server's lease for the block."""
    descriptor = os.open(home / _FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while a keeper that found no user stops the server
        yield Lease(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time into the block."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def unused(home: Path) -> bool:
    """Tell whether nobody holds the lease, neither a user nor a keeper at its last work."""
    try:
        descriptor = os.open(home / _FILE, os.O_RDWR)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def running_pid(data: Path) -> int | None:
    """Read the postmaster's pid; None where there is none or that process is gone."""
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    return pid

"""Who holds the connections: a bound on how many, a wait with a deadline, and the line that forgot to give one back."""

from __future__ import annotations

import functools
import logging
import sys
import time
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from chanuka_ops import errors

if TYPE_CHECKING:
    from chanuka_ops.db.watchdog import WatchedConnection

log = logging.getLogger(__name__)

_SHOWN = 5
# Frames that stand between whoever asked for a connection and us.
_OURS = ("chanuka_ops.db", "contextlib", "sqlalchemy")
_DEPTH = 7  # who comes by way of the manager has at least so many frames of ours below


@dataclass(slots=True)
class Holder:
    """One connection in use: the line that asked for it, and since when (the process's monotonic clock)."""

    file: str
    line: int
    since_s: float
    connection: WatchedConnection | None = None
    told: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line} for {time.monotonic() - self.since_s:.1f} s"


class Slots:
    """At most `limit` connections at once. `leak_after_s` is how long one may be held before its line is named."""

    def __init__(self, limit: int, leak_after_s: float) -> None:
        self.limit = limit
        self.leak_after_s = leak_after_s
        self.closed = False  # nobody gets one any more, nor who waits for one
        self.waiting = 0
        self.leaked = 0
        self._free: SimpleQueue[None] = SimpleQueue()  # as a semaphore: Python's own is a tenth as fast
        for _ in range(limit):
            self._free.put(None)
        self._holders: dict[int, Holder] = {}
        self._numbers = iter(range(sys.maxsize))

    @property
    def in_use(self) -> int:
        """How many are held."""
        return len(self._holders)

    def take(self, timeout_s: float) -> int:
        """Take a slot; return its number for `give_back`.

        Errors: `PoolExhausted` naming who holds them; `ManagerClosed`.
        """
        self.warn_of_leaks()
        try:
            self._free.get_nowait()
        except Empty:
            self._wait(timeout_s)
        if self.closed:
            self._free.put(None)
            raise _closed()
        number = next(self._numbers)
        file, line = _caller()
        self._holders[number] = Holder(file, line, time.monotonic())
        return number

    def _wait(self, timeout_s: float) -> None:
        self.waiting += 1
        try:
            self._free.get(timeout=timeout_s)
        except Empty:
            held = "; ".join(str(holder) for holder in self.holders()[:_SHOWN])
            raise errors.PoolExhausted(
                f"all {self.limit} connections this process may open to that server are in use, and none came free"
                f" within {timeout_s:.1f} s. Held by {held}"
            ) from None
        finally:
            self.waiting -= 1

    def holds(self, number: int, connection: WatchedConnection) -> None:
        """Note which connection a slot's holder has. Errors: `ManagerClosed`, where nobody looks at it any more."""
        self._holders[number].connection = connection
        if self.closed:
            raise _closed()

    def give_back(self, number: int) -> None:
        """Free a slot."""
        if self._holders.pop(number, None) is not None:
            self._free.put(None)

    def holders(self) -> list[Holder]:
        """Return who holds what, the longest first."""
        return list(self._holders.values())

    def warn_of_leaks(self) -> None:
        """Say, once each, which lines have held a connection for longer than they may."""
        for holder in self.holders():  # the oldest first: the first young one ends the look
            if time.monotonic() - holder.since_s < self.leak_after_s:
                return
            if not holder.told:
                self.leaked += 1
                holder.told = True
                log.warning(
                    "a connection is held by %s: was it forgotten?",
                    holder,
                    extra={"event": "db.leak", "file": holder.file, "line": holder.line},
                )


def _closed() -> errors.ManagerClosed:
    return errors.ManagerClosed("the connection manager was closed while a connection was being got")


def _caller() -> tuple[str, int]:
    # inspect.stack() reads source files; and each frame that is looked at costs again when its function returns
    try:
        frame = sys._getframe(_DEPTH)  # noqa: SLF001
    except ValueError:
        frame = None
    if frame is None or not _between(frame.f_globals.get("__name__", "")):
        frame = sys._getframe(2)  # noqa: SLF001
    while frame.f_back is not None and _between(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


@functools.cache
def _between(module: str) -> bool:
    return module.startswith(_OURS)

"""Work on one connection, in a thread of its own, while the main thread waits for a program and tells how far all is.

The main thread stays the one that is interrupted, that reports and that decides; whatever ends its block also ends what
the thread does on the server.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Generic, TypeVar

from sqlalchemy.engine import Connection

from chanuka_ops import context, errors, interrupts
from chanuka_ops.context import Progress
from chanuka_ops.db import engines

log = logging.getLogger(__name__)

T = TypeVar("T")
GoOn = Callable[[], None]

POLL_S = 0.25
CANCEL_EVERY_S = 0.2  # a cancel that comes between two statements meets nothing
CANCELLED_WITHIN_S = 5.0  # then the connection is closed
CLOSED_WITHIN_S = 5.0


class Ended(Exception):
    """The block of the main thread is over: nobody waits for this work any more."""


class Beside(Generic[T]):
    """Work under way; made by `beside`."""

    def __init__(self, connection: Connection, work: Callable[[GoOn], T], name: str) -> None:
        self._raw = engines.driver_connection(connection)
        self._work = work
        self._stopping = threading.Event()
        self._result: list[T] = []
        self.failure: BaseException | None = None
        self.failed_at_s: float | None = None
        self.step: Progress | None = None
        self._begun = self._ended = False
        self._working = threading.Lock()
        self._working.acquire()
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name=name, daemon=True)

    def start(self) -> None:
        """Begin. An interrupt meets a thread that works, or none."""
        with interrupts.held():
            self._thread.start()
            self._begun = True

    def _run(self) -> None:
        try:
            with context.scope(on_progress=self._hear):
                self._result.append(self._work(self._go_on))
        except BaseException as failure:  # noqa: BLE001 - raised again in the main thread
            self.failed_at_s = time.monotonic()
            self.failure = failure
        finally:
            self._ended = True
            self._working.release()

    def _hear(self, step: Progress) -> None:
        self.step = step

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise Ended

    @property
    def under_way(self) -> bool:
        """Whether it still works."""
        return self._begun and not self._ended

    def raise_if_failed(self) -> None:
        """Raise what it failed with, if it has."""
        if self.failure is not None:
            raise self.failure

    def result(self, *, ends_s: float) -> T:
        """Wait for its end, telling of its progress, and return what it made.

        Errors: what it failed with; `StatementTimeout` past the moment `ends_s` of the monotonic clock.
        """
        while self.under_way:
            self._wait(max(0.0, min(POLL_S, ends_s - time.monotonic())))
            if self.under_way and time.monotonic() >= ends_s:
                raise errors.StatementTimeout(
                    f"the {self._thread.name} was not done at the deadline, and was cancelled: raise"
                    " operations.backup.deadline"
                )
            if self.step is not None:
                context.current().on_progress(self.step)
        self.raise_if_failed()
        return self._result[0]

    def end(self) -> None:
        """End it now: cancel what it does on the server, and close its connection where nothing comes of that."""
        self._stopping.set()
        ends_s = time.monotonic() + CANCELLED_WITHIN_S
        try:
            while self.under_way and time.monotonic() < ends_s:
                engines.cancel(self._raw)
                self._wait(CANCEL_EVERY_S)
        except BaseException:  # interrupted once more: whoever rolls back next must not wait for the thread's statement
            engines.abandon(self._raw)
            raise
        if self.under_way:
            engines.abandon(self._raw)
            self._wait(CLOSED_WITHIN_S)
        if self.under_way:
            log.warning("the %s does not end", self._thread.name, extra={"event": "backup.stuck"})
        elif self._begun:
            self._thread.join(CANCEL_EVERY_S)  # for its last instructions

    def _wait(self, timeout_s: float) -> None:
        """Wait for its end. Not by `join`: a thread whose join is interrupted, Python 3.11 takes for ended."""
        if self.under_way and self._working.acquire(timeout=timeout_s):
            self._working.release()


@contextmanager
def beside(connection: Connection, work: Callable[[GoOn], T], *, name: str) -> Iterator[Beside[T]]:
    """Do `work` in a thread while the block runs; at the block's end it has ended, however that ends.

    The connection is the thread's alone until then. The work gets a function to call between its statements: it raises
    where the block is over.
    """
    running = Beside(connection, work, name)
    try:
        running.start()
        yield running
    finally:
        running.end()

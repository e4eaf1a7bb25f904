"""The migration process, started before there is anything to ask of it.

Most of a short migration's time goes into imports, the parent's and the child's. Who knows that a migration process
will be needed starts one `ahead()`: it imports what it needs meanwhile, and waits for its request. This module imports
nothing heavy, or the child would wait for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from chanuka_ops.postgres import process
from chanuka_ops.postgres.process import Running

RUNNER = "chanuka_ops.migrator.running.runner"
OnLine = Callable[[str], None]


@dataclass(slots=True)
class _Waiting:
    """A process that has no request yet. It says nothing before it gets one."""

    running: Running | None = None
    on_line: OnLine | None = None

    def take(self, line: str) -> None:
        if self.on_line is not None:
            self.on_line(line)


_waiting: ContextVar[_Waiting | None] = ContextVar("chanuka_ops_migration_process", default=None)


@contextmanager
def ahead() -> Iterator[None]:
    """Have a migration process ready for the block's first `started()`; at the block's end it has ended.

    Errors: `ToolFailed` where it can't be started.
    """
    waiting = _Waiting()
    with process.started(_argv(), asked_later=True, on_line=waiting.take) as waiting.running:
        token = _waiting.set(waiting)
        try:
            yield
        finally:
            _waiting.reset(token)


@contextmanager
def started(on_line: OnLine) -> Iterator[Running]:
    """Give a migration process that waits for its request (`Running.ask`): the one that was started ahead, or another.

    `on_line` is called, from a thread, for each line that it says. Errors: `ToolFailed` where it can't be started.
    """
    waiting = _waiting.get()
    if waiting is None or waiting.running is None or waiting.on_line is not None or waiting.running.ended():
        with process.started(_argv(), asked_later=True, on_line=on_line) as running:
            yield running
        return
    waiting.on_line = on_line
    try:
        yield waiting.running
    finally:
        waiting.running.stop()


def _argv() -> list[str]:
    return [sys.executable, "-m", RUNNER]

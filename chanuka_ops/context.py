"""Who works on what: one context variable, one `scope()`.

The scope reaches every log record, the `application_name` that the server shows, the manifest of a backup, and the
progress bar of whoever watches. Nothing needs to be handed through ten calls for it.
"""

from __future__ import annotations

import functools
import getpass
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

APPLICATION_NAME_MAX_BYTES = 63  # NAMEDATALEN - 1: the server cuts what is longer


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step is: `done` of `total` (None: not known yet) in `unit` ("rows" or "bytes")."""

    label: str
    done: int
    total: int | None
    unit: str


ProgressSink = Callable[[Progress], None]


def _nobody_watches(_: Progress) -> None:
    """Take a report that no one asked for."""


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without an entry in the password file, as in many containers
        return f"uid:{os.getuid()}"


@dataclass(frozen=True, slots=True)
class OperationContext:
    """The operation under way."""

    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    actor: str = field(default_factory=_actor)
    job: str = ""
    operation: str = "-"
    database: str = "-"
    on_progress: ProgressSink = _nobody_watches

    def application_name(self) -> str:
        """Name this operation as `pg_stat_activity` shall show it: `chanuka/<job>/<operation>/<run>`, 63 bytes at most.

        Where that is too long, the job and the operation are cut: the run is what one looks up.
        """
        tail = f"/{self.run_id[:8]}"
        work = f"{self.job}/{self.operation}" if self.job else self.operation
        room = APPLICATION_NAME_MAX_BYTES - len(tail.encode())
        return f"chanuka/{work}".encode()[:room].decode(errors="ignore") + tail


_current: ContextVar[OperationContext | None] = ContextVar("chanuka_ops_context", default=None)


def current() -> OperationContext:
    """Return the context in force, or the process's anonymous one."""
    return _current.get() or _anonymous()


@functools.cache
def _anonymous() -> OperationContext:
    return OperationContext()


@contextmanager
def scope(
    *,
    job: str | None = None,
    operation: str | None = None,
    database: str | None = None,
    run_id: str | None = None,
    actor: str | None = None,
    on_progress: ProgressSink | None = None,
) -> Iterator[OperationContext]:
    """Enter an operation; what is not given is inherited from the scope around it."""
    given = {
        "job": job,
        "operation": operation,
        "database": database,
        "run_id": run_id,
        "actor": actor,
        "on_progress": on_progress,
    }
    around = _current.get() or OperationContext()
    inner = replace(around, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # the keys are the fields
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)


def progress(label: str, done: int, total: int | None, unit: str) -> None:
    """Tell whoever watches how far the step is."""
    current().on_progress(Progress(label, done, total, unit))

"""Who works on what: one context variable, one `scope()`.

The scope reaches every log record, the `application_name` that the server shows, the manifest of a backup, and the
progress bar of whoever watches. Nothing needs to be handed through ten calls for it.
"""

from __future__ import annotations

import functools
import getpass
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

APPLICATION_NAME_MAX_BYTES = 63  # NAMEDATALEN - 1: the server cuts what is longer


PACE_WINDOW_S = 30.0
PACE_EVIDENCE_S = 2.0
PACE_SAMPLES_S = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step is: `done` of `total` (None: not known yet) in `unit` ("rows" or "bytes").

    `eta_s` is about how many seconds are left, where the pace of the last half minute tells; `detail` is what else
    there is to say.
    """

    label: str
    done: int
    total: int | None
    unit: str
    eta_s: float | None = None
    detail: str = ""

    @property
    def amount(self) -> str:
        """How much, for people.

        >>> Progress("dump", 1234, 9999, "rows").amount, Progress("hash", 3_000_000, 9_000_000, "bytes").amount
        ('1,234 of 9,999 rows', '3 of 9 MB')
        """
        if self.unit == "bytes":
            whole = f" of {self.total / 1e6:.0f}" if self.total else ""
            return f"{self.done / 1e6:.0f}{whole} MB"
        whole = f" of {self.total:,}" if self.total else ""
        return f"{self.done:,}{whole} {self.unit}"

    @property
    def left(self) -> str:
        """How long it still takes, for people; empty where nobody knows.

        >>> [Progress("dump", 1, 2, "rows", eta_s).left for eta_s in (None, 0.4, 40.0, 200.0, 9000.0)]
        ['', 'about 1 s left', 'about 40 s left', 'about 3 min left', 'about 2.5 h left']
        """
        if self.eta_s is None:
            return ""
        if self.eta_s < 100:  # noqa: PLR2004 - in seconds where minutes would be rough, and so on
            return f"about {max(1, round(self.eta_s))} s left"
        minutes = self.eta_s / 60
        return f"about {minutes:.0f} min left" if minutes < 100 else f"about {minutes / 60:.1f} h left"  # noqa: PLR2004

    def words(self) -> str:
        """Everything, for people.

        >>> Progress("dump", 1234, 9999, "rows", 40.0, "12.3 MB written").words()
        'dump: 1,234 of 9,999 rows, 12.3 MB written, about 40 s left'
        """
        return f"{self.label}: " + ", ".join(word for word in (self.amount, self.detail, self.left) if word)


class Pace:
    """How long a step still takes, judged by what it reported in the last `PACE_WINDOW_S`. Told the time.

    It knows one step at a time: another label or unit, or less done than before, is another step.
    """

    def __init__(self) -> None:
        self._step: tuple[str, str] | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def left_s(self, label: str, unit: str, done: int, total: int | None, *, now_s: float) -> float | None:
        """Take a report in and return the seconds left; None before there is evidence, or when it stands still."""
        with self._lock:
            seen = self._seen
            if self._step != (label, unit) or (seen and (done < seen[-1][1] or now_s < seen[-1][0])):
                self._step = (label, unit)
                seen.clear()
            if not seen or now_s - seen[-1][0] >= PACE_SAMPLES_S:
                seen.append((now_s, done))
            while len(seen) > 1 and now_s - seen[1][0] >= PACE_WINDOW_S:  # one from before the window stays
                seen.popleft()
            since_s, before = seen[0]
        took_s, more = now_s - since_s, done - before
        if total is None or took_s < PACE_EVIDENCE_S or more <= 0:
            return None
        return max(0, total - done) * took_s / more


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
    pace: Pace = field(default_factory=Pace, repr=False, compare=False)

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
    """Enter an operation; what is not given is inherited from the scope around it.

    Whoever is told of the progress from here on (`on_progress`) sees steps of their own, with a pace of their own.
    """
    given = {
        "job": job,
        "operation": operation,
        "database": database,
        "run_id": run_id,
        "actor": actor,
        "on_progress": on_progress,
        "pace": Pace() if on_progress is not None else None,
    }
    around = _current.get() or OperationContext()
    inner = replace(around, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # the keys are the fields
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)


def progress(
    label: str, done: int, total: int | None, unit: str, *, detail: str = "", not_before_s: float | None = None
) -> None:
    """Tell whoever watches how far the step is, and by its pace how long it still takes.

    `not_before_s` is how long another part of the same step takes at least.
    """
    here = current()
    eta_s = here.pace.left_s(label, unit, done, total, now_s=time.monotonic())
    if not_before_s is not None:
        eta_s = not_before_s if eta_s is None else max(eta_s, not_before_s)
    here.on_progress(Progress(label, done, total, unit, eta_s, detail))

"""The same work on many files at once, in threads; how far it is, is told from the thread that called."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from chanuka_ops import context

REPORT_S = 0.25
_T = TypeVar("_T")
_R = TypeVar("_R")


class Stopped(Exception):
    """Another thread of the same work has failed, or the work was interrupted: it ends at its next chunk."""


class Meter:
    """Counts the bytes that all threads have done, and ends them once one has failed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self.done = 0

    def add(self, count: int) -> None:
        """Count some more bytes. Errors: `Stopped`."""
        with self._lock:
            self.done += count
        if self._stopped:
            raise Stopped

    def stop(self) -> None:
        """Let every thread end at its next chunk."""
        self._stopped = True


def on_each(
    items: Sequence[_T], work: Callable[[_T, Meter], _R], *, jobs: int, label: str | None = None, total_bytes: int = 0
) -> list[_R]:
    """Do the work on each item, `jobs` at a time, and return what it made of them, in their order.

    The work adds the bytes of each chunk to the meter, and with a label they are reported. At the first failure the
    others end, and it is raised; when this returns or raises, no thread is left.
    """
    meter = Meter()
    if label is not None:
        context.progress(label, 0, total_bytes, "bytes")
    with ThreadPoolExecutor(
        max_workers=max(1, min(jobs, len(items))), thread_name_prefix=f"chanuka-{label or 'files'}"
    ) as pool:
        try:
            futures = [pool.submit(contextvars.copy_context().run, work, item, meter) for item in items]
            waiting: set[Future[_R]] = set(futures)
            while waiting:
                ended, waiting = wait(waiting, timeout=REPORT_S, return_when=FIRST_EXCEPTION)
                for future in ended:
                    future.result()
                if label is not None:
                    context.progress(label, meter.done, max(total_bytes, meter.done), "bytes")
        finally:
            meter.stop()
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]

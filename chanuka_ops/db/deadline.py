"""One deadline over everything that getting a connection takes: breaker, slot, name, connect, ping."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Moment of the monotonic clock; set only while a connection is being got.
acquiring: ContextVar[float | None] = ContextVar("chanuka_ops_acquiring", default=None)


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Let everything in the block end by that moment of the monotonic clock, or an earlier one that is in force."""
    outer = acquiring.get()
    token = acquiring.set(deadline if outer is None else min(outer, deadline))
    try:
        yield
    finally:
        acquiring.reset(token)


def left_s(otherwise_s: float) -> float:
    """Return the seconds left, at most `otherwise_s`; never below zero."""
    deadline = acquiring.get()
    return otherwise_s if deadline is None else max(0.0, min(otherwise_s, deadline - time.monotonic()))

"""What a revision may do twice.

Outside a transaction, what was done before a crash is done: when the revision is run again the journal leaves it out.
A batched backfill doesn't want that: it finds by itself where it stopped. `repeatable()` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_repeatable: ContextVar[bool] = ContextVar("chanuka_ops_repeatable", default=False)


@contextmanager
def repeatable() -> Iterator[None]:
    """Say, for the block, that each statement may be run again after it was committed, and be none the worse for it."""
    token = _repeatable.set(True)
    try:
        yield
    finally:
        _repeatable.reset(token)


def is_repeatable() -> bool:
    """Tell whether the statement under way was said to be."""
    return _repeatable.get()

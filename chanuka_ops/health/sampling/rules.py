"""Which sample is a baseline, and what is new since it: pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from chanuka_ops.health.model import Row, Rows, Window
from chanuka_ops.health.sampling.model import Sample

KEY: Final = "key"
RESET: Final = "reset"
# What was usual weighs as many calls at most: a query that got faster for good is usual again after some thousands.
USUAL_MOST_CALLS: Final = 2000.0


def elapsed_s(before: Sample | None, incarnation: str, now: datetime, window: Window) -> float | None:
    """Return the seconds since a sample that can be a baseline; None where it can't.

    It can't be one of another server or another start of it (its counters began anew), one from the future (a clock
    was put back), one too young to tell a rate by, or one too old to tell today's.
    """
    if before is None or before.incarnation != incarnation:
        return None
    seconds = (now - before.at).total_seconds()
    return seconds if window.least_s <= seconds <= window.most_s else None


def paired(rows: Rows, before: Sample, counters: tuple[str, ...]) -> list[Row]:
    """Give each row, as `was`, the one of the same key before; None where it is new or was reset meanwhile."""
    by_key = {row[KEY]: row for row in before.rows}
    return [{**row, "was": _comparable(row, by_key.get(row[KEY]), counters)} for row in rows]


def _comparable(row: Row, was: Row | None, counters: tuple[str, ...]) -> Row | None:
    if was is None or row.get(RESET) != was.get(RESET):
        return None
    # a counter that fell was reset, whatever else is said
    return None if any(row[name] < was.get(name, 0) for name in counters) else was


def is_to_be_kept(before: Sample | None, sample: Sample, window: Window) -> bool:
    """Tell whether a sample takes the place of the one before: not of a young one, which grows into a baseline."""
    if before is None or before.incarnation != sample.incarnation:
        return True
    seconds = (sample.at - before.at).total_seconds()
    return not 0 <= seconds < window.least_s


def usual(rows: Rows, known: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return what each statement usually takes, with what was added since the last look: {key, calls, mean_ms}.

    A look that was far off what is usual is not learnt from at its whole weight: see `USUAL_MOST_CALLS`.
    """
    found: list[Row] = []
    for row in rows:
        was, old = row["was"], known.get(row[KEY])
        calls = row["calls"] - was["calls"] if was is not None else row["calls"]
        total_ms = row["total_ms"] - was["total_ms"] if was is not None else row["total_ms"]
        if calls <= 0:
            if old is not None:
                found.append(dict(old))
            continue
        had = 0.0 if old is None else min(float(old["calls"]), USUAL_MOST_CALLS)
        weight = min(float(calls), max(had, 1.0)) if old is not None else float(calls)
        mean_ms = total_ms / calls
        blended = mean_ms if old is None else (old["mean_ms"] * had + mean_ms * weight) / (had + weight)
        found.append({KEY: row[KEY], "calls": had + weight, "mean_ms": blended})
    return found

"""Which sample is a baseline, and what is new since it: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from chanuka_ops.health.model import Row, Rows, Window
from chanuka_ops.health.sampling.model import Sample

KEY: Final = "key"
RESET: Final = "reset"
# What was usual weighs as many calls at most: a query that got faster for good is usual again after some thousands.
USUAL_MOST_CALLS: Final = 2000.0
# From here on a look is slower than usual. It teaches nothing: else what is slow would be usual after two looks.
SLOWER_FACTOR: Final = 3.0
# What has been slow for so long is how it is: it's learnt anew, and the alarm ends.
ACCEPTED_AFTER_S: Final = 3 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Turn:
    """Which sample rows are compared with (None with the reason), and which two are kept for the next look.

    Two, since the one that is compared with must be of a certain age: `following` is the next one, growing into it.
    """

    before: Sample | None
    reason: str
    base: Sample
    following: Sample | None
    elapsed_s: float | None = None


def turn(base: Sample | None, following: Sample | None, sample: Sample, window: Window) -> Turn:
    """Find the youngest sample that may be a baseline, and say which are kept for the next look."""
    if following is not None and unfit(following, sample, window) is None:
        return Turn(following, "", following, sample, _seconds(following, sample))
    if base is None:
        return Turn(None, "this is the first look", sample, None)
    reason = unfit(base, sample, window)
    if reason is not None:
        return Turn(None, reason, base if _is_young(base, sample, window) else sample, None)
    growing = following is not None and _is_young(following, sample, window)
    return Turn(base, "", base, following if growing else sample, _seconds(base, sample))


def unfit(before: Sample, sample: Sample, window: Window) -> str | None:
    """Say why a sample can't be a baseline; None where it can.

    It can't be one of another server, node or start of it (its counters may have begun anew), one from the future (a
    clock was put back), one too young to tell a rate by, or one too old to tell today's.
    """
    if before.incarnation != sample.incarnation:
        return "the server was started, restored or replaced since the last look"
    seconds = _seconds(before, sample)
    if seconds < 0:
        return f"the server's clock was put back by {-seconds:.0f} s since the last look"
    if seconds < window.least_s:
        return f"the look to compare with was {seconds:.0f} s ago, and {window.least_s:.0f} s are needed"
    if seconds > window.most_s:
        return f"the last look was {seconds / 3600:.0f} hours ago"
    return None


def _is_young(before: Sample, sample: Sample, window: Window) -> bool:
    return before.incarnation == sample.incarnation and 0 <= _seconds(before, sample) < window.least_s


def _seconds(before: Sample, sample: Sample) -> float:
    return (sample.at - before.at).total_seconds()


def plain(row: Row) -> Row:
    """Write a row as it is kept, so that the row before and this one are of the same types: JSON's."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def paired(rows: Rows, before: Sample | None, counters: tuple[str, ...]) -> list[Row]:
    """Give each row, as `was`, the one of the same key before; None where it is new or was reset meanwhile."""
    by_key = {} if before is None else {row[KEY]: row for row in before.rows}
    return [{**row, "was": _comparable(row, by_key.get(row[KEY]), counters)} for row in rows]


def _comparable(row: Row, was: Row | None, counters: tuple[str, ...]) -> Row | None:
    if was is None or row.get(RESET) != was.get(RESET):
        return None
    # a counter that fell was reset, whatever else is said
    return None if any(name not in was or row[name] < was[name] for name in counters if name in row) else was


def usual(rows: Rows, known: Mapping[str, Mapping[str, Any]], now_s: float) -> list[Row]:
    """Return what each statement usually takes, with what was added since the last look.

    Rows are {key, calls, mean_ms, slow_since}: `slow_since`, in seconds since 1970, where it is slower than usual now.
    """
    found: list[Row] = []
    for row in rows:
        old = known.get(row[KEY])
        calls, total_ms = added(row, "calls"), added(row, "total_ms")
        if calls <= 0:
            if old is not None:
                found.append(dict(old))
            continue
        mean_ms = total_ms / calls
        if old is None:
            found.append({KEY: row[KEY], "calls": float(calls), "mean_ms": mean_ms, "slow_since": None})
            continue
        if mean_ms >= SLOWER_FACTOR * old["mean_ms"]:
            since = now_s if old["slow_since"] is None else min(old["slow_since"], now_s)
            if now_s - since < ACCEPTED_AFTER_S:
                found.append({**old, "slow_since": since})
            else:
                found.append({KEY: row[KEY], "calls": float(calls), "mean_ms": mean_ms, "slow_since": None})
            continue
        had = min(float(old["calls"]), USUAL_MOST_CALLS)
        weight = min(float(calls), USUAL_MOST_CALLS)
        blended = (old["mean_ms"] * had + mean_ms * weight) / (had + weight)
        found.append({KEY: row[KEY], "calls": had + weight, "mean_ms": blended, "slow_since": None})
    return found


def added(row: Row, counter: str) -> float:
    """Return what was added to a counter since the row before; the whole of it where there is none."""
    was = row.get("was")
    return float(row[counter] - was[counter]) if was is not None else float(row[counter])

"""How long a statement will take in production, as an interval, from how long it took on a copy of full size.

Pure. Linear extrapolation from a smaller copy is wrong by far, in either direction, so there is none; what a restored
copy lacks is the source's bloat, hence the ratio of the heaps: from the copy's time to that many times as much.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from chanuka_ops.migrator.model import Direction
from chanuka_ops.migrator.rehearsal.model import TableSize, Traced
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.migrator.running.statement import fingerprint

NOISE = 1.25  # the same statement on the same data, again and again, differs by 1.13; a machine in use by more
NOISE_S = 0.02  # of what takes milliseconds: the network, the catalogue's cache, a busy moment
SPEED_FLOOR, SPEED_CAP = 0.25, 8.0  # a short read of a sample can't tell more
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Basis:
    """What a prediction rests on.

    `reason`: why there is none. Sizes are of tables by name; `speed` is how many times as long the source takes to read
    as the copy; `calls_per_second` is by table, None where the source doesn't count.
    """

    reason: str | None = None
    copy: Mapping[str, TableSize] | None = None
    source: Mapping[str, TableSize] | None = None
    speed: float | None = None
    calls_per_second: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low_s` to `high_s` seconds."""

    low_s: float
    high_s: float

    def to_json(self) -> dict[str, float]:
        """Return it as a report has it."""
        return {"low_s": self.low_s, "high_s": self.high_s}


def interval(seconds: float, *, heap_ratio: float, speed: float) -> Interval:
    """Return where the statement's time in production lies.

    >>> interval(8.0, heap_ratio=3.0, speed=1.0)
    Interval(low_s=6.38, high_s=30.02)
    """
    speed = min(SPEED_CAP, max(SPEED_FLOOR, speed))
    low = seconds * min(1.0, speed) / NOISE - NOISE_S
    high = seconds * max(1.0, heap_ratio) * max(1.0, speed) * NOISE + NOISE_S
    low = max(0.0, low)
    return Interval(round(low, 3), round(max(low, high), 3))


def heap_ratio(tables: Collection[str], copy: Mapping[str, TableSize], source: Mapping[str, TableSize]) -> float:
    """Return how many times as large the source's tables are: the worst of them, all together where none is named."""
    named = [name for name in tables if name in copy and name in source and copy[name].bytes]
    if not named:
        here, there = sum(size.bytes for size in copy.values()), sum(size.bytes for size in source.values())
        return max(1.0, there / here) if here else 1.0
    return max(1.0, *(source[name].bytes / copy[name].bytes for name in named))


def of_statement(statement: Traced, basis: Basis) -> dict[str, Any]:
    """Return the interval of a statement as a report has it, or the reason why there is none."""
    reason = basis.reason or (f"it failed: {statement.error}" if statement.error else None)
    if reason is None and (basis.copy is None or basis.source is None):
        reason = "the source's sizes aren't known"
    if reason is not None or basis.copy is None or basis.source is None:
        return {"prediction": None, "no_prediction": reason}
    ratio = heap_ratio({*statement.locks, *statement.touched}, basis.copy, basis.source)
    found = interval(statement.seconds, heap_ratio=ratio, speed=basis.speed or 1.0)
    return {"prediction": {**found.to_json(), "heap_ratio": round(ratio, 3)}, "no_prediction": None}


def bounds(document: Mapping[str, Any], direction: Direction = "up") -> list[Bound]:
    """Return what a rehearsal's document predicts of each statement of its revisions that way; those that it can."""
    return [
        Bound(item["revision"], fingerprint(item["sql"]), item["seconds"], item["prediction"]["high_s"])
        for item in document["statements"]
        if item["direction"] == direction and item["revision"] is not None and item["prediction"] is not None
    ]


def impact(statement: Traced, basis: Basis) -> dict[str, Any] | str:
    """Return how many calls of the application it will delay, from … to, or "unknown"; never a 0 that is a guess."""
    predicted = of_statement(statement, basis)["prediction"]
    if not statement.blocks:
        return {"calls_per_second": 0.0, "delayed_low": 0, "delayed_high": 0}
    if predicted is None or basis.calls_per_second is None or basis.copy is None:
        return UNKNOWN
    tables = [name for name in statement.locks if name in basis.copy]
    if not tables:
        return UNKNOWN
    rate = sum(basis.calls_per_second.get(name, 0.0) for name in tables)
    return {
        "calls_per_second": round(rate, 3),
        "delayed_low": round(predicted["low_s"] * rate),
        "delayed_high": round(predicted["high_s"] * rate),
    }

"""Counts and times of one node, in constant memory: what `db status` and Dagster's metadata show."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from contextlib import suppress
from typing import Any

# Upper bounds of the buckets in seconds, in steps of about 1.6: a quantile is told to that precision.
BOUNDS_S = tuple(round(1e-6 * 10 ** (step / 5), 9) for step in range(41))  # 1 µs to 100 s

_AT_A_TIME = 64


class Histogram:
    """How long something took: quantiles as the upper bound of their bucket."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self.count = 0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration in seconds."""
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.count += 1
        self.max_s = max(self.max_s, seconds)

    def quantile_s(self, share: float) -> float:
        """Return the duration that `share` of all stayed within; 0.0 where there is none."""
        wanted, seen = share * self.count, 0
        for bound_s, count in zip(BOUNDS_S, self._counts, strict=False):
            seen += count
            if seen >= wanted:
                return min(bound_s, self.max_s)
        return self.max_s

    def to_json(self) -> dict[str, float | int]:
        """Return count, p50, p95, p99 and max, in milliseconds."""
        figures = {f"p{share}_ms": self.quantile_s(share / 100) for share in (50, 95, 99)}
        return {
            "count": self.count,
            **{name: round(seconds * 1000, 3) for name, seconds in figures.items()},
            "max_ms": round(self.max_s * 1000, 3),
        }


class Metrics:
    """One node's numbers. `timed=False` keeps the counts and leaves the times (`features.performance_tracking`)."""

    def __init__(self, *, timed: bool) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._uses: deque[tuple[float, float]] = deque()
        self.timed = timed
        self._times = {name: Histogram() for name in ("wait", "use", "connect")} if timed else {}

    def count(self, name: str) -> None:
        """Count one event."""
        with self._lock:
            self._counts[name] += 1

    def used(self, wait_s: float, use_s: float) -> None:
        """Count one use of a connection: how long it was waited for, how long it was held."""
        self._uses.append((wait_s, use_s))  # counted some at a time: that is faster by far
        if len(self._uses) >= _AT_A_TIME:
            with self._lock:
                self._count_uses()

    def _count_uses(self) -> None:
        with suppress(IndexError):
            while True:
                wait_s, use_s = self._uses.popleft()
                self._counts["checkouts"] += 1
                if self._times:
                    self._times["wait"].add(wait_s)
                    self._times["use"].add(use_s)

    def connected(self, seconds: float) -> None:
        """Count one connection made."""
        with self._lock:
            self._counts["connects"] += 1
            if self._times:
                self._times["connect"].add(seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the counts, and the times where they are kept."""
        with self._lock:
            self._count_uses()
            times = {name: one.to_json() for name, one in self._times.items() if one.count}
            return {"counts": dict(sorted(self._counts.items())), **({"times": times} if self.timed else {})}

"""How long to wait before another try: pure.

Full jitter: a random part of a doubling ceiling, so that clients which failed together don't come back together.
"""

from __future__ import annotations

from dataclasses import dataclass

# What a thread may spend on repeating. Whoever can wait longer without holding a process (Dagster) is told how long.
IN_PROCESS_S = 5.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Ceilings of the waits, in seconds: the first, and the most it doubles to."""

    first_s: float
    most_s: float

    def wait_s(self, attempt: int, roll: float) -> float:
        """Return the wait after the `attempt`-th failure, counted from 1; `roll` is a number from 0 to 1."""
        return roll * min(self.most_s, self.first_s * 2.0 ** min(attempt - 1, 16))

    def within(self, attempt: int, roll: float, left_s: float) -> float | None:
        """Return the wait, or None where it would not end before what is left."""
        wait_s = self.wait_s(attempt, roll)
        return wait_s if wait_s < left_s else None

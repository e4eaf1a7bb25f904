"""The circuit breaker's state machine: pure, told the time.

A target that failed is left alone for a while, so that a thousand retries don't meet it when it comes back. Closed: all
may try. Open: none may, until a moment. Half-open, from that moment on: one may, and how that goes decides. Each class
of failures has its own record. What is kept is a verdict with an end, not a window of calls: it is shared by processes
that live for one attempt each, and a verdict that nobody renews runs out by itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import Enum

from chanuka_ops.db.classify import FailureClass
from chanuka_ops.db.retry import Backoff

# How long it stays open: the first time, and the most it doubles to. A server that accepts again is to be in use within
# a second, and one try a second of a host is no load; slots come free as sessions end; a wrong password is changed by a
# person, and each try may count towards a lock-out.
OPEN: dict[FailureClass, Backoff] = {
    FailureClass.AVAILABILITY: Backoff(0.25, 0.75),
    FailureClass.SATURATION: Backoff(1.0, 30.0),
    FailureClass.AUTHENTICATION: Backoff(5.0, 120.0),
}
JITTER = 0.1  # of the open time, either way
_COUNT_MOST = 2**31  # what is packed has room for twice as many


class State(Enum):
    """What the record says at a given moment."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Policy:
    """So many failures within the window open it; `open_for` says for how long."""

    failures: int
    window_s: float
    open_for: Backoff


@dataclass(frozen=True, slots=True)
class Record:
    """One target and class. Times are seconds since the epoch, for several processes have no other clock in common.

    `trips` counts the openings since it was last closed; `probe_until` ends the turn of whoever tries while half-open.
    """

    open_until: float = 0.0
    window_start: float = 0.0
    changed_at: float = 0.0
    probe_until: float = 0.0
    failures: int = 0
    trips: int = 0
    pid: int = 0

    # open_until stands first: a reader on the fast path wants nothing else
    LAYOUT = struct.Struct("<ddddIIQ")

    def packed(self) -> bytes:
        """Return the record as `LAYOUT.size` bytes."""
        times = self.open_until, self.window_start, self.changed_at, self.probe_until
        return self.LAYOUT.pack(*times, self.failures, self.trips, self.pid)

    @classmethod
    def unpacked(cls, raw: bytes) -> Record:
        """Read a record; what makes no sense is a closed one."""
        record = cls(*cls.LAYOUT.unpack(raw))
        times = (record.open_until, record.window_start, record.changed_at, record.probe_until)
        sensible = all(0.0 <= time < float("inf") for time in times)  # false for a NaN too
        return record if sensible and max(record.failures, record.trips) <= _COUNT_MOST else cls()


def state(record: Record, now: float, policy: Policy) -> State:
    """Say what the record means now."""
    if record.open_until == 0.0:
        return State.CLOSED
    return State.OPEN if retry_after_s(record, now, policy) > 0 else State.HALF_OPEN


def retry_after_s(record: Record, now: float, policy: Policy) -> float:
    """Return how long it stays open. A clock that was set back can't make that longer than the most there is."""
    left_s = record.open_until - now
    return left_s if 0 < left_s <= policy.open_for.most_s * (1 + JITTER) else 0.0


def failed(record: Record, now: float, policy: Policy, *, roll: float, pid: int) -> Record:
    """Return the record after a failure; `roll` is a number from 0 to 1, for the jitter."""
    current = state(record, now, policy)
    if current is State.OPEN:  # whoever began before it opened tells nothing new
        return record
    if current is State.CLOSED:
        fresh = not 0 <= now - record.window_start <= policy.window_s
        counted = replace(record, failures=1 if fresh else record.failures + 1, pid=pid)
        counted = replace(counted, window_start=now if fresh else record.window_start)
        if counted.failures < policy.failures:
            return counted
        record = counted
    trips = record.trips + 1
    open_s = policy.open_for.wait_s(trips, 1.0) * (1 - JITTER + 2 * JITTER * roll)
    return replace(record, open_until=now + open_s, changed_at=now, probe_until=0.0, trips=trips, pid=pid)


def succeeded(record: Record, now: float, *, pid: int) -> Record:
    """Return the record after a success: closed, and nothing held against the target."""
    if record == Record():
        return record
    return Record(changed_at=now if record.open_until else record.changed_at, pid=pid)


def probing(record: Record, now: float, *, deadline_s: float, pid: int) -> Record:
    """Return the record while somebody has the one try of a half-open breaker."""
    return replace(record, probe_until=now + deadline_s, pid=pid)


def overdue(record: Record, now: float, *, longest_s: float) -> bool:
    """Tell whether the one who has the try has had it for longer than it was given: it may be frozen."""
    return record.probe_until != 0.0 and not 0 <= record.probe_until - now <= longest_s


def blemished(record: Record) -> bool:
    """Tell whether a success has anything to clear."""
    return record.open_until != 0.0 or record.failures != 0

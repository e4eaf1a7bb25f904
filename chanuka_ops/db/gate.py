"""The breaker of one server: asked before each attempt to connect, told how it went."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from chanuka_ops import errors
from chanuka_ops.config import BreakerSettings
from chanuka_ops.db import breaker
from chanuka_ops.db.breaker import Policy, Record, State
from chanuka_ops.db.breaker_file import BreakerFile
from chanuka_ops.db.classify import FailureClass

log = logging.getLogger(__name__)

_CLASSES = tuple(FailureClass)
_MET = {
    FailureClass.AVAILABILITY: "it did not answer",
    FailureClass.SATURATION: "it had no connection slot free",
    FailureClass.AUTHENTICATION: "it refused the role or its password",
}
FRESH_S = 0.01  # how old a look may be that lets a pooled connection through


class Gate:
    """One server's three breakers. `target` is who connects to what: `role@host:port`."""

    def __init__(
        self,
        target: str,
        settings: BreakerSettings,
        records: BreakerFile,
        *,
        on_change: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.target = target
        self._policies = {one: Policy(settings.failures, settings.window_s, breaker.OPEN[one]) for one in FailureClass}
        self._records = records
        self._on_change = on_change
        self._clock = clock
        self._looked_s = 0.0  # when all was last seen closed and unblemished

    def check(self) -> None:
        """Let a pooled connection be used, unless the server is known not to answer. No more than one read.

        Errors: `CircuitOpen`.
        """
        now = self._clock()
        if 0 <= now - self._looked_s < FRESH_S:
            return
        records = self._records.read_all(self.target)
        if not any(breaker.blemished(record) for record in records):
            self._looked_s = now
            return
        self._refuse_if_open(FailureClass.AVAILABILITY, records[0], now)

    @contextmanager
    def attempt(self, deadline_s: float) -> Iterator[None]:
        """Try to connect in the block; where a breaker is half-open, as the only one who does.

        Errors: `CircuitOpen`.
        """
        now = self._clock()
        with ExitStack() as turns:
            for one, record in zip(_CLASSES, self._records.read_all(self.target), strict=True):
                self._refuse_if_open(one, record, now)
                if record.open_until and not turns.enter_context(
                    self._records.turn(self.target, one, self._policies[one], deadline_s)
                ):
                    raise self._open(one, "another session is trying it", max(0.05, record.probe_until - now))
            yield

    def failed(self, failure: FailureClass) -> None:
        """Count a failure."""
        now, roll, policy = self._clock(), random.random(), self._policies[failure]  # noqa: S311 - jitter
        self._looked_s = 0.0
        before, after = self._records.change(
            self.target, failure, lambda record: breaker.failed(record, now, policy, roll=roll, pid=os.getpid())
        )
        if after.open_until != before.open_until:
            self._on_change("breaker_opened")
            log.warning(
                "%s: %s breaker open for %.1f s",
                *(self.target, failure.value, after.open_until - now),
                extra={"event": "breaker.open", "class": failure.value},
            )

    def succeeded(self) -> None:
        """Note that the server took a connection: whatever was held against it is gone."""
        now = self._clock()
        for one, record in zip(_CLASSES, self._records.read_all(self.target), strict=True):
            if breaker.blemished(record):
                self._close(one, now)

    def _close(self, failure: FailureClass, now: float) -> bool:
        before, _ = self._records.change(
            self.target, failure, lambda record: breaker.succeeded(record, now, pid=os.getpid())
        )
        if before.open_until:
            self._on_change("breaker_closed")
            log.info("%s: %s breaker closed", *(self.target, failure.value), extra={"event": "breaker.closed"})
        return before.open_until != 0.0

    def reset(self) -> list[str]:
        """Close every breaker; return the classes that were not closed."""
        return [one.value for one in FailureClass if self._close(one, self._clock())]

    def to_json(self) -> dict[str, Any]:
        """Return each class's state, and the seconds until another try where one must wait."""
        now = self._clock()
        shown: dict[str, Any] = {}
        for one, record in zip(_CLASSES, self._records.read_all(self.target), strict=True):
            policy = self._policies[one]
            shown[one.value] = {
                "state": breaker.state(record, now, policy).value,
                "failures": record.failures,
                "trips": record.trips,
                "retry_after_s": round(breaker.retry_after_s(record, now, policy), 1),
            }
        return shown

    @property
    def shared(self) -> bool:
        """Whether other processes of this host see it."""
        return self._records.shared

    def _refuse_if_open(self, failure: FailureClass, record: Record, now: float) -> None:
        policy = self._policies[failure]
        if breaker.state(record, now, policy) is State.OPEN:
            why = f"{_MET[failure]} {record.failures} times"
            raise self._open(failure, why, breaker.retry_after_s(record, now, policy))

    def _open(self, failure: FailureClass, why: str, retry_after_s: float) -> errors.CircuitOpen:
        return errors.CircuitOpen(
            f"{self.target} is left alone for {retry_after_s:.1f} s more: {why} ({failure.value})."
            " To try at once: chanuka-ops db breaker reset",
            retry_after_s=retry_after_s,
        )

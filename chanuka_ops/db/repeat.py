"""Runs a function in a transaction, and again where that is right."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.db import classify, outcome
from chanuka_ops.db.classify import Phase, Retry
from chanuka_ops.db.node import Borrowed
from chanuka_ops.db.retry import IN_PROCESS_S, Backoff

log = logging.getLogger(__name__)

T = TypeVar("T")

RUN_AGAIN = Backoff(0.02, 1.0)
RESOLVE_S = 5.0

Work = Callable[[Borrowed], AbstractContextManager[Connection]]


@dataclass(slots=True)
class Try:
    """How far one try of `run_transaction` came."""

    borrowed: Borrowed | None = None
    phase: Phase = Phase.CONNECT
    identity: outcome.Identity | None = None
    result: Any = None


@dataclass(frozen=True, slots=True)
class Repeater(Generic[T]):
    """What is repeated, and how. `acquire` gets a connection to none of the servers named, again or not.

    `ask` asks the primary. `idempotent` says that nothing else `fn` does minds being done twice.
    """

    fn: Callable[[Connection], T]
    acquire: Callable[[frozenset[str], bool], Borrowed]
    work: Work
    ask: Callable[[], AbstractContextManager[Connection]]
    idempotent: bool
    read_only: bool

    def run(self) -> T:
        """Run it until it went well, or must not be repeated, or the time is up.

        Errors: `OutcomeUnknown`; the last try's `DatabaseError`; what `fn` raises.
        """
        give_up = time.monotonic() + IN_PROCESS_S
        without: set[str] = set()
        for attempt in count(1):
            tried = Try()
            failure: errors.DatabaseError
            try:
                return self._once(frozenset(without), tried, again=attempt > 1)
            except errors.OutcomeUnknown:
                if tried.phase is not Phase.COMMIT:  # it's not of our COMMIT: `fn` brought it from elsewhere
                    raise
                if self._was_committed(tried):
                    _count(tried, "retries.resolved_as_committed")
                    result: T = tried.result
                    return result
                failure, retry = errors.ConnectionLost("the transaction was rolled back at COMMIT"), Retry.TRANSACTION
            except errors.DatabaseError as error:
                failure, retry = error, self._retry_of(error, tried)
            wait_s = RUN_AGAIN.within(attempt, random.random(), give_up - time.monotonic())  # noqa: S311 - jitter
            if retry is Retry.NEVER or wait_s is None:
                raise failure
            if self.read_only and tried.borrowed is not None:
                without.add(tried.borrowed.node.name)
            _count(tried, f"retries.{retry.value.replace(' ', '_')}")
            log.info("a transaction is run again: %s", failure, extra={"event": "db.again", "attempt": attempt})
            time.sleep(wait_s)
        raise AssertionError("count() has no end")  # pragma: no cover

    def _once(self, without: frozenset[str], tried: Try, *, again: bool) -> T:
        tried.borrowed = self.acquire(without, again)
        with self.work(tried.borrowed) as connection:
            tried.phase = Phase.IN_TRANSACTION
            tried.result = result = self.fn(connection)
            if not self.read_only:
                tried.identity = outcome.identify(connection)
            tried.phase = Phase.COMMIT
        return result

    def _was_committed(self, tried: Try) -> bool:
        if tried.identity is None or tried.identity.xid is None:  # it wrote nothing: there is nothing to lose
            return False
        return outcome.resolve(tried.identity, self.ask, give_up=time.monotonic() + RESOLVE_S) == "committed"

    def _retry_of(self, error: errors.DatabaseError, tried: Try) -> Retry:
        if tried.phase is Phase.CONNECT:  # that was tried again already, for as long as it was worth
            return Retry.NEVER
        lost = isinstance(error, errors.ConnectionLost)
        retry = classify.of_session(error.sqlstate, lost=lost, phase=tried.phase).retry
        if retry is Retry.REDISCOVER and self.read_only:  # it is `fn` that writes, where reading was asked for
            return Retry.NEVER
        if retry is Retry.RESOLVE:  # a read only transaction has nothing to commit
            retry = Retry.IF_IDEMPOTENT
        if retry is Retry.IF_IDEMPOTENT and not (self.idempotent or self.read_only):
            return Retry.NEVER
        return retry


def _count(tried: Try, name: str) -> None:
    if tried.borrowed is not None:
        tried.borrowed.node.metrics.count(name)

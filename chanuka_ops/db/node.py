"""One server of a database: its engines, its slots, its breaker, its numbers, and what was last seen of it."""

from __future__ import annotations

import functools
import logging
import random
import time
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

from chanuka_ops import context, errors
from chanuka_ops.db import asking, connecting, credentials, deadline, engines, parameters
from chanuka_ops.db.breaker_file import BreakerFile
from chanuka_ops.db.budget import Budget
from chanuka_ops.db.classify import FailureClass
from chanuka_ops.db.gate import Gate
from chanuka_ops.db.metrics import Metrics
from chanuka_ops.db.parameters import DEFAULT_PORT, NodeSpec, Profile
from chanuka_ops.db.router import Observation, View
from chanuka_ops.db.slots import Slots
from chanuka_ops.db.watchdog import WatchedConnection

log = logging.getLogger(__name__)

LIFETIME_JITTER = 0.1
DEDICATED_MOST = 1000  # a bound that only a runaway loop meets


@dataclass(frozen=True, slots=True)
class Request:
    """What a connection of its own is wanted for. `forced` asks also a server that is to be left alone."""

    profile: Profile = Profile.QUERY
    lock_timeout_s: float | None = None
    forced: bool = False

    def take(self, node: Node, ends: float) -> Borrowed:
        """Open a connection to a server by `ends`. Errors: as `Node.borrow`."""
        return node.open(self, ends)


_POOLED = Request()
_request: ContextVar[Request] = ContextVar("chanuka_ops_request", default=_POOLED)


@dataclass(slots=True)
class Borrowed:
    """A connection in use, and what it takes to give it back."""

    node: Node
    connection: Connection
    raw: WatchedConnection
    slots: Slots
    number: int
    waited_s: float
    since_s: float


class Node:
    """One server. Opened lazily; `close()` it."""

    def __init__(self, spec: NodeSpec, records: BreakerFile | None, *, timed: bool) -> None:
        self.name = spec.name
        self.weight = spec.weight
        self.is_replica = spec.is_replica
        self.settings = spec.settings
        self.metrics = Metrics(timed=timed)
        url = spec.settings.sqlalchemy_url
        target = f"{url.username or ''}@{url.query.get('host') or url.host or 'local'}:{url.port or DEFAULT_PORT}"
        self.gate = (
            Gate(target, spec.settings.breaker, records, on_change=self.metrics.count) if records is not None else None
        )
        pool = spec.settings.pool
        self.slots = Slots(pool.size + pool.overflow, pool.leak_after_s)
        self.dedicated_slots = Slots(DEDICATED_MOST, float("inf"))
        self.reachable = True
        self.observation: Observation | None = None
        self._budget_told = False
        self._pooled: Engine | None = None
        self._dedicated: Engine | None = None

    def __repr__(self) -> str:
        return f"Node({self.name!r})"

    @property
    def pooled(self) -> Engine:
        """The engine of ordinary work."""
        if self._pooled is None:
            self._pooled = engines.pooled(self.settings, lambda: self._connect(_POOLED))
        return self._pooled

    @property
    def dedicated(self) -> Engine:
        """The engine whose every connection is its own."""
        if self._dedicated is None:
            self._dedicated = engines.dedicated(lambda: self._connect(_request.get()))
        return self._dedicated

    def borrow(self, ends: float) -> Borrowed:
        """Take a connection of the pool by `ends`, a moment of the monotonic clock.

        Errors: `CircuitOpen`, `PoolExhausted`, another `ConnectError`.
        """
        if self.gate is not None:
            self.gate.check()
        return self._taken(self.pooled, self.slots, ends)

    def open(self, request: Request, ends: float) -> Borrowed:
        """Open a connection of its own by `ends`. Errors: as `borrow`."""
        token = _request.set(request)
        try:
            return self._taken(self.dedicated, self.dedicated_slots, ends)
        finally:
            _request.reset(token)

    def _taken(self, engine: Engine, slots: Slots, ends: float) -> Borrowed:
        start = time.monotonic()
        number = slots.take(max(0.0, ends - start))
        token = deadline.acquiring.set(ends)
        connection: Connection | None = None
        borrowed: Borrowed | None = None
        try:
            with engines.translated():
                connection = engine.connect()
                raw = engines.driver_connection(connection)
                # closed, and the next look takes another: that may be as old, or have ended since the ping too
                while raw.retires_at <= start or not self._named(raw):
                    connection.invalidate()
                    raw = engines.driver_connection(connection)
            raw.block_deadline = None
            if slots is self.slots and self.settings.pooler == "transaction":  # its last use may have had another
                raw.statement_s = parameters.statement_s(self.settings, Profile.QUERY) or None
            slots.holds(number, raw)
            now = time.monotonic()
            borrowed = Borrowed(self, connection, raw, slots, number, now - start, now)
        finally:
            deadline.acquiring.reset(token)
            if borrowed is None:
                if connection is not None:
                    connection.invalidate()
                    connection.close()
                slots.give_back(number)
        return borrowed

    def _named(self, raw: WatchedConnection) -> bool:
        """Have the server show who works now: a pooled connection was another operation's before."""
        operation = context.current()
        if raw.applied_for is not operation:
            name = operation.application_name()
            if raw.applied_name != name and self.settings.pooler != "transaction" and not raw.rename(name):
                return False
            raw.applied_for = operation
        return True

    def give_back(self, borrowed: Borrowed) -> None:
        """Return a connection, rolled back, or closed where that can't be done soon."""
        try:
            borrowed.raw.block_deadline = None  # the rollback has a bound of its own
            with engines.translated():
                borrowed.connection.close()
        except errors.DatabaseError as error:  # it broke, and the pool has thrown it away
            log.debug("%s: a broken connection was given back: %s", self.name, error, extra={"event": "db.broken"})
        finally:
            borrowed.slots.give_back(borrowed.number)
            if borrowed.slots is self.slots:
                self.metrics.used(borrowed.waited_s, time.monotonic() - borrowed.since_s)

    def _connect(self, request: Request) -> WatchedConnection:
        left_s = deadline.left_s(self.settings.pool.acquire_timeout_s)
        ends = time.monotonic() + left_s
        start = time.perf_counter()
        gate = None if request.forced else self.gate
        with gate.attempt(left_s) if gate is not None else nullcontext():
            try:
                raw = self._opened(request, ends)
            except connecting.Failed as failed:
                error, counted = failed.failure.error, failed.failure.meaning.counts
            except Exception:
                raise
            except BaseException as stop:  # noqa: BLE001 - an interrupt: its frames hold the password
                raise stop.with_traceback(None) from None
            else:
                if self.gate is not None:
                    self.gate.succeeded()
                self.reachable = True
                self.metrics.connected(time.perf_counter() - start)
                lifetime_s = self.settings.pool.max_lifetime_s
                raw.retires_at = time.monotonic() + lifetime_s * (1 - LIFETIME_JITTER * random.random())  # noqa: S311 - jitter
                self._tell_budget(raw, request)
                return raw
            self.failed(counted)
        self.metrics.count(f"connect_failed.{type(error).__name__}")
        raise error

    def _opened(self, request: Request, ends: float) -> WatchedConnection:
        password = credentials.password_of(self.settings)
        ask = functools.partial(
            connecting.open_connection,
            self.settings,
            request.profile,
            lock_timeout_s=request.lock_timeout_s,
            deadline=ends,
        )
        try:
            return ask(password=password)
        except connecting.Failed as failed:
            fresh = connecting.with_fresh_secret(self.settings, password, failed.failure)
            if fresh is None:
                raise
        self.metrics.count("retries.new_secret")
        return ask(password=fresh)

    def failed(self, counted: FailureClass | None) -> None:
        """Count a failure of the server itself."""
        if counted is FailureClass.AVAILABILITY:
            self.reachable = False
        if self.gate is not None and counted is not None:
            self.gate.failed(counted)

    def is_standby(self, borrowed: Borrowed) -> bool:
        """Tell whether a connection's server is in recovery: it said so when we connected, and says when that ends."""
        said = borrowed.raw.pgconn.parameter_status(b"in_hot_standby")
        if said is not None:
            return said == b"on"
        return self.look(borrowed).role == "standby"  # a pooler keeps the parameter to itself

    def look(self, borrowed: Borrowed) -> Observation:
        """Ask a connection's server where it stands. Errors: `DatabaseError`."""
        return asking.observation(borrowed.raw)

    def observe(self, ends: float) -> None:
        """Look at the server, and keep what was seen; one that can't be reached is kept as that."""
        try:
            borrowed = self.borrow(ends)
        except errors.PoolExhausted:
            return  # that says nothing of the server
        except errors.DatabaseError as error:
            self.reachable = False
            log.debug("%s can't be seen: %s", self.name, error, extra={"event": "db.unseen"})
            return
        try:
            borrowed.raw.block_deadline = ends
            self.observation = self.look(borrowed)
            self.reachable = True
        except errors.DatabaseError as error:
            self.reachable = False
            log.debug("%s can't be seen: %s", self.name, error, extra={"event": "db.unseen"})
        finally:
            self.give_back(borrowed)

    def budget(self, raw: WatchedConnection) -> Budget:
        """Ask how many connections the server has, and say what all runs may open. Errors: `DatabaseError`."""
        pool = self.settings.pool
        return Budget(pool.runs, pool.size, pool.overflow, asking.room(raw).available)

    def _tell_budget(self, raw: WatchedConnection, request: Request) -> None:
        """Say, once a process, when the pools of all runs together are more than the server has room for."""
        if self._budget_told or request is not _POOLED:
            return
        self._budget_told = True
        with suppress(errors.DatabaseError):  # it's advice: a connection that broke over it fails at its first use
            budget = self.budget(raw)
            if not budget.fits:
                log.warning("%s: connection budget: %s", self.name, budget, extra={"event": "db.budget"})

    def view(self) -> View:
        """Return the node as the router sees it; its lag is the cluster's to say."""
        return View(self.name, self.weight, self.reachable, self.observation)

    def pool_json(self) -> dict[str, int]:
        """Return the pool's numbers."""
        pool = self._pooled.pool if self._pooled is not None else None
        opened = pool.checkedin() + pool.checkedout() if isinstance(pool, QueuePool) else 0
        return {
            "open": opened,
            "in_use": self.slots.in_use,
            "limit": self.slots.limit,
            "waiting": self.slots.waiting,
            "dedicated": self.dedicated_slots.in_use,
            "leaked": self.slots.leaked,
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything that is counted here."""
        breakers = self.gate.to_json() if self.gate is not None else {}
        states = {one["state"] for one in breakers.values()}
        worst = next((state for state in ("open", "half-open", "closed") if state in states), "off")
        shown = {"breaker": worst, "breakers": breakers, "pool": self.pool_json()}
        return {"name": self.name, **shown, **self.metrics.to_json()}

    def close(self) -> None:
        """Close what is idle in the pool."""
        for engine in (self._pooled, self._dedicated):
            if engine is not None:
                engine.dispose()
        self._pooled = self._dedicated = None

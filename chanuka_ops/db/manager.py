"""ConnectionManager: the one way to a database.

`read()`, `transaction()` and `autocommit()` are explicit; nothing sniffs SQL. `run_transaction()` repeats what may be
repeated, and finds out what became of a COMMIT that got no answer. Whatever ends a block early, also a cancelled
Dagster run, first cancels the statement on the server: psycopg does that for KeyboardInterrupt only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, FeatureSettings
from chanuka_ops.db import asking, engines, parameters, status
from chanuka_ops.db.asking import Probe
from chanuka_ops.db.breaker_file import BreakerFile
from chanuka_ops.db.budget import Budget
from chanuka_ops.db.classify import Phase
from chanuka_ops.db.cluster import Cluster, Take
from chanuka_ops.db.node import Borrowed, Node, Request
from chanuka_ops.db.parameters import Profile
from chanuka_ops.db.repeat import Repeater
from chanuka_ops.db.router import ConsistencyToken
from chanuka_ops.db.session import Isolation, Options, counted, moment, stop_if_interrupted, work

log = logging.getLogger(__name__)

T = TypeVar("T")

_READ = Options(read_only=True)
ASK_S = 1.0  # for one question of what became of a COMMIT


class ConnectionManager:
    """Connections to one database, on one server or several. Opened lazily; close it, or use it as a context manager.

    `state_dir` holds the breakers' file, which all processes of the host share; without it each counts for itself.
    """

    def __init__(
        self,
        name: str,
        settings: DatabaseSettings,
        *,
        features: FeatureSettings | None = None,
        state_dir: Path | None = None,
    ) -> None:
        features = features or FeatureSettings()
        self.name = name
        self.settings = settings
        self._records = BreakerFile(state_dir / "breaker" if state_dir else None) if features.circuit_breaker else None
        specs = parameters.nodes_of(settings)
        nodes = [Node(spec, self._records, timed=features.performance_tracking) for spec in specs]
        self._cluster = Cluster(nodes, settings.routing, read_replicas=features.read_replicas)
        self._here = threading.local()
        self._acquire_s = settings.pool.acquire_timeout_s
        self._closed = False

    def __repr__(self) -> str:
        return f"ConnectionManager({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(
        self, *, after: ConsistencyToken | None = None, isolation: Isolation | None = None
    ) -> AbstractContextManager[Connection]:
        """Enter a READ ONLY transaction on a server that may serve reads: a write in it fails loudly.

        With a token, what is read holds everything that was committed when the token was made.

        Errors: `ReplicaTooStale`; `DatabaseError` and below.
        """
        options = _READ if isolation is None else Options(isolation=isolation, read_only=True)
        return work(lambda: self._reader(after, frozenset()), options, self._cluster)

    @contextmanager
    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        profile: Profile = Profile.QUERY,
        lock_timeout_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Iterator[Connection]:
        """Enter a transaction on the primary: committed at the end of the block, rolled back on any exception.

        `deadline_s` bounds the whole block's time with the server, beside the profile's limit of each statement.

        Errors: `NestedTransaction`; `OutcomeUnknown` where COMMIT got no answer; `DatabaseError` and below.
        """
        self._refuse_if_inside()
        options = Options(isolation, read_only, deferrable, profile, lock_timeout_s, deadline_s)
        borrowed = self._begin(options)
        self._here.inside = True
        try:
            with work(lambda: borrowed, options, self._cluster) as connection:
                yield connection
        finally:
            self._here.inside = False

    @contextmanager
    def savepoint(self, connection: Connection) -> Iterator[None]:
        """Enter a part of a transaction that is undone by itself when the block raises. Errors: `DatabaseError`."""
        with engines.translated(), connection.begin_nested():
            yield

    @contextmanager
    def autocommit(
        self,
        *,
        profile: Profile = Profile.MAINTENANCE,
        lock_timeout_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Iterator[Connection]:
        """Enter a connection on which each statement is its own transaction, as VACUUM or CREATE DATABASE need it.

        Errors: `PoolerUnfit` behind a transaction pooler; `DatabaseError` and below.
        """
        with self.session(profile=profile, lock_timeout_s=lock_timeout_s, deadline_s=deadline_s) as connection:
            with engines.translated(Phase.AUTOCOMMIT):
                connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    @contextmanager
    def session(
        self,
        *,
        profile: Profile = Profile.QUERY,
        lock_timeout_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Iterator[Connection]:
        """Enter a connection of its own, without a transaction: for what begins and ends its own.

        Errors: `PoolerUnfit` behind a transaction pooler; `DatabaseError` and below.
        """
        if self.settings.pooler == "transaction":
            raise errors.PoolerUnfit(
                f'database {self.name!r} is reached through a transaction pooler (pooler = "transaction"), which gives'
                " each transaction another server session: no advisory lock, no lock timeout outside a transaction and"
                " no session setting holds there. Let the url name the server itself. Nothing was changed."
            )
        borrowed = self._to_writer(Request(profile, lock_timeout_s).take, must_write=False)
        borrowed.raw.block_deadline = moment(deadline_s)
        try:
            with engines.translated(Phase.AUTOCOMMIT), counted(borrowed, self._cluster):
                try:
                    yield borrowed.connection
                except BaseException as error:
                    stop_if_interrupted(borrowed, error)
                    raise
        finally:
            borrowed.node.give_back(borrowed)

    def run_transaction(
        self,
        fn: Callable[[Connection], T],
        *,
        idempotent: bool = False,
        read_only: bool = False,
        after: ConsistencyToken | None = None,
        isolation: Isolation | None = None,
        lock_timeout_s: float | None = None,
    ) -> T:
        """Run `fn` in a transaction, and again where that is right; return what it returned.

        Again, from the beginning: after a serialisation failure or a deadlock, after the primary was found anew, and,
        if `idempotent` says that nothing else `fn` does minds it, after the connection broke before COMMIT. A COMMIT
        that got no answer is never repeated blindly: what became of it is found out first. `read_only` reads where
        reads go (see `read`), on another server at each try. All tries together take at most `IN_PROCESS_S` seconds.

        Errors: `NestedTransaction`; `OutcomeUnknown`; the last try's `DatabaseError`; what `fn` raises.
        """
        options = Options(isolation=isolation, read_only=read_only, lock_timeout_s=lock_timeout_s)
        repeater = Repeater(
            fn=fn,
            acquire=lambda without, again: (
                self._reader(after, without) if read_only else self._begin(options, underway=again)
            ),
            work=lambda borrowed: work(lambda: borrowed, options, self._cluster),
            ask=self._ask,
            idempotent=idempotent,
            read_only=read_only,
        )
        if read_only:
            return repeater.run()
        self._refuse_if_inside()
        self._here.inside = True
        try:
            return repeater.run()
        finally:
            self._here.inside = False

    def _ask(self) -> AbstractContextManager[Connection]:
        """Ask the primary something, without trying for long: the caller tries again."""
        options = Options(read_only=True)
        reach = partial(self._to_writer, Node.borrow, must_write=True, patient=False, within_s=ASK_S)
        return work(reach, options, self._cluster)

    def token(self) -> ConsistencyToken:
        """Return a token that stands for everything committed by now: carry it to whoever must read that.

        Errors: `ConnectError`, `DatabaseError`.
        """
        borrowed = self._to_writer(Node.borrow, must_write=True)
        try:
            seen = borrowed.node.look(borrowed)
        finally:
            borrowed.node.give_back(borrowed)
        return ConsistencyToken(seen.system_id, seen.timeline or 0, seen.lsn)

    def probe(self) -> Probe:
        """Ask a server, on a connection of its own, what it is; also one that is being left alone.

        Errors: `ConnectError` telling down, starting, full, refused and missing apart.
        """
        borrowed = self._to_writer(Request(Profile.PROBE, forced=True).take, must_write=False, patient=False)
        try:
            return asking.probe(borrowed.raw)
        finally:
            borrowed.node.give_back(borrowed)

    def target(self) -> DatabaseSettings:
        """Return the settings of the server that takes writes, for a program that connects by itself.

        Errors: `ConnectError`, where there are several servers and none takes writes.
        """
        if self._cluster.single:
            return self._cluster.nodes[0].settings
        borrowed = self._to_writer(Node.borrow, must_write=True)
        borrowed.node.give_back(borrowed)
        return borrowed.node.settings

    def budget(self) -> Budget:
        """Ask how many connections the server has, against what all runs may open. Errors: `ConnectError`."""
        borrowed = self._to_writer(Node.borrow, must_write=False, patient=False)
        try:
            return borrowed.node.budget(borrowed.raw)
        finally:
            borrowed.node.give_back(borrowed)

    def look(self) -> None:
        """Look at every server now, so that `snapshot` is fresh. A server that can't be reached is no error here."""
        self._cluster.look(time.monotonic() + self.settings.pool.acquire_timeout_s)

    def snapshot(self) -> dict[str, Any]:
        """Return the numbers: each node's pool, breaker, counts, times and lag; reads that fell back; failovers."""
        return status.snapshot(self._cluster)

    def reset_breakers(self) -> list[dict[str, str]]:
        """Close every breaker of this database; return which were not closed: [{node, class}]."""
        return status.reset_breakers(self._cluster)

    def close(self, *, drain_s: float = 0.0) -> None:
        """Begin nothing new, wait for what is in use, cancel and close what is left then, and say who had it."""
        self._closed = True
        status.shut(self._cluster, drain_s=drain_s)
        if self._records is not None:
            self._records.close()

    def _begin(self, options: Options, *, underway: bool = False) -> Borrowed:
        own = options.profile is not Profile.QUERY or options.lock_timeout_s is not None
        take: Take = Node.borrow
        if own and self.settings.pooler != "transaction":
            take = Request(options.profile, options.lock_timeout_s).take
        return self._to_writer(take, must_write=not options.read_only, underway=underway)

    def _to_writer(
        self,
        take: Take,
        *,
        must_write: bool,
        patient: bool = True,
        underway: bool = False,
        within_s: float = float("inf"),
    ) -> Borrowed:
        self._refuse_if_closed()
        ends = time.monotonic() + min(self._acquire_s, within_s)
        return self._cluster.on_writer(take, ends, must_write=must_write, patient=patient, underway=underway)

    def _reader(self, after: ConsistencyToken | None, without: frozenset[str]) -> Borrowed:
        self._refuse_if_closed()
        ends = time.monotonic() + self._acquire_s
        return self._cluster.on_reader(Node.borrow, ends, after=after, without=without)

    def _refuse_if_inside(self) -> None:
        if getattr(self._here, "inside", False):
            raise errors.NestedTransaction(
                f"a transaction on {self.name!r} is open on this thread already: one within it would be another, not a"
                " part of it. For a part that may fail by itself, use savepoint(); for another, another manager."
            )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise errors.ManagerClosed(f"the connection manager of {self.name!r} is closed")

"""A peer that falls silent while its kernel still answers: the thread is free again by the deadline."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, PoolSettings, TimeoutSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.db.watchdog import CLEAN_UP_S
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.nodes import Node, opened
from chanuka_ops_tests.plugins.postgres import connect
from chanuka_ops_tests.plugins.proxy import Proxy, ProxyTo, through
from chanuka_ops_tests.plugins.replicas import Template

pytestmark = pytest.mark.postgres

STATEMENT_S = 1.0
FREED_S = 0.5  # the claim: so long after the deadline
SLACK_S = 1.5  # for a machine that does much else
MUCH = "select repeat('x', 1000) from generate_series(1, 200000)"
HUNG_S = 3.0  # how long the twin is watched


def impatient(database: DatabaseSettings, statement_s: float = STATEMENT_S, **pool: Any) -> DatabaseSettings:
    limits = TimeoutSettings(statement_s=statement_s, connect_s=2)
    return database.model_copy(update={"timeouts": limits, "pool": PoolSettings(**pool)})


def in_use(connection: Connection) -> int:
    return engines.backend_pid(connection)


def counts(manager: ConnectionManager) -> dict[str, int]:
    found: dict[str, int] = manager.snapshot()["nodes"][0]["counts"]
    return found


@contextmanager
def ends(kind: type[errors.ChanukaError], what: str, deadline_s: float = STATEMENT_S) -> Iterator[list[Exception]]:
    """The block ends in that failure, at the deadline or not much later."""
    met: list[Exception] = []
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        yield met
    took_s = time.monotonic() - start
    print(f"{what}: {took_s:.3f} s, deadline {deadline_s:.1f} s")  # noqa: T201 - the figure
    assert deadline_s * 0.9 <= took_s < deadline_s + FREED_S + SLACK_S
    assert type(caught.value) is kind
    met.append(caught.value)


def sqlstate_of(met: list[Exception]) -> str | None:
    (failure,) = met
    assert isinstance(failure, errors.DatabaseError)
    return failure.sqlstate


@pytest.fixture
def proxy(proxy_to: ProxyTo, server: Server) -> Proxy:
    return proxy_to(server)


@pytest.fixture
def wired(proxy: Proxy, database: DatabaseSettings) -> Iterator[ConnectionManager]:
    """A manager whose wire a test can freeze, its statements limited to a second."""
    execute(database, "create table t(v int)")
    with ConnectionManager("main", impatient(through(database, proxy))) as manager:
        yield manager
        proxy.thaw()


def works(manager: ConnectionManager) -> bool:
    with manager.transaction() as connection:
        return bool(connection.execute(text("select 1")).scalar_one() == 1)


def test_a_statement_on_a_frozen_wire_frees_the_thread(wired: ConnectionManager, proxy: Proxy) -> None:
    with ends(errors.DeadlineExceeded, "frozen wire") as met, wired.transaction() as connection:
        proxy.freeze()
        connection.execute(text("select 1"))
    assert sqlstate_of(met) is None
    assert "said nothing" in str(met[0])
    assert counts(wired)["deadlines"] == 1
    proxy.thaw()
    assert works(wired)


def hung(database: DatabaseSettings, freeze: Callable[[int], None], thaw: Callable[[], None]) -> bool:
    """Whether a plain connection of the driver, under the same statement timeout, still waits after three seconds."""
    plain = connect(impatient(database))
    freeze(plain.info.backend_pid)
    ended = threading.Event()

    def ask() -> None:
        try:
            plain.execute("select 1")
        except psycopg.Error:
            pass
        finally:
            ended.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        return not ended.wait(HUNG_S)
    finally:
        thaw()
        thread.join(10)
        plain.close()


@pytest.mark.slow
def test_without_a_watchdog_the_thread_would_hang(proxy: Proxy, database: DatabaseSettings) -> None:
    assert hung(through(database, proxy), lambda _: proxy.freeze(), proxy.thaw)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def test_a_stopped_backend_frees_the_thread(wired: ConnectionManager) -> None:
    pids: list[int] = []
    try:
        with ends(errors.DeadlineExceeded, "stopped backend"), wired.transaction() as connection:
            pids.append(in_use(connection))
            stop(pids[0])
            connection.execute(text("select 1"))
        with wired.transaction() as connection:
            assert in_use(connection) != pids[0], "the server lives: another backend serves"
    finally:
        os.kill(pids[0], signal.SIGCONT)


@pytest.mark.slow
def test_without_a_watchdog_a_stopped_backend_would_hang_the_thread(database: DatabaseSettings) -> None:
    stopped: list[int] = []

    def freeze(pid: int) -> None:
        stop(pid)
        stopped.append(pid)

    assert hung(database, freeze, lambda: os.kill(stopped[0], signal.SIGCONT))


@pytest.fixture
def node(replication_template: Template, state_dir: Path) -> Iterator[Node]:
    """A server of the test's own, to be stopped as a whole."""
    data, programs = replication_template
    with opened(Node, state_dir / "frozen", data, programs) as started:
        started.start()
        yield started


def test_a_server_that_is_stopped_as_a_whole_frees_the_thread(node: Node) -> None:
    with ConnectionManager("main", impatient(node.settings(), acquire_timeout_s=2)) as manager:
        try:
            with ends(errors.DeadlineExceeded, "stopped server"), manager.transaction() as connection:
                node.freeze(backends=True)
                connection.execute(text("select 1"))
            start = time.monotonic()
            with pytest.raises(errors.TargetUnavailable, match="says nothing"):
                works(manager)
            assert time.monotonic() - start < 2 + SLACK_S
        finally:
            node.thaw()
        manager.reset_breakers()
        assert works(manager)


def test_a_commit_on_a_frozen_wire_is_in_doubt(wired: ConnectionManager, proxy: Proxy) -> None:
    with ends(errors.OutcomeUnknown, "COMMIT") as met, wired.transaction() as connection:
        connection.execute(text("insert into t values (1)"))
        proxy.freeze()
    assert "got no answer" in str(met[0])
    assert counts(wired)["commits_in_doubt"] == 1
    proxy.thaw()
    assert works(wired)


def test_a_commit_of_a_reader_is_never_in_doubt(wired: ConnectionManager, proxy: Proxy) -> None:
    with ends(errors.DeadlineExceeded, "a reader's COMMIT"), wired.read() as connection:
        connection.execute(text("select 1"))
        proxy.freeze()
    assert "commits_in_doubt" not in counts(wired)


def test_a_rollback_on_a_frozen_wire_is_waited_for_only_so_long(
    wired: ConnectionManager, proxy: Proxy, database: DatabaseSettings
) -> None:
    start = time.monotonic()
    with pytest.raises(KeyError, match="the caller's own"), wired.transaction() as connection:  # noqa: PT012 - it must be in it first
        connection.execute(text("insert into t values (1)"))
        proxy.freeze()
        raise KeyError("the caller's own")
    took_s = time.monotonic() - start
    print(f"rollback: {took_s:.3f} s")  # noqa: T201 - the figure
    assert took_s < CLEAN_UP_S + FREED_S + SLACK_S
    proxy.thaw()
    assert works(wired)
    assert scalars(database, "select v from t") == []


@pytest.mark.parametrize("way", ["out", "in"])
def test_a_copy_through_the_drivers_connection_frees_the_thread(
    wired: ConnectionManager, proxy: Proxy, way: str
) -> None:
    with ends(errors.DeadlineExceeded, f"COPY {way}"), wired.transaction() as connection:
        raw = engines.driver_connection(connection)
        if way == "out":
            with raw.cursor().copy(f"copy ({MUCH}) to stdout") as copy:
                copy.read()
                proxy.freeze()
                while copy.read():
                    pass
        else:
            with raw.cursor().copy("copy t from stdin") as copy:
                proxy.freeze()
                while True:  # until nothing on the way takes any more
                    copy.write("1\n" * 10000)
    proxy.thaw()
    assert works(wired)


def test_a_deadline_of_the_block_holds_where_statements_have_none(wired: ConnectionManager, proxy: Proxy) -> None:
    with (
        ends(errors.DeadlineExceeded, "deadline_s, maintenance"),
        wired.transaction(profile=Profile.MAINTENANCE, deadline_s=1.0) as connection,
    ):
        proxy.freeze()
        connection.execute(text("select 1"))
    proxy.thaw()
    assert works(wired)


def test_a_deadline_of_the_block_bounds_its_statements_together(database: DatabaseSettings) -> None:
    done = 0
    with ConnectionManager("main", database) as manager:
        with (
            ends(errors.StatementTimeout, "deadline_s, many statements") as met,
            manager.autocommit(deadline_s=1.0) as connection,
        ):
            for _ in range(100):
                connection.execute(text("select pg_sleep(0.3)"))
                done += 1
        assert sqlstate_of(met) == "57014", "the server lives: it was asked to cancel, and says so itself"
        assert done == 3
        with manager.transaction() as connection:
            busy = "select count(*) from pg_stat_activity where query like '%pg_sleep(0.3)%' and state = 'active'"
            assert wait_until(
                lambda: connection.execute(text(f"{busy} and pid <> pg_backend_pid()")).scalar_one() == 0, timeout_s=5
            )


def test_a_slow_server_that_lives_says_itself_that_the_time_is_up(wired: ConnectionManager) -> None:
    pids = []
    with ends(errors.StatementTimeout, "slow and alive") as met, wired.transaction() as connection:
        pids.append(in_use(connection))
        connection.execute(text("select pg_sleep(30)"))
    assert sqlstate_of(met) == "57014"
    with wired.transaction() as connection:
        pids.append(in_use(connection))
    assert pids[0] == pids[1], "nothing is wrong with the connection"
    assert "deadlines" not in counts(wired)


def test_a_pooled_connection_whose_backend_is_stopped_is_replaced_at_checkout(wired: ConnectionManager) -> None:
    with wired.transaction() as connection:
        pid = in_use(connection)
    stop(pid)
    try:
        start = time.monotonic()
        with wired.transaction() as connection:
            assert in_use(connection) != pid
        took_s = time.monotonic() - start
    finally:
        os.kill(pid, signal.SIGCONT)
    print(f"replaced at checkout: {took_s:.3f} s")  # noqa: T201 - the figure
    assert took_s < wired.settings.timeouts.connect_s + FREED_S + SLACK_S


def test_a_pooled_connection_on_a_frozen_wire_is_replaced_as_soon_as_the_wire_thaws(
    wired: ConnectionManager, proxy: Proxy, database: DatabaseSettings
) -> None:
    assert works(wired)
    proxy.freeze()
    made = proxy.connections
    took: list[float] = []

    def check_out() -> None:
        start = time.monotonic()
        if works(wired):
            took.append(time.monotonic() - start)

    thread = threading.Thread(target=check_out)
    thread.start()
    ping_s = wired.settings.timeouts.connect_s
    assert not wait_until(lambda: bool(took), timeout_s=ping_s + FREED_S)
    proxy.thaw()
    thread.join(30)
    assert took
    assert took[0] < wired.settings.pool.acquire_timeout_s
    assert proxy.connections > made

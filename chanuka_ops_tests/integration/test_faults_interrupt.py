"""Ctrl-C, and the exception that Dagster ends a run with: the thread is free soon, and the server's query ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops.backup.beside import GoOn, beside
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import scalars
from chanuka_ops_tests.plugins.proxy import Proxy, ProxyTo, through

pytestmark = pytest.mark.postgres

AFTER_S = 0.3
SLACK_S = 2.0
MUCH = "select repeat('x', 1000) from generate_series(1, 200000)"


class Stop(BaseException):
    """Dagster's own is no Exception and no KeyboardInterrupt either."""


@contextmanager
def interrupted(kind: type[BaseException]) -> Iterator[list[float]]:
    """The block is interrupted after a moment; yields, at the end, how long it took to be left then."""
    took: list[float] = []

    def interrupt(*_: object) -> None:
        raise kind

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        start = time.monotonic()
        with pytest.raises(kind):
            yield took
        took.append(time.monotonic() - start - AFTER_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def asks(connection: Connection, _: Callable[[], None]) -> None:
    connection.execute(text("select pg_sleep(30)"))


def asks_the_driver(connection: Connection, _: Callable[[], None]) -> None:
    engines.driver_connection(connection).execute("select pg_sleep(30)")


def copies(connection: Connection, begun: Callable[[], None]) -> None:
    raw = engines.driver_connection(connection)
    with raw.cursor().copy(f"copy (select pg_sleep(30) from ({MUCH}) x) to stdout") as copy:
        begun()
        while copy.read():
            pass


def in_mid_copy(connection: Connection, begun: Callable[[], None]) -> None:
    raw = engines.driver_connection(connection)
    with raw.cursor().copy(f"copy ({MUCH}) to stdout") as copy:
        copy.read()
        begun()
        while copy.read():
            pass
        time.sleep(30)


@pytest.fixture
def proxy(proxy_to: ProxyTo, server: Server) -> Proxy:
    return proxy_to(server)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stop])
@pytest.mark.parametrize("work", [asks, asks_the_driver, in_mid_copy])
def test_an_interrupt_on_a_frozen_wire_is_not_held_up_for_long(
    proxy: Proxy, database: DatabaseSettings, kind: type[BaseException], work: Any
) -> None:
    with ConnectionManager("main", through(database, proxy)) as manager:
        with interrupted(kind) as took, manager.transaction() as connection:
            if work is not in_mid_copy:
                proxy.freeze()
            signal.setitimer(signal.ITIMER_REAL, AFTER_S)
            work(connection, proxy.freeze)
        print(f"{kind.__name__}, {work.__name__}: {took[0]:.3f} s")  # noqa: T201 - the figure
        assert took[0] < engines.CANCEL_TIMEOUT_S + SLACK_S
        assert manager.snapshot()["nodes"][0]["pool"]["in_use"] == 0
        proxy.thaw()
        with manager.transaction() as connection:
            assert connection.execute(text("select 1")).scalar_one() == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stop])
@pytest.mark.parametrize("work", [asks, asks_the_driver, copies])
def test_an_interrupt_ends_the_query_on_a_server_that_lives(
    manager: ConnectionManager, database: DatabaseSettings, kind: type[BaseException], work: Any
) -> None:
    with interrupted(kind) as took, manager.transaction() as connection:
        connection.execute(text("create table half_done()"))
        signal.setitimer(signal.ITIMER_REAL, AFTER_S)
        work(connection, lambda: None)
    assert took[0] < SLACK_S
    busy = "select count(*) from pg_stat_activity where state <> 'idle' and query like '%pg_sleep(30)%'"
    assert wait_until(lambda: scalars(database, f"{busy} and pid <> pg_backend_pid()") == [0], timeout_s=5)
    assert scalars(database, "select 1 from pg_class where relname = 'half_done'") == []
    with manager.transaction() as connection:
        assert connection.execute(text("select 1")).scalar_one() == 1


class InterruptedStart(threading.Thread):
    """A thread that is interrupted while it starts: whoever starts it waits just then."""

    def _bootstrap_inner(self) -> None:
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(0.05)
        super()._bootstrap_inner()  # type: ignore[misc]  # threading's own


@pytest.mark.parametrize("when", ["it starts", "it is waited for"])
def test_an_interrupt_leaves_no_work_beside_on_the_connection(
    manager: ConnectionManager, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both Python would have the main thread believe that nothing works: it was not started, or it has ended."""
    ended: list[bool] = []

    def work(connection: Connection) -> Callable[[GoOn], None]:
        def sleep(_: GoOn) -> None:
            try:
                connection.execute(text("select pg_sleep(30)"))
            finally:
                ended.append(True)

        return sleep

    if when == "it starts":
        monkeypatch.setattr("chanuka_ops.backup.beside.threading.Thread", InterruptedStart)
    with interrupted(Stop) as took, manager.transaction() as connection:
        monkeypatch.setattr("chanuka_ops.interrupts.INTERRUPTS", (signal.SIGALRM,))
        try:
            with beside(connection, work(connection), name="sleep") as sleeping:
                signal.setitimer(signal.ITIMER_REAL, AFTER_S)
                sleeping.result(ends_s=time.monotonic() + 30)
        finally:
            still_at_work = [thread for thread in threading.enumerate() if thread.name == "sleep"]
            assert ended or not still_at_work
            assert when == "it starts" or ended
            assert still_at_work == []
    assert took[0] < 10

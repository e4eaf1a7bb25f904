"""A manager that is closed while it is at work: what is under way may end, nothing new begins, nothing is left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.fault_cases import insert, node_of, plant, pooled, seconds, tokens
from chanuka_ops_tests.plugins.backup import scalars
from chanuka_ops_tests.plugins.processes import sessions

pytestmark = pytest.mark.postgres

PATIENCE_S = 20.0
SLEEPING = "select 1 from pg_stat_activity where state = 'active' and query = 'select pg_sleep(60)'"


class AtWork:
    """A thread in the midst of a transaction until it's told to go on; `sleeping` gives it a statement to wait for."""

    def __init__(self, manager: ConnectionManager, *, sleeping: bool = False) -> None:
        self.manager, self.sleeping = manager, sleeping
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._threads = ThreadPoolExecutor(1)
        self.ended: Future[None] = self._threads.submit(self._run)
        assert self.begun.wait(PATIENCE_S)

    def _run(self) -> None:
        with self.manager.transaction() as connection:
            insert(connection, "under way")
            self.begun.set()
            if self.sleeping:
                connection.execute(text("select pg_sleep(60)"))
            assert self.go_on.wait(PATIENCE_S)
            insert(connection, "its end")


@pytest.fixture
def single(database: DatabaseSettings) -> Iterator[ConnectionManager]:
    """A manager that has one connection at most."""
    plant(database)
    manager = ConnectionManager("main", pooled(database, 1))
    yield manager
    manager.close()


def leaks(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [record for record in caplog.records if getattr(record, "event", "") == "db.leak"]
    return [(record.levelname, record.getMessage()) for record in found]


def test_what_is_under_way_may_end_and_nothing_new_begins(
    single: ConnectionManager, database: DatabaseSettings, caplog: pytest.LogCaptureFixture
) -> None:
    work = AtWork(single)
    with ThreadPoolExecutor(1) as thread:
        closing = thread.submit(single.close, drain_s=PATIENCE_S)
        assert wait_until(lambda: single._closed, timeout_s=PATIENCE_S)
        for begin in (single.read, single.transaction, single.autocommit, single.session):
            with pytest.raises(errors.ManagerClosed), begin():
                pass
        with pytest.raises(errors.ManagerClosed):
            single.run_transaction(lambda connection: insert(connection, "new"))
        assert not closing.done()
        work.go_on.set()
        work.ended.result(timeout=PATIENCE_S)
        closing.result(timeout=PATIENCE_S)
    assert tokens(database) == ["its end", "under way"]
    assert leaks(caplog) == []
    assert sessions(database) == []


def test_without_that_time_it_is_cut_off(single: ConnectionManager, database: DatabaseSettings) -> None:
    work = AtWork(single)
    single.close()
    work.go_on.set()
    with pytest.raises(errors.ConnectionLost):
        work.ended.result(timeout=PATIENCE_S)
    assert tokens(database) == []


@pytest.mark.parametrize("sleeping", [True, False])
def test_what_does_not_end_in_time_is_cancelled_and_its_line_is_named(
    single: ConnectionManager, database: DatabaseSettings, caplog: pytest.LogCaptureFixture, *, sleeping: bool
) -> None:
    work = AtWork(single, sleeping=sleeping)
    assert wait_until(lambda: not sleeping or scalars(database, SLEEPING) == [1], timeout_s=PATIENCE_S)
    with caplog.at_level(logging.ERROR):
        assert seconds(lambda: single.close(drain_s=0.1)) < 10
    work.go_on.set()
    with pytest.raises(errors.DatabaseError):
        work.ended.result(timeout=PATIENCE_S)
    ((level, message),) = leaks(caplog)
    assert level == "ERROR"
    assert "test_faults_closing.py:" in message
    assert wait_until(lambda: sessions(database) == [], timeout_s=PATIENCE_S)
    assert (tokens(database), scalars(database, SLEEPING)) == ([], [])


def test_who_still_waits_for_a_connection_gets_none(single: ConnectionManager, database: DatabaseSettings) -> None:
    work = AtWork(single)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(single.run_transaction, lambda connection: insert(connection, "late"))
        assert wait_until(lambda: node_of(single).slots.waiting == 1, timeout_s=PATIENCE_S)
        single.close()
        work.go_on.set()
        with pytest.raises(errors.ManagerClosed):
            waiting.result(timeout=PATIENCE_S)
    assert work.ended.exception(timeout=PATIENCE_S) is not None
    assert tokens(database) == []
    assert wait_until(lambda: sessions(database) == [], timeout_s=PATIENCE_S)


def test_closing_twice_is_closing_once(single: ConnectionManager) -> None:
    with single.read() as connection:
        assert connection.execute(text("select 1")).scalar_one() == 1
    single.close()
    single.close(drain_s=1)
    with pytest.raises(errors.ManagerClosed):
        single.probe()

"""What a transaction promises, and what becomes of it when the server, another transaction or its own work fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.session import Isolation
from chanuka_ops_tests.integration.fault_cases import (
    counts,
    end,
    insert,
    pids_of,
    plant,
    pooled,
    tokens,
)
from chanuka_ops_tests.plugins.backup import execute, scalars

pytestmark = pytest.mark.postgres

RAISE = text("update accounts set balance = balance + 1 where id = :id")


@pytest.fixture
def accounts(database: DatabaseSettings) -> DatabaseSettings:
    """A database with two rows to be at odds about."""
    execute(database, "create table accounts(id int primary key, balance int)", "insert into accounts values (1), (2)")
    execute(database, "update accounts set balance = 0")
    return database


class AtOdds:
    """A read and a write, between which another transaction writes the same row: at the first try."""

    def __init__(self, database: DatabaseSettings) -> None:
        self.database = database
        self.calls = 0

    def __call__(self, connection: Connection) -> int:
        self.calls += 1
        found: int = connection.execute(text("select balance from accounts where id = 1")).scalar_one()
        if self.calls == 1:
            execute(self.database, "update accounts set balance = balance + 10 where id = 1")
        connection.execute(RAISE, {"id": 1})
        return found


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_serialisation_failure_is_repeated_from_the_beginning(
    manager: ConnectionManager, accounts: DatabaseSettings, isolation: Isolation
) -> None:
    work = AtOdds(accounts)
    assert manager.run_transaction(work, isolation=isolation) == 10, "what it read is read anew"
    assert (work.calls, scalars(accounts, "select balance from accounts where id = 1")) == (2, [11])
    assert counts(manager)["retries.transaction"] == 1


def test_without_repetition_a_serialisation_failure_is_the_callers(
    manager: ConnectionManager, accounts: DatabaseSettings
) -> None:
    with pytest.raises(errors.DatabaseError) as caught, manager.transaction(isolation="SERIALIZABLE") as connection:
        AtOdds(accounts)(connection)
    assert caught.value.sqlstate == "40001"
    assert scalars(accounts, "select balance from accounts where id = 1") == [10]


class Crossing:
    """Two threads that lock two rows in opposite orders: at the first try of each."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self._both = threading.Barrier(2, timeout=20)

    def __call__(self, connection: Connection, first: int) -> None:
        again = first in self.calls
        self.calls.append(first)
        connection.execute(text("set local deadlock_timeout = '20ms'"))
        connection.execute(RAISE, {"id": first})
        if not again:
            self._both.wait()
        connection.execute(RAISE, {"id": 3 - first})


def test_of_two_that_wait_for_each_other_both_are_done(manager: ConnectionManager, accounts: DatabaseSettings) -> None:
    work = Crossing()
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(manager.run_transaction, lambda one, n=n: work(one, n)) for n in (1, 2)]
        for run in runs:
            run.result(timeout=20)
    assert scalars(accounts, "select balance from accounts") == [2, 2]
    assert len(work.calls) == 3
    assert counts(manager)["retries.transaction"] == 1


def test_without_repetition_one_of_the_two_is_lost(manager: ConnectionManager, accounts: DatabaseSettings) -> None:
    work = Crossing()

    def once(first: int) -> str | None:
        try:
            with manager.transaction() as connection:
                work(connection, first)
        except errors.DatabaseError as error:
            return error.sqlstate
        return None

    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(once, (1, 2)))
    assert set(ended) == {None, "40P01"}
    assert scalars(accounts, "select balance from accounts") == [1, 1]


def test_what_the_server_refuses_for_good_is_not_repeated(
    manager: ConnectionManager, accounts: DatabaseSettings
) -> None:
    calls = []

    def work(connection: Connection) -> None:
        calls.append(1)
        connection.execute(text("insert into accounts values (3)"))
        connection.execute(text("insert into accounts values (1)"))

    with pytest.raises(errors.DatabaseError) as caught:
        manager.run_transaction(work, idempotent=True)
    assert caught.value.sqlstate == "23505"
    assert len(calls) == 1
    assert scalars(accounts, "select count(*) from accounts") == [2]


@pytest.mark.parametrize("raised", [KeyError("its own"), errors.OutcomeUnknown("another's"), errors.Interrupted("so")])
def test_what_the_work_itself_raises_comes_through(
    manager: ConnectionManager, database: DatabaseSettings, raised: Exception
) -> None:
    plant(database)
    calls = []

    def work(connection: Connection) -> None:
        calls.append(insert(connection, "undone"))
        raise raised

    with pytest.raises(type(raised)) as caught:
        manager.run_transaction(work, idempotent=True)
    assert caught.value is raised
    assert len(calls) == 1
    assert tokens(database) == []


def test_a_transaction_within_another_is_refused(manager: ConnectionManager, database: DatabaseSettings) -> None:
    plant(database)
    with manager.transaction() as outer:
        insert(outer, "outer")
        with pytest.raises(errors.NestedTransaction) as caught, manager.transaction():
            pass
        with pytest.raises(errors.NestedTransaction):
            manager.run_transaction(lambda inner: insert(inner, "inner"))
        with ThreadPoolExecutor(1) as thread:
            thread.submit(manager.run_transaction, lambda other: insert(other, "another thread's")).result(timeout=20)
    assert caught.value.exit_code == 3
    with pytest.raises(errors.NestedTransaction):
        manager.run_transaction(lambda _: manager.run_transaction(lambda inner: insert(inner, "inner")))
    with manager.transaction() as connection:
        insert(connection, "the next")
    assert tokens(database) == ["another thread's", "outer", "the next"]


def test_a_savepoint_undoes_its_part_alone(manager: ConnectionManager, database: DatabaseSettings) -> None:
    plant(database)
    with manager.transaction() as connection:
        insert(connection, "before")
        with pytest.raises(errors.DatabaseError), manager.savepoint(connection):  # noqa: PT012 - it must be in it first
            insert(connection, "within")
            connection.execute(text("select 1 / 0"))
        with manager.savepoint(connection):
            insert(connection, "kept")
        insert(connection, "after")
    assert tokens(database) == ["after", "before", "kept"]


def test_a_failure_that_the_block_swallowed_is_an_error_at_its_end(
    manager: ConnectionManager, database: DatabaseSettings
) -> None:
    plant(database)

    def swallow(connection: Connection) -> None:
        insert(connection, "rolled back by the server, which calls that no error")
        with suppress(DBAPIError):
            connection.execute(text("select 1 / 0"))

    with pytest.raises(errors.DatabaseError) as caught, manager.transaction() as connection:
        swallow(connection)
    assert caught.value.sqlstate == "25P02"
    with pytest.raises(errors.DatabaseError) as caught:
        manager.run_transaction(swallow)
    assert caught.value.sqlstate == "25P02"
    with pytest.raises(errors.ConnectionLost), manager.transaction() as connection:  # noqa: PT012 - it must be in it first
        end(database, [insert(connection, "lost")])
        with suppress(DBAPIError):
            insert(connection, "lost")
    assert tokens(database) == []


def test_a_transaction_begins_as_it_was_asked_to(manager: ConnectionManager) -> None:
    shown = text(
        "select current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
        " current_setting('transaction_deferrable')"
    )
    seen = []
    with manager.transaction(isolation="SERIALIZABLE", read_only=True, deferrable=True) as connection:
        seen.append(tuple(connection.execute(shown).one()))
    with manager.transaction(isolation="REPEATABLE READ") as connection:
        seen.append(tuple(connection.execute(shown).one()))
    with manager.read(isolation="SERIALIZABLE") as connection:
        seen.append(tuple(connection.execute(shown).one()))
    with manager.transaction() as connection:
        seen.append(tuple(connection.execute(shown).one()))
    assert seen == [
        ("serializable", "on", "on"),
        ("repeatable read", "off", "off"),
        ("serializable", "on", "off"),
        ("read committed", "off", "off"),
    ]


def test_a_write_where_reading_was_asked_for_is_no_reason_to_leave_the_server(database: DatabaseSettings) -> None:
    plant(database)
    calls = []

    def work(connection: Connection) -> None:
        calls.append(1)
        insert(connection, "no")

    with ConnectionManager("main", pooled(database, 2)) as manager:
        before = pids_of(manager, 2)
        for asked in (manager.read(), manager.transaction(read_only=True)):
            with pytest.raises(errors.DatabaseError) as caught, asked as connection:
                insert(connection, "no")
            assert caught.value.sqlstate == "25006"
        with pytest.raises(errors.DatabaseError) as caught:
            manager.run_transaction(work, read_only=True)
        assert caught.value.sqlstate == "25006"
        assert len(calls) == 1
        assert pids_of(manager, 2) == before
        assert "demoted" not in counts(manager)
    assert tokens(database) == []


def test_a_write_to_a_server_that_became_read_only_throws_its_connections_away(database: DatabaseSettings) -> None:
    plant(database)
    with ConnectionManager("main", pooled(database, 2)) as manager:
        before = pids_of(manager, 2)
        with pytest.raises(errors.ReadOnlyServer), manager.transaction() as connection:  # noqa: PT012 - in its midst
            connection.execute(text("set transaction read only"))  # as a demoted primary's are
            insert(connection, "no")
        assert not before & pids_of(manager, 2)

"""A block of work has only so long with the server, whatever it does there."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.fault_cases import insert, limited, pids_of, plant, tokens
from chanuka_ops_tests.plugins.backup import scalars

pytestmark = pytest.mark.postgres

SLEEP = text("select pg_sleep(30)")


def test_a_block_has_only_so_long(database: DatabaseSettings) -> None:
    plant(database)

    def slow(manager: ConnectionManager) -> None:
        with manager.transaction(deadline_s=0.3) as connection:
            insert(connection, "undone")
            connection.execute(text("select pg_sleep(0.1)"))
            connection.execute(SLEEP)

    with ConnectionManager("main", database) as manager:
        start = time.monotonic()
        with pytest.raises(errors.StatementTimeout):
            slow(manager)
        assert time.monotonic() - start < 5
        with manager.transaction() as connection:
            assert connection.execute(text("select pg_sleep(0.4) is not null")).scalar_one(), "the next has its own"
        with pytest.raises(errors.StatementTimeout), manager.autocommit(deadline_s=0.3) as connection:
            connection.execute(SLEEP)
    assert tokens(database) == []
    assert (
        scalars(
            database,
            "select pid from pg_stat_activity where query like '%pg_sleep(30)%' and state = 'active'"
            " and pid <> pg_backend_pid()",
        )
        == []
    )


def test_a_block_whose_time_is_up_is_not_committed(manager: ConnectionManager, database: DatabaseSettings) -> None:
    plant(database)
    with pytest.raises(errors.DatabaseError), manager.transaction(deadline_s=0.05) as connection:  # noqa: PT012 - so
        insert(connection, "too late")
        up = threading.Event()
        threading.Timer(0.1, up.set).start()
        up.wait(timeout=10)
    assert tokens(database) == []


def test_many_quick_statements_have_no_longer_than_one(manager: ConnectionManager, database: DatabaseSettings) -> None:
    plant(database)

    def busy() -> None:
        with manager.transaction(deadline_s=0.2) as connection:
            give_up = time.monotonic() + 10
            while time.monotonic() < give_up:
                insert(connection, "quick")

    start = time.monotonic()
    with pytest.raises(errors.StatementTimeout):
        busy()
    assert time.monotonic() - start < 5
    assert tokens(database) == []
    assert pids_of(manager, 1), "the connection is of use again"


def test_a_block_without_a_time_of_its_own_has_the_statements(database: DatabaseSettings) -> None:
    with ConnectionManager("main", limited(database, statement_s=0.3)) as manager:
        with manager.transaction() as connection:
            for _ in range(4):
                connection.execute(text("select pg_sleep(0.1)"))
            first = engines.backend_pid(connection)
        assert pids_of(manager, 1) == {first}


def test_a_copy_has_no_longer_either(manager: ConnectionManager, database: DatabaseSettings) -> None:
    query = "copy (select g, pg_sleep(0.01) from generate_series(1, 3000) g) to stdout"

    def copying() -> None:
        with (
            manager.transaction(deadline_s=0.3) as connection,
            engines.driver_connection(connection).cursor() as cursor,
            cursor.copy(query) as copy,
        ):
            assert all(copy)

    start = time.monotonic()
    with pytest.raises(errors.DatabaseError) as caught:
        copying()
    assert time.monotonic() - start < 5
    assert isinstance(caught.value, errors.StatementTimeout | errors.DeadlineExceeded)
    active = "select pid from pg_stat_activity where query like 'copy (%' and state = 'active'"
    assert wait_until(lambda: scalars(database, active) == [], timeout_s=5)
    assert pids_of(manager, 1), "whoever comes next has a connection"

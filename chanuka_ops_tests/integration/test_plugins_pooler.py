"""The tests' own PgBouncer has the traps of a real one."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops_tests.plugins.pooler import POOL_SIZE, Pooler
from chanuka_ops_tests.plugins.processes import url_of

pytestmark = pytest.mark.postgres


def connect(pooler: Pooler, database: DatabaseSettings, options: str | None = None) -> psycopg.Connection:
    dbname = database.sqlalchemy_url.database
    assert dbname is not None
    url = url_of(pooler.settings(dbname)).replace("+psycopg", "")
    return psycopg.connect(url, options=options, connect_timeout=5, prepare_threshold=None)


def backend(connection: psycopg.Connection) -> int:
    row = connection.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def test_a_query_works(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    with connect(pgbouncer, database) as connection:
        row = connection.execute("select current_database()").fetchone()
    assert row == (database.sqlalchemy_url.database,)


def test_startup_options_are_refused(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
        connect(pgbouncer, database, options="-c lock_timeout=1s")


def test_two_transactions_of_one_client_may_run_in_two_sessions(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    with connect(pgbouncer, database) as first, connect(pgbouncer, database) as second:
        before = backend(first)
        first.commit()
        assert backend(second) == before, "the session is free between transactions, and reused"
        assert backend(first) != before
        first.rollback()
        second.rollback()


def test_a_setting_leaks_to_whoever_gets_the_session_next(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    with connect(pgbouncer, database) as first, connect(pgbouncer, database) as second:
        first.execute("set lock_timeout = '1234ms'")
        first.commit()
        assert second.execute("show lock_timeout").fetchone() == ("1234ms",)
        assert first.execute("show lock_timeout").fetchone() == ("0",), "and its own is lost, on another session"


def test_the_pool_has_no_more_sessions_than_it_says(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(pgbouncer, database)) for _ in range(POOL_SIZE + 2)]
        backends = set()
        for connection in connections:
            backends.add(backend(connection))
            connection.commit()
        assert len(backends) <= POOL_SIZE

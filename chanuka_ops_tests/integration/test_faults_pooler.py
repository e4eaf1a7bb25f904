"""Behind a real PgBouncer: what holds for a transaction holds, what needs a session is refused, nothing leaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Literal

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.config import DatabaseSettings, PoolSettings, TimeoutSettings
from chanuka_ops.db import engines
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.nodes import LOCALHOST
from chanuka_ops_tests.plugins.pooler import Pooler
from chanuka_ops_tests.plugins.proxy import Proxy, through

pytestmark = pytest.mark.postgres

REPEATS = 60


def behind(
    pooler: Pooler, database: DatabaseSettings, mode: Literal["none", "session", "transaction"]
) -> DatabaseSettings:
    dbname = database.sqlalchemy_url.database
    assert dbname is not None
    limits = TimeoutSettings(statement_s=1.5, lock_s=0.7)
    changed = {"pooler": mode, "timeouts": limits, "pool": PoolSettings(size=4, overflow=4)}
    return pooler.settings(dbname).model_copy(update=changed)


def plainly(pooler: Pooler, database: DatabaseSettings) -> psycopg.Connection[Any]:
    dbname = database.sqlalchemy_url.database
    return psycopg.connect(host=LOCALHOST, port=pooler.port, user=pooler.user, dbname=dbname)


@pytest.fixture
def pooled(pgbouncer: Pooler, database: DatabaseSettings) -> Iterator[ConnectionManager]:
    """A manager that knows of the transaction pooler before the database."""
    execute(database, "create table t(v int)")
    with ConnectionManager("main", behind(pgbouncer, database, "transaction")) as manager:
        yield manager


def shows(connection: Connection, name: str) -> str:
    return str(connection.execute(text(f"show {name}")).scalar_one())


# ------------------------------------------------------------------ what works


def test_reading_and_writing(pooled: ConnectionManager) -> None:
    with pooled.transaction() as connection:
        connection.execute(text("insert into t values (1)"))
    with pooled.read() as connection:
        assert connection.execute(text("select v from t")).scalars().all() == [1]
    with pytest.raises(errors.DatabaseError, match="read-only") as caught, pooled.read() as connection:
        connection.execute(text("insert into t values (2)"))
    assert caught.value.sqlstate == "25006"
    with pooled.transaction(isolation="SERIALIZABLE") as connection:
        assert shows(connection, "transaction_isolation") == "serializable"
    assert pooled.probe().role == "primary"
    assert pooled.budget().available > 0


def test_the_limits_are_in_force_within_a_transaction(pooled: ConnectionManager, database: DatabaseSettings) -> None:
    with pooled.transaction() as connection:
        assert shows(connection, "lock_timeout") == "700ms"
        assert shows(connection, "statement_timeout") == "1500ms"
        assert shows(connection, "client_connection_check_interval") == "2s"
    with pooled.transaction(profile=Profile.MAINTENANCE, lock_timeout_s=0.2) as connection:
        assert shows(connection, "lock_timeout") == "200ms"
        assert shows(connection, "statement_timeout") == "0"
    with ConnectionManager("holder", database) as holder, holder.transaction() as held:
        held.execute(text("lock table t"))
        with pytest.raises(errors.LockTimeout), pooled.transaction() as connection:
            connection.execute(text("select * from t"))
    with pytest.raises(errors.StatementTimeout) as caught, pooled.read() as connection:
        connection.execute(text("select pg_sleep(30)"))
    assert caught.value.sqlstate == "57014"


def test_maintenance_has_no_limit_of_a_statement(pooled: ConnectionManager) -> None:
    """The client's own deadline goes by the profile too, not by what the pooled connection was opened for."""
    with pooled.transaction(profile=Profile.MAINTENANCE) as connection:
        start = time.monotonic()
        connection.execute(text("select pg_sleep(2)"))
        assert time.monotonic() - start >= 2


def test_no_setting_leaks_to_whoever_gets_the_session_next(
    pooled: ConnectionManager, pgbouncer: Pooler, database: DatabaseSettings
) -> None:
    with pooled.transaction(lock_timeout_s=0.123) as connection:
        mine = connection.execute(text("select pg_backend_pid()")).scalar_one()
    with plainly(pgbouncer, database) as other:
        row = other.execute("select pg_backend_pid(), current_setting('lock_timeout')").fetchone()
        assert row == (mine, "0"), "the same session of the server"
        assert other.execute("show statement_timeout").fetchone() == ("0",)
        assert other.execute("show default_transaction_read_only").fetchone() == ("off",)


def test_a_query_may_be_repeated_for_ever_over_changing_sessions(pooled: ConnectionManager) -> None:
    query = text("select :v + 1, pg_backend_pid()")

    def repeat(number: int) -> set[int]:
        backends = set()
        for turn in range(REPEATS):
            with pooled.read() as connection:
                value, backend = connection.execute(query, {"v": turn}).one()
                assert value == turn + 1
                backends.add(backend)
        return backends

    with ThreadPoolExecutor(4) as threads:
        seen = set().union(*threads.map(repeat, range(4)))
    assert len(seen) > 1, "more than one session of the server took part"


def test_with_prepared_statements_it_would_break(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    """The twin: what one session of the server prepared, another doesn't know."""
    failures: list[psycopg.Error] = []

    def repeat(connection: psycopg.Connection[Any]) -> None:
        try:
            for turn in range(REPEATS):
                connection.execute("select %s + 1", (turn,))
                connection.commit()
        except psycopg.errors.ProgrammingError as error:
            failures.append(error)

    with plainly(pgbouncer, database) as first, plainly(pgbouncer, database) as second:
        for each in (first, second):
            each.prepare_threshold = 0
        first.execute("select 1")
        first.commit()
        repeat(second)  # on the session that the first has prepared its own on
        repeat(first)
    kinds = (psycopg.errors.DuplicatePreparedStatement, psycopg.errors.InvalidSqlStatementName)
    assert failures
    assert all(isinstance(failure, kinds) for failure in failures)


def test_run_transaction_resolves_a_commit_without_an_answer(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    execute(database, "create table t(v int)")
    calls = []

    def insert(connection: Connection) -> int:
        calls.append(1)
        connection.execute(text("insert into t values (7)"))
        return 7

    settings = behind(pgbouncer, database, "transaction")
    with Proxy((LOCALHOST, pgbouncer.port)) as proxy, ConnectionManager("main", through(settings, proxy)) as manager:
        assert manager.run_transaction(insert) == 7
        proxy.cut_after(b"COMMIT", "answered")
        assert manager.run_transaction(insert) == 7
        assert not proxy.armed
        assert manager.snapshot()["nodes"][0]["counts"]["retries.resolved_as_committed"] == 1
        proxy.cut_after(b"COMMIT", "before")
        assert manager.run_transaction(insert) == 7
    assert scalars(database, "select count(*) from t") == [3]
    assert len(calls) == 4, "only what was not committed was run again"


def test_the_server_shows_who_connected(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    settings = behind(pgbouncer, database, "transaction")
    with (
        context.scope(operation="backup", run_id="abcdef0123456789"),
        ConnectionManager("main", settings) as manager,
        manager.transaction() as connection,
    ):
        assert shows(connection, "application_name") == "chanuka/backup/abcdef01"


# ------------------------------------------------------------------ what can't


def unfit(manager: ConnectionManager, what: str) -> None:
    ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "autocommit": manager.autocommit,
        "session": manager.session,
        "operation_lock": lambda: operation_lock(manager),
    }
    with pytest.raises(errors.PoolerUnfit) as caught, ways[what]():
        pass
    assert caught.value.exit_code == 3
    for words in ("transaction pooler", "advisory lock", "Let the url name the server itself", "Nothing was changed"):
        assert words in str(caught.value)


@pytest.mark.parametrize("what", ["autocommit", "session", "operation_lock"])
def test_what_needs_a_session_is_refused_before_anything_is_asked(pooled: ConnectionManager, what: str) -> None:
    unfit(pooled, what)
    assert pooled.snapshot()["nodes"][0]["counts"] == {}
    assert pooled.snapshot()["nodes"][0]["pool"]["open"] == 0


def test_a_lock_of_the_session_would_be_left_behind(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    """The twin: the pooler takes an advisory lock without a word, and keeps it when its client has gone."""
    with plainly(pgbouncer, database) as connection:
        connection.execute("select pg_advisory_lock(1, 2)")
    held = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1 and objid = 2"
    assert scalars(database, held) == [1]


def test_a_pooler_that_nobody_told_us_of_refuses_our_options(pgbouncer: Pooler, database: DatabaseSettings) -> None:
    """The twin of all that works: without the setting, the startup's options are sent, and refused."""
    manager = ConnectionManager("main", behind(pgbouncer, database, "none"))
    with manager, pytest.raises(errors.ConnectError, match="unsupported startup parameter"), manager.transaction():
        pass


# ------------------------------------------------------------------ a pooler that lends its sessions for longer


def test_a_session_pooler_gives_a_session_with_its_settings(
    pgbouncer_by_session: Pooler, database: DatabaseSettings
) -> None:
    settings = behind(pgbouncer_by_session, database, "session")
    with ConnectionManager("main", settings) as manager, manager.transaction() as connection:
        assert shows(connection, "lock_timeout") == "700ms"
        assert shows(connection, "statement_timeout") == "1500ms"
    with ConnectionManager("main", settings) as manager:  # it has two sessions to lend
        with operation_lock(manager), pytest.raises(errors.LockHeld), operation_lock(manager):
            pass
        with manager.autocommit(lock_timeout_s=0.2) as connection:
            assert shows(connection, "lock_timeout") == "200ms"
            assert shows(connection, "statement_timeout") == "0"
            pid = connection.execute(text("select pg_backend_pid()")).scalar_one()
            assert engines.backend_pid(connection) == pid, "the server's number, not the pooler's"


def test_a_session_pooler_in_front_of_a_busy_server_is_waited_for_only_so_long(
    pgbouncer_by_session: Pooler, database: DatabaseSettings
) -> None:
    """The third client waits at the pooler, which has let it in: our deadline ends that."""
    settings = behind(pgbouncer_by_session, database, "session")
    short = settings.model_copy(update={"pool": PoolSettings(size=1, overflow=3, acquire_timeout_s=1)})
    with ConnectionManager("main", short) as manager, manager.session(), manager.session():
        start = time.monotonic()
        with pytest.raises(errors.ConnectError), manager.session():
            pass
        assert time.monotonic() - start < 1 + 1.5
        free = threading.active_count()
    assert wait_until(lambda: threading.active_count() <= free, timeout_s=5)

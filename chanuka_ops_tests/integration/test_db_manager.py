"""The one way to a database: its deadlines, its guards, and what is left on the server after an interrupt."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

import pytest
from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.config import DatabaseSettings, PoolSettings, TimeoutSettings
from chanuka_ops.db import parameters
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import as_role, execute, scalars
from chanuka_ops_tests.plugins.processes import url_of

pytestmark = pytest.mark.postgres


def impatient(database: DatabaseSettings, **limits: float) -> ConnectionManager:
    return ConnectionManager("main", database.model_copy(update={"timeouts": TimeoutSettings(**limits)}))


def test_a_read_refuses_to_write(manager: ConnectionManager, database: DatabaseSettings) -> None:
    with pytest.raises(errors.DatabaseError, match="read-only transaction") as caught, manager.read() as connection:
        connection.execute(text("create table t()"))
    assert caught.value.sqlstate == "25006"
    assert scalars(database, "select 1 from pg_class where relname = 't'") == []


def test_a_transaction_is_kept_or_undone_as_a_whole(manager: ConnectionManager, database: DatabaseSettings) -> None:
    with manager.transaction() as connection:
        connection.execute(text("create table kept(v int)"))
    with pytest.raises(errors.DatabaseError), manager.transaction() as connection:  # noqa: PT012 - it must be in it first
        connection.execute(text("insert into kept values (1)"))
        connection.execute(text("select 1 / 0"))
    with pytest.raises(KeyError), manager.transaction() as connection:  # noqa: PT012 - it must be in it first
        connection.execute(text("insert into kept values (2)"))
        raise KeyError
    assert scalars(database, "select v from kept") == []


def test_a_lock_is_waited_for_only_so_long(database: DatabaseSettings) -> None:
    execute(database, "create table t(v int)")
    with ConnectionManager("holder", database) as holder, holder.transaction() as held:
        held.execute(text("lock table t"))
        with impatient(database, lock_s=0.2) as manager:
            for limited in (manager.transaction(), manager.transaction(lock_timeout_s=0.1), manager.autocommit()):
                start = time.monotonic()
                with pytest.raises(errors.LockTimeout) as caught, limited as connection:
                    connection.execute(text("select * from t"))
                assert time.monotonic() - start < 3
                assert caught.value.sqlstate == "55P03"


@pytest.mark.parametrize("profile", list(Profile))
def test_a_lock_timeout_is_always_in_force(manager: ConnectionManager, profile: Profile) -> None:
    with manager.transaction(profile=profile) as connection:
        assert connection.execute(text("show lock_timeout")).scalar_one() == "5s"
        assert connection.execute(text("show client_connection_check_interval")).scalar_one() == "2s"


def test_a_statement_runs_only_so_long(database: DatabaseSettings) -> None:
    with impatient(database, statement_s=0.2) as manager:
        with pytest.raises(errors.StatementTimeout) as caught, manager.read() as connection:
            connection.execute(text("select pg_sleep(30)"))
        assert caught.value.sqlstate == "57014"
        with manager.transaction(profile=Profile.MAINTENANCE) as connection:
            connection.execute(text("select pg_sleep(0.4)"))


def test_an_error_within_a_session_shows_no_password(database: DatabaseSettings) -> None:
    manager = ConnectionManager("main", as_role(database, "postgres", "s3cr:et"))
    with pytest.raises(errors.DatabaseError) as caught, manager.read() as connection:
        connection.execute(text("select * from missing where v = :value"), {"value": "s3cr:et"})
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cr" not in shown + repr(caught.value) + repr(caught.value.args) + repr(vars(caught.value)) + repr(manager)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert caught.value.sqlstate == "42P01"
    manager.close()


def test_a_connection_that_broke(manager: ConnectionManager, database: DatabaseSettings) -> None:
    with pytest.raises(errors.ConnectionLost), manager.transaction() as connection:  # noqa: PT012 - it must be in it first
        pid = connection.execute(text("select pg_backend_pid()")).scalar_one()
        execute(database, f"select pg_terminate_backend({pid})")
        connection.execute(text("select 1"))
    with manager.read() as connection:  # the pool notices, and connects anew
        assert connection.execute(text("select pg_backend_pid()")).scalar_one() != pid


def test_a_connection_that_was_cut_without_a_word(manager: ConnectionManager) -> None:
    with pytest.raises(errors.ConnectionLost), manager.autocommit() as connection:  # noqa: PT012 - it must be in it first
        raw = connection.connection.driver_connection
        assert raw is not None
        sock = os.dup(raw.fileno())
        with socket.socket(fileno=sock) as wire:
            wire.shutdown(socket.SHUT_RDWR)
        connection.execute(text("select 1"))


def test_every_connection_in_use(database: DatabaseSettings) -> None:
    small = database.model_copy(update={"pool": PoolSettings(size=1, overflow=0, acquire_timeout_s=0.1)})
    with ConnectionManager("main", small) as manager, manager.read():
        assert pool_of(manager) == (1, 1, 1)
        with pytest.raises(errors.PoolExhausted, match=r"Held by .*test_db_manager\.py:\d+ for"), manager.read():
            pass
        assert manager.probe().role == "primary", "a probe has a connection of its own"
    assert pool_of(manager) == (0, 0, 1)


def pool_of(manager: ConnectionManager) -> tuple[int, int, int]:
    pool = manager.snapshot()["nodes"][0]["pool"]
    return pool["open"], pool["in_use"], pool["limit"]


def test_the_server_shows_who_works(manager: ConnectionManager) -> None:
    with context.scope(operation="backup", run_id="abcdef0123456789"), manager.autocommit() as connection:
        assert connection.execute(text("show application_name")).scalar_one() == "chanuka/backup/abcdef01"


def test_text_is_text_whatever_the_encoding(database: DatabaseSettings) -> None:
    name = f"{database.sqlalchemy_url.database}_ascii"
    provider = (
        ""
        if scalars(database, "select 1 where current_setting('server_version_num')::int < 170000")
        else "locale_provider libc"
    )
    execute(database, f"create database {name} template template0 encoding 'SQL_ASCII' {provider} locale 'C'")
    try:
        assert scalars(database.with_dbname(name), "select 'é'") == ["é"]
    finally:
        execute(database, f"drop database {name} with (force)")


# Dagster ends a run by an exception that is no Exception, thrown into whatever runs; psycopg cancels for
# KeyboardInterrupt only.
SLEEPER = """
import signal, sys
from pydantic import SecretStr
from sqlalchemy import text
from chanuka_ops import context
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager

class Cancelled(BaseException):
    pass

def cancel(*_):
    raise Cancelled if sys.argv[2] in ("cancelled", "raw") else KeyboardInterrupt

signal.signal(signal.SIGTERM, cancel)
manager = ConnectionManager("main", DatabaseSettings(url=SecretStr(sys.argv[1])))
try:
    with context.scope(operation="sleeper"):
        if sys.argv[2] == "lock":
            with operation_lock(manager):
                print("holding", flush=True)
                signal.pause()
        with manager.transaction() as connection:
            print("sleeping", flush=True)
            if sys.argv[2] == "raw":
                cursor = connection.connection.driver_connection.cursor()
                with cursor.copy("copy (select 1, pg_sleep(600)) to stdout") as copy:
                    copy.read()
            connection.execute(text("select pg_sleep(600)"))
except (Cancelled, KeyboardInterrupt) as error:
    print(type(error).__name__, flush=True)
    signal.pause()  # the process lives on: what ends the statement is not its end
"""


def sleeper(database: DatabaseSettings, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLEEPER, url_of(database), how],
        stdout=subprocess.PIPE,
        text=True,
    )


def running(database: DatabaseSettings) -> list[object]:
    return scalars(
        database,
        "select pid from pg_stat_activity where state = 'active' and pid <> pg_backend_pid()"
        " and query like '%pg_sleep(600)%'",
    )


@pytest.mark.parametrize(
    ("how", "number", "said"),
    [
        ("cancelled", signal.SIGTERM, "Cancelled"),
        ("raw", signal.SIGTERM, "Cancelled"),
        ("interrupted", signal.SIGTERM, "KeyboardInterrupt"),
        ("interrupted", signal.SIGINT, "KeyboardInterrupt"),
    ],
)
def test_an_interrupt_cancels_the_statement_on_the_server(
    database: DatabaseSettings, how: str, number: signal.Signals, said: str
) -> None:
    with sleeper(database, how) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "sleeping\n"
            assert wait_until(lambda: len(running(database)) == 1, timeout_s=5)
            process.send_signal(number)
            assert process.stdout.readline() == f"{said}\n"
            assert wait_until(lambda: running(database) == [], timeout_s=1), (
                "it must be cancelled, not left to the server"
            )
        finally:
            process.kill()


@pytest.mark.slow
def test_a_killed_process_leaves_no_statement(database: DatabaseSettings) -> None:
    with sleeper(database, "killed") as process:
        assert wait_until(lambda: len(running(database)) == 1, timeout_s=10)
        process.kill()
    assert wait_until(lambda: running(database) == [], timeout_s=5)


def test_the_operation_lock_names_its_holder_and_is_freed_when_that_is_killed(database: DatabaseSettings) -> None:
    with sleeper(database, "lock") as process, ConnectionManager("main", database) as second:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        held = r"chanuka/sleeper/[0-9a-f]{8} \(pid \d+, role postgres"
        with pytest.raises(errors.LockHeld, match=held) as caught, operation_lock(second):
            pass
        assert caught.value.exit_code == 3
        process.kill()
        with operation_lock(second, wait_s=5):
            pass
    with ConnectionManager("main", database) as third, operation_lock(third):
        pass


def test_the_operation_lock_is_freed_whatever_ends_the_block(database: DatabaseSettings) -> None:
    manager = ConnectionManager("main", database)
    for ending in (ValueError, KeyboardInterrupt):
        with pytest.raises(ending), operation_lock(manager):
            raise ending
    with operation_lock(manager, wait_s=2):
        pass


def test_the_operation_lock_is_of_one_database(database: DatabaseSettings, manager: ConnectionManager) -> None:
    with operation_lock(manager), operation_lock(ConnectionManager("other", database.with_dbname("postgres"))):
        pass


def test_waiting_for_the_operation_lock(manager: ConnectionManager) -> None:
    freed = threading.Event()

    def hold() -> None:
        with operation_lock(manager):
            freed.wait(timeout=10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert wait_until(lambda: _is_held(manager), timeout_s=5)
    threading.Timer(0.4, freed.set).start()
    with operation_lock(manager, wait_s=5):
        assert freed.is_set()
    holder.join()


def _is_held(manager: ConnectionManager) -> bool:
    return bool(scalars(manager.settings, "select 1 from pg_locks where locktype = 'advisory' and granted"))


def test_a_lost_operation_lock_is_an_error(manager: ConnectionManager, database: DatabaseSettings) -> None:
    with pytest.raises(errors.ConnectionLost), operation_lock(manager):
        execute(database, "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted")


def test_the_sessions_options() -> None:
    database = DatabaseSettings.model_validate({"url": "postgresql://u@h/d?options=-c%20role%3Dx"})
    assert parameters.stated_options(database) == "-c role=x"
    words = parameters.session_options(database, Profile.MAINTENANCE, lock_timeout_s=1.5)
    assert "lock_timeout=1500" in words
    assert "statement_timeout=0" in words
    assert "idle_session_timeout=0" in words
    assert "idle_session_timeout" not in parameters.session_options(database, Profile.QUERY)
    assert "options" not in parameters.conninfo(database)

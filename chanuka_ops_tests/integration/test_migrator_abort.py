"""The abort line: a statement that blocks too many, or runs far past its prediction, is cancelled, and said to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import scripts
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.migrator.running.statement import fingerprint
from chanuka_ops.migrator.running.steps import Steps
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import migrator, scripts_in, table_exists
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres

WAITERS, MOST = 8, 5
PROMPTLY_S = 5.0  # 2 s is what is promised; a machine under load takes its time
TAKE = "op.execute('create table beside (id int)')\nop.execute('alter table busy add column more int')\n"
BLOCKING = TAKE + "op.execute('select pg_sleep(20)')"


def steps_of(database: DatabaseSettings, location: Path, *bounds: Bound, **settings: Any) -> Steps:
    return Steps(database, MigrationSettings(**settings), scripts.load(location), lambda _: None, bounds=bounds)


def location_of(database: DatabaseSettings, directory: Path, body: str) -> Path:
    location = scripts_in(directory, a1="op.execute('create table busy (id int)')", b2=body)
    in_this_process(database, location).move("up", "a1")
    return location


def once_locked(connection: psycopg.Connection[Any]) -> None:
    """Return when the migration holds its lock on the table."""
    locked = "select from pg_locks where relation = 'busy'::regclass and mode = 'AccessExclusiveLock' and granted"
    assert wait_until(lambda: connection.execute(locked).fetchone() is not None, timeout_s=30, poll_s=0.02)


@contextmanager
def waiting(database: DatabaseSettings, number: int) -> Iterator[Callable[[], float]]:
    """Sessions that read the table once it's locked; gives what says when (monotonic) the last of them had to wait."""
    begun: list[float] = []

    def read(connection: psycopg.Connection[Any]) -> None:
        once_locked(connection)
        begun.append(time.monotonic())
        connection.execute("select count(*) from busy")

    with ExitStack() as stack:
        threads = []
        for _ in range(number):
            connection = stack.enter_context(connect(database, lock_timeout_s=60))
            connection.autocommit = True
            threads.append(threading.Thread(target=read, args=(connection,)))
        for thread in threads:
            thread.start()
        try:
            yield lambda: max(begun)
        finally:
            for thread in threads:
                thread.join(60)


def nothing_of_it(manager: ConnectionManager, database: DatabaseSettings, location: Path) -> None:
    assert not table_exists(manager, "beside")
    assert in_this_process(database, location).current() == ("a1",)
    with manager.read() as connection:
        columns = connection.execute(text("select count(*) from pg_attribute where attname = 'more'")).scalar_one()
    assert columns == 0


def test_more_sessions_blocked_than_allowed_and_it_is_cancelled_at_once(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    location = location_of(database, tmp_path, BLOCKING)
    with waiting(database, WAITERS) as last, pytest.raises(errors.MigrationAborted) as caught:
        migrator(manager, location, max_blocked_sessions=MOST).up()
    took_s = time.monotonic() - last()
    print(f"cancelled {took_s:.2f} s after the last of {WAITERS} sessions was blocked")  # noqa: T201 - a figure to read
    assert took_s < PROMPTLY_S
    said = str(caught.value)
    assert said.startswith("revision b2: select pg_sleep(20): cancelled after ")
    assert "sessions were blocked by it: 5 are the limit (operations.migration.max_blocked_sessions)" in said
    assert said.endswith("Nothing of that revision was changed.")
    nothing_of_it(manager, database, location)
    [entry, _] = migrator(manager, location).history()
    assert (entry.revision, entry.outcome, entry.attempts) == ("b2", "failed", 1)
    assert "max_blocked_sessions" in (entry.message or "")


@pytest.mark.parametrize("most", [pytest.param(None, marks=pytest.mark.slow), WAITERS])
def test_as_many_as_are_allowed_may_wait(
    most: int | None, manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    location = location_of(database, tmp_path, TAKE + "op.execute('select pg_sleep(0.8)')")
    with waiting(database, WAITERS):
        steps_of(database, location, max_blocked_sessions=most).move("up", "head")
    assert table_exists(manager, "beside")


def test_those_that_wait_behind_one_that_waits_count(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    location = location_of(database, tmp_path, BLOCKING)
    with manager.autocommit() as connection:
        connection.execute(text("create table other (id int)"))
    with connect(database, lock_timeout_s=60) as first, connect(database, lock_timeout_s=60) as second:
        first.execute("lock table other")

        def wait_for_the_migration() -> None:
            once_locked(first)
            first.execute("select from busy")
            first.rollback()

        def wait_for_the_first() -> None:
            once_locked(second)
            second.execute("select from other")

        threads = [threading.Thread(target=wait) for wait in (wait_for_the_migration, wait_for_the_first)]
        for thread in threads:
            thread.start()
        with pytest.raises(errors.MigrationAborted, match="2 sessions were blocked"):
            steps_of(database, location, max_blocked_sessions=1).move("up", "head")
        for thread in threads:
            thread.join(60)
    nothing_of_it(manager, database, location)


@pytest.mark.parametrize("shut", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_code_that_goes_on_after_the_cancelling_or_sleeps_meanwhile_is_ended_too(
    shut: bool,  # noqa: FBT001 - a case
    manager: ConnectionManager,
    database: DatabaseSettings,
    tmp_path: Path,
) -> None:
    swallowed = "import contextlib\nwith contextlib.suppress(Exception):\n    op.execute('select pg_sleep(20)')\n"
    asleep = "import time\ntime.sleep(2.5)\n"
    body = TAKE + (swallowed if shut else asleep) + "op.execute('create table after_it (id int)')"
    location = location_of(database, tmp_path, body)
    with waiting(database, WAITERS), pytest.raises(errors.MigrationAborted) as caught:
        steps_of(database, location, max_blocked_sessions=MOST).move("up", "head")
    assert ("cancelled" if shut else "its session was ended between two statements") in str(caught.value)
    nothing_of_it(manager, database, location)
    assert not table_exists(manager, "after_it")


@pytest.mark.slow
def test_a_watch_that_lost_its_connection_looks_again_on_another(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    end = (
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <>"
        " pg_backend_pid() and query like '%pg_blocking_pids(w.pid)%'"
    )
    location = location_of(database, tmp_path, TAKE + "op.execute('select pg_sleep(20)')")
    with connect(database) as beside, waiting(database, WAITERS):
        beside.autocommit = True
        timer = threading.Timer(
            0.3, lambda: wait_until(lambda: beside.execute(end).fetchone() is not None, timeout_s=9)
        )
        timer.start()
        with pytest.raises(errors.MigrationAborted):
            steps_of(database, location, Bound("b2", fingerprint("select pg_sleep(20)"), 1.0, 1.0),
                     max_blocked_sessions=None).move("up", "head")  # fmt: skip
        timer.join()
    assert "can't be seen" in caplog.text


SLOW = "insert into busy select 1 from pg_sleep(20)"


def test_far_past_its_prediction_it_is_cancelled(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    location = location_of(database, tmp_path, f"{TAKE}op.execute('{SLOW}')")
    bound = Bound("b2", fingerprint(SLOW), 0.3, 0.6)
    started = time.monotonic()
    with pytest.raises(errors.MigrationAborted) as caught:
        migrator(manager, location, abort_factor=2.0).up(bounds=[bound])
    assert time.monotonic() - started < 15
    said = str(caught.value)
    assert "it was predicted to take 0.6 s at most, and 2 times that is the limit (operations.migration." in said
    assert "Nothing of that revision was changed." in said
    nothing_of_it(manager, database, location)


def test_outside_a_transaction_what_was_finished_is_said_to_stay(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    block = "with op.get_context().autocommit_block():\n    op.execute('create table beside (id int)')"
    body = f"{block}\n    op.execute('{SLOW}')"
    location = location_of(database, tmp_path, body)
    with pytest.raises(errors.MigrationAborted, match="what it finished stays, and it is safe to run it again"):
        steps_of(database, location, Bound("b2", fingerprint(SLOW), 0.1, 0.2)).move("up", "head")
    assert table_exists(manager, "beside")


@pytest.mark.slow
@pytest.mark.parametrize(("revision", "factor", "upper_s"), [("b2", 9.0, 0.6), ("a1", 1.0, 0.1)])
def test_within_its_bound_or_without_one_it_is_left_alone(  # noqa: PLR0917 - a case and its fixtures
    revision: str, factor: float, upper_s: float, manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    slow = "insert into busy select 1 from pg_sleep(1.4)"
    location = location_of(database, tmp_path, f"{TAKE}op.execute('{slow}')")
    bound = Bound(revision, fingerprint(slow), upper_s / 2, upper_s)
    steps_of(database, location, bound, abort_factor=factor).move("up", "head")
    assert table_exists(manager, "beside")


@pytest.mark.slow
def test_time_that_it_waits_for_a_lock_is_not_its_own(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    alter = "alter table busy add column more int"
    location = location_of(database, tmp_path, f"op.execute('{alter}')")
    with connect(database) as blocker:
        blocker.execute("lock table busy in access share mode")
        timer = threading.Timer(2.5, blocker.rollback)
        timer.start()
        steps_of(database, location, Bound("b2", fingerprint(alter), 0.001, 0.1), lock_timeout_s=20).move("up", "head")
        timer.join()
    assert in_this_process(database, location).current() == ("b2",)

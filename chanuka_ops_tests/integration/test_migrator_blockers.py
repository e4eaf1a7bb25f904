"""Who keeps a migration waiting: waited for, named, and ended only where the policy says so and it is written down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import holding, migrator, scripts_in, table_exists
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres

LOCK = "lock table busy in access share mode"
ALTER = "op.execute('create table beside (id int)')\nop.execute('alter table busy add column more int')"


@pytest.fixture
def where(database: DatabaseSettings, tmp_path: Path) -> Path:
    """A revision that alters a table which is there."""
    location = scripts_in(tmp_path, a1="op.execute('create table busy (id int)')", b2=ALTER)
    in_this_process(database, location).move("up", "a1")
    return location


@contextmanager
def reading(database: DatabaseSettings) -> Iterator[list[float]]:
    """Read the table all the time; give the seconds that each read took."""
    took: list[float] = []
    over = threading.Event()

    def read() -> None:
        with connect(database, lock_timeout_s=60) as connection:
            connection.autocommit = True
            while not over.wait(0.01):
                started = time.monotonic()
                connection.execute("select count(*) from busy")
                took.append(time.monotonic() - started)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield took
    finally:
        over.set()
        for thread in threads:
            thread.join()


def waited_for(manager: ConnectionManager) -> bool:
    """Whether somebody waits for a lock of this database."""
    count = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with manager.read() as connection:
        return bool(connection.execute(text(count)).scalar_one())


@pytest.mark.slow
def test_a_blocker_of_five_seconds_is_outwaited(manager: ConnectionManager, where: Path) -> None:
    with holding(manager, LOCK) as release:

        def let_go() -> None:
            assert wait_until(lambda: waited_for(manager), timeout_s=60), "nobody came to wait"
            threading.Event().wait(5.0)
            release()

        with ThreadPoolExecutor(1) as threads:
            letting = threads.submit(let_go)
            migrated = migrator(manager, where, lock_timeout_s=0.3, retry_deadline_s=90).up()
            letting.result(timeout=60)
    assert migrated.after == "b2"
    assert migrated.applied[0].attempts > 1


@pytest.mark.slow
def test_a_blocker_for_ever_changes_nothing_and_readers_hardly_notice(
    manager: ConnectionManager, database: DatabaseSettings, where: Path
) -> None:
    lock_timeout_s = 0.5
    with holding(manager, LOCK), reading(database) as took, pytest.raises(errors.LockTimeout) as caught:
        migrator(manager, where, lock_timeout_s=lock_timeout_s, retry_deadline_s=6).up()
    assert "blocked by pid " in str(caught.value)
    assert not table_exists(manager, "beside")
    assert in_this_process(database, where).current() == ("a1",)
    p99_s = sorted(took)[int(len(took) * 0.99)]
    assert p99_s < 2 * lock_timeout_s
    [entry, _] = migrator(manager, where).history()
    assert (entry.revision, entry.outcome) == ("b2", "failed")
    assert entry.attempts > 1


def test_no_try_is_without_a_lock_timeout(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    note = (
        "from pathlib import Path\n"
        f"with Path({str(said)!r}).open('a') as out:\n"
        "    for name in ('lock_timeout', 'statement_timeout', 'application_name'):\n"
        "        out.write(op.get_bind().exec_driver_sql('show ' + name).scalar_one() + '\\n')\n"
    )
    first = "op.execute('create table busy (id int)')\nop.execute('set lock_timeout = 0')"
    location = scripts_in(tmp_path / "m", a1=first, b2=note + ALTER)
    settings = {"lock_timeout_s": 0.05, "retry_deadline_s": 2.0, "statement_timeout_s": 30}
    in_this_process(database, location).move("up", "a1")
    with holding(manager, LOCK), pytest.raises(errors.LockTimeout):
        in_this_process(database, location, **settings).move("up", "b2")
    lines = said.read_text().splitlines()
    assert len(lines) >= 6
    assert set(lines[0::3]) == {"50ms"}
    assert set(lines[1::3]) == {"30s"}
    assert all(name.startswith("chanuka/") for name in lines[2::3])


def test_what_one_revision_has_set_is_not_in_force_in_the_next(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    location = scripts_in(
        tmp_path,
        a1="op.execute('set lock_timeout = 0')\nop.execute('create temp table mine (id int)')",
        b2="op.execute(\"create table b2 as select current_setting('lock_timeout') as waits, to_regclass('mine')\")",
    )
    in_this_process(database, location, lock_timeout_s=0.7).move("up", "head")
    with manager.read() as connection:
        assert connection.execute(text("select * from b2")).one() == ("700ms", None)


def acts(manager: ConnectionManager) -> list[tuple[str, int, str]]:
    with manager.read() as connection:
        found = connection.execute(text("select act, pid, revision from chanuka_ops.migration_acts"))
        return [tuple(row) for row in found]


def blocker(database: DatabaseSettings, *, name: str, role: str | None = None) -> psycopg.Connection[object]:
    connection = connect(database)
    connection.execute(f"set application_name = '{name}'".encode())
    if role is not None:
        connection.execute(f"set session authorization {role}".encode())
    connection.commit()
    connection.execute(LOCK)
    return connection


@pytest.fixture
def clerk(manager: ConnectionManager, where: Path) -> Iterator[str]:
    """A role that is no superuser and may read the table."""
    with manager.autocommit() as connection:
        connection.execute(text("create role clerk_of_blockers login"))
        connection.execute(text("grant all on busy to clerk_of_blockers"))
    yield "clerk_of_blockers"
    with manager.autocommit() as connection:
        connection.execute(text("drop owned by clerk_of_blockers"))
        connection.execute(text("drop role clerk_of_blockers"))


def as_role(database: DatabaseSettings, role: str) -> DatabaseSettings:
    url = database.sqlalchemy_url.set(username=role).render_as_string(hide_password=False)
    return DatabaseSettings.model_validate({"url": url})


Run = Callable[..., None]


@pytest.fixture
def run(database: DatabaseSettings, where: Path) -> Run:
    def move(**settings: object) -> None:
        in_this_process(database, where, lock_timeout_s=0.4, **settings).move("up", "head")

    return move


def test_a_session_idle_in_its_transaction_is_ended_where_that_is_the_policy(
    manager: ConnectionManager, database: DatabaseSettings, clerk: str, run: Run
) -> None:
    with blocker(as_role(database, clerk), name="psql") as idle:
        pid = idle.info.backend_pid
        with pytest.raises(errors.LockTimeout, match=f"pid {pid} "):
            run(retry_deadline_s=1.0)
        assert acts(manager) == []
        run(blockers="end_idle_in_transaction", blockers_idle_after_s=0.1, retry_deadline_s=30)
        assert acts(manager) == [("end_idle", pid, "b2")]
        idle.close()


@pytest.mark.parametrize(("name", "whose"), [("psql", "postgres"), ("pg_dump", "clerk")])
def test_a_superuser_and_a_backup_are_left_alone(  # noqa: PLR0917 - a case and its fixtures
    name: str, whose: str, manager: ConnectionManager, database: DatabaseSettings, clerk: str, run: Run
) -> None:
    target = as_role(database, clerk) if whose == "clerk" else database
    with blocker(target, name=name), pytest.raises(errors.LockTimeout):
        run(blockers="end_idle_in_transaction", blockers_idle_after_s=0.1, retry_deadline_s=1.0)
    assert acts(manager) == []


def test_an_orphan_of_ours_is_ended_where_that_is_the_policy(
    manager: ConnectionManager, database: DatabaseSettings, run: Run
) -> None:
    with blocker(database, name="chanuka/migrate/0badcafe") as orphan:
        pid = orphan.info.backend_pid
        run(blockers="cancel_own_orphans", retry_deadline_s=30)
        assert acts(manager) == [("end_orphan", pid, "b2")]
        orphan.close()

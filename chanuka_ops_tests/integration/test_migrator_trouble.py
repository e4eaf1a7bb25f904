"""Locks, rivals and crashes: what a migration does when the world is not kind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.model import Migrated
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.test_migrator_schema import HEAD, MIGRATIONS, in_this_process

pytestmark = pytest.mark.postgres

SECRET = "s3cret-of-the-test"  # the server trusts everybody; it only must not show anywhere
SLEEP = "op.execute('select pg_sleep(60)')"


def migrator(manager: ConnectionManager, location: Path = MIGRATIONS, **settings: Any) -> Migrator:
    return Migrator(manager, MigrationSettings(script_location=location, **settings))


def scripts_in(directory: Path, **bodies: str) -> Path:
    """Write a line of revisions: a1="op.execute(…)", b2=…"""
    (directory / "versions").mkdir(parents=True, exist_ok=True)
    shutil.copy(MIGRATIONS / "env.py", directory)
    parent = None
    for revision, body in bodies.items():
        write(directory, revision, parent, body)
        parent = revision
    return directory


def write(directory: Path, revision: str, parent: str | None, body: str) -> None:
    (directory / "versions" / f"{revision}.py").write_text(
        f'"""About {revision}."""\nfrom alembic import op\nrevision = {revision!r}\ndown_revision = {parent!r}\n'
        f"def upgrade():\n{textwrap.indent(body, '    ')}\n"
        f"def downgrade():\n    op.execute('select 1')\n"
    )


@contextmanager
def holding(manager: ConnectionManager, statement: str) -> Iterator[Callable[[], None]]:
    """A transaction that holds what the statement locked, until it's released or the block ends."""
    with manager.transaction(lock_timeout_s=30) as connection:
        connection.execute(text(statement))
        yield connection.rollback


@contextmanager
def in_background(work: Callable[[], Migrated]) -> Iterator[Future[Migrated]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def runner_pids(parent: int) -> list[int]:
    """The migration processes that are children of that process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (entry / "stat").read_text().rpartition(")")[2].split()  # state, parent, …
            if int(status[1]) == parent and is_runner(int(entry.name)):
                found.append(int(entry.name))
    return found


def is_runner(pid: int) -> bool:
    try:
        return b"chanuka_ops.migrator.running.runner" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def sleeping(manager: ConnectionManager) -> int:
    """How many sessions of this database are in pg_sleep."""
    with manager.read() as connection:
        return int(
            connection.execute(
                text(
                    "select count(*) from pg_stat_activity where datname = current_database()"
                    " and pid <> pg_backend_pid() and state = 'active' and query like '%pg_sleep(60)%'"
                )
            ).scalar_one()
        )


def release_after(manager: ConnectionManager, release: Callable[[], None]) -> None:
    """Release once the migration has waited in vain, and a moment more."""
    waits = text("select count(*) from chanuka_ops.migration_entries where outcome = 'running' and attempts > 1")
    with manager.autocommit() as connection:
        wait_until(lambda: bool(connection.execute(waits).scalar_one()), timeout_s=30)
    release()


def table_exists(manager: ConnectionManager, name: str) -> bool:
    with manager.read() as connection:
        return connection.execute(text("select to_regclass(:name)"), {"name": name}).scalar_one() is not None


def test_of_two_at_once_the_second_is_refused_and_told_by_whom(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1="op.execute('create table a1 (id bigint)')\nop.execute('select pg_sleep(1)')")
    with in_background(migrator(manager, where).up) as first:
        assert wait_until(lambda: bool(runner_pids(os.getpid())), timeout_s=10)
        with pytest.raises(errors.LockHeld, match="chanuka/migrate/"):
            migrator(manager, where).up(wait_s=0)
        assert migrator(manager, where).up(wait_s=20).applied == ()  # waits, and finds all done
        assert [step.revision for step in first.result().applied] == ["a1"]


@pytest.mark.slow
def test_of_four_that_wait_exactly_one_does_the_work(manager: ConnectionManager) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: migrator(manager).up(wait_s=60), range(4)))
    assert sorted(len(migrated.applied) for migrated in done) == [0, 0, 0, 12]
    assert {migrated.after for migrated in done} == {HEAD}


def test_a_blocker_that_ends_costs_attempts_only(manager: ConnectionManager, database: DatabaseSettings) -> None:
    in_this_process(database).move("up", "0009_bills_by_status")
    with holding(manager, "lock table bill_versions in access share mode") as release:
        threading.Thread(target=release_after, args=(manager, release), daemon=True).start()
        migrated = migrator(manager, lock_timeout_s=0.3, retry_deadline_s=60).up("0010_word_count")
    assert migrated.after == "0010_word_count"
    assert migrated.applied[0].attempts > 1


def test_a_blocker_for_ever_ends_in_a_clean_abort_that_names_it(
    manager: ConnectionManager, database: DatabaseSettings
) -> None:
    in_this_process(database).move("up", "0009_bills_by_status")
    waited: list[float] = []
    with holding(manager, "lock table bill_versions in access share mode"), ThreadPoolExecutor(1) as readers:

        def read() -> None:
            started = time.monotonic()
            with manager.read() as connection:
                connection.execute(text("select count(*) from bill_versions")).scalar_one()
            waited.append(time.monotonic() - started)

        futures = [readers.submit(read) for _ in range(3)]
        with pytest.raises(errors.LockTimeout) as caught:
            migrator(manager, lock_timeout_s=0.3, retry_deadline_s=1.5).up()
        [future.result() for future in futures]
    said = str(caught.value)
    assert "0010_word_count" in said
    assert "pid " in said
    assert "lock table bill_versions" in said
    assert "Nothing of that revision was changed" in said
    assert caught.value.sqlstate == "55P03"
    steps = in_this_process(database)
    assert steps.current() == ("0009_bills_by_status",)
    steps.move("up", "head")  # there's no trace of the tries


@pytest.mark.slow
def test_a_killed_process_leaves_no_session_and_a_rerun_converges(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(
        tmp_path,
        a1="op.execute('create table a1 (id bigint)')",
        b2=f"op.execute('create table b2 (id bigint)')\n{SLEEP}",
    )
    with in_background(migrator(manager, where).up) as running:
        assert wait_until(lambda: sleeping(manager) == 1, timeout_s=20)
        [pid] = runner_pids(os.getpid())
        os.kill(pid, signal.SIGKILL)
        failure = running.exception(timeout=30)
        assert sleeping(manager) == 0  # before the lock was given back
    assert type(failure) is errors.MigrationFailed
    assert "killed by signal 9" in str(failure)
    assert "b2" in str(failure)
    assert "stands at a1" in str(failure)
    assert not table_exists(manager, "b2")

    write(where, "b2", "a1", "op.execute('create table b2 (id bigint)')")
    assert [step.revision for step in migrator(manager, where).up().applied] == ["b2"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_when_the_parent_dies_no_process_and_no_session_stay(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path, number: signal.Signals
) -> None:
    where = scripts_in(tmp_path, a1=f"op.execute('create table a1 (id bigint)')\n{SLEEP}")
    program = (
        "import sys; from pathlib import Path\n"
        "from chanuka_ops.config import DatabaseSettings, MigrationSettings\n"
        "from chanuka_ops.db.manager import ConnectionManager\n"
        "from chanuka_ops.migrator.service import Migrator\n"
        "settings = MigrationSettings(script_location=Path(sys.argv[1]))\n"
        "Migrator(ConnectionManager('main', DatabaseSettings(url=sys.stdin.read())), settings).up()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, where], stdin=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        parent.stdin.write(database.url.get_secret_value())
        parent.stdin.close()
        assert wait_until(lambda: sleeping(manager) == 1, timeout_s=20)
        [child] = runner_pids(parent.pid)
        parent.send_signal(number)
        parent.wait(timeout=20)
    assert wait_until(lambda: not is_runner(child), timeout_s=10)
    assert wait_until(lambda: sleeping(manager) == 0, timeout_s=10)
    assert not table_exists(manager, "a1")


def test_the_password_is_in_no_argument_and_no_environment(manager: ConnectionManager, tmp_path: Path) -> None:
    url = manager.settings.sqlalchemy_url.set(password=SECRET).render_as_string(hide_password=False)
    secretive = ConnectionManager("main", DatabaseSettings(url=SecretStr(url)))
    where = scripts_in(tmp_path, a1=SLEEP)
    with in_background(migrator(secretive, where).up) as running:
        assert wait_until(lambda: sleeping(manager) == 1, timeout_s=20)
        [pid] = runner_pids(os.getpid())
        seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        os.kill(pid, signal.SIGTERM)
        failure = running.exception(timeout=30)
    assert SECRET.encode() not in seen
    assert type(failure) is errors.Interrupted
    assert SECRET not in str(failure)
    assert sleeping(manager) == 0


def test_a_connection_that_breaks_is_settled_by_asking(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1=f"op.execute('create table a1 (id bigint)')\n{SLEEP}")
    with in_background(migrator(manager, where).up) as running:
        assert wait_until(lambda: sleeping(manager) == 1, timeout_s=20)
        with manager.read() as connection:
            connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid() and query like '%pg_sleep(60)%'"
                )
            )
        failure = running.exception(timeout=30)
    assert type(failure) is errors.MigrationFailed
    assert "connection broke while revision a1" in str(failure)
    assert "stands at base" in str(failure)
    assert not table_exists(manager, "a1")


@pytest.mark.slow
def test_past_its_deadline_a_migration_is_ended(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1=SLEEP)
    with pytest.raises(errors.MigrationFailed, match=r"deadline of 10 s.*a1.*stands at base"):
        migrator(manager, where, deadline_s=10).up()
    assert sleeping(manager) == 0

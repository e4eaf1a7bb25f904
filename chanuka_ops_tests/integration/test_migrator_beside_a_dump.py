"""A migration behind a dump that is under way: nobody who reads queues up behind it, and it gets through at the end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.model import Migrated
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.operations_cases import ask, run
from chanuka_ops_tests.integration.test_migrator_blockers import reading
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import in_background, migrator, scripts_in

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

LOCK_TIMEOUT_S = 0.3
BEHIND_S = 4.0  # so long is the dump there after the migration has come to wait for it
READ_WITHIN_S = 2.0  # the lock timeout, and what a machine under load may take; BEHIND_S if anybody queued up
ENOUGH = 3_000_000  # bytes of the table, more than the pipe and the server's buffers hold


@pytest.fixture
def where(database: DatabaseSettings, manager: ConnectionManager, tmp_path: Path) -> Path:
    """A revision that alters a table of some size, which is there."""
    location = scripts_in(
        tmp_path, a1="op.execute('create table busy (id int)')", b2="op.execute('alter table busy add column more int')"
    )
    in_this_process(database, location).move("up", "a1")
    run(manager, f"insert into busy select g from generate_series(1, {ENOUGH // 6}) g")
    return location


@contextmanager
def dumping(database: DatabaseSettings, manager: ConnectionManager, pg: Binaries) -> Iterator[Callable[[], int]]:
    """A pg_dump that stands still, its reader busy elsewhere, with its locks on all tables; gives what lets it end."""
    argv = [str(pg.path("pg_dump")), "--format=plain", "--dbname", parameters.conninfo(database)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)

    def let_it_end() -> int:
        process.communicate(timeout=60)
        return process.returncode

    holds = (
        "select count(*) from pg_locks l join pg_stat_activity a using (pid) where a.application_name = 'pg_dump'"
        " and a.datname = current_database() and l.relation = 'busy'::regclass and a.query ilike 'copy%busy%'"
    )
    try:
        assert wait_until(lambda: ask(manager, holds) == [(1,)], timeout_s=30)
        yield let_it_end
    finally:
        process.kill()
        process.communicate()


def migrated_behind(
    database: DatabaseSettings, manager: ConnectionManager, pg: Binaries, where: Path, lock_timeout_s: float
) -> tuple[Migrated, list[float]]:
    """Migrate while a dump is there for BEHIND_S; what came of it, and how long each read took, in seconds."""
    waits = "select count(*) from pg_locks where relation = 'busy'::regclass and not granted"
    subject = migrator(manager, where, lock_timeout_s=lock_timeout_s, retry_deadline_s=90)
    with (
        dumping(database, manager, pg) as let_it_end,
        reading(database) as took,
        in_background(subject.up) as running,
    ):
        assert wait_until(lambda: ask(manager, waits) != [(0,)], timeout_s=60, poll_s=0.02)
        time.sleep(BEHIND_S)
        assert not running.done()
        assert let_it_end() == 0
        migrated = running.result(90)
    return migrated, took


def test_readers_go_on_while_it_waits_and_it_gets_through(
    database: DatabaseSettings, manager: ConnectionManager, pg: Binaries, where: Path
) -> None:
    migrated, took = migrated_behind(database, manager, pg, where, LOCK_TIMEOUT_S)
    print(f"{len(took)} reads, the longest took {max(took):.2f} s")  # noqa: T201 - a figure to read
    assert migrated.after == "b2"
    assert migrated.applied[0].attempts > 2
    assert max(took) < READ_WITHIN_S
    assert len(took) > 2 * BEHIND_S


def test_with_a_long_lock_timeout_they_would_stand_still_with_it(
    database: DatabaseSettings, manager: ConnectionManager, pg: Binaries, where: Path
) -> None:
    migrated, took = migrated_behind(database, manager, pg, where, 60.0)
    assert migrated.applied[0].attempts == 1
    assert max(took) > BEHIND_S - 0.5

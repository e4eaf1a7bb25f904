"""The revisions that work outside a transaction: the concurrent index build and the batched backfill."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops_tests.integration.test_migrator_schema import HEAD, in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import holding, migrator

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize("leftover", ["invalid", "valid"])
def test_the_concurrent_build_can_be_rerun_over_what_it_left(
    manager: ConnectionManager, database: DatabaseSettings, leftover: str
) -> None:
    steps = in_this_process(database)
    steps.move("up", "0008_analytics")
    build = "create index concurrently bills_status_introduced_on_idx on bills (status, introduced_on desc)"
    with manager.autocommit(lock_timeout_s=0.2) as connection:
        if leftover == "valid":
            connection.execute(text(build))
        else:
            with (
                holding(manager, "insert into bills (title, chamber) values ('The Water Bill', 'senate')"),
                pytest.raises(errors.LockTimeout),
                manager.autocommit(lock_timeout_s=0.2) as own,
            ):
                own.execute(text(build))
    steps.move("up", "0009_bills_by_status")
    with manager.read() as connection:
        found = connection.execute(
            text("select indisvalid from pg_index where indexrelid = 'bills_status_introduced_on_idx'::regclass")
        ).all()
    assert found == [(True,)]


def add_versions(manager: ConnectionManager, first: int, count: int) -> None:
    with manager.transaction() as connection:
        connection.execute(
            text(
                "insert into bill_versions (bill_id, version_no, label, body, body_sha256)"
                " select (select min(id) from bills), :first + n, 'x', 'one two  three', sha256(int8send(n))"
                " from generate_series(1, :count) n"
            ),
            {"first": first, "count": count},
        )


def uncounted(manager: ConnectionManager) -> tuple[int, int]:
    with manager.read() as connection:
        row = connection.execute(
            text("select count(*), count(*) filter (where word_count is distinct from 3) from bill_versions")
        ).one()
        return row[0], row[1]


@pytest.fixture
def versions(manager: ConnectionManager, database: DatabaseSettings) -> ConnectionManager:
    """A database before the word counts, with a thousand versions of a bill."""
    in_this_process(database).move("up", "0009_bills_by_status")
    with manager.transaction() as connection:
        connection.execute(text("insert into bills (title, chamber) values ('The Water Bill', 'senate')"))
    add_versions(manager, 0, 1000)
    return manager


@pytest.mark.slow
def test_the_backfill_ends_while_rows_come_in(versions: ConnectionManager) -> None:
    stop = threading.Event()

    def insert() -> int:
        batch = 0
        while not stop.is_set():
            add_versions(versions, 1000 + batch * 20, 20)
            batch += 1
        return batch

    with ThreadPoolExecutor(1) as pool:
        inserting = pool.submit(insert)
        try:
            migrated = migrator(versions).up()
        finally:
            stop.set()
        came = inserting.result()
    assert migrated.after == HEAD
    assert came > 1
    assert uncounted(versions) == (1000 + 20 * came, 0)


def test_a_backfill_that_was_broken_off_goes_on_where_it_stopped(
    versions: ConnectionManager, database: DatabaseSettings
) -> None:
    steps = in_this_process(database, lock_timeout_s=0.3)
    steps.move("up", "0010_word_count")
    last = "select from bill_versions where id = (select max(id) from bill_versions) for update"
    with holding(versions, last), pytest.raises(errors.LockTimeout, match="safe to run it again"):
        steps.move("up", "head")
    assert uncounted(versions) == (1000, 200)  # four batches of five stay done
    steps.move("up", "head")
    assert steps.current() == (HEAD,)
    assert uncounted(versions) == (1000, 0)

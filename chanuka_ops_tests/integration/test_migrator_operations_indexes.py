"""Indexes that revisions build concurrently: leftovers, retries, partitions, and names that are taken."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.operations import indexes as module
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.operations_cases import again, ask, body, indexes, run, up
from chanuka_ops_tests.integration.test_migrator_trouble import (
    holding,
    in_background,
    migrator,
    runner_pids,
    scripts_in,
)

pytestmark = pytest.mark.postgres

BUILD = "ops.concurrent_index('b_title_idx', 'b', ['title'])"
PARTITIONED = (
    "create table p (id bigint, day date not null, kind int, primary key (id, day)) partition by range (day)",
    "create table p_2025 partition of p for values from ('2025-01-01') to ('2026-01-01')",
    "create table p_2026 partition of p for values from ('2026-01-01') to ('2027-01-01') partition by list (day)",
    "create table p_2026_first partition of p_2026 for values in ('2026-01-01')",
    "create table p_2026_rest partition of p_2026 default",
    "insert into p select n, date '2025-06-01' + n, n % 3 from generate_series(1, 400) n",
)
ON_PARTITIONED = "ops.concurrent_index('p_kind_idx', 'p', ['kind'])"


@pytest.fixture
def bills(manager: ConnectionManager) -> ConnectionManager:
    """A database with a small table."""
    run(
        manager,
        "create table b (id bigint generated always as identity primary key, title text, note text)",
        "insert into b (title) select 'bill ' || n from generate_series(1, 500) n",
    )
    return manager


def leave_invalid(
    manager: ConnectionManager, table: str = "b", column: str = "title", name: str = "b_title_idx"
) -> None:
    """Break a build off, as a kill would."""
    with (
        holding(
            manager, f"insert into {table} default values" if table == "b" else f"lock table {table} in row share mode"
        ),
        pytest.raises(errors.LockTimeout),
        manager.autocommit(lock_timeout_s=0.2) as connection,
    ):
        connection.execute(text(f"create index concurrently {name} on {table} ({column})"))
    assert indexes(manager, table)[name] is False


def test_the_invalid_leftover_is_dropped_and_the_index_built(
    bills: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    leave_invalid(bills)
    up(database, tmp_path, BUILD)
    assert indexes(bills, "b") == {"b_title_idx": True}


def test_without_dropping_it_the_leftover_would_stay(
    bills: ConnectionManager, database: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_invalid(bills)
    monkeypatch.setattr(module._Builder, "_drop_one", lambda *_: None)
    with pytest.raises(errors.MigrationFailed, match="already exists"):
        up(database, tmp_path, BUILD)
    assert indexes(bills, "b") == {"b_title_idx": False}


def test_a_build_is_tried_again_after_a_lock_timeout(
    bills: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    with holding(bills, "insert into b (title) values ('x')") as release:
        threading.Timer(0.5, release).start()
        up(database, tmp_path, "ops.concurrent_index('b_title_idx', 'b', ['title'], patience_s=0.3, attempts=20)")
    assert indexes(bills, "b") == {"b_title_idx": True}


def test_the_tries_are_bounded_and_leave_the_rest_to_the_next_run(
    bills: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    source = "ops.concurrent_index('b_title_idx', 'b', ['title'], patience_s=0.2, attempts=2)"
    with holding(bills, "insert into b (title) values ('x')"), pytest.raises(errors.LockTimeout, match="safe to run"):
        up(database, tmp_path, source)
    up(database, tmp_path, source)
    assert indexes(bills, "b") == {"b_title_idx": True}


@pytest.mark.parametrize(
    "made",
    [
        "create index b_i on b using btree (lower(title) desc, id) include (note) where id > 10 and note is null",
        "create index b_i on b (lower((title)) desc nulls first, id) include (note) where (note is null)",
        None,
    ],
)
def test_the_same_definition_is_done_and_another_is_refused(
    bills: ConnectionManager, database: DatabaseSettings, tmp_path: Path, made: str | None
) -> None:
    source = """
        ops.concurrent_index(
            "b_i", "b", [text("lower(title) desc"), "id"], include=["note"], where="b.note is null and b.id > 10"
        )
    """
    if made is None:
        up(database, tmp_path, source)
        oid = ask(bills, "select 'b_i'::regclass::oid")
        again(database, tmp_path, source)
        assert ask(bills, "select 'b_i'::regclass::oid") == oid
        return
    run(bills, made)
    with pytest.raises(errors.MigrationFailed, match=r"b_i of .* with another definition: CREATE INDEX"):
        up(database, tmp_path, source)


@pytest.mark.parametrize(
    ("made", "what"),
    [
        ("create table b_title_idx (id int)", "no index"),
        ("create index b_title_idx on other (title)", "an index of table other"),
    ],
)
def test_a_name_that_is_taken_is_refused(
    bills: ConnectionManager, database: DatabaseSettings, tmp_path: Path, made: str, what: str
) -> None:
    run(bills, "create table other (title text)", made)
    with pytest.raises(errors.MigrationFailed, match=f"b_title_idx is there already, and is {what}"):
        up(database, tmp_path, BUILD)


def test_rows_that_are_not_unique_leave_no_invalid_index(
    bills: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(bills, "update b set title = 'same'")
    with pytest.raises(errors.MigrationFailed, match=r"could not create unique index|is duplicated"):
        up(database, tmp_path, "ops.concurrent_index('b_title_idx', 'b', ['title'], unique=True)")
    assert indexes(bills, "b") == {}


def test_names_that_need_quotes_and_a_schema(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(manager, 'create schema "My App"', 'create table "My App"."Order" ("user" int, "50%\\:x" int)')
    source = """ops.concurrent_index('Where "it" is', 'Order', ['user', '50%:x'], schema='My App')"""
    up(database, tmp_path, source)
    again(database, tmp_path, source)
    assert ask(manager, "select indexname::text from pg_indexes where schemaname = 'My App'") == [('Where "it" is',)]
    again(database, tmp_path, """ops.drop_concurrent_index('Where "it" is', 'Order', schema='My App')""")
    assert ask(manager, "select indexname::text from pg_indexes where schemaname = 'My App'") == []


def test_each_partition_is_built_by_itself(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(manager, *PARTITIONED)
    run(manager, "create index concurrently p_2025_p_kind_idx on p_2025 (kind)")  # as a kill before ATTACH leaves it
    up(database, tmp_path, ON_PARTITIONED)
    tree = "select count(*), bool_and(indisvalid) from pg_partition_tree('p_kind_idx') t join pg_index i"
    assert ask(manager, f"{tree} on i.indexrelid = t.relid") == [(5, True)]
    run(manager, "create table p_2027 partition of p for values from ('2027-01-01') to ('2028-01-01')")
    again(database, tmp_path, ON_PARTITIONED)
    assert ask(manager, f"{tree} on i.indexrelid = t.relid") == [(6, True)]
    again(database, tmp_path, "ops.drop_concurrent_index('p_kind_idx', 'p')")
    assert ask(manager, "select to_regclass('p_kind_idx')") == [(None,)]


def test_a_partition_that_was_broken_off_is_gone_on_with(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(manager, *PARTITIONED)
    source = "ops.concurrent_index('p_kind_idx', 'p', ['kind'], patience_s=0.2, attempts=1)"
    with (
        holding(manager, "insert into p_2026_rest values (9999, '2026-03-01', 1)"),
        pytest.raises(errors.LockTimeout),
    ):
        up(database, tmp_path, source)
    assert indexes(manager, "p") == {"p_kind_idx": False}
    assert indexes(manager, "p_2025") == {"p_2025_p_kind_idx": True}
    up(database, tmp_path, source)
    assert indexes(manager, "p") == {"p_kind_idx": True}


def test_dropping_a_half_built_one_takes_its_parts_along(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(manager, *PARTITIONED, "create index p_kind_idx on only p (kind)")
    run(manager, "create index p_2025_p_kind_idx on p_2025 (kind)")
    up(database, tmp_path, "ops.drop_concurrent_index('p_kind_idx', 'p')")
    assert indexes(manager, "p") == indexes(manager, "p_2025") == {}


@pytest.mark.slow
def test_killed_in_mid_build_it_leaves_an_invalid_index_that_the_rerun_replaces(
    bills: ConnectionManager, tmp_path: Path
) -> None:
    where = scripts_in(tmp_path, a1=body(BUILD))
    with holding(bills, "insert into b (title) values ('x')"):  # the build waits for it
        with in_background(migrator(bills, where).up) as running:
            building = "select count(*) from pg_stat_progress_create_index where phase like 'waiting%'"
            assert wait_until(lambda: ask(bills, building) == [(1,)], timeout_s=60)
            [pid] = runner_pids(os.getpid())
            os.kill(pid, signal.SIGKILL)
            assert running.exception(timeout=60) is not None
        assert indexes(bills, "b") == {"b_title_idx": False}
    assert [step.revision for step in migrator(bills, where).up().applied] == ["a1"]
    assert indexes(bills, "b") == {"b_title_idx": True}

"""Backfills: each row once whatever is killed, an end while rows come in, rests while the server has enough to do."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops import context, errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.operations import backfills as module
from chanuka_ops.migrator.operations import rules
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.operations_cases import again, ask, body, run, up
from chanuka_ops_tests.integration.test_migrator_trouble import (
    holding,
    in_background,
    migrator,
    runner_pids,
    scripts_in,
)
from chanuka_ops_tests.plugins.replicas import Cluster

pytestmark = pytest.mark.postgres

ROWS = 1500
COUNT = "ops.backfill('t', {'n': 'n + 1'}, batch=100)"
SLOW = "ops.backfill('t', {'n': 'n + 1 + length(pg_sleep(0.001)::text)'}, batch=50, batch_s=0.05)"
UNLESS_STOPPED = f"""
    {COUNT}
    from pathlib import Path
    if Path(__file__).parents[1].joinpath("stop").exists():
        raise RuntimeError
"""
OPTIONAL = """
    import json
    from pathlib import Path
    options = json.loads(Path(__file__).parents[1].joinpath("options.json").read_text())
    ops.backfill(options.pop("table", "t"), {"n": "n + 1"}, batch=100, **options)
"""
OLD = f"select count(*), min(n), max(n) from t where id <= {ROWS}"
ONCE = [(ROWS, 1, 1)]


@pytest.fixture
def table(manager: ConnectionManager) -> ConnectionManager:
    """A database with a table whose rows count how often they were changed."""
    make_table(manager)
    return manager


def make_table(manager: ConnectionManager) -> None:
    run(
        manager,
        "create table t (id bigint generated always as identity primary key, n int not null default 0)",
        f"insert into t (n) select 0 from generate_series(1, {ROWS})",
    )


@contextmanager
def inserting(manager: ConnectionManager) -> Iterator[None]:
    """Rows come in for as long as the block takes."""
    stop = threading.Event()

    def insert() -> None:
        while not stop.wait(0.03):
            run(manager, "insert into t (n) select 0 from generate_series(1, 20)")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(insert)
        try:
            yield
        finally:
            stop.set()
            running.result()


def changed(manager: ConnectionManager) -> int:
    return int(ask(manager, "select count(*) from t where n > 0")[0][0])


@pytest.mark.slow
def test_killed_midway_while_rows_come_in_each_row_is_changed_once(table: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1=body(SLOW))
    with inserting(table):
        with in_background(migrator(table, where).up) as running:
            assert wait_until(lambda: changed(table) > 100, timeout_s=60, poll_s=0.02)
            [pid] = runner_pids(os.getpid())
            os.kill(pid, signal.SIGKILL)
            assert running.exception(timeout=60) is not None
        midway = changed(table)
        [(last,)] = ask(table, "select upto[1]::int from chanuka_ops.backfills")
        assert 0 < midway < ROWS
        migrator(table, where).up()
    assert ask(table, f"select min(n), max(n) from t where id <= {last}") == [(1, 1)]
    assert ask(table, f"select count(*) > 0, max(n) from t where id > {last}") == [(True, 0)]
    assert ask(table, "select count(*) from chanuka_ops.backfills") == [(0,)]


def test_without_its_cursor_rows_would_be_changed_twice(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(("a", "b"))
    monkeypatch.setattr(rules, "fingerprint", lambda *_: next(names))
    stop = tmp_path / "stop"
    stop.touch()
    with pytest.raises(RuntimeError):
        up(database, tmp_path, UNLESS_STOPPED)
    stop.unlink()
    up(database, tmp_path, UNLESS_STOPPED)
    assert ask(table, OLD) == [(ROWS, 2, 2)]


def test_a_finished_one_isnt_repeated_before_its_revision_is_recorded_and_is_after(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    with pytest.raises(RuntimeError):
        up(database, tmp_path, UNLESS_STOPPED)
    stop.unlink()
    up(database, tmp_path, UNLESS_STOPPED)
    assert ask(table, OLD) == ONCE
    again(database, tmp_path, COUNT)
    assert ask(table, OLD) == [(ROWS, 2, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_it_ends_with_the_rows_there_were_at_its_start_and_would_follow_the_inserts_otherwise(
    table: ConnectionManager,
    database: DatabaseSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fixed: bool,
) -> None:
    real = rules.begin_sql

    def endless(*given: Any) -> str:
        return real(*given).replace('array["id"::text]', "array['9223372036854775807']")

    if not fixed:
        monkeypatch.setattr(rules, "begin_sql", endless)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(up, database, tmp_path, SLOW)
        assert wait_until(lambda: changed(table) > 0, timeout_s=60, poll_s=0.02)
        with inserting(table):
            time.sleep(0.5)
        running.result()
    assert ask(table, OLD) == ONCE
    assert ask(table, f"select count(*) > 0, max(n) from t where id > {ROWS}") == [(True, 0 if fixed else 1)]


def test_a_locked_row_costs_tries_only(table: ConnectionManager, database: DatabaseSettings, tmp_path: Path) -> None:
    with holding(table, f"select from t where id = {ROWS // 2} for update") as release:
        threading.Timer(0.8, release).start()
        up(database, tmp_path, COUNT, lock_timeout_s=0.2)
    assert ask(table, OLD) == ONCE


def test_a_row_that_stays_locked_ends_it_and_it_goes_on_from_there(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    with (
        holding(table, f"select from t where id = {ROWS // 2} for update"),
        pytest.raises(errors.LockTimeout, match="safe to run it again"),
    ):
        up(database, tmp_path, COUNT, lock_timeout_s=0.2, retry_deadline_s=0.5)
    assert 0 < changed(table) < ROWS // 2
    up(database, tmp_path, COUNT)
    assert ask(table, OLD) == ONCE


def test_by_a_key_of_two_columns_and_only_where_it_holds(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(
        manager,
        'create table "T" ("a:b" text collate "C", day date, "50%" int, primary key (day, "a:b"))',
        "insert into \"T\" select chr(97 + n % 20), date '2026-01-01' + n / 20, 0 from generate_series(0, 999) n",
    )
    source = """
        where = '"a\\:b" <> \\'c\\' -- not these'.replace("\\\\", "")
        ops.backfill("T", {"50%": '"50%" + 1 -- one more'}, where=where, batch=70)
    """
    up(database, tmp_path, source)
    found = ask(manager, 'select "50%", count(*) from "T" group by 1 order by 1')
    assert found == [(0, 50), (1, 950)]


def test_partitions_an_empty_table_and_a_stated_key(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(
        manager,
        "create table p (id int, day date, n int default 0, primary key (day, id)) partition by range (day)",
        "create table p_old partition of p for values from (minvalue) to ('2026-01-10')",
        "create table p_new partition of p for values from ('2026-01-10') to (maxvalue)",
        "insert into p select n, date '2026-01-01' + n % 20 from generate_series(1, 500) n",
        "create table e (id int primary key, n int)",
        "create table u (code text not null unique, n int not null default 0)",
        "insert into u select 'c' || n from generate_series(1, 30) n",
    )
    up(
        database,
        tmp_path,
        "for table in ('p', 'e'):\n    ops.backfill(table, 'n = n + 1', batch=50)\n"
        "ops.backfill('u', {'n': 'n + 1'}, key=['code'], batch=10)",
    )
    assert ask(manager, "select count(*), min(n), max(n) from p") == [(500, 1, 1)]
    assert ask(manager, "select count(*), min(n), max(n) from u") == [(30, 1, 1)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("ops.backfill('u', {'n': '1'})", "has no primary key"),
        ("ops.backfill('u', {'n': '1'}, key=['n'])", r"no unique index of exactly \(n\).* Keys that do: code"),
        ("ops.backfill('gone', {'n': '1'})", 'no table "gone"'),
    ],
)
def test_what_cannot_be_walked_is_refused(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path, call: str, words: str
) -> None:
    run(manager, "create table u (code text not null unique, n int unique)")
    with pytest.raises(errors.MigrationFailed, match=words):
        up(database, tmp_path, call)


def test_it_tells_how_far_it_is(table: ConnectionManager, database: DatabaseSettings, tmp_path: Path) -> None:
    told: list[context.Progress] = []
    run(table, "analyze t")
    with context.scope(on_progress=told.append):
        up(database, tmp_path, COUNT)
    assert [step.done for step in told][-1] == ROWS
    assert {(step.unit, step.total) for step in told} == {("rows", ROWS)}


def test_it_rests_while_a_standby_is_behind(replicas: Cluster, tmp_path: Path) -> None:
    database = replicas.primary.settings()
    with ConnectionManager("main", database) as manager:
        make_table(manager)
        replicas.caught_up()
        replicas.asynchronous.pause_replay()
        try:
            with pytest.raises(errors.MigrationFailed, match=r"rested for 0.5 s: a standby is .* behind, over 20000"):
                with_every_look(database, tmp_path, OPTIONAL, max_lag_bytes=20_000, brake_deadline_s=0.5)
            assert changed(manager) < ROWS
            threading.Timer(0.5, replicas.asynchronous.resume_replay).start()
            with_every_look(database, tmp_path, OPTIONAL, max_lag_bytes=20_000, brake_deadline_s=60)
            assert ask(manager, OLD) == ONCE
            replicas.asynchronous.pause_replay()
            optional(tmp_path, max_lag_bytes=None, brake_deadline_s=0.5)
            again(database, tmp_path, OPTIONAL)  # switched off, it doesn't care
            assert ask(manager, OLD) == [(ROWS, 2, 2)]
        finally:
            replicas.asynchronous.resume_replay()
            run(manager, "drop table t, alembic_version", "drop schema chanuka_ops cascade")


def optional(directory: Path, **options: Any) -> None:
    """Say what OPTIONAL is called with; the file stays the same, as it has to in a rerun."""
    (directory / "options.json").write_text(json.dumps(options))


def with_every_look(database: DatabaseSettings, directory: Path, source: str, **options: Any) -> None:
    optional(directory, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOOK_S", 0.0)
        up(database, directory, source)


def test_it_rests_to_stay_under_a_rate_of_wal(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(table, "checkpoint")
    wal = "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
    [(before,)] = ask(table, wal)
    started = time.monotonic()
    with_every_look(
        database, tmp_path, COUNT.replace("batch=100", "batch=100, batch_s=0.01, max_wal_bytes_per_s=200000")
    )
    took_s = time.monotonic() - started
    [(after,)] = ask(table, wal)
    assert took_s > float(after - before) / 200_000 / 3  # a batch may be over it, and the last is not rested for
    assert ask(table, OLD) == ONCE


def test_it_rests_while_a_vacuum_prevents_wraparound(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    """The server's own words, in a VACUUM that is as slow as one likes."""
    run(table, "create table other (id int primary key, n int)", "insert into other values (1, 0)")
    run(table, "alter table t set (autovacuum_enabled = false)", "update t set n = 0")

    def vacuum() -> None:
        with suppress(errors.StatementTimeout), table.autocommit() as connection:
            for statement in (
                "set vacuum_cost_limit = 1",
                "set vacuum_cost_delay = 100",
                "vacuum (freeze) t -- (to prevent wraparound)",
            ):
                connection.exec_driver_sql(statement)

    running = threading.Thread(target=vacuum)
    running.start()
    try:
        assert wait_until(lambda: ask(table, "select count(*) from pg_stat_progress_vacuum") == [(1,)], timeout_s=20)
        with pytest.raises(errors.MigrationFailed, match="autovacuum to prevent wraparound is at work"):
            with_every_look(database, tmp_path, OPTIONAL, brake_deadline_s=0.3)
        assert changed(table) == 0
        with_every_look(database, tmp_path, OPTIONAL, table="other", brake_deadline_s=0.3)  # it's about the table
        assert ask(table, "select n from other") == [(1,)]
    finally:
        run(
            table,
            "select pg_cancel_backend(pid) from pg_stat_activity"
            " where datname = current_database() and query like 'vacuum%'",
        )
        running.join(20)

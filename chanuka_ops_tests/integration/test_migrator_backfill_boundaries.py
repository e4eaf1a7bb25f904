"""A backfill killed at every boundary of its batches, and run again: each row is filled once, and none is left out."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.operations_cases import ask, body, run
from chanuka_ops_tests.integration.test_migrator_trouble import (
    holding,
    in_background,
    migrator,
    runner_pids,
    scripts_in,
)
from chanuka_ops_tests.plugins.migrating import Kind, Migrations
from chanuka_ops_tests.plugins.nodes import Node, cluster_template, opened
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres

ROWS, BATCH, LATER = 45, 10, 5
# Without a condition: a row that is filled twice shows. Without a time to fill, the batches stay at their least; and
# the server is asked once what it bears, so that each run has the same steps.
FILL = f"""
from chanuka_ops.migrator.operations import backfills
backfills.LOOK_S = 3600
ops.backfill('counted', {{'n': 'n + 1'}}, batch={BATCH}, batch_s=0.000001)
"""
MAKE = (
    "op.execute('create table counted (id int primary key, n int not null default 0)')\n"
    f"op.execute('insert into counted select g from generate_series(1, {ROWS}) g')"
)
MORE = f"insert into counted select g from generate_series({ROWS + 1}, {ROWS + LATER}) g"
CURSORS = "chanuka_ops.backfills"


def location_of(directory: Path) -> Path:
    return scripts_in(directory, a1=MAKE, b2=body(FILL))


def began(database: DatabaseSettings) -> bool:
    """Whether the backfill has fixed its end: by its cursor, which goes when the revision is recorded."""
    with connect(database) as connection:
        versions = connection.execute("select version_num from alembic_version").fetchall()
        there = connection.execute(f"select to_regclass('{CURSORS}') is not null".encode()).fetchone()
        cursors = connection.execute(f"select from {CURSORS}".encode()).fetchall() if there == (True,) else []
        return versions == [("b2",)] or bool(cursors)


def wrong_after(database: DatabaseSettings, location: Path, migrations: Migrations) -> str | None:
    """Have rows come in after it was struck, and run it again; say what isn't as it should be, if something isn't."""
    fixed = began(database)
    with connect(database) as connection:
        connection.execute(MORE.encode())
    rerun = migrations.run(database, location)
    counts = "select count(*), min(n), max(n) from counted where id"
    with connect(database) as connection:
        found = [
            rerun.get("error"),
            connection.execute("select array_agg(version_num::text) from alembic_version").fetchone(),
            connection.execute(f"{counts} <= {ROWS}".encode()).fetchone(),
            connection.execute(f"{counts} > {ROWS}".encode()).fetchone(),
            connection.execute(f"select count(*) from {CURSORS}".encode()).fetchone(),
        ]
    # What came after its end was fixed is another's business; what came before is its own.
    later = (LATER, 0, 0) if fixed else (LATER, 1, 1)
    return None if found == [None, (["b2"],), (ROWS, 1, 1), later, (0,)] else str(found)


@pytest.mark.parametrize("boundary", ["before:11", "after:11", "commit:15"])
def test_killed_about_a_batch_or_before_it_is_recorded(
    boundary: str, database: DatabaseSettings, migrations: Migrations, tmp_path: Path
) -> None:
    location = location_of(tmp_path)
    assert migrations.run(database, location, boundary=f"b2 {boundary}", kind="client")["status"] == -signal.SIGKILL
    with connect(database) as connection:
        filled = connection.execute("select count(*) from counted where n > 0").fetchone()
    assert filled == ({"before:11": 20, "after:11": 30, "commit:15": ROWS}[boundary],)
    assert wrong_after(database, location, migrations) is None


@pytest.fixture(scope="module")
def node(pg: Binaries, session_dir: Path) -> Iterator[Node]:
    """A server to stop at once, and start again."""
    with (
        cluster_template(session_dir / "backfill-template", pg, {}) as (data, programs),
        opened(Node, session_dir / "backfill", data, programs) as running,
    ):
        running.start()
        yield running


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["client", "backend", "server"])
def test_struck_at_every_boundary(kind: Kind, node: Node, migrations: Migrations, tmp_path: Path) -> None:
    location = location_of(tmp_path)

    def fresh() -> DatabaseSettings:
        name = f"boundaries_{uuid.uuid4().hex[:8]}"
        node.query(f"create database {name} template template0")
        return node.settings(name)

    passed = [name for name in migrations.run(fresh(), location)["boundaries"] if name.startswith("b2 ")]
    assert len(passed) >= 2 * ROWS / BATCH
    wrong = {}
    for boundary in passed:
        database = fresh()
        struck = migrations.run(database, location, boundary=boundary, kind=kind, postmaster=node.pid)
        if kind == "server":
            node.start()
        # The end of a session that has nothing left to say is noticed by nobody.
        unnoticed = kind != "client" and boundary == passed[-1]
        if struck["status"] != -signal.SIGKILL and "error" not in struck and not unnoticed:
            wrong[boundary] = "it wasn't struck"
        elif (found := wrong_after(database, location, migrations)) is not None:
            wrong[boundary] = found
        node.query(f"drop database {database.sqlalchemy_url.database} with (force)")
    assert not wrong


@pytest.mark.slow
def test_killed_while_a_batch_is_under_way_at_the_server(manager: ConnectionManager, tmp_path: Path) -> None:
    """The client is gone; the batch waits for a row, and then is done by a session that nobody listens to, or isn't."""
    location = location_of(tmp_path)
    subject = migrator(manager, location, lock_timeout_s=60)
    subject.up("a1")
    waits = (
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        " and query like '%touched as%'"
    )
    with holding(manager, f"select from counted where id = {2 * BATCH + 5} for update") as release:
        with in_background(subject.up) as running:
            assert wait_until(lambda: ask(manager, waits) == [(1,)], timeout_s=60, poll_s=0.05)
            [pid] = runner_pids(os.getpid())
            os.kill(pid, signal.SIGKILL)
            assert running.exception(timeout=60) is not None
        assert ask(manager, "select count(*) from counted where n > 0") == [(2 * BATCH,)]
        release()
    run(manager, MORE)
    subject.up()
    assert ask(manager, f"select count(*), min(n), max(n) from counted where id <= {ROWS}") == [(ROWS, 1, 1)]
    assert ask(manager, f"select count(*), max(n) from counted where id > {ROWS}") == [(LATER, 0)]
    assert ask(manager, f"select count(*) from {CURSORS}") == [(0,)]

"""A revision that was broken off: what a rerun finds out by itself, what it asks a person, and what is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.running.resolving import Resolution
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.resume_cases import CASES, HELPED, location_of, state_of
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import migrator, table_exists, write
from chanuka_ops_tests.plugins.migrating import Kind, Migrations
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres

CALL = """
op.execute('create table called (n int)')
op.execute('create procedure p() language plpgsql as $$ begin insert into called values (1); commit; end $$')
with op.get_context().autocommit_block():
    op.execute('call p()')
op.execute('create table after_it (id int)')
"""
RETURNING = """
op.execute('create table called (n int)')
op.get_bind().exec_driver_sql('insert into called values (1) returning n').scalar_one()
with op.get_context().autocommit_block():
    op.execute('analyze called')
"""


def count(database: DatabaseSettings, table: str = "called") -> int:
    with connect(database) as connection:
        [(found,)] = connection.execute(f"select count(*) from {table}".encode()).fetchall()
        return int(found)


def journal(manager: ConnectionManager, what: str) -> list[Any]:
    with manager.read() as connection:
        return list(connection.execute(text(what)).all())


@pytest.mark.parametrize(
    ("case", "boundary", "kind"),
    [
        ("autocommit", "committed:2", "client"),
        ("autocommit", "before:4", "client"),
        ("autocommit", "after:4", "client"),
        ("autocommit", "commit:7", "backend"),
        ("backfill", "committed:4", "client"),
        ("backfill", "commit:4", "backend"),
        ("transactional", "commit:4", "client"),
    ],
)
def test_a_rerun_converges(  # noqa: PLR0917 - a case and its fixtures
    case: str, boundary: str, kind: Kind, database: DatabaseSettings, migrations: Migrations, tmp_path: Path
) -> None:
    location = location_of(tmp_path, CASES[case])
    struck = migrations.run(database, location, boundary=f"b2 {boundary}", kind=kind)
    assert struck.get("error") or struck["status"] == -9
    rerun = migrations.run(database, location)
    assert "error" not in rerun
    version, rows, indexes, _ = state_of(database)
    assert version == (["b2"],)
    assert rows == (20, 1, 1)
    assert all(valid for _, valid in indexes)  # type: ignore[attr-defined]  # rows of pairs


@pytest.mark.parametrize("step", [3, 5, 9, 12])
def test_operations_go_on_by_themselves(
    step: int, database: DatabaseSettings, migrations: Migrations, tmp_path: Path
) -> None:
    location = location_of(tmp_path, HELPED)
    undisturbed = [name for name in migrations.run(database, location, to="a1")["boundaries"] if name]
    assert undisturbed
    assert migrations.run(database, location, boundary=f"b2 after:{step}", kind="client")["status"] == -9
    assert "error" not in migrations.run(database, location)
    with connect(database) as connection:
        assert connection.execute("select min(n), max(n), count(m) from counted").fetchone() == (1, 1, 20)


def test_what_nobody_can_know_is_asked_by_its_step(
    manager: ConnectionManager, database: DatabaseSettings, migrations: Migrations, tmp_path: Path
) -> None:
    location = location_of(tmp_path, CALL)
    migrations.run(database, location, boundary="b2 after:3", kind="client")
    rerun = migrations.run(database, location)
    assert rerun["exit_code"] == 3
    assert "migrate resolve b2 --step 3 --done" in rerun["error"]
    assert count(database) == 1
    assert not table_exists(manager, "after_it")

    said = migrator(manager, location).resolve(Resolution("b2", "done", 3))
    assert "call p()" in said
    assert migrations.run(database, location)["applied"] == ["b2"]
    assert count(database) == 1
    with pytest.raises(errors.RefusedError, match="nothing to resolve"):
        in_this_process(database, location).resolve(Resolution("b2", "done", 3))


@pytest.mark.slow
def test_what_a_person_has_run_again_is_run_again(
    database: DatabaseSettings, migrations: Migrations, tmp_path: Path
) -> None:
    location = location_of(tmp_path, CALL)
    migrations.run(database, location, boundary="b2 before:3", kind="client")
    steps = in_this_process(database, location)
    with pytest.raises(errors.RefusedError, match="no step 9"):
        steps.resolve(Resolution("b2", "redo", 9))
    steps.resolve(Resolution("b2", "redo", 3))
    assert migrations.run(database, location)["applied"] == ["b2"]
    assert count(database) == 1


def test_a_result_that_is_gone_is_asked_for(database: DatabaseSettings, migrations: Migrations, tmp_path: Path) -> None:
    location = location_of(tmp_path, RETURNING)
    migrations.run(database, location, boundary="b2 committed:2", kind="client")
    rerun = migrations.run(database, location)
    assert "its result" in rerun["error"]
    assert count(database) == 1


def test_a_file_that_was_edited_since_is_refused(
    manager: ConnectionManager, database: DatabaseSettings, migrations: Migrations, tmp_path: Path
) -> None:
    location = location_of(tmp_path, CASES["autocommit"])
    migrations.run(database, location, boundary="b2 before:4", kind="client")
    write(location, "b2", "a1", CASES["autocommit"] + "\nop.execute('create table more (id int)')")
    rerun = migrations.run(database, location)
    assert rerun["exit_code"] == 3
    assert "edited since" in rerun["error"]
    in_this_process(database, location).resolve(Resolution("b2", "edited"))
    assert migrations.run(database, location)["applied"] == ["b2"]
    assert table_exists(manager, "more")
    assert state_of(database)[1] == (20, 1, 1)


def test_what_was_undone_by_hand_is_run_from_its_start(
    manager: ConnectionManager, database: DatabaseSettings, migrations: Migrations, tmp_path: Path
) -> None:
    location = location_of(tmp_path, CASES["autocommit"])
    migrations.run(database, location, boundary="b2 before:4", kind="client")
    with manager.transaction() as connection:
        connection.execute(text("drop table counted"))
    assert "error" in migrations.run(database, location)
    in_this_process(database, location).resolve(Resolution("b2", "forget"))
    assert migrations.run(database, location)["applied"] == ["b2"]
    assert state_of(database)[1] == (20, 1, 1)


def test_the_journal_tells_who_did_what(manager: ConnectionManager, tmp_path: Path) -> None:
    location = location_of(tmp_path, CASES["autocommit"])
    subject = migrator(manager, location)
    subject.up()
    subject.down("a1")
    newest, b2, a1 = subject.history()
    assert (newest.direction, b2.direction, b2.revision, a1.revision) == ("down", "up", "b2", "a1")
    assert {entry.outcome for entry in (newest, b2, a1)} == {"done"}
    assert len(b2.sha256) == 64
    assert b2.actor
    assert b2.host
    steps = journal(
        manager,
        "select kind, s.outcome, autocommit, xid is not null from chanuka_ops.migration_steps s"
        " join chanuka_ops.migration_entries e on e.id = s.entry_id"
        " where revision = 'b2' and direction = 'up' and kind not in ('read', 'always') order by s.id",
    )
    assert [row[0] for row in steps[:5]] == ["change", "change", "build_index", "build_index", "change"]
    assert {row[1] for row in steps} == {"done"}
    assert [tuple(row)[2:] for row in steps[2:5]] == [(True, False), (True, False), (True, True)]


def test_a_failed_revision_is_in_the_journal_and_leaves_nothing_to_resume(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    location = location_of(tmp_path, "op.execute('create table x (id int)')\nop.execute('select 1 / 0')")
    with pytest.raises(errors.MigrationFailed):
        in_this_process(database, location).move("up", "head")
    [entry, _] = migrator(manager, location).history()
    assert (entry.revision, entry.outcome) == ("b2", "failed")
    assert "22012" in entry.message
    assert journal(manager, "select outcome from chanuka_ops.migration_steps where statement like 'select 1 /%'") == [
        ("failed",)
    ]
    write(location, "b2", "a1", "op.execute('create table x (id int)')")
    in_this_process(database, location).move("up", "head")


@pytest.mark.parametrize("policy", ["wait", "cancel_own_orphans"])
def test_an_orphaned_session_is_waited_for_or_ended(
    policy: str, manager: ConnectionManager, database: DatabaseSettings, migrations: Migrations, tmp_path: Path
) -> None:
    location = location_of(tmp_path, CASES["transactional"])
    migrations.run(database, location, to="a1")
    orphan = connect(database)
    orphan.execute("lock table before in access share mode")
    with manager.transaction() as connection:  # as a killed run would have left it
        connection.execute(
            text(
                "insert into chanuka_ops.migration_entries (run_id, actor, host, revision, direction, sha256, outcome,"
                " backend_pid, backend_start, application_name) select 'r', 'a', 'h', 'b2', 'up', 'x', 'running', pid,"
                " backend_start, application_name from pg_stat_activity where pid = :pid"
            ),
            {"pid": orphan.info.backend_pid},
        )
    rerun = migrations.run(database, location, blockers=policy, wait_s=0.5)
    if policy == "wait":
        assert rerun["exit_code"] == 3
        assert f"pid {orphan.info.backend_pid} " in rerun["error"]
        orphan.close()
        assert wait_until(lambda: "error" not in migrations.run(database, location), timeout_s=20)
    else:
        assert rerun["applied"] == ["b2"]
    orphan.close()


def test_without_the_right_to_make_the_journal_nothing_is_run(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    location = location_of(tmp_path, CASES["transactional"])
    with manager.autocommit() as connection:
        connection.execute(text("create role without_schema login"))
    try:
        url = database.sqlalchemy_url.set(username="without_schema").render_as_string(hide_password=False)
        narrow = in_this_process(DatabaseSettings(url=url), location)  # type: ignore[arg-type]  # pydantic takes text
        with pytest.raises(errors.PermissionDenied, match="journal_schema"):
            narrow.move("up", "head")
    finally:
        with manager.autocommit() as connection:
            connection.execute(text("drop role without_schema"))
    assert not table_exists(manager, "before")

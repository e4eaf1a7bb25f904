"""Wrong revision files, failing ones, and targets that make no sense: a clear message, and nothing changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import rules
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import SECRET, migrator, scripts_in, table_exists, write

pytestmark = pytest.mark.postgres


def test_scripts_that_go_to_another_database_are_refused(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1="op.execute('create table a1 (id bigint)')")
    elsewhere = manager.settings.with_dbname("postgres").url.get_secret_value()
    (where / "env.py").write_text(
        "from alembic import context\nfrom sqlalchemy import NullPool, create_engine\n"
        f"with create_engine({elsewhere!r}, poolclass=NullPool).connect() as connection:\n"
        "    context.configure(connection=connection)\n"
        "    with context.begin_transaction():\n"
        "        context.run_migrations()\n"
    )
    with pytest.raises(errors.ConfigurationError, match=r"attributes\['connection'\]"):
        in_this_process(manager.settings, where).move("up", "head")
    assert not table_exists(manager, "a1")


def test_two_heads_are_refused_by_name(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1="op.execute('create table a1 (id bigint)')", b2="op.execute('select 1')")
    write(where, "c3", "a1", "op.execute('select 1')")
    assert [problem.kind for problem in in_this_process(manager.settings, where).plan().problems] == ["several_heads"]
    with pytest.raises(errors.HeadsConflict, match=r"(?=.*b2)(?=.*c3)"):
        migrator(manager, where).up()
    assert not table_exists(manager, "a1")


def test_no_revision_files(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path / "empty")
    with pytest.raises(errors.ConfigurationError, match=str(where)):
        migrator(manager, where).up()
    with pytest.raises(errors.ConfigurationError, match=str(tmp_path / "nowhere")):
        migrator(manager, tmp_path / "nowhere").plan()
    assert not table_exists(manager, "alembic_version")


def test_a_database_from_the_future_is_refused(database: DatabaseSettings, tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1="op.execute('select 1')", b2="op.execute('select 1')")
    in_this_process(database, where).move("up", "head")
    (where / "versions" / "b2.py").unlink()
    steps = in_this_process(database, where)
    plan = steps.plan()
    assert (plan.current, plan.problems[0].kind, plan.problems[0].revision) == ("b2", "unknown_revision", "b2")
    for direction, to in (("up", "head"), ("down", "base")):
        with pytest.raises(errors.RefusedError, match="b2"):
            steps.move(direction, to)  # type: ignore[arg-type]  # a loop widens the literal


@pytest.mark.parametrize("body", ["syntax error here", "raise RuntimeError('at import')", "down_revision = 'gone'"])
def test_files_that_can_not_be_read(manager: ConnectionManager, tmp_path: Path, body: str) -> None:
    where = scripts_in(tmp_path, a1="op.execute('create table a1 (id bigint)')")
    path = where / "versions" / "a1.py"
    path.write_text(path.read_text() + body + "\n")
    steps = in_this_process(manager.settings, where)
    refused = rules.refusal(steps.plan())
    assert type(refused) is errors.ConfigurationError
    assert str(where) in str(refused)
    with pytest.raises(errors.ConfigurationError):
        steps.move("up", "head")
    assert not table_exists(manager, "a1")


def test_a_failing_revision_is_named_and_leaves_nothing(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(
        tmp_path,
        a1="import os\nprint('a line')\nos.write(1, b'{}\\\\n')\nop.execute('create table a1 (id bigint)')",
        b2="op.execute('create table b2 (id bigint)')\nop.execute('create table a1 (id bigint)')",
    )
    with pytest.raises(errors.MigrationFailed, match=r"b2.*42P07.*Nothing of that revision.*a1 went through"):
        migrator(manager, where).up()
    assert table_exists(manager, "a1")
    assert not table_exists(manager, "b2")


def test_a_revision_that_raises_is_a_failed_migration(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1="op.execute('create table a1 (id bigint)')\nraise ValueError('odd data')")
    with pytest.raises(errors.MigrationFailed, match="odd data"):
        migrator(manager, where).up()
    assert not table_exists(manager, "a1")


def test_targets_that_make_no_sense(database: DatabaseSettings, tmp_path: Path) -> None:
    steps = in_this_process(database, scripts_in(tmp_path, a1="op.execute('select 1')", b2="op.execute('select 1')"))
    with pytest.raises(errors.ConfigurationError, match="a1, b2"):
        steps.move("up", "c3")
    steps.move("up", "head")
    with pytest.raises(errors.RefusedError, match="migrate down"):
        steps.move("up", "a1")


def test_a_missing_database_is_said_plainly(manager: ConnectionManager) -> None:
    url = manager.settings.sqlalchemy_url.set(database="not_there", password=SECRET)
    settings = DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False)))
    with ConnectionManager("main", settings) as absent:
        for act in (migrator(absent).plan, migrator(absent).up):
            with pytest.raises(errors.DatabaseMissing) as caught:
                act()
            assert SECRET not in str(caught.value)

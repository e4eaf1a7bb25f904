"""Several heads, branches and relative targets; and the SQL of what would be run."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import locating
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import migrator, scripts_in, table_exists, write

pytestmark = pytest.mark.postgres


def made(name: str) -> str:
    return f"op.execute('create table {name} (id int)')"


@pytest.fixture
def branches(tmp_path: Path) -> Path:
    """a1, and on it b2 then b3 (labelled left) and c2."""
    where = scripts_in(tmp_path, a1=made("a1"))
    write(where, "b2", "a1", made("b2") + "\n")
    path = where / "versions" / "b2.py"
    path.write_text(path.read_text() + "branch_labels = ('left',)\n")
    write(where, "b3", "b2", made("b3"))
    write(where, "c2", "a1", made("c2"))
    for name in ("a1", "b2", "b3", "c2"):
        path = where / "versions" / f"{name}.py"
        path.write_text(path.read_text().replace("op.execute('select 1')", f"op.execute('drop table {name}')"))
    return where


def tables(manager: ConnectionManager) -> set[str]:
    return {name for name in ("a1", "b2", "b3", "c2") if table_exists(manager, name)}


@pytest.mark.parametrize(
    ("moves", "left", "current"),
    [
        (["heads"], {"a1", "b2", "b3", "c2"}, ("b3", "c2")),
        (["left@head"], {"a1", "b2", "b3"}, ("b3",)),
        (["b2@head"], {"a1", "b2", "b3"}, ("b3",)),
        (["a1", "c2"], {"a1", "c2"}, ("c2",)),
        (["a1", "left@+1"], {"a1", "b2"}, ("b2",)),
        (["+1"], {"a1"}, ("a1",)),
        (["a1", "c2", "left@head"], {"a1", "b2", "b3", "c2"}, ("b3", "c2")),
    ],
)
def test_up_to(
    moves: list[str], left: set[str], current: tuple[str, ...], manager: ConnectionManager, branches: Path
) -> None:
    steps = in_this_process(manager.settings, branches)
    for to in moves:
        steps.move("up", to)
    assert tables(manager) == left
    assert tuple(sorted(steps.current())) == current


@pytest.mark.parametrize(
    ("to", "left"),
    [("a1", {"a1"}), ("b2", {"a1", "b2", "c2"}), ("left@-1", {"a1", "b2", "c2"}), ("base", set())],
)
def test_down_to(to: str, left: set[str], manager: ConnectionManager, branches: Path) -> None:
    steps = in_this_process(manager.settings, branches)
    steps.move("up", "heads")
    steps.move("down", to)
    assert tables(manager) == left


def test_a_plain_head_among_several_is_refused(manager: ConnectionManager, branches: Path) -> None:
    steps = in_this_process(manager.settings, branches)
    with pytest.raises(errors.HeadsConflict, match=r"(?=.*b3)(?=.*c2)"):
        steps.move("up", "head")
    steps.move("up", "b3")
    for to in ("nobody@head", "+9"):
        with pytest.raises(errors.ConfigurationError, match="Nothing was changed"):
            steps.move("up", to)
    assert tables(manager) == {"a1", "b2", "b3"}


@pytest.mark.slow
def test_the_sql_of_what_is_pending_makes_the_same(manager: ConnectionManager, branches: Path) -> None:
    subject = migrator(manager, branches)
    subject.up("a1")
    sql = subject.preview("up", "heads")
    assert tables(manager) == {"a1"}
    assert "CREATE TABLE alembic_version" not in sql
    with manager.autocommit() as connection:
        connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
    assert tables(manager) == {"a1", "b2", "b3", "c2"}
    assert tuple(sorted(in_this_process(manager.settings, branches).current())) == ("b3", "c2")
    assert "drop table c2" in subject.preview("down", "a1")


def test_a_revision_that_asks_the_database_has_no_sql(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(
        tmp_path, a1=made("a1"), b2="import sqlalchemy as sa\nsa.inspect(op.get_bind()).get_table_names()"
    )
    with pytest.raises(errors.MigrationFailed, match=r"revision b2 can't be shown as SQL.*Nothing was changed"):
        in_this_process(manager.settings, where).preview("up", "head")
    assert not table_exists(manager, "a1")
    in_this_process(manager.settings, where).move("up", "head")


ENGINES = {
    "attributes": "connection = context.config.attributes['connection']",
    "its_engine": "connection = context.config.attributes['connection'].engine.connect()",
    "from_config": (
        "from sqlalchemy import engine_from_config, pool\n"
        "connection = engine_from_config(context.config.get_section('alembic'), prefix='sqlalchemy.',"
        " poolclass=pool.NullPool).connect()"
    ),
    "create_engine": (
        "import sqlalchemy as sa\nconnection = sa.create_engine(context.config.get_main_option('sqlalchemy.url')"
        ".replace('+psycopg', '+psycopg2')).connect()"
    ),
}


@pytest.mark.parametrize("how", list(ENGINES))
def test_however_env_gets_its_connection_it_is_ours(
    how: str, manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    where = scripts_in(
        tmp_path, a1="op.execute(\"create table a1 as select current_setting('lock_timeout') as waits\")"
    )
    (where / "env.py").write_text(
        f"from alembic import context\n{ENGINES[how]}\n"
        "with connection:\n"
        "    context.configure(connection=connection, version_table='theirs')\n"
        "    with context.begin_transaction():\n"
        "        context.run_migrations()\n"
    )
    in_this_process(database, where, lock_timeout_s=0.7).move("up", "head")
    with manager.read() as connection:
        assert connection.execute(text("select waits from a1")).scalar_one() == "700ms"
        assert connection.execute(text("select count(*) from theirs")).scalar_one() == 1
        seen = text("select count(*) from chanuka_ops.migration_steps where statement like 'create table a1%'")
        assert connection.execute(seen).scalar_one() == 1


def test_the_scripts_of_a_package_are_found_without_importing_it(tmp_path: Path) -> None:
    found = locating.locate(MigrationSettings(script_location=Path("dagster:_core/storage/alembic")), tmp_path)
    assert (found / "env.py").is_file()
    with pytest.raises(errors.ConfigurationError, match="no package 'not_there'"):
        locating.locate(MigrationSettings(script_location=Path("not_there:migrations")), tmp_path)


def test_the_ini_beside_the_scripts_is_read(manager: ConnectionManager, tmp_path: Path) -> None:
    where = scripts_in(tmp_path / "theirs", a1=made("a1"))
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = theirs\nversion_table = of_the_ini\n")
    (where / "env.py").write_text(
        "from alembic import context\n"
        "context.configure(connection=context.config.attributes['connection'],"
        " version_table=context.config.get_main_option('version_table'))\n"
        "with context.begin_transaction():\n    context.run_migrations()\n"
    )
    in_this_process(manager.settings, where).move("up", "head")
    assert table_exists(manager, "of_the_ini")

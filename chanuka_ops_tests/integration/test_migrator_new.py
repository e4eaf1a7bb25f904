"""`migrate new`: each kind's file is formatted, passes the lint, and runs up, down and up again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.cli import main
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import writing
from chanuka_ops.migrator.forms import Request
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.integration.operations_cases import ask, indexes, run
from chanuka_ops_tests.integration.test_migrator_schema import MIGRATIONS, in_this_process, schema_of
from chanuka_ops_tests.plugins.desk import Desk

ROOT = MIGRATIONS.parent
TABLES = (
    "create type mood as enum ('good')",
    "create schema app",
    "create table app.other (id int primary key)",
    "create table app.t (id int primary key, title text, note text, other_id int references app.other)",
    "insert into app.other values (1)",
    "insert into app.t select n, 'title ' || n, case when n % 2 = 0 then 'x' end, 1 from generate_series(1, 100) n",
    "create table titles (title text primary key)",
    "insert into titles select 'title ' || n from generate_series(1, 100) n",
    "create table gone (id int primary key)",
    "create table left_retired (id int primary key)",
)
REQUESTS = (
    Request("nothing_yet"),
    Request("by_title", "index", "t", "app", ("title", "id")),
    Request("subtitle", "column", "t", "app", ("subtitle",), "varchar(80)"),
    Request("title_known", "not-null", "t", "app", ("title",)),
    Request("known_titles", "check", "t", "app", condition="length(title) > 0 and title not like '%\"%'"),
    Request("fill_note", "backfill", "t", "app", ("note",), value="upper(title) || ' 100%'"),
    Request("less_notes", "drop-column", "t", "app", ("note",), "text"),
    Request("one_title", "unique", "t", "app", ("title",)),
    Request("bad_mood", "enum-value", type_="mood", value="b'ad"),
    Request("not_gone_yet", "drop-table", "gone"),
    Request("all_gone", "drop-table", "left_retired", message='What "it" was \\ is.'),
)
FOREIGN_KEY = Request(
    "to_other", "foreign-key", "t", columns=("title",), references="titles", referenced_columns=("title",)
)
FINAL = {"bad_mood", "all_gone"}  # these leave what they did


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of revisions without one."""
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    shutil.copy(MIGRATIONS / "env.py", tmp_path / "migrations")
    return tmp_path


def new(directory: Path, request: Request, head: str | None = None) -> Path:
    return writing.write(request, MigrationSettings(), directory, head=head)


def ruff(command: str, *args: str) -> str:
    """What ruff has to say, with this project's settings, as those of migrations/."""
    argv = [sys.executable, "-m", "ruff", command, *args, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def columns_anywhere(lines: list[str]) -> list[str]:
    """The lines without their order: a column that comes back is the last one."""
    return sorted(line.rstrip(",") for line in lines)


def test_each_kind_is_as_the_formatter_and_the_linter_of_python_have_it(directory: Path) -> None:
    for request in (*REQUESTS, FOREIGN_KEY):
        new(directory, request)
    versions = directory / "migrations" / "versions"
    assert len(list(versions.glob("*.py"))) == len(REQUESTS) + 1
    assert ruff("format", "--diff", str(versions)) == ""
    assert ruff("check", "--ignore", "D,INP001,N999,S608", str(versions)) == ""


@pytest.mark.postgres
@pytest.mark.slow
def test_each_kind_runs_up_and_down_and_up_again(
    directory: Path, manager: ConnectionManager, database: DatabaseSettings, pg: Binaries
) -> None:
    run(manager, *TABLES)
    for request in REQUESTS:
        new(directory, request)
    steps = in_this_process(database, directory / "migrations")
    plan = steps.plan()
    assert [revision.phase for revision in plan.pending if revision.phase] == [
        *("expand", "contract", "expand", "contract", "contract")
    ]
    first = plan.pending[0].revision
    steps.move("up", first)
    before, previous = schema_of(database, pg), first
    for request, revision in zip(REQUESTS[1:], plan.pending[1:], strict=True):
        steps.move("up", revision.revision)
        after = schema_of(database, pg)
        steps.move("down", previous)
        if request.name not in FINAL:
            assert columns_anywhere(schema_of(database, pg)) == columns_anywhere(before), request
        steps.move("up", revision.revision)
        assert columns_anywhere(schema_of(database, pg)) == columns_anywhere(after), request
        before, previous = after, revision.revision
    with manager.read() as connection:
        found = connection.execute(text("select to_regclass('gone'), to_regclass('gone_retired')::text")).one()
    assert tuple(found) == (None, "gone_retired")


@pytest.mark.postgres
def test_a_foreign_key_runs_up_and_down_and_up_again(
    directory: Path, manager: ConnectionManager, database: DatabaseSettings
) -> None:
    run(manager, *(statement.replace("app.", "") for statement in TABLES if "schema app" not in statement))
    new(directory, FOREIGN_KEY)
    steps = in_this_process(database, directory / "migrations")
    for direction, to in (("up", "head"), ("down", "base"), ("up", "head")):
        steps.move(direction, to)  # type: ignore[arg-type]
    query = "select conname::text from pg_constraint where conrelid = 't'::regclass and contype = 'f' and convalidated"
    assert set(ask(manager, query)) == {("t_other_id_fkey",), ("t_title_fkey",)}
    assert indexes(manager, "t") == {"t_title_idx": True}


@pytest.mark.slow
def test_as_a_person_runs_it_and_what_the_lint_says_of_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of what it writes is dangerous, but the drop of a table that was retired before."""
    monkeypatch.chdir(directory)

    def answer(*args: str, status: int = 0) -> dict[str, Any]:
        assert main.run(["migrate", *args, "--json"]) == status
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    for name, *options in (
        ("by_title", "--kind", "index", "--table", "t", "--column", "title"),
        ("fill", "--kind", "backfill", "--table", "t", "--column", "n", "--value", "1"),
        ("known", "--kind", "not-null", "--table", "t", "--column", "n"),
        ("refers", "--kind", "foreign-key", "--table", "t", "--column", "o", "--references", "other"),
        ("positive", "--kind", "check", "--table", "t", "--condition", "n > 0"),
        ("one_title", "--kind", "unique", "--table", "t", "--column", "title"),
        ("note", "--kind", "column", "--table", "t", "--column", "note", "--type", "text"),
        ("no_note", "--kind", "drop-column", "--table", "t", "--column", "note", "--type", "text", "--completes",
         "0007_note"),
        ("no_t", "--kind", "drop-table", "--table", "t"),
    ):  # fmt: skip
        path = Path(answer("new", name, *options)["path"])
        assert path.read_text().startswith('"""')
    linted = answer("lint", "--all", "--offline")
    assert {finding["severity"] for finding in linted["findings"]} <= {"caution", "style"}
    assert 'completes = "0007_note"' in path.with_name("0008_no_note.py").read_text()
    assert answer("new", "Bad-Name", status=2)["error"]["kind"] == "ConfigurationError"


def test_of_several_heads_one_has_to_be_stated(directory: Path) -> None:
    versions = directory / "migrations" / "versions"
    for revision, parent in (("0001_a", None), ("0002_b", "0001_a"), ("0002_c", "0001_a")):
        (versions / f"{revision}.py").write_text(f"revision = {revision!r}\ndown_revision = {parent!r}\n")
    with pytest.raises(errors.HeadsConflict, match=r"0002_b, 0002_c|0002_c, 0002_b"):
        new(directory, Request("d"))
    with pytest.raises(errors.ConfigurationError, match="--head 0001_a is none"):
        new(directory, Request("d"), head="0001_a")
    path = new(directory, Request("d"), head="0002_b")
    assert path.name == "0003_d.py"
    assert 'down_revision = "0002_b"' in path.read_text()


def test_a_file_that_is_there_is_left_alone(directory: Path) -> None:
    path = directory / "migrations" / "versions" / "0002_x.py"
    (path.parent / "0001_a.py").write_text("revision = '0001_a'\ndown_revision = None\n")
    path.write_text("")  # no revision: Alembic passes it by
    with pytest.raises((errors.RefusedError, errors.ConfigurationError), match="0002_x"):
        new(directory, Request("x"))
    assert path.read_text() == ""


def test_elsewhere_the_name_is_alembics_own(directory: Path) -> None:
    versions = directory / "migrations" / "versions"
    (versions / "ae1027a6acf_first.py").write_text("revision = 'ae1027a6acf'\ndown_revision = None\n")
    path = new(directory, Request("add_title"))
    assert path.name.endswith("_add_title.py")
    assert f'revision = "{path.name.removesuffix("_add_title.py")}"' in path.read_text()


def test_a_directory_that_cannot_be_read_is_refused(directory: Path) -> None:
    (directory / "migrations" / "versions" / "0001_a.py").write_text("revision = '0001_a'\ndown_revision = None\n!")
    with pytest.raises(errors.ConfigurationError, match="can't be read"):
        new(directory, Request("b"))


@pytest.mark.postgres
@pytest.mark.slow
def test_up_to_the_first_contract_and_not_past_it(directory: Path, desk: Desk) -> None:
    """`migrate up --phase expand` is what a deployment runs while old code is still there."""
    column = Request("note", "column", "bills", columns=("note",), type_="text")
    drop = Request("no_note", "drop-column", "bills", columns=("note",), type_="text", completes="0001_note")
    for request in (column, drop, Request("later")):
        new(directory, request)
    migrated = desk.answer("migrate", "up", "--phase", "expand")
    assert (migrated["to"], [step["revision"] for step in migrated["applied"]]) == ("0001_note", ["0001_note"])
    again = desk.answer("migrate", "up", "--phase", "expand")
    assert (again["from"], again["to"], again["applied"]) == ("0001_note", "0001_note", [])
    pending = desk.answer("migrate", "plan")["pending"]
    assert [(step["revision"], step["phase"]) for step in pending] == [
        ("0002_no_note", "contract"),
        ("0003_later", None),
    ]
    assert desk("migrate", "up", "--phase", "expand", "--to", "0002_no_note").status == 2

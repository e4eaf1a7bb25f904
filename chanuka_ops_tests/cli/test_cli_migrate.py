"""`migrate history`, `resolve`, `up --sql` and `down --to` as a person and a script use them."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

import pytest

from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in, write
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.desk import Desk
from chanuka_ops_tests.plugins.migrating import Migrations

pytestmark = pytest.mark.postgres

FIXED_OF_ENTRY = {"revision", "direction", "actor", "run_id", "started_at", "seconds", "outcome", "sha256"}
A1 = "op.execute('create table a1 (id int)')"
B2 = "op.execute('create table b2 (id int)')"
# A procedure that commits: nobody can know afterwards whether it came to that.
CALL = """
op.execute('create table called (n int)')
op.execute('create procedure p() language plpgsql as $$ begin insert into called values (1); commit; end $$')
with op.get_context().autocommit_block():
    op.execute('call p()')
op.execute('create table after_it (id int)')
"""


@pytest.fixture
def where(desk: Desk) -> Path:
    """Two revisions with their ways back."""
    where = scripts_in(desk.directory / "migrations", a1=A1, b2=B2)
    for name in ("a1", "b2"):
        path = where / "versions" / f"{name}.py"
        path.write_text(path.read_text().replace("select 1", f"drop table {name}"))
    return where


def tables(desk: Desk) -> list[object]:
    named = "select relname::text from pg_class where relname in ('a1', 'b2', 'c2', 'called', 'after_it') order by 1"
    return scalars(desk.database, named)


def test_history_tells_each_run_newest_first(desk: Desk, where: Path) -> None:
    assert desk.answer("migrate", "history") == {"entries": []}
    up = desk.answer("migrate", "up")
    assert [step["revision"] for step in up["applied"]] == ["a1", "b2"]
    desk.answer("migrate", "down", "--to", "a1")
    write(where, "b2", "a1", "op.execute('select 1 / 0')")
    assert desk("migrate", "up").status == 1

    entries = desk.answer("migrate", "history")["entries"]
    told = [(entry["revision"], entry["direction"], entry["outcome"]) for entry in entries]
    assert told == [("b2", "up", "failed"), ("b2", "down", "done"), ("b2", "up", "done"), ("a1", "up", "done")]
    for entry in entries:
        assert entry.keys() >= FIXED_OF_ENTRY
        assert datetime.fromisoformat(entry["started_at"]).tzinfo is not None
        assert entry["seconds"] >= 0
        assert entry["actor"]
    runs = [entry["run_id"] for entry in entries]
    assert runs[2] == runs[3]  # one run of two revisions
    assert len(set(runs)) == 3
    sha256 = hashlib.sha256((where / "versions" / "a1.py").read_bytes()).hexdigest()
    assert entries[3]["sha256"] == sha256
    assert entries[2]["sha256"] == entries[1]["sha256"] != entries[0]["sha256"]
    shown = desk("migrate", "history").stdout
    assert "division by zero" in shown.replace("\n", " ")
    assert runs[0][:8] in shown


@pytest.mark.slow
def test_resolve_says_what_nobody_else_can_know(desk: Desk, migrations: Migrations) -> None:
    location = scripts_in(desk.directory / "migrations", a1=A1, b2=CALL)
    migrations.run(desk.database, location, boundary="b2 after:3", kind="client")
    refused = desk("migrate", "up")
    assert (refused.status, "migrate resolve b2 --step 3 --done" in refused.stderr) == (3, True)
    for wrong in (["b2"], ["b2", "--done"], ["b2", "--step", "3", "--forget"], ["b2", "--step", "0", "--done"]):
        assert desk("migrate", "resolve", *wrong).status == 2
    unknown = desk("migrate", "resolve", "b2", "--step", "9", "--done")
    assert (unknown.status, "no step 9" in unknown.stderr) == (3, True)
    assert desk("migrate", "resolve", "a1", "--forget").status == 3

    said = desk.answer("migrate", "resolve", "b2", "--step", "3", "--done")
    assert (said["revision"], said["how"], said["step"]) == ("b2", "done", 3)
    assert "call p()" in said["message"]
    assert [step["revision"] for step in desk.answer("migrate", "up")["applied"]] == ["b2"]
    assert scalars(desk.database, "select n from called") == [1]  # it wasn't called again
    assert tables(desk) == ["a1", "after_it", "called"]


@pytest.mark.slow
def test_what_is_to_be_done_again_is_done_again(desk: Desk, migrations: Migrations) -> None:
    location = scripts_in(desk.directory / "migrations", a1=A1, b2=CALL)
    migrations.run(desk.database, location, boundary="b2 before:3", kind="client")
    ran = desk("migrate", "resolve", "b2", "--step", "3", "--redo")
    assert (ran.status, "run again: call p()" in ran.stdout.replace("\n", " ")) == (0, True)
    assert desk("migrate", "up").status == 0
    assert scalars(desk.database, "select n from called") == [1]


def test_sql_is_printed_and_nothing_is_run(desk: Desk, where: Path) -> None:
    del where
    printed = desk("migrate", "up", "--sql")
    assert printed.status == 0
    assert printed.stdout.lstrip().startswith(("BEGIN", "CREATE TABLE alembic_version"))
    assert tables(desk) == []
    assert scalars(desk.database, "select to_regclass('alembic_version')::text") == [None]
    assert desk.answer("migrate", "history") == {"entries": []}

    document = desk.answer("migrate", "up", "--sql", "--to", "a1")
    assert (document["direction"], document["to"]) == ("up", "a1")
    assert "create table a1" in document["sql"]
    assert "create table b2" not in document["sql"]
    execute(desk.database, printed.stdout)
    assert tables(desk) == ["a1", "b2"]
    plan = desk.answer("migrate", "plan")
    assert (plan["current"], plan["pending"]) == ("b2", [])
    back = desk.answer("migrate", "down", "--sql", "--to", "base")
    assert back["direction"] == "down"
    assert back["sql"].index("drop table b2") < back["sql"].index("drop table a1")
    assert tables(desk) == ["a1", "b2"]


@pytest.mark.slow
def test_down_goes_as_far_as_it_is_told(desk: Desk, where: Path) -> None:
    write(where, "c2", "a1", "op.execute('create table c2 (id int)')")
    path = where / "versions" / "c2.py"
    path.write_text(path.read_text().replace("select 1", "drop table c2"))
    desk.write(rest="[operations.migration]\non_drift = 'refuse'")  # so it's looked at before
    assert desk("migrate", "up").status == 3  # two heads, and nobody said which
    up = desk.answer("migrate", "up", "--to", "heads")
    desk.write()
    assert {step["revision"] for step in up["applied"]} == {"a1", "b2", "c2"}
    down = desk.answer("migrate", "down", "--to", "b2")
    assert down.keys() >= {"from", "to", "applied"}
    assert down["applied"] == []  # c2 is another branch's
    down = desk.answer("migrate", "down", "--to", "a1")
    assert ({step["revision"] for step in down["applied"]}, down["to"]) == ({"b2", "c2"}, "a1")
    assert all(step.keys() >= {"revision", "seconds", "attempts"} for step in down["applied"])
    assert tables(desk) == ["a1"]
    assert desk("migrate", "down", "--to", "b2").status == 3  # that lies the other way
    unknown = desk("migrate", "down", "--to", "nobody")
    assert (unknown.status, "nobody" in unknown.stderr) == (2, True)
    down = desk.answer("migrate", "down", "--to", "base")
    assert (down["from"], down["to"]) == ("a1", None)
    assert tables(desk) == []

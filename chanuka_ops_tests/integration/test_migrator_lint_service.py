"""Lint against a live database, and of revisions: what is asked, what is rendered, what is said when neither works."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings, OperationSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.lint import looking
from chanuka_ops.migrator.lint.catalogue import Type
from chanuka_ops.migrator.lint.model import Finding, Report
from chanuka_ops.migrator.lint.service import Linter
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.orchestrators import linting
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.processes import Cli, url_of

TODAY = dt.date(2026, 11, 28)
NOBODY = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
TABLES = (
    "create schema side",
    "create table bills(id bigint primary key, title varchar(80) not null, state text, cost numeric(8,2))",
    "create index bills_title on bills (title, lower(state))",
    "create unique index bills_cost on bills (cost) where cost is not null",
    "create table side.notes(id bigint generated always as identity, bill bigint references bills(id))",
    "create view short_bills as select id, title from bills",
    "alter table bills add constraint stated check (state is not null and state <> '')",
    "create domain cents as int check (value >= 0)",
    "create table sums(amount cents)",
    "create function once() returns int language sql immutable as 'select 1'",
    "create table parts(at date not null) partition by range (at)",
    "create table parts_rest partition of parts default",
)


def rules_of(report: Report) -> set[str]:
    return {finding.rule.id for _, finding in report.findings}


@pytest.mark.postgres
def test_what_lint_knows_of_a_database(manager: ConnectionManager, database: DatabaseSettings) -> None:
    execute(database, *TABLES)
    found = looking.look(manager)
    bills, notes, parts = found.tables["bills"], found.tables["side.notes"], found.tables["parts"]
    assert found.version in range(14, 20)
    assert bills.columns["title"].type == Type("varchar", (80,))
    assert bills.columns["cost"].type == Type("numeric", (8, 2))
    assert bills.columns["title"].not_null
    assert bills.not_null("state")
    assert bills.indexes["bills_title"].columns == ("title", "")
    assert bills.indexes["bills_cost"].partial
    assert bills.read_by == {"short_bills": frozenset({"id", "title"})}
    assert [c.references for c in notes.constraints.values() if c.kind == "f"] == ["bills"]
    assert (parts.kind, parts.partition_key, parts.default_partition) == ("p", ("at",), "parts_rest")
    assert found.tables["parts_rest"].parent == "parts"
    assert found.types["cents"].constrained
    assert found.types["cents"].columns == ("sums.amount",)
    assert found.routines["once"].volatility == "i"
    assert "random" in found.builtin_volatile
    assert "now" not in found.builtin_volatile


@pytest.mark.postgres
def test_the_database_makes_the_difference(manager: ConnectionManager, database: DatabaseSettings) -> None:
    execute(database, *TABLES)
    known, blind = Linter(TODAY, looking.look(manager)), Linter(TODAY)
    proven = b"ALTER TABLE bills ALTER COLUMN state SET NOT NULL;"
    assert "set-not-null-scans" not in rules_of(known.script(proven, "x"))
    assert "set-not-null-scans" in rules_of(blind.script(proven, "x"))
    narrower = b"ALTER TABLE bills ALTER COLUMN cost TYPE numeric(6,2);"
    assert "column-type-rewrites" in rules_of(known.script(narrower, "x"))
    assert "column-type-unknown" in rules_of(blind.script(narrower, "x"))


@pytest.fixture(scope="module")
def revisions(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One directory of revisions of many kinds, rendered once."""
    helpers = "from chanuka_ops.migrator import operations as ops\n"
    where = scripts_in(
        tmp_path_factory.mktemp("revisions"),
        a1="op.execute('create table t (id bigint primary key, a text)')",
        b2=(
            "op.create_index('t_a', 't', ['a'])\n"
            "with op.get_context().autocommit_block():\n"
            "    op.create_index('t_b', 't', ['a'], postgresql_concurrently=True)"
        ),
        c3="op.execute(\"create index concurrently t_c on t (a) where a like '50%'\")\nop.execute('COMMIT')",
        asks=(
            "bind = op.get_bind()\n"
            "if bind.dialect.has_table(bind, 't'):\n"
            "    op.execute('alter table t alter column a set not null')"
        ),
        looks=(
            "import sqlalchemy as sa\n"
            "seen = sa.inspect(op.get_bind())\n"
            "if 't' not in seen.get_table_names():\n"
            "    op.create_table('t', sa.Column('id', sa.BigInteger, primary_key=True))\n"
            "elif 'z' not in [column['name'] for column in seen.get_columns('t')]:\n"
            "    op.add_column('t', sa.Column('z', sa.Integer, nullable=False))\n"
            "for row in op.get_bind().execute(sa.text('select id from t')).fetchall():\n"
            "    raise AssertionError(row)"
        ),
        waived="# lint: allow drop-table until 2027-06-30: empty since May\nop.execute('drop table a; drop table b')",
        helped1=f"{helpers}ops.concurrent_index('t_h', 't', ['a'])",
        helped2=f"{helpers}ops.add_check('t_pos', 't', 'a > 0')",
        helped3=f"{helpers}ops.set_not_null('t', 'a')",
    )
    return Linter(TODAY).revisions(where, None)


def of(report: Report, revision: str) -> dict[str, Finding]:
    """A revision's findings by their rules."""
    return {finding.rule.id: finding for _, finding in report.findings if finding.revision == revision}


def test_each_revision_is_rendered_with_the_lines_of_its_file(revisions: Report) -> None:
    assert of(revisions, "b2")["index-build-blocks-writes"].line == 6  # under a docstring, an import and two names
    assert "concurrently-in-transaction" not in of(revisions, "b2")
    assert {"concurrently-in-transaction", "commit-in-managed-transaction"} <= of(revisions, "c3").keys()
    assert "'50%'" in of(revisions, "c3")["concurrently-in-transaction"].statement
    assert "lock-timeout-missing" not in rules_of(revisions), "the runner sets it"


def test_a_revision_that_asks_its_connection_is_read_as_text(revisions: Report) -> None:
    assert {"not-renderable", "set-not-null-scans"} <= of(revisions, "asks").keys()


def test_a_revision_that_looks_first_is_read_for_both_answers(revisions: Report) -> None:
    found = of(revisions, "looks")
    assert {"not-renderable", "column-not-null-fails", "schema-unqualified"} <= found.keys()
    assert found["column-not-null-fails"].line == 11


def test_a_waiver_in_a_revision_is_for_all_of_it(revisions: Report) -> None:
    waived = [finding.waived.reason for _, finding in revisions.findings if finding.waived]
    assert waived == ["empty since May"] * 2


@pytest.mark.parametrize("revision", ["helped1", "helped2", "helped3"])
def test_this_programs_own_operations_are_no_danger(revisions: Report, revision: str) -> None:
    found = of(revisions, revision)
    assert not [finding.message for finding in found.values() if finding.severity == "danger"]
    assert "not-renderable" not in found


@pytest.mark.slow
def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    where = scripts_in(tmp_path, a1="op.execute('select 1')")
    (where / "versions" / "b2.py").write_text("def upgrade(:\n", encoding="utf-8")
    with pytest.raises(errors.ConfigurationError, match="can't be read"):
        Linter(TODAY).revisions(where, None)


@pytest.mark.slow
@pytest.mark.postgres
def test_with_a_database_the_pending_revisions_are_meant(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path, state_dir: Path
) -> None:
    where = scripts_in(
        tmp_path,
        a1="op.execute('create table t (id bigint primary key, a varchar(10))')",
        b2="op.execute('alter table t alter column a type varchar(20)')",
        c3="op.execute('alter table t alter column a type varchar(15)')",
    )
    migration = MigrationSettings(script_location=where)
    Migrator(manager, migration).up("a1")
    settings = Settings(
        databases={"main": DatabaseSettings(url=SecretStr(url_of(database)))},
        operations=OperationSettings(migration=migration),
        state_dir=state_dir,
    )
    report = linting.lint(settings, "main", linting.Wanted())
    dangers = [(finding.revision, finding.rule.id) for _, finding in report.findings if finding.severity == "danger"]
    assert dangers == [("c3", "column-type-rewrites")], "b2 widens what the database has; c3 narrows what b2 left"
    assert {source.revision for source in report.sources} == {"b2", "c3"}
    everything = linting.lint(settings, "main", linting.Wanted(every=True))
    assert {source.revision for source in everything.sources} == {"a1", "b2", "c3"}


def test_a_database_that_does_not_answer_is_a_note(state_dir: Path) -> None:
    settings = Settings(databases={"main": DatabaseSettings(url=SecretStr(NOBODY))}, state_dir=state_dir)
    report = linting.lint(settings, "main", linting.Wanted(sql=Path("x.sql")), content=b"CREATE INDEX i ON t (a);")
    assert "index-build-blocks-writes" in rules_of(report)
    assert "was not asked" in report.notes[0]
    silent = linting.lint(settings, "main", linting.Wanted(sql=Path("x"), offline=True), content=b"SELECT 1;")
    assert silent.notes == ()


def test_a_second_opinion_is_listed_and_decides_nothing(
    tmp_path: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings, wanted = Settings(state_dir=state_dir), linting.Wanted(sql=Path("x.sql"), second_opinion=True)
    without = linting.lint(settings, "main", wanted, content=b"SELECT 1;")
    assert "no second opinion" in without.notes[0]
    program = tmp_path / "squawk"
    answer = '[{"line": 1, "level": "Error", "message": "no", "help": "yes", "rule_name": "ban-x"}]'
    program.write_text(f"#!/bin/sh\nread x\necho '{answer}'\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    report = linting.lint(settings, "main", wanted, content=b"SELECT 1;")
    [(_, finding)] = report.findings
    assert (finding.rule.id, finding.severity, finding.line) == ("squawk:ban-x", "style", 2)


@pytest.mark.skipif(shutil.which("squawk") is None, reason="squawk-cli is not installed")
def test_the_real_squawk_is_understood(state_dir: Path) -> None:
    wanted = linting.Wanted(sql=Path("x.sql"), second_opinion=True)
    report = linting.lint(Settings(state_dir=state_dir), "main", wanted, content=b"CREATE INDEX i ON t (a);")
    assert any(rule.startswith("squawk:") for rule in rules_of(report))


@pytest.mark.slow
def test_two_hundred_revisions_take_seconds(tmp_path: Path) -> None:
    bodies = {f"r{n:03}": f"op.execute('alter table t{n % 7} add column c{n} text')" for n in range(200)}
    where = scripts_in(tmp_path, **bodies)
    started = time.monotonic()
    report = Linter(TODAY).revisions(where, None)
    assert len(report.sources) == 400
    assert time.monotonic() - started < 30  # 2 s on an idle machine


def test_on_the_command_line(here: Cli, tmp_path: Path) -> None:
    bad, good, broken = tmp_path / "bad.sql", tmp_path / "good.sql", tmp_path / "broken.sql"
    bad.write_text("BEGIN;\nCREATE INDEX i ON t (a);\nCOMMIT;\n", encoding="utf-8")
    good.write_text("SELECT 1;\n", encoding="utf-8")
    broken.write_text("SELECT 1;\nCREATE INDX i;\n", encoding="utf-8")
    env = {"PATH": os.environ["PATH"]}
    ran = here("migrate", "lint", "--sql", str(bad), "--json", env=env)
    assert ran.status == 1, ran.output
    finding = next(f for f in ran.json["findings"] if f["rule"] == "index-build-blocks-writes")
    assert {"rule", "severity", "statement", "line", "object", "message", "safer"} <= finding.keys()
    assert (finding["severity"], finding["line"], finding["object"]) == ("danger", 2, "t")
    assert here("migrate", "lint", "--sql", str(bad), "--fail-on", "never", env=env).status == 0
    assert here("migrate", "lint", "--sql", str(good), env=env).status == 0
    refused = here("migrate", "lint", "--sql", str(broken), env=env)
    assert refused.status == 2
    assert "line 2" in refused.stderr
    assert here("migrate", "lint", "--sql", str(bad), "--format", "sarif", env=env).json["version"] == "2.1.0"
    assert "CONCURRENTLY" in here("migrate", "lint", "--explain", "index-build-blocks-writes", env=env).stdout
    assert here("migrate", "lint", "--explain", "no-such-rule", env=env).status == 2

"""Lint among the others: the embedded server is asked and never started, the report tells what was found, and the
project's own revisions are no danger.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator.lint import script
from chanuka_ops.migrator.lint.model import Report
from chanuka_ops.migrator.lint.service import Linter
from chanuka_ops.orchestrators import applying, linting
from chanuka_ops.orchestrators.database import EMBEDDED_DATABASE, DatabaseOrchestrator, create_database
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import embedded, embedded_running
from chanuka_ops_tests.integration.test_migrator_data import add_versions, uncounted
from chanuka_ops_tests.integration.test_migrator_plan import settings_of
from chanuka_ops_tests.integration.test_migrator_schema import MIGRATIONS, in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in, write
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres

TODAY = dt.date(2026, 11, 28)
WIDER = b"ALTER TABLE notes ALTER COLUMN body TYPE varchar(80);"


def said(report: Report) -> set[str]:
    return {finding.rule.id for _, finding in report.findings if finding.severity == "danger"}


@pytest.mark.slow
def test_the_embedded_server_is_asked_where_it_is_up_and_is_never_started(state_dir: Path, pg: Binaries) -> None:
    settings, wanted = Settings(state_dir=state_dir), linting.Wanted(sql=Path("x.sql"))
    assert said(linting.lint(settings, "main", wanted, content=WIDER)) == {"column-type-unknown"}
    assert list(state_dir.iterdir()) == [], "nothing was made to find that out"
    with embedded(state_dir, pg) as server:
        database = server.settings(EMBEDDED_DATABASE)
        create_database("main", database)
        execute(database, "create table notes (id bigint primary key, body varchar(40))")
        report = linting.lint(settings, "main", wanted, content=WIDER)
        offline = linting.Wanted(sql=Path("x.sql"), offline=True)
        assert said(report) == set(), "its catalogue knows that this is wider"
        assert report.against == f"PostgreSQL {server.major}: 1 relations"
        assert said(linting.lint(settings, "main", offline, content=WIDER)) == {"column-type-unknown"}
    assert embedded_running(state_dir, EMBEDDED_DATABASE) is None
    assert said(linting.lint(settings, "main", wanted, content=WIDER)) == {"column-type-unknown"}
    assert embedded_running(state_dir, EMBEDDED_DATABASE) is None


@pytest.mark.slow
def test_the_report_of_a_migration_lists_what_lint_found_whatever_the_policy_asks(
    database: DatabaseSettings, state_dir: Path, pg: Binaries, tmp_path: Path
) -> None:
    scripts = scripts_in(tmp_path, a1="op.execute('create table a1 (id bigint primary key, n int)')")
    settings = settings_of(database, scripts, state_dir, pg, approval=frozenset({"destructive"}))
    with DatabaseOrchestrator.open(settings) as opened:
        applying.migrate(opened, "up", "head")
        write(scripts, "b2", "a1", "op.execute('create index a1_n on a1 (n)')")
        run = applying.migrate(opened, "up", "head")
    assert run.report is not None
    document = json.loads(run.report.with_suffix(".json").read_text())
    assert [item["rule"] for item in document["lint"]["findings"] if item["severity"] == "danger"] == [
        "index-build-blocks-writes"
    ]
    assert "index-build-blocks-writes" in run.report.read_text()


@pytest.mark.slow
def test_the_projects_own_revisions_are_no_danger() -> None:
    report = Linter(TODAY).revisions(MIGRATIONS, None)
    assert [(f.revision, f.direction, f.message) for _, f in report.findings if f.severity == "danger"] == []
    assert {source.direction for source in report.sources} == {"up", "down"}
    assert "not-renderable" not in {finding.rule.id for _, finding in report.findings}


def test_the_backfills_script_does_what_the_revision_does(
    manager: ConnectionManager, database: DatabaseSettings
) -> None:
    steps = in_this_process(database)
    steps.move("up", "0009_bills_by_status")
    with manager.transaction() as connection:
        connection.execute(text("insert into bills (title, chamber) values ('The Water Bill', 'senate')"))
    add_versions(manager, 0, 450)
    steps.move("up", "0010_word_count")
    preview = next(
        statement.sql
        for statement in script.read(steps.preview("up", "0011_word_count_backfill"), name="preview").statements
        if "do $$" in statement.sql
    )
    assert uncounted(manager) == (450, 450)
    with connect(database, Profile.MAINTENANCE) as connection:
        connection.autocommit = True
        connection.execute(preview.encode())
    assert uncounted(manager) == (450, 0)

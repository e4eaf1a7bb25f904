"""The gate before a real database: backup, rehearsal, approval; what is edited afterwards is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.migrator import rules
from chanuka_ops.orchestrators import applying
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.orchestrators.gating import Gate
from chanuka_ops.orchestrators.migration import MigrationOrchestrator
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.integration.test_migrator_plan import settings_of
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in, write
from chanuka_ops_tests.plugins.backup import execute, scalars

pytestmark = pytest.mark.postgres

DROP = "op.execute('alter table a1 drop column n')"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    return scripts_in(tmp_path, a1="op.execute('create table a1 (id int, n int)')")


@pytest.fixture
def production(
    database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries
) -> Iterator[DatabaseOrchestrator]:
    settings = settings_of(database, scripts, state_dir, pg).model_copy(update={"environment": "production"})
    with DatabaseOrchestrator.open(settings) as opened:
        yield opened


@pytest.mark.slow
def test_what_is_edited_after_it_was_approved_is_refused(
    database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries
) -> None:
    settings = settings_of(database, scripts, state_dir, pg, approval=frozenset({"always"}))
    execute(database, "create table older (id int)")
    with DatabaseOrchestrator.open(settings) as opened:
        with pytest.raises(errors.RefusedError, match="needs a person's approval"):
            applying.migrate(opened, "up", "head")
        planned = opened.migration_plan().plan_hash
        with pytest.raises(errors.RefusedError, match="isn't what would run now"):
            Gate(opened).approve("0" * 64, "of something else")
        Gate(opened).approve(planned[:12], "looked at")
        path = scripts / "versions" / "a1.py"
        kept = path.read_text()
        path.write_text(kept + "# edited after it was approved\n")
        with pytest.raises(errors.RefusedError) as refused:
            applying.migrate(opened, "up", "head")
        assert refused.value.exit_code == 3
        assert opened.migration_plan().current is None
        path.write_text(kept)
        run = applying.migrate(opened, "up", "head")
    assert run.migrated.after == "a1"
    assert run.report is not None
    assert "looked at" in run.report.read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_destructive_revision_reaches_production_step_by_step(
    production: DatabaseOrchestrator, database: DatabaseSettings, scripts: Path
) -> None:
    first = applying.migrate(production, "up", "head")
    assert first.seen is not None
    assert first.seen.verdict.notes[0].startswith("the database has no tables"), "nothing can be lost yet"
    execute(database, "insert into a1 select g, g from generate_series(1, 100) g")
    write(scripts, "b2", "a1", DROP)
    path = scripts / "versions" / "b2.py"
    path.write_text(path.read_text().replace("op.execute('select 1')", "op.execute('alter table a1 add column n int')"))
    with pytest.raises(errors.RefusedError, match=r"(?s)no proven backup.*was not rehearsed.*b2 can lose data"):
        applying.migrate(production, "up", "head")
    rehearsed = MigrationOrchestrator(production).rehearse(fresh_backup=True)
    assert rehearsed.passed
    assert rehearsed.tier == "proven"
    verdict = Gate(production).look("up", "head").verdict
    assert [refusal.kind for refusal in verdict.refusals] == ["approval"]
    with pytest.raises(errors.RefusedError, match="isn't what would run now"):
        Gate(production).approve("0" * 64, "of something else")
    Gate(production).approve(verdict.plan_hash, "n is of no use")
    assert Gate(production).look("up", "head").verdict.allowed
    kept = path.read_text()
    path.write_text(kept + "# edited after it was approved\n")
    with pytest.raises(errors.RefusedError) as refused:
        applying.migrate(production, "up", "head")
    assert refused.value.exit_code == 3
    assert scalars(database, "select count(*) from information_schema.columns where table_name = 'a1'") == [2]
    path.write_text(kept)
    run = applying.migrate(production, "up", "head")
    assert run.migrated.after == "b2"
    assert run.health is not None
    assert scalars(database, "select count(*) from information_schema.columns where table_name = 'a1'") == [1]


@pytest.mark.slow
def test_what_came_before_a_failure_is_rolled_back_where_the_policy_says_so(
    database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries
) -> None:
    settings = settings_of(database, scripts, state_dir, pg, on_failure="roll_back")
    with DatabaseOrchestrator.open(settings) as opened:
        applying.migrate(opened, "up", "head")
        write(scripts, "b2", "a1", "op.execute('create table b2 (id int)')")
        path = scripts / "versions" / "b2.py"
        path.write_text(path.read_text().replace("op.execute('select 1')", "op.execute('drop table b2')"))
        write(scripts, "c3", "b2", "op.execute('select 1 / 0')")
        with pytest.raises(errors.MigrationFailed, match="rolled back: the database stands at a1"):
            applying.migrate(opened, "up", "head")
        assert opened.migration_plan().current == "a1"
    stop = settings_of(database, scripts, state_dir, pg)
    with DatabaseOrchestrator.open(stop) as opened:
        with pytest.raises(errors.MigrationFailed, match="c3"):
            applying.migrate(opened, "up", "head")
        assert opened.migration_plan().current == "b2", "what went through stays, as Alembic would have it"


@pytest.mark.slow
def test_what_a_migration_leaves_unfinished_is_named(
    database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries
) -> None:
    write(scripts, "b2", "a1", "op.execute('alter table a1 add constraint n_positive check (n > 0) not valid')")
    with DatabaseOrchestrator.open(settings_of(database, scripts, state_dir, pg)) as opened:
        run = applying.migrate(opened, "up", rules.HEAD)
    assert [(item.kind, "n_positive" in item.object) for item in run.left] == [("unvalidated_constraint", True)]

"""What a plan knows: files edited after they were applied, another order, a schema that drifted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings, OperationSettings, PostgresSettings, Settings
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Plan
from chanuka_ops.orchestrators import applying
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in, write
from chanuka_ops_tests.plugins.backup import execute

pytestmark = pytest.mark.postgres

FUNCTION = "create function leaked() returns int language sql as $$ select 1 $$"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    return scripts_in(
        tmp_path, a1="op.execute('create table a1 (id int, n int default 1)')", b2="op.execute('select 1')"
    )


def settings_of(
    database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries, **migration: object
) -> Settings:
    return Settings(
        databases={"main": database},
        postgres=PostgresSettings(bin_dir=pg.bin_dir),
        operations=OperationSettings(migration=MigrationSettings(script_location=scripts, **migration)),  # type: ignore[arg-type]  # what a test sets
        state_dir=state_dir,
        source=None,
    )


@pytest.fixture
def orchestrator(
    database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries
) -> Iterator[DatabaseOrchestrator]:
    with DatabaseOrchestrator.open(settings_of(database, scripts, state_dir, pg)) as opened:
        applying.migrate(opened, "up", "head")
        yield opened


def kinds(plan: Plan) -> list[str]:
    return [problem.kind for problem in plan.problems]


def test_a_schema_that_somebody_changed(orchestrator: DatabaseOrchestrator, database: DatabaseSettings) -> None:
    before = orchestrator.migration_plan()
    assert before.problems == (), "nothing happened, and nothing is said"
    for change, back, named in (
        ("alter table a1 alter n set default 2", "alter table a1 alter n set default 1", "TABLE public.a1 changed"),
        (FUNCTION, "drop function leaked()", "FUNCTION public.leaked() appeared"),
    ):
        execute(database, change)
        plan = orchestrator.migration_plan()
        assert kinds(plan) == ["drift"]
        assert named in plan.problems[0].message
        assert plan.plan_hash != before.plan_hash, "what was approved was another schema"
        assert rules.refusal(plan) is None, "a warning, as the settings say"
        execute(database, back)
    assert orchestrator.migration_plan() == before


@pytest.mark.slow
def test_drift_refuses_where_the_settings_say_so(
    database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries
) -> None:
    with DatabaseOrchestrator.open(settings_of(database, scripts, state_dir, pg, on_drift="refuse")) as opened:
        applying.migrate(opened, "up", "a1")
        execute(database, FUNCTION)
        with pytest.raises(errors.RefusedError, match="leaked"):
            applying.migrate(opened, "up", "head")
        execute(database, "drop function leaked()")
        assert applying.migrate(opened, "up", "head").migrated.after == "b2"


@pytest.mark.slow
def test_drift_that_cannot_be_looked_at_is_unknown(
    database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries, tmp_path: Path
) -> None:
    with DatabaseOrchestrator.open(settings_of(database, scripts, state_dir, pg)) as opened:
        applying.migrate(opened, "up", "head")
    blind = settings_of(database, scripts, state_dir, pg).model_copy(
        update={"postgres": PostgresSettings(bin_dir=tmp_path)}
    )
    with DatabaseOrchestrator.open(blind) as opened:
        plan = opened.migration_plan()
    assert kinds(plan) == ["drift"]
    assert "isn't known" in plan.problems[0].message


@pytest.mark.slow
def test_drift_switched_off(database: DatabaseSettings, scripts: Path, state_dir: Path, pg: Binaries) -> None:
    with DatabaseOrchestrator.open(settings_of(database, scripts, state_dir, pg, on_drift="off")) as opened:
        applying.migrate(opened, "up", "head")
        execute(database, FUNCTION)
        assert opened.migration_plan().problems == ()


@pytest.mark.slow
def test_an_edited_file_is_refused_until_a_person_accepts_it(orchestrator: DatabaseOrchestrator, scripts: Path) -> None:
    path = scripts / "versions" / "a1.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert orchestrator.migration_plan().problems == (), "other line endings are no edit"
    path.write_text(path.read_text().replace("default 1", "default 7"))
    write(scripts, "c3", "b2", "op.execute('create table c3 (id int)')")
    plan = orchestrator.migration_plan()
    assert [(p.kind, p.revision) for p in plan.problems] == [("edited", "a1")]
    with pytest.raises(errors.RefusedError, match="a1 was edited"):
        applying.migrate(orchestrator, "up", "head")
    assert orchestrator.migration_plan().current == "b2"
    with pytest.raises(errors.RefusedError, match="b2 was not edited"):
        orchestrator.accept_migration("b2")
    orchestrator.accept_migration("a1")
    assert applying.migrate(orchestrator, "up", "head").migrated.after == "c3"


@pytest.mark.slow
def test_an_edited_file_does_not_keep_anybody_from_going_back(
    orchestrator: DatabaseOrchestrator, scripts: Path
) -> None:
    path = scripts / "versions" / "a1.py"
    path.write_text(path.read_text() + "# a thought\n")
    assert applying.migrate(orchestrator, "down", "base").migrated.after is None


@pytest.mark.slow
def test_revisions_applied_in_another_order_than_elsewhere(orchestrator: DatabaseOrchestrator, scripts: Path) -> None:
    write(scripts, "b9", "a1", "op.execute('select 1')")
    write(scripts, "m1", "b2", "op.execute('select 1')")
    path = scripts / "versions" / "m1.py"
    path.write_text(path.read_text().replace("down_revision = 'b2'", "down_revision = ('b2', 'b9')"))
    plan = orchestrator.migration_plan()
    assert [(p.kind, p.revision, p.refuses) for p in plan.problems] == [("out_of_order", "b9", False)]
    assert applying.migrate(orchestrator, "up", "head").migrated.after == "m1"
    assert orchestrator.migration_plan().problems == ()


@pytest.mark.slow
def test_somebody_else_migrated_it(orchestrator: DatabaseOrchestrator, database: DatabaseSettings) -> None:
    execute(database, "update alembic_version set version_num = 'a1'")
    assert "something else has migrated it" in orchestrator.migration_plan().problems[0].message


@pytest.mark.slow
def test_a_file_that_changes_between_the_gate_and_the_run_is_not_run(
    orchestrator: DatabaseOrchestrator, scripts: Path
) -> None:
    write(scripts, "c3", "b2", "op.execute('create table c3 (id int)')")
    _, steps = orchestrator.foresee("up", "head")
    path = scripts / "versions" / "c3.py"
    path.write_text(path.read_text() + "# a thought\n")
    with pytest.raises(errors.RefusedError, match="c3"):
        orchestrator.run_migrations("up", "head", expected={step.revision: step.sha256 for step in steps})
    assert orchestrator.migration_plan().current == "b2"

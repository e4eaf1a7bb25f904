"""While a statement of a migration runs, it's told how far it is: by the server, or by the rehearsal's time."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops import context
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.context import Progress
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import scripts
from chanuka_ops.migrator.running import progressing
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.migrator.running.statement import fingerprint
from chanuka_ops.migrator.running.steps import Steps
from chanuka_ops_tests.integration.test_migrator_trouble import migrator, scripts_in

pytestmark = pytest.mark.postgres

INDEX = "create index slow on rows (at_leisure(id))"
SLEEP = "select pg_sleep(1.7)"


@pytest.fixture
def rows(manager: ConnectionManager) -> None:
    """A table of some blocks, and a function that takes its time for an index of them."""
    with manager.transaction() as connection:
        connection.execute(text("create table rows (id int)"))
        connection.execute(text("insert into rows select g from generate_series(1, 1500) g"))
        body = "begin perform pg_sleep(0.001); return n; end"
        connection.execute(
            text(f"create function at_leisure(n int) returns int language plpgsql immutable as '{body}'")
        )
        connection.execute(text("alter table rows set (parallel_workers = 0)"))


@pytest.mark.slow
@pytest.mark.usefixtures("rows")
def test_the_server_tells_of_an_index_and_it_reaches_who_watches(manager: ConnectionManager, tmp_path: Path) -> None:
    told: list[Progress] = []
    location = scripts_in(tmp_path, a1=f"op.execute('{INDEX}')")
    with context.scope(on_progress=told.append):
        migrator(manager, location).up()
    found = [step for step in told if step.label == f"a1: {INDEX}"]
    assert found
    assert {step.unit for step in found} <= {"blocks", "rows"}
    assert all(step.detail.startswith("building index") for step in found)
    assert all(step.total is not None and 0 <= step.done <= step.total for step in found)
    assert any(step.done for step in found)


@pytest.mark.parametrize(
    "bound", [Bound("a1", fingerprint(SLEEP), 2.2, 3.0), pytest.param(None, marks=pytest.mark.slow)]
)
def test_of_other_statements_the_rehearsal_lets_one_guess(
    bound: Bound | None, database: DatabaseSettings, tmp_path: Path
) -> None:
    told: list[Progress] = []
    files = scripts.load(scripts_in(tmp_path, a1=f"op.execute('{SLEEP}')"))
    with context.scope(on_progress=told.append):
        bounds = [] if bound is None else [bound]
        Steps(database, MigrationSettings(), files, lambda _: None, bounds=bounds).move("up", "head")
    assert told
    for step in told:
        assert step.label == f"a1: {SLEEP}"
        assert (step.unit, step.total) == ("s", None if bound is None else 2)
        assert step.detail == (progressing.NOT_KNOWN if bound is None else progressing.ESTIMATE)
        assert (step.eta_s is None) is (bound is None)


def test_of_what_is_short_nothing_is_told(database: DatabaseSettings, tmp_path: Path) -> None:
    told: list[Progress] = []
    files = scripts.load(scripts_in(tmp_path, a1="op.execute('select pg_sleep(0.6)')"))
    with context.scope(on_progress=told.append):
        Steps(database, MigrationSettings(), files, lambda _: None).move("up", "head")
    assert told == []

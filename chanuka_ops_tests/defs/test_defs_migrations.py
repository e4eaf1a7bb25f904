"""Migrations as jobs, on a real database: up, back, rehearsed; and the sensor that has what is pending rehearsed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import dagster as dg
import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.defs import sensors
from chanuka_ops.orchestrators import pending
from chanuka_ops_tests.defs.test_defs_runs import failure, figures, run
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in, write
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.dagster import Definitions
from chanuka_ops_tests.plugins.processes import url_of

pytestmark = pytest.mark.postgres

ADD = "op.execute('alter table bills add column u uuid default gen_random_uuid()')"
DROP = "op.execute('alter table bills drop column u')"
BACK: dict[str, object] = {"ops": {"roll_back_migrations": {"config": {"to": "a1"}}}}
COLUMNS = "select count(*) from information_schema.columns where table_name = 'bills'"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """One revision that makes a table, and one that rewrites it and leads back."""
    made = scripts_in(tmp_path / "migrations", a1="op.execute('create table bills (id int primary key)')")
    rewriting(made)
    return made


def rewriting(scripts: Path, down: str = DROP) -> None:
    write(scripts, "b2", "a1", ADD)
    path = scripts / "versions" / "b2.py"
    path.write_text(path.read_text().replace("op.execute('select 1')", down))


@pytest.fixture
def loaded(definitions: Definitions, database: DatabaseSettings, scripts: Path) -> dg.Definitions:
    assert scripts.exists()
    return definitions(DATABASE_URL=url_of(database))


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {verdict.asset_check_key.name: verdict.passed for verdict in result.get_asset_check_evaluations()}


def said(result: dg.SensorResult) -> str:
    reason = result.skip_reason
    return str(reason.skip_message if isinstance(reason, dg.SkipReason) else reason)


def tick(cursor: str | None) -> dg.SensorResult:
    with dg.build_sensor_context(cursor=cursor) as context:
        found = sensors.pending_migration_sensor(context)
    assert isinstance(found, dg.SensorResult)
    return found


def test_up_and_back(loaded: dg.Definitions, database: DatabaseSettings, instance: dg.DagsterInstance) -> None:
    up = run(loaded, "migrate", instance)
    assert up.success, failure(up)
    assert figures(up, "schema", "main")["revisions_applied"] == 2
    back = run(loaded, "rollback_migration", instance, BACK)
    assert back.success, failure(back)
    assert figures(back, "schema", "main")["left_unfinished"] == 0
    assert scalars(database, COLUMNS) == [1]
    with pytest.raises(dg.DagsterInvalidConfigError, match="to"):
        run(loaded, "rollback_migration", instance)


def test_what_the_gate_refuses_is_not_run(
    *, definitions: Definitions, database: DatabaseSettings, scripts: Path, instance: dg.DagsterInstance
) -> None:
    execute(database, "create table bills (id int)")
    loaded = definitions(DATABASE_URL=url_of(database), CHANUKA__OPERATIONS__MIGRATION__APPROVAL='["always"]')
    assert scripts.exists()
    refused = run(loaded, "migrate", instance)
    assert not refused.success
    assert "RefusedError: it needs a person's approval" in failure(refused)
    assert scalars(database, COLUMNS) == [1]


@pytest.mark.slow
def test_what_is_pending_is_rehearsed_once_for_each_plan(
    *, loaded: dg.Definitions, database: DatabaseSettings, scripts: Path, instance: dg.DagsterInstance
) -> None:
    assert run(loaded, "migrate", instance, {"ops": {"apply_migrations": {"config": {"to": "a1"}}}}).success
    execute(database, "insert into bills select generate_series(1, 700)")
    waits = tick(None)
    assert "there is no backup to rehearse it on" in said(waits)
    assert run(loaded, "backup", instance).success

    first = tick(waits.cursor)
    assert first.run_requests is not None
    [asked] = first.run_requests
    assert (asked.job_name, asked.tags["chanuka/database"]) == ("rehearse_migration", "main")
    assert dg.validate_run_config(loaded.resolve_job_def("rehearse_migration"), asked.run_config)
    again = tick(first.cursor)
    assert not again.run_requests
    assert "was asked for" in said(again)

    rehearsed = run(loaded, "rehearse_migration", instance, dict(asked.run_config))
    assert rehearsed.success, failure(rehearsed)
    assert checks(rehearsed) == {"rehearsed": True}
    [seen] = [event for event in rehearsed.all_events if event.is_asset_observation]
    measured = {name: value.value for name, value in seen.asset_observation_data.asset_observation.metadata.items()}
    assert measured["rows_scanned_while_blocking"] == 1400, "to rewrite the table, and to build its index anew"
    assert measured["rewritten"] == 2
    assert measured["statements"] == 1
    assert min(float(str(measured[name])) for name in ("blocking_ms", "up_seconds", "down_seconds", "wal_bytes")) > 0
    assert "readers and writers" in str(measured["what"])
    assert scalars(database, COLUMNS) == [1], "it ran on the copy"

    rewriting(scripts, down="pass")
    edited = tick(again.cursor)
    assert edited.run_requests is not None
    assert edited.run_requests[0].run_key != asked.run_key
    failed = run(loaded, "rehearse_migration", instance)
    assert "the rehearsal failed: up again:" in failure(failed), "the way down leaves the column"
    assert checks(failed) == {"rehearsed": False}


def test_a_database_that_is_down_is_told_and_asked_again(definitions: Definitions, scripts: Path) -> None:
    assert scripts.exists()
    definitions(DATABASE_URL="postgresql://ops:hunter2@127.0.0.1:1/chanuka")
    found = tick(json.dumps({"main": "kept"}))
    assert not found.run_requests
    assert "main: TargetUnavailable: can't connect to ops:***@127.0.0.1:1/chanuka" in said(found)
    assert "hunter2" not in str(found)
    assert json.loads(found.cursor or "") == {"main": "kept"}


def test_a_tick_ends_in_time_and_the_next_goes_on(
    definitions: Definitions, scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scripts.exists()
    url = "postgresql://ops@127.0.0.1:1/chanuka"
    definitions(CHANUKA__DATABASES__A__URL=url, CHANUKA__DATABASES__B__URL=url)

    def slow(_: object, name: str, *_more: object) -> pending.Pending:
        time.sleep(0.2)
        return pending.Pending(name, f"hash of {name}", due=False, words="nothing is pending")

    monkeypatch.setattr(pending, "_asked", slow)
    monkeypatch.setattr(sensors, "PENDING_BUDGET_S", 0.1)
    first = tick(None)
    assert said(first) == "a: nothing is pending"
    second = tick(first.cursor)
    assert said(second) == "b: nothing is pending"
    assert json.loads(second.cursor or "") == {"a": "hash of a", "b": "hash of b"}


def test_the_check_can_be_run_by_itself(
    loaded: dg.Definitions, database: DatabaseSettings, instance: dg.DagsterInstance
) -> None:
    execute(database, "select 1")
    key = dg.AssetCheckKey(dg.AssetKey(["schema", "main"]), "rehearsed")
    job = loaded.resolve_implicit_global_asset_job_def().get_subset(asset_check_selection={key})
    found = job.execute_in_process(instance=instance)
    [verdict] = found.get_asset_check_evaluations()
    assert (verdict.passed, verdict.metadata["pending"].value) == (False, 2)

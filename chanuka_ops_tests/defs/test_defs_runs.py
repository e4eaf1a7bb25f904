"""Runs in this process, on a real database: what they leave in Dagster, and what they don't."""

from __future__ import annotations

import threading
from pathlib import Path

import dagster as dg
import pytest

from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.dagster import Definitions, stored_events
from chanuka_ops_tests.plugins.processes import Guarded, left_of, sessions, url_of
from chanuka_ops_tests.plugins.proxy import Proxy, socket_of, through

pytestmark = pytest.mark.postgres

TABLES = (
    "create table bills(id int primary key, title text)",
    "insert into bills select g, 'bill ' || g from generate_series(1, 1500) g",
    "create table votes(bill int, vote text)",
    "insert into votes select g, 'aye' from generate_series(1, 500) g",
)


@pytest.fixture
def filled(database: DatabaseSettings) -> DatabaseSettings:
    execute(database, *TABLES)
    return database


def run(
    loaded: dg.Definitions, job: str, instance: dg.DagsterInstance, config: dict[str, object] | None = None
) -> dg.ExecuteInProcessResult:
    return loaded.resolve_job_def(job).execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def taken(result: dg.ExecuteInProcessResult) -> str:
    """The id of the backup that a run took."""
    backup_ids: list[str] = result.output_for_node("take_backup", "backup_ids")
    return backup_ids[0]


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The description of the first step that failed."""
    (event, *_) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    return error.message if error.cause is None else error.cause.message


def figures(result: dg.ExecuteInProcessResult, *path: str) -> dict[str, float]:
    """The numbers of every materialisation of an asset: what the UI plots."""
    found: dict[str, float] = {}
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key == dg.AssetKey(list(path)):
            metadata = event.step_materialization_data.materialization.metadata
            found |= {k: v.value for k, v in metadata.items() if isinstance(v.value, int | float)}
    return found


def test_nightly_proves_a_backup_and_leaves_numbers_to_plot(
    *,
    definitions: Definitions,
    filled: DatabaseSettings,
    guarded: Guarded,
    instance: dg.DagsterInstance,
    state_dir: Path,
    service: BackupService,
) -> None:
    execute(filled, f"grant pg_read_all_data, pg_monitor to {guarded.role}")
    loaded = definitions(DATABASE_URL=url_of(guarded.of(filled)))
    result = run(loaded, "nightly", instance)
    assert result.success, stored_events(instance, result.run_id)

    backups = figures(result, "backups", "main")
    assert backups["tables"] == backups["tables_compared"] == 2
    assert backups["rows"] == backups["rows_compared"] == 2000
    assert backups["mismatches"] == 0
    assert all(backups[name] > 0 for name in ("backup_bytes", "backup_seconds", "verify_seconds", "restore_seconds"))
    health = figures(result, "health", "main")
    assert health["checks"] >= 15
    assert {"findings_warning", "findings_critical", "findings_unknown", "health_seconds"} <= health.keys()

    verdicts = {verdict.asset_check_key.name: verdict.passed for verdict in result.get_asset_check_evaluations()}
    assert verdicts["newest_backup_is_proven"]
    assert verdicts["newest_backup_is_in_every_store"]
    assert {"index", "lock", "vacuum", "settings"} <= verdicts.keys()  # and each other subject of health
    manifest, _ = service.show(service.newest("main"))
    assert manifest.run_id == result.run_id  # one id from the run to the backup
    assert guarded.password not in stored_events(instance, result.run_id)
    assert left_of(state_dir) == []
    assert sessions(filled) == []


@pytest.mark.slow
def test_without_health_monitoring_the_night_is_shorter(
    definitions: Definitions, filled: DatabaseSettings, instance: dg.DagsterInstance
) -> None:
    loaded = definitions(DATABASE_URL=url_of(filled), CHANUKA__FEATURES__HEALTH_MONITORING="false")
    result = run(loaded, "nightly", instance)
    assert result.success
    assert figures(result, "health", "main") == {}
    assert figures(result, "backups", "main")["rows_compared"] == 2000


@pytest.mark.parametrize("job", ["health_check", "migrate", "backup", "nightly", "optimise", "setup_database"])
def test_a_database_that_is_down_fails_the_run_in_words(
    definitions: Definitions, instance: dg.DagsterInstance, job: str
) -> None:
    loaded = definitions(
        DATABASE_URL="postgresql://ops:hunter2@127.0.0.1:1/chanuka", CHANUKA__OPERATIONS__RUNS__MAX_RETRIES="1"
    )
    result = run(loaded, job, instance)
    assert not result.success
    if job == "optimise":  # its health check, which survives a dead server, has met it first
        assert "CircuitOpen: ops@127.0.0.1:1 is left alone" in failure(result)
    else:
        assert "TargetUnavailable: can't connect to ops:***@127.0.0.1:1/chanuka: nobody listens" in failure(result)
    assert [event for event in result.all_events if event.is_step_up_for_retry]
    assert "hunter2" not in stored_events(instance, result.run_id)


def test_a_server_that_comes_back_meanwhile_costs_a_retry_and_no_run(
    definitions: Definitions, filled: DatabaseSettings, server: Server, instance: dg.DagsterInstance
) -> None:
    with Proxy(socket_of(server)) as proxy:
        proxy.refuse()
        loaded = definitions(DATABASE_URL=url_of(through(filled, proxy)), CHANUKA__OPERATIONS__RUNS__RETRY_WAIT="400ms")
        back = threading.Timer(1.0, proxy.accept)
        back.start()
        result = run(loaded, "health_check", instance)
        back.join()
    assert result.success
    assert [event for event in result.all_events if event.is_step_up_for_retry]
    assert outputs(result)["db_connects"] > 0


def test_what_is_no_matter_of_waiting_is_not_retried(
    definitions: Definitions, database: DatabaseSettings, guarded: Guarded, instance: dg.DagsterInstance
) -> None:
    result = run(definitions(DATABASE_URL=url_of(guarded.of(database, "wrong"))), "migrate", instance)
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def outputs(result: dg.ExecuteInProcessResult) -> dict[str, float]:
    """The numbers in the metadata of the ops' outputs."""
    found: dict[str, float] = {}
    for event in result.all_events:
        if event.is_successful_output:
            metadata = event.step_output_data.metadata
            found |= {k: v.value for k, v in metadata.items() if isinstance(v.value, int | float)}
    return found


def test_a_wrong_password_is_in_no_event(
    definitions: Definitions, database: DatabaseSettings, guarded: Guarded, instance: dg.DagsterInstance
) -> None:
    loaded = definitions(DATABASE_URL=url_of(guarded.of(database, "hunter2")))
    for job in ("health_check", "backup", "migrate"):
        result = run(loaded, job, instance)
        assert "AuthenticationFailed: " in failure(result)
        assert "hunter2" not in stored_events(instance, result.run_id)


def test_an_unknown_database_is_told_with_those_that_are_known(
    definitions: Definitions, database: DatabaseSettings, instance: dg.DagsterInstance
) -> None:
    loaded = definitions(DATABASE_URL=url_of(database))
    config: dict[str, object] = {"resources": {"db": {"config": {"database": "nosuch"}}}}
    result = run(loaded, "backup", instance, config)
    assert not result.success
    events = stored_events(instance, result.run_id)
    assert "database 'nosuch' is not configured (configured: main)" in events


@pytest.mark.slow
def test_migrations_land_on_the_schema(
    definitions: Definitions, database: DatabaseSettings, instance: dg.DagsterInstance
) -> None:
    loaded = definitions(DATABASE_URL=url_of(database))
    assert figures(run(loaded, "setup_database", instance), "schema", "main")["revisions_applied"] >= 7
    assert figures(run(loaded, "migrate", instance), "schema", "main")["revisions_applied"] == 0


@pytest.mark.slow
def test_a_drill_of_an_older_backup_says_nothing_of_the_newest(
    definitions: Definitions, filled: DatabaseSettings, instance: dg.DagsterInstance, service: BackupService
) -> None:
    loaded = definitions(DATABASE_URL=url_of(filled))
    older, newer = (taken(run(loaded, "backup", instance)) for _ in range(2))
    assert service.newest("main") == newer
    config: dict[str, object] = {"ops": {"prove_chosen_backup": {"config": {"backup_id": older}}}}
    result = run(loaded, "restore_drill", instance, config)
    assert result.success
    assert list(result.get_asset_check_evaluations()) == []
    assert figures(result, "backups", "main") == {}
    (verdict,) = run(loaded, "restore_drill", instance).get_asset_check_evaluations()
    assert verdict.passed


def test_a_damaged_backup_fails_the_drill_and_its_check(
    definitions: Definitions, filled: DatabaseSettings, instance: dg.DagsterInstance, state_dir: Path
) -> None:
    loaded = definitions(DATABASE_URL=url_of(filled))
    backup_id = taken(run(loaded, "backup", instance))
    victim = next((state_dir / "backups" / "main" / backup_id / "dump").glob("*.dat*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    result = run(loaded, "restore_drill", instance)
    assert not result.success
    assert victim.name in failure(result)
    (verdict,) = result.get_asset_check_evaluations()
    assert not verdict.passed


def test_an_unknown_backup_or_check_is_refused_in_words(
    definitions: Definitions, database: DatabaseSettings, instance: dg.DagsterInstance
) -> None:
    loaded = definitions(DATABASE_URL=url_of(database))
    drill: dict[str, object] = {"ops": {"prove_chosen_backup": {"config": {"backup_id": "../../etc"}}}}
    assert "BackupNotFound: " in failure(run(loaded, "restore_drill", instance, drill))
    health: dict[str, object] = {"ops": {"check_health": {"config": {"only": ["no.such"]}}}}
    assert "there is no check 'no.such'" in failure(run(loaded, "health_check", instance, health))


def test_advice_that_the_role_may_not_carry_out_is_counted_as_refused(
    definitions: Definitions, database: DatabaseSettings, guarded: Guarded, instance: dg.DagsterInstance
) -> None:
    execute(
        database,
        "create table bills as select g as id from generate_series(1, 20000) g",
        f"grant pg_read_all_data, pg_monitor to {guarded.role}",  # it may look, and is not the owner
    )
    result = run(definitions(DATABASE_URL=url_of(guarded.of(database))), "optimise", instance)
    assert result.success
    (output,) = [event.step_output_data for event in result.all_events if event.is_successful_output]
    assert output.metadata["outcome"].value == "1 refused"
    assert output.metadata["applied"].value == 0
    assert "public.bills" in str(output.metadata["plan"].value)

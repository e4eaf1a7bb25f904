"""Backups in Dagster: what their jobs leave in the events, whom they exclude, what the sensors and checks tell."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest

from chanuka_ops.backup import boundaries
from chanuka_ops.backup.answers import Freshness
from chanuka_ops.defs import resources, sensors
from chanuka_ops.defs.assets import backups_key
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.defs.test_defs_runs import failure, figures, outputs, run, taken
from chanuka_ops_tests.plugins.backup import execute, fresh_database, scalars
from chanuka_ops_tests.plugins.dagster import Definitions, stored_events
from chanuka_ops_tests.plugins.desk import KEEP_ONE, TABLES, Desk, cloud_store, two_stores
from chanuka_ops_tests.plugins.hooks import Receive
from chanuka_ops_tests.plugins.processes import Cli, Guarded, Ran, url_of
from chanuka_ops_tests.plugins.s3 import Bucket

pytestmark = pytest.mark.postgres

IN_EVERY_STORE = "newest_backup_is_in_every_store"
PROVEN = "newest_backup_is_proven"


def config_of(op: str, **stated: object) -> dict[str, object]:
    return {"ops": {op: {"config": stated}}}


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {found.asset_check_key.name: found for found in result.get_asset_check_evaluations()}


def backups_of(desk: Desk) -> list[str]:
    return [entry["backup_id"] for entry in desk.run("backup", "list", "--json", env=desk.env).json["backups"]]


@pytest.fixture
def loaded(definitions: Definitions, desk: Desk) -> dg.Definitions:
    """The definitions of the desk's settings, which a test may still change: they're read anew for each run."""
    return definitions()


# ------------------------------------------------------------------ the jobs


def test_a_store_that_is_down_is_a_failed_check_and_no_failed_run(
    desk: Desk, loaded: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    desk.write(two_stores("near", "far"))
    desk.down("far")
    result = run(loaded, "backup", instance)
    assert result.success, stored_events(instance, result.run_id)
    assert figures(result, "backups", "main")["stores_missing"] == 1
    check = verdicts(result)[IN_EVERY_STORE]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["missing"].value == "far"
    assert "Not a directory" in str(check.metadata["stores"].value)
    desk.up("far")
    assert verdicts(run(loaded, "backup", instance))[IN_EVERY_STORE].passed


def test_every_number_is_one_that_plots(desk: Desk, loaded: dg.Definitions, instance: dg.DagsterInstance) -> None:
    plotted = figures(run(loaded, "backup", instance), "backups", "main")
    assert {"backup_bytes", "source_bytes", "backup_seconds", "verify_seconds", "tables", "rows"} <= plotted.keys()
    plotted = figures(run(loaded, "restore_drill", instance), "backups", "main")
    assert plotted.keys() >= {
        "tables_compared", "rows_compared", "coverage", "mismatches", "restore_seconds", "rto_seconds", "rpo_seconds",
        "rto_fetch_seconds", "rto_decrypt_seconds", "rto_restore_seconds", "rto_check_seconds",
    }  # fmt: skip
    assert (plotted["coverage"], plotted["mismatches"]) == (1.0, 0)


@pytest.mark.slow
def test_a_drill_of_the_copy_in_the_store_that_is_named(
    desk: Desk, loaded: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    desk.write(two_stores("near", "far"))
    old = taken(run(loaded, "backup", instance))
    desk.down("far")
    newer = taken(run(loaded, "backup", instance))
    desk.up("far")
    result = run(loaded, "restore_drill", instance, config_of("prove_chosen_backup", store="far"))
    assert result.success, stored_events(instance, result.run_id)
    assert PROVEN not in verdicts(result), "it isn't the newest, which is near"
    unknown = run(loaded, "restore_drill", instance, config_of("prove_chosen_backup", backup_id=newer, store="far"))
    assert f"BackupNotFound: no backup {newer} in far" in failure(unknown)
    wrong = run(loaded, "restore_drill", instance, config_of("prove_chosen_backup", backup_id=old, store="fra"))
    assert "no backup store is called 'fra'" in failure(wrong)


def test_what_expires_is_counted_and_has_its_reason(
    desk: Desk, loaded: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    desk.write(KEEP_ONE)
    old, new = desk.create(), desk.create()
    dry = run(loaded, "expire_backups", instance, config_of("expire_old_backups", dry_run=True))
    assert outputs(dry) == {"expired": 0, "in_use": 0, "due": 1, "kept": 1}
    assert backups_of(desk) == [new, old]
    result = run(loaded, "expire_backups", instance)
    assert outputs(result) == {"expired": 1, "in_use": 0, "due": 1, "kept": 1}
    assert backups_of(desk) == [new]
    assert "last = 1" in stored_events(instance, result.run_id)


def test_nothing_expires_on_a_partial_listing_and_the_run_says_so(
    desk: Desk, loaded: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    desk.write(two_stores("near", "far") + KEEP_ONE)
    desk.down("far")
    said = failure(run(loaded, "expire_backups", instance))
    assert "RefusedError: store far: nothing expires: the listing may be partial" in said
    assert said.count("nothing expires") == 1


@pytest.fixture
def spare(desk: Desk, server: Server) -> Iterator[str]:
    """A name that no database has yet; what restores make of it is dropped."""
    name = f"{desk.database.sqlalchemy_url.database}_new"
    yield name
    there = server.settings("postgres")
    for left in scalars(there, f"select datname::text from pg_database where datname like '{name}%'"):
        execute(there, f'drop database "{left}" with (force)')


@pytest.mark.slow
def test_a_restore_into_another_database_of_the_settings(
    desk: Desk, spare: str, loaded: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    backup_id = desk.create()
    into = {"into": "main", "dbname": spare}
    result = run(loaded, "restore_backup", instance, config_of("restore_chosen_backup", **into, roles="SKIP"))
    assert result.success, stored_events(instance, result.run_id)
    plotted = outputs(result)
    assert (plotted["tables"], plotted["rows"]) == (1, 300)
    assert plotted.keys() >= {"restore_seconds", "fetch_seconds"}
    assert scalars(desk.database.with_dbname(spare), "select count(*) from bills") == [300]
    assert backup_id in stored_events(instance, result.run_id)

    again = run(loaded, "restore_backup", instance, config_of("restore_chosen_backup", **into))
    assert "RefusedError: " in failure(again), "it isn't empty any more"
    replaced = config_of("restore_chosen_backup", **into, replace=spare)
    assert run(loaded, "restore_backup", instance, replaced).success


def test_a_restore_into_a_name_that_nobody_knows_is_one_clear_failure(
    desk: Desk, loaded: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    desk.create()
    result = run(loaded, "restore_backup", instance, config_of("restore_chosen_backup", into="mian"))
    assert (
        failure(result)
        .strip()
        .endswith("Failure: ConfigurationError: database 'mian' is not configured (configured: main)")
    )
    assert len([event for event in result.all_events if event.is_step_failure]) == 1
    with pytest.raises(dg.DagsterInvalidConfigError, match="into"):
        run(loaded, "restore_backup", instance)


@pytest.fixture
def beside(desk: Desk, server: Server, guarded: Guarded) -> Iterator[list[str]]:
    """Two other databases of the server; the role can't read what is in the second."""
    names = [f"beside_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    readable = "grant select on all tables in schema public to public"
    with (
        fresh_database(server, names[0], (*TABLES, readable)),
        fresh_database(server, names[1], ["create table secrets(id int)"]),
    ):
        yield names


@pytest.mark.slow
def test_the_night_proves_the_siblings_too_and_fails_for_the_one_that_has_no_backup(
    *,
    desk: Desk,
    beside: list[str],
    guarded: Guarded,
    definitions: Definitions,
    instance: dg.DagsterInstance,
) -> None:
    execute(desk.database, "grant select on all tables in schema public to public")
    execute(desk.database, f"grant pg_monitor to {guarded.role}")
    url = url_of(guarded.of(desk.database))
    desk.write(f'databases = ["{beside[0]}", "{beside[1]}"]\n{KEEP_ONE}', url=url)
    result = run(definitions(), "nightly", instance)
    assert not result.success
    (failed,) = [event.step_key for event in result.all_events if event.is_step_failure]
    assert failed == "require_every_backup"
    assert f"no backup of main.{beside[1]}: " in failure(result)
    assert "secrets" in failure(result)
    assert verdicts(result)[PROVEN].passed
    expired = [event for event in result.all_events if event.is_step_success]
    assert {event.step_key for event in expired} >= {"prove_backup", "expire_old_backups", "plan_and_apply"}
    listed = desk.answer("backup", "list", "--database", f"main.{beside[0]}")["backups"]
    assert [entry["tier"] for entry in listed] == ["proven"]
    assert guarded.password not in stored_events(instance, result.run_id)


# ------------------------------------------------------------------ exclusion, across both faces


@pytest.mark.slow
def test_a_run_is_refused_while_the_command_line_drills(
    desk: Desk,
    loaded: dg.Definitions,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHANUKA__OPERATIONS__MIGRATION__WAIT", "50ms")
    desk.write(f'store = "{tmp_path}/store"')
    desk.create()
    with desk.elsewhere(tmp_path / "other host").standing("backup", "drill", at="fetched"):
        for job in ("backup", "restore_drill", "expire_backups", "migrate"):
            result = run(loaded, job, instance)
            assert "LockHeld: database 'main': another operation is under way: chanuka/drill/" in failure(result)
            assert not [event for event in result.all_events if event.is_step_up_for_retry]
            assert verdicts(result) == {}, "it says nothing of the backup"


def test_the_command_line_is_refused_while_a_run_drills(
    desk: Desk, loaded: dg.Definitions, instance: dg.DagsterInstance, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.create()
    ran: list[Ran] = []

    def look(step: str) -> None:
        if step == "fetched":
            ran.append(cli("backup", "create"))

    monkeypatch.setattr(boundaries, "on_reached", look)
    result = run(loaded, "restore_drill", instance)
    assert result.success
    assert ran[0].status == 3
    assert f"under way: chanuka/restore_drill/drill/{result.run_id[:8]}" in ran[0].stderr


# ------------------------------------------------------------------ checks and sensors


def looked(loaded: dg.Definitions, instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    """Run the checks by themselves."""
    keys = [dg.AssetCheckKey(backups_key("main"), name) for name in (PROVEN, IN_EVERY_STORE)]
    job = dg.define_asset_job("looks", selection=dg.AssetSelection.checks(*keys))
    merged = dg.Definitions.merge(loaded, dg.Definitions(jobs=[job]))
    result = merged.resolve_job_def("looks").execute_in_process(instance=instance, raise_on_error=False)
    assert result.success, stored_events(instance, result.run_id)
    return verdicts(result)


def test_the_checks_read_the_manifests_and_say_what_they_could_not_read(
    desk: Desk, loaded: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    desk.write(two_stores("near", "far"))
    assert {name: found.passed for name, found in looked(loaded, instance).items()} == {
        PROVEN: False,
        IN_EVERY_STORE: False,
    }
    desk.create()
    assert desk("backup", "drill").status == 0
    found = looked(loaded, instance)
    assert all(verdict.passed for verdict in found.values())
    assert {verdict.metadata["unknown"].value for verdict in found.values()} == {"nothing"}
    desk.down("far")
    found = looked(loaded, instance)
    assert not any(verdict.passed for verdict in found.values()), "unknown is not ok"
    assert all("store far: " in str(verdict.metadata["unknown"].value) for verdict in found.values())
    assert found[IN_EVERY_STORE].metadata["missing"].value == "none", "nobody knows"


def freshness(cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    with dg.build_sensor_context(cursor=cursor) as context:
        result = sensors.backup_freshness_sensor(context)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result


def told(result: dg.SensorResult | dg.SkipReason) -> list[tuple[str, bool, str]]:
    assert isinstance(result, dg.SensorResult)
    found: Sequence[object] = result.asset_events
    events = [event for event in found if isinstance(event, dg.AssetCheckEvaluation)]
    return [(event.asset_key.path[-1], event.passed, str(event.metadata["verdict"].value)) for event in events]


def test_a_bucket_that_is_down_is_unknown(
    desk: Desk, cloud: Bucket, loaded: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.write(cloud_store(cloud))
    cloud.fault(".*", ".*", "status", times=None, status=403)
    ((database, passed, words),) = told(freshness())
    assert (database, passed) == ("main", False)
    assert words.startswith("unknown: store cloud: ")
    assert "nothing changed" in str(freshness(json.dumps({"main": "unknown"})))


def test_the_words_of_a_store_that_is_down_are_no_change() -> None:
    tries = [f"unknown: store cloud: GET in {seconds} s, after 10 retries" for seconds in (2.9, 6.5)]
    kinds = {sensors._kind(Freshness(verdict=said, passed=False, age_seconds=None)) for said in tries}
    assert kinds == {"unknown"}


def failed_run(
    loaded: dg.Definitions, instance: dg.DagsterInstance, config: dict[str, object] | None = None
) -> dg.RunFailureSensorContext:
    """A run of the backup job that failed, as the sensor meets it."""
    result = run(loaded, "backup", instance, config)
    assert not result.success
    return dg.build_run_status_sensor_context(
        sensor_name="run_failure_alert_sensor",
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=result.get_run_failure_event(),
    ).for_run_failure()


NOBODYS = "postgresql://ops:hunter2@127.0.0.1:1/chanuka"
ROUTES = '[operations.notify]\nattempts = 1\nroutes.ops.url = { env = "ROUTE_ops" }\nroutes.ops.databases = ["b"]\n'


def test_a_run_that_failed_is_told_with_its_reason_and_database(
    definitions: Definitions, desk: Desk, instance: dg.DagsterInstance, receive: Receive
) -> None:
    receiver = receive(200)
    desk.write(rest=f'[databases.b]\nurl = "{NOBODYS}"\n{ROUTES}[operations.runs]\nmax_retries = 0\n')
    loaded = definitions(ROUTE_ops=receiver.url("json"))
    by_hand: dict[str, object] = {"resources": {"db": {"config": {"database": "b"}}}}  # who does it sets no tag
    context = failed_run(loaded, instance, by_hand)
    receiver.requests.clear()  # the operation itself has told of it too
    sensors.run_failure_alert_sensor(context)
    (request,) = receiver.requests
    message = json.loads(request.body)
    assert message["title"] == "[critical] b: backup of b failed"
    assert message["message"].startswith("take_backup: TargetUnavailable: can't connect to ops:***@127.0.0.1:1")
    assert f"run_id: {context.dagster_run.run_id}" in message["message"]
    assert "event: run.failed" in message["message"]
    assert "hunter2" not in request.body.decode()


@pytest.mark.slow
def test_a_failure_that_could_not_be_told_fails_the_tick(
    definitions: Definitions, desk: Desk, instance: dg.DagsterInstance, nobody: int
) -> None:
    desk.write(rest=f'[databases.b]\nurl = "{NOBODYS}"\n{ROUTES}[operations.runs]\nmax_retries = 0\n')
    loaded = definitions(ROUTE_ops=f"json://user:hunter2@127.0.0.1:{nobody}/")
    context = failed_run(loaded, instance, {"resources": {"db": {"config": {"database": "b"}}}})
    with pytest.raises(Exception, match="not everybody was told: ops: ") as caught:
        sensors.run_failure_alert_sensor(context)
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------ progress


@pytest.mark.slow
def test_progress_is_in_the_runs_captured_output(
    definitions: Definitions, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(desk.database, "insert into bills select g, md5(g::text) from generate_series(1000, 200000) g")
    desk.write('rate_limit = "2MB"')
    monkeypatch.setattr(resources, "PROGRESS_EVERY_S", 0.5)
    with dg.DagsterInstance.local_temp() as instance:
        result = run(definitions(), "backup", instance)
        assert result.success
        (event,) = [event for event in result.all_events if event.event_type_value == "LOGS_CAPTURED"]
        key = [result.run_id, "compute_logs", event.event_specific_data.file_key]  # type: ignore[union-attr]
        captured = instance.compute_log_manager.get_log_data(key).stderr
        assert captured is not None
        lines = captured.decode().splitlines()
    assert any("dump" in line and "rows" in line for line in lines), lines
    assert any("left" in line for line in lines), lines

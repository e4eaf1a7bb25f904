"""Schedules and sensors: what they ask for, and when they don't."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData

from chanuka_ops.backup import rules
from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.defs import sensors as sensors_module
from chanuka_ops.defs.schedules import MAX_LATENESS
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.dagster import Definitions
from chanuka_ops_tests.plugins.processes import url_of

URL = "postgresql://ops:hunter2@db.internal/chanuka"
FLEET = {"CHANUKA__DATABASES__A__URL": URL, "CHANUKA__DATABASES__B__URL": URL}


def tick(schedule: dg.ScheduleDefinition, late: timedelta) -> ScheduleExecutionData:
    context = dg.build_schedule_context(scheduled_execution_time=datetime.now(UTC) - late)
    return schedule.evaluate_tick(context)


def test_every_schedule_asks_for_a_valid_run_of_each_database(definitions: Definitions) -> None:
    loaded = definitions(**FLEET)
    assert loaded.schedules
    for schedule in loaded.schedules:
        assert isinstance(schedule, dg.ScheduleDefinition)
        requests = tick(schedule, timedelta(minutes=1)).run_requests or ()
        if schedule.name == "health_check_schedule":  # one run for all: never hundreds, each quarter of an hour
            [request] = requests
            assert request.run_config["ops"]["check_health"]["config"] == {"every_database": True}
        else:
            assert [request.tags["chanuka/database"] for request in requests] == ["a", "b"]
            assert len({request.run_key for request in requests}) == 2
        for request in requests:
            job = loaded.resolve_job_def(schedule.job_name)
            assert dg.validate_run_config(job, request.run_config)
            assert "hunter2" not in str(request)


@pytest.mark.parametrize(("late", "runs"), [(MAX_LATENESS - timedelta(minutes=1), 1), (MAX_LATENESS * 1.1, 0)])
def test_a_tick_too_late_is_skipped(definitions: Definitions, late: timedelta, runs: int) -> None:
    for schedule in definitions().schedules or ():
        assert isinstance(schedule, dg.ScheduleDefinition)
        data = tick(schedule, late)
        assert len(data.run_requests or ()) == runs
        assert bool(data.skip_message) == (runs == 0)


def test_nothing_is_switched_on_by_itself(definitions: Definitions) -> None:
    loaded = definitions()
    for each in (*(loaded.schedules or ()), *(loaded.sensors or ())):
        assert isinstance(each, dg.ScheduleDefinition | dg.SensorDefinition)
        assert each.default_status.value == "STOPPED"


def freshness(cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    with dg.build_sensor_context(cursor=cursor) as context:
        result = sensors_module.backup_freshness_sensor(context)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result


def verdict(result: dg.SensorResult | dg.SkipReason) -> tuple[bool, str]:
    assert isinstance(result, dg.SensorResult)
    event = next(iter(result.asset_events))
    assert len(result.asset_events) == 1
    assert isinstance(event, dg.AssetCheckEvaluation)
    assert event.asset_key == dg.AssetKey(["backups", "main"])
    return event.passed, str(event.metadata["verdict"].value)


def test_a_database_without_a_proven_backup_is_told_once(definitions: Definitions) -> None:
    definitions()
    first = freshness(None)
    assert verdict(first) == (False, "no backup was ever proven")
    assert isinstance(first, dg.SensorResult)
    assert isinstance(freshness(first.cursor), dg.SkipReason)


@pytest.mark.postgres
def test_freshness_follows_the_proof(
    definitions: Definitions, service: BackupService, database: DatabaseSettings
) -> None:
    execute(database, "create table bills as select 1 as id")
    definitions(DATABASE_URL=url_of(database))
    with ConnectionManager("main", database) as manager:
        backup_id = service.create(manager).backup_id
    assert verdict(freshness(None))[0] is False  # taken is not proven
    service.drill(backup_id)
    proven = freshness(json.dumps({"main": "no backup was ever proven"}))
    assert verdict(proven) == (True, "proven in time")
    later = rules.freshness(service.look("main"), timedelta(hours=26), datetime.now(UTC) + timedelta(hours=27))
    assert (later.passed, later.verdict) == (False, "the newest proven backup is too old")


def test_a_store_that_cannot_be_read_is_unknown_and_not_fresh(definitions: Definitions, state_dir: Path) -> None:
    definitions()
    (state_dir / "backups").write_text("not a directory", encoding="utf-8")
    passed, words = verdict(freshness(None))
    assert not passed
    assert words.startswith("unknown: ")

"""Health in Dagster: verdicts by subject, and the sensor that looks, tells, and notes what has changed."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import text

from chanuka_ops import config
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.defs import sensors as sensors_module
from chanuka_ops.defs.verdicts import health_key, subjects
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops_tests.plugins.dagster import Definitions
from chanuka_ops_tests.plugins.processes import url_of

pytestmark = pytest.mark.postgres
NOBODY = "postgresql://ops@127.0.0.1:1/chanuka"


def tick(cursor: str | None = None) -> dg.SensorResult:
    with dg.build_sensor_context(cursor=cursor) as context:
        result = sensors_module.health_alert_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def verdicts(result: dg.SensorResult) -> dict[str, dg.AssetCheckEvaluation]:
    found = {}
    for event in result.asset_events:
        assert isinstance(event, dg.AssetCheckEvaluation)
        found[event.check_name] = event
    return found


def plant(database: DatabaseSettings, *statements: str) -> None:
    with ConnectionManager("main", database) as manager, manager.autocommit() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_events_come_on_a_change_and_the_incident_is_to_be_told(
    definitions: Definitions, database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions(DATABASE_URL=url_of(database))
    first = tick()
    assert verdicts(first)["sequence"].passed
    again = tick(first.cursor)
    assert "sequence" not in verdicts(again)  # as before
    plant(database, "create table t(id serial primary key)", "select setval('t_id_seq', 2147000000)")
    changed = tick(again.cursor)
    sequence = verdicts(changed)["sequence"]
    assert (sequence.passed, sequence.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "public.t_id_seq" in str(sequence.metadata["findings"].value)
    assert sequence.asset_key == health_key("main")
    monkeypatch.setattr(sensors_module, "HEARTBEAT", timedelta(0))
    assert set(subjects()) >= verdicts(tick(changed.cursor)).keys() >= {"sequence", "index", "lock", "server"}


def test_who_was_left_is_looked_at_first(definitions: Definitions, database: DatabaseSettings) -> None:
    url = url_of(database)
    definitions(CHANUKA__DATABASES__A__URL=url, CHANUKA__DATABASES__B__URL=url)
    done = json.loads(str(tick().cursor))
    assert done.keys() == {"a", "b"}
    done["a"]["at"] = "9999"
    looked = json.loads(str(tick(json.dumps(done)).cursor))
    assert looked["b"]["at"] != done["b"]["at"]


def test_a_database_that_is_down_is_an_incident_and_no_pass(
    definitions: Definitions, database: DatabaseSettings
) -> None:
    del database
    definitions(DATABASE_URL=NOBODY)
    found = verdicts(tick())
    assert (found["server"].passed, found["server"].severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert not found["index"].passed  # an unknown is no pass
    settings = config.load()
    assert [alert.key.check for alert in AlertKeeper(settings.state_dir).alerts() if alert.told] == ["server.reachable"]


def test_a_subject_can_be_asked_by_itself(
    definitions: Definitions, database: DatabaseSettings, instance: dg.DagsterInstance
) -> None:
    loaded = definitions(DATABASE_URL=url_of(database))
    wanted = dg.AssetSelection.checks(dg.AssetCheckKey(health_key("main"), "index"))
    job = dg.define_asset_job("looks", selection=wanted)
    merged = dg.Definitions.merge(loaded, dg.Definitions(jobs=[job]))
    result = merged.resolve_job_def("looks").execute_in_process(instance=instance)
    assert [(one.check_name, one.passed) for one in result.get_asset_check_evaluations()] == [("index", True)]


def test_the_page_of_health_is_attached_to_the_run(
    definitions: Definitions, database: DatabaseSettings, instance: dg.DagsterInstance
) -> None:
    job = definitions(DATABASE_URL=url_of(database)).resolve_job_def("health_check")
    result = job.execute_in_process(instance=instance)
    (made,) = result.asset_materializations_for_node("check_health")
    page = Path(str(made.metadata["report"].value))
    assert page.name == f"{result.run_id}.html"
    assert "What to do, worst first" in page.read_text(encoding="utf-8")


def test_a_run_looks_at_every_database_and_notes_what_has_changed(
    definitions: Definitions, database: DatabaseSettings, instance: dg.DagsterInstance
) -> None:
    loaded = definitions(CHANUKA__DATABASES__MAIN__URL=url_of(database), CHANUKA__DATABASES__GONE__URL=NOBODY)
    job = loaded.resolve_job_def("health_check")
    wanted = {"ops": {"check_health": {"config": {"every_database": True}}}}

    def noted() -> dict[tuple[str, str], bool]:
        result = job.execute_in_process(run_config=wanted, instance=instance)
        assert result.success  # a server that can't be reached is one database's finding
        made = {one.asset_key for one in result.asset_materializations_for_node("check_health") if one.asset_key}
        assert made == {health_key("main"), health_key("gone")}
        return {(one.asset_key.path[-1], one.check_name): one.passed for one in result.get_asset_check_evaluations()}

    first = noted()
    assert {name for name, _ in first} == {"main", "gone"}
    assert (first["main", "sequence"], first["gone", "server"], first["gone", "sequence"]) == (True, False, False)
    plant(database, "create table t(id serial primary key)", "select setval('t_id_seq', 2147000000)")
    second = noted()
    assert not second["main", "sequence"]
    assert not {name for name, _ in second} & {"gone"}  # as before


def test_of_many_databases_some_are_noted_at_each_tick(
    definitions: Definitions, database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(database)
    definitions(**{f"CHANUKA__DATABASES__{name}__URL": url for name in "ABC"})
    monkeypatch.setattr(sensors_module, "BEATS", 2)
    first = tick()
    second = tick(first.cursor)
    third = tick(second.cursor)

    def whole(result: dg.SensorResult) -> set[str]:
        noted = [one for one in result.asset_events if isinstance(one, dg.AssetCheckEvaluation)]
        return {one.asset_key.path[-1] for one in noted if one.check_name == "sequence"}

    assert [len(whole(first)), len(whole(second)), whole(third)] == [2, 1, set()]
    assert whole(first) | whole(second) == {"a", "b", "c"}

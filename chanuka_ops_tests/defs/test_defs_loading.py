"""What Dagster finds when it loads the definitions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import dagster as dg
import pytest
import yaml

import chanuka_ops
from chanuka_ops import errors
from chanuka_ops.defs.resources import DatabaseResource
from chanuka_ops.defs.tables import markdown
from chanuka_ops_tests.plugins.dagster import Definitions

PACKAGE = Path(chanuka_ops.__file__).parent
JOBS = {
    "nightly",
    "migrate",
    "rollback_migration",
    "rehearse_migration",
    "backup",
    "expire_backups",
    "restore_backup",
    "restore_drill",
    "health_check",
    "optimise",
    "setup_database",
}
DESIGNED_SCHEDULES = {"nightly_schedule", "health_check_schedule", "restore_drill_schedule", "optimise_schedule"}
DESIGNED_SENSORS = {
    "health_alert_sensor", "run_failure_alert_sensor", "backup_freshness_sensor", "pending_migration_sensor",
    "database_partition_sensor",
}  # fmt: skip
# a restore's target has no default, nor has how far back
NEEDED: dict[str, dict[str, object]] = {
    "restore_backup": {"ops": {"restore_chosen_backup": {"config": {"into": "main"}}}},
    "rollback_migration": {"ops": {"roll_back_migrations": {"config": {"to": "base"}}}},
}
URL = "postgresql://ops:hunter2@db.internal/chanuka"
FLEET = {"CHANUKA__DATABASES__A__URL": URL, "CHANUKA__DATABASES__B__URL": URL}


def job_names(loaded: dg.Definitions) -> set[str]:
    return {job.name for job in loaded.resolve_all_job_defs() if not job.name.startswith("__")}


def asset_keys(loaded: dg.Definitions) -> set[tuple[str, ...]]:
    return {tuple(key.path) for key in loaded.resolve_asset_graph().get_all_asset_keys()}


def test_without_a_database_the_embedded_one_is_main(definitions: Definitions) -> None:
    loaded = definitions()
    assert job_names(loaded) == JOBS
    assert asset_keys(loaded) == {("backups", "main"), ("schema", "main"), ("health", "main")}


def test_each_configured_database_has_its_assets(definitions: Definitions) -> None:
    loaded = definitions(**FLEET)
    assert job_names(loaded) == JOBS
    assert asset_keys(loaded) == {(subject, name) for subject in ("backups", "schema", "health") for name in "ab"}


def test_schedules_and_sensors_are_named_as_designed(definitions: Definitions) -> None:
    loaded = definitions()
    schedules = {schedule.name for schedule in loaded.schedules or ()}
    sensors = {sensor.name for sensor in loaded.sensors or ()}
    assert "nightly_schedule" in schedules <= DESIGNED_SCHEDULES
    wanted = {"backup_freshness_sensor", "pending_migration_sensor", "health_alert_sensor"}
    assert wanted <= sensors <= DESIGNED_SENSORS


def test_what_health_monitoring_false_switches_off_is_absent(definitions: Definitions) -> None:
    loaded = definitions(CHANUKA__FEATURES__HEALTH_MONITORING="false")
    assert job_names(loaded) == JOBS - {"health_check"}
    assert {schedule.name for schedule in loaded.schedules or ()} == {"nightly_schedule", "restore_drill_schedule"}
    assert not [key for key in asset_keys(loaded) if key[0] == "health"]
    assert "health_alert_sensor" not in {sensor.name for sensor in loaded.sensors or ()}
    steps = {node.name for node in loaded.resolve_job_def("nightly").nodes}
    assert steps == {"take_backup", "prove_backup", "plan_and_apply", "require_every_backup"}


def test_the_night_lets_old_backups_go_only_where_a_policy_is_set(definitions: Definitions) -> None:
    def steps(loaded: dg.Definitions) -> set[str]:
        return {node.name for node in loaded.resolve_job_def("nightly").nodes}

    assert "expire_old_backups" not in steps(definitions())
    assert "expire_old_backups" in steps(definitions(CHANUKA__OPERATIONS__BACKUP__KEEP__DAILY="7"))


def test_the_queue_runs_one_operation_a_database() -> None:
    """Schedules tag their runs with the database; Dagster's own limit is on that tag."""
    instance = yaml.safe_load((PACKAGE.parent / "dagster.yaml").read_text(encoding="utf-8"))
    (limit,) = instance["concurrency"]["runs"]["tag_concurrency_limits"]
    assert limit == {"key": "chanuka/database", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}


def test_every_job_ends_in_time_and_runs_in_one_process(definitions: Definitions) -> None:
    loaded = definitions()
    for name in JOBS:
        job = loaded.resolve_job_def(name)
        assert 0 < int(job.tags["dagster/max_runtime"]) <= 12 * 3600
        assert job.tags["dagster/max_retries"] == "0"
        assert job.executor_def is dg.in_process_executor
        assert job.description


def test_no_secret_is_a_field_or_in_the_default_run_config(definitions: Definitions) -> None:
    loaded = definitions(DATABASE_URL=URL)
    secretive = re.compile("pass|secret|token|url|dsn|key", re.IGNORECASE)
    assert not [field for field in DatabaseResource.model_fields if secretive.search(field)]
    for name in JOBS:
        job = loaded.resolve_job_def(name)
        shape = str(job.run_config_schema.config_type.__dict__) + str(dg.validate_run_config(job, NEEDED.get(name, {})))
        assert "hunter2" not in shape
        assert "db.internal" not in shape


def test_wrong_settings_are_told_in_words(definitions: Definitions) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"CHANUKA__FEATURES__X: features\.x: unknown key"):
        definitions(CHANUKA__FEATURES__X="1")


def test_dagster_is_known_to_its_own_face_only() -> None:
    importing = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0].startswith("dagster") for name in names):
                importing.append(path.relative_to(PACKAGE).as_posix())
    assert importing
    assert [path for path in importing if not path.startswith("defs/") and path != "definitions.py"] == []


def test_annotations_of_dagsters_face_are_real() -> None:
    """With them as strings, or imported for type checking only, `@op` and resources break."""
    for path in (*(PACKAGE / "defs").rglob("*.py"), PACKAGE / "definitions.py"):
        source = path.read_text(encoding="utf-8")
        assert "from __future__ import annotations" not in source, path
        assert "TYPE_CHECKING" not in source, path


def test_a_cell_cannot_break_out_of_its_table() -> None:
    lines = markdown(("a", "b"), [("x|y", "one\ntwo")]).value
    assert lines is not None
    assert lines.splitlines() == ["| a | b |", "|---|---|", "| x\\|y | one two |"]

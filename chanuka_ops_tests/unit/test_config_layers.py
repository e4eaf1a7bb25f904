"""Which layer wins, what a duration is, and what is said of a wrong key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from chanuka_ops import config
from chanuka_ops.errors import ConfigurationError

URL = "postgresql://ops@db.internal/chanuka"
MAIN = f'[databases.main]\nurl = "{URL}"\n'

Load = Callable[..., config.Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the settings of a chanuka.toml with that text and of those variables."""

    def loaded(toml: str | None = None, environ: Mapping[str, str] | None = None) -> config.Settings:
        if toml is not None:
            (tmp_path / "chanuka.toml").write_text(toml, encoding="utf-8")
        return config.load(environ or {}, tmp_path)

    return loaded


def test_without_anything_there_are_defaults_and_no_database(load: Load, tmp_path: Path) -> None:
    settings = load()
    assert settings.environment == "development"
    assert settings.databases == {}
    assert settings.features.health_monitoring
    assert settings.state_dir == tmp_path / ".chanuka"
    assert settings.backup_stores["default"].path == tmp_path / ".chanuka" / "backups"
    assert settings.source is None


def test_each_layer_wins_over_the_one_below(load: Load) -> None:
    toml = (
        'environment = "production"\n[operations.backup]\njobs = 3\ncompression_level = 3\n[operations.migration]\n'
        'lock_timeout = "3s"\n[environments.production.operations.backup]\njobs = 4\ncompression_level = 4\n'
        "[environments.staging.operations.backup]\njobs = 9\n"
    )
    settings = load(toml, {"CHANUKA__OPERATIONS__BACKUP__COMPRESSION_LEVEL": "5"})
    assert settings.operations.migration.lock_timeout_s == 3  # the file over the default of 1
    assert settings.operations.backup.jobs == 4  # the environment's table over the file
    assert settings.operations.backup.compression_level == 5  # the variable over both


def test_the_environment_may_be_chosen_by_variable(load: Load) -> None:
    toml = "[environments.staging.operations.backup]\njobs = 9\n"
    assert load(toml, {"CHANUKA__ENVIRONMENT": "staging"}).operations.backup.jobs == 9


def test_database_url_wins_over_the_file_and_keeps_its_other_keys(load: Load) -> None:
    settings = load(MAIN + "pool.size = 7\n", {"DATABASE_URL": "postgres://ops@elsewhere/other"})
    database = settings.database("main")
    assert database.sqlalchemy_url.host == "elsewhere"
    assert database.sqlalchemy_url.drivername == config.DRIVER
    assert database.pool.size == 7


def test_the_long_variable_wins_over_database_url(load: Load) -> None:
    environ = {"DATABASE_URL": "postgresql://a/one", "CHANUKA__DATABASES__MAIN__URL": "postgresql://a/two"}
    assert load(None, environ).database("main").sqlalchemy_url.database == "two"


def test_an_empty_variable_is_none(load: Load, tmp_path: Path) -> None:
    settings = load(None, {"DATABASE_URL": "", "CHANUKA_STATE_DIR": "", "CHANUKA_CONFIG": ""})
    assert settings.databases == {}
    assert settings.state_dir == tmp_path / ".chanuka"


def test_arrays_and_tables_in_variables_are_toml(load: Load) -> None:
    environ = {
        "CHANUKA__OPERATIONS__MONITORING__DISABLED": '["a.b", "c.d"]',
        "CHANUKA__DATABASES__MAIN": f'{{url = "{URL}", pool = {{size = 4}}}}',
    }
    settings = load(None, environ)
    assert settings.operations.monitoring.disabled == {"a.b", "c.d"}
    assert settings.database("main").pool.size == 4


def test_a_named_file_is_read_from_elsewhere(load: Load, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(MAIN, encoding="utf-8")
    settings = load(None, {"CHANUKA_CONFIG": "other.toml"})
    assert settings.source == tmp_path / "other.toml"
    assert list(settings.databases) == ["main"]


@pytest.mark.parametrize(
    ("written", "seconds"), [('"300ms"', 0.3), ('"5s"', 5), ('"2min"', 120), ('"1h"', 3600), ("2.5", 2.5), ('"7"', 7)]
)
def test_a_duration_is_written_as_postgresql_writes_it(load: Load, written: str, seconds: float) -> None:
    assert load(f"[operations.migration]\nlock_timeout = {written}\n").operations.migration.lock_timeout_s == seconds


@pytest.mark.parametrize("written", ['"5 parsecs"', '"-1s"', "0", '"0.4ms"', "inf", "nan", "true1", '"99999h"', "[]"])
def test_what_is_no_duration_is_refused(load: Load, written: str) -> None:
    with pytest.raises(ConfigurationError, match=r"lock_timeout|not valid TOML"):
        load(f"[operations.migration]\nlock_timeout = {written}\n")


def test_a_bare_number_is_a_checks_first_limit(load: Load) -> None:
    limits = load('[operations.monitoring.thresholds]\n"a.b" = 5\n"c.d" = {critical = 9}\n').operations.monitoring
    assert limits.thresholds["a.b"] == config.Threshold(warning=5)
    assert limits.thresholds["c.d"] == config.Threshold(critical=9)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            "[operations.backup]\ncompresion_level = 1",
            r"backup\.compresion_level: .*did you mean compression_",
        ),
        ("[feature]\nhealth_monitoring = true", r": feature: unknown key \(did you mean features\?\)"),
        ("[features]\nx = 1", r"features\.x: unknown key \(known here: circuit_breaker, health_monitoring, perf"),
        (MAIN + "pool.siz = 1", r"databases\.main\.pool\.siz: unknown key \(did you mean size\?\)"),
        (MAIN + 'pasword = {env = "X"}', r"databases\.main\.pasword: unknown key \(did you mean password\?\)"),
        (MAIN + 'password = {fil = "X"}', r"databases\.main\.password\.fil: unknown key \(did you mean file\?\)"),
        (MAIN + "password = {}", "exactly one of env, file, command"),
        (MAIN + 'password = {env = "X", file = "Y"}', "exactly one of env, file, command"),
        ("[databases.main]\ntags = {}", r"databases\.main\.url: is missing"),
        ("[operations.backup]\njobs = 0", r"operations\.backup\.jobs: should be greater than or equal to 1"),
        ('[operations.backup]\njobs = "many"', r"operations\.backup\.jobs: should be a valid integer"),
        ('environment = "prod"', r"environment: should be 'development', 'staging' or 'production'"),
        ('environment = ["a"]', r"environment: should be 'development'"),
        ('[databases."a/b"]\nurl = "postgresql://a/b"', r"databases: database name 'a/b': letters, digits"),
        ('[databases.main]\nurl = "mysql://a/b"', "scheme 'mysql' is not PostgreSQL"),
        ('[databases.main]\nurl = "postgresql+psycopg2://a/b"', r"write postgresql\+psycopg://"),
        ('[databases.main]\nurl = "postgresql://a"', "names no database"),
        ('[databases.main]\nurl = "db.internal/chanuka"', "not a database URL"),
        ('[databases.main]\nurl = "postgresql://a:port/b"', "not a database URL"),
        ("environments = 3", "environments: expected a table"),
        ('[environments]\ndevelopment = "a"', r"environments\.development: expected a table"),
        ("[environments.prod]\nfeatures = {}", r"environments\.prod: unknown environment"),
        ('[environments.staging]\nenvironment = "production"', "can't choose another"),
        ('state_dir = "/tmp"', r"state_dir: unknown key \(CHANUKA_STATE_DIR"),
        ('source = "/tmp"', "source: unknown key"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(load: Load, tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        load(toml)
    assert str(tmp_path / "chanuka.toml") in str(caught.value)


def test_each_problem_is_a_line_of_its_own(load: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("[features]\nx = 1\n[operations.backup]\njobs = 0\ny = 1\n")
    assert len(str(caught.value).splitlines()) == 3


def test_the_other_environments_tables_are_validated_too(load: Load) -> None:
    toml = MAIN + "[environments.production.databases.main.pool]\nsiz = 3\n[environments.staging]\noperation = {}\n"
    with pytest.raises(ConfigurationError) as caught:
        load(toml)
    said = str(caught.value)
    assert "environments.production.databases.main.pool.siz: unknown key (did you mean size?)" in said
    assert "environments.staging.operation: unknown key (did you mean operations?)" in said


def test_what_only_another_environment_gets_from_a_variable_is_not_missed_here(load: Load) -> None:
    assert load("[environments.production.databases.main.tags]\ntier = 'gold'\n").databases == {}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CHANUKA__FEATURES__X": "1"}, r"^environment variable CHANUKA__FEATURES__X: features\.x: unknown key"),
        ({"DATABASE_URL": "mysql://a/b"}, r"^environment variable DATABASE_URL: databases\.main\.url: scheme"),
        (
            {"DATABASE_URL": "postgresql://a/b", "CHANUKA__DATABASES__MAIN__URL": "mysql://a/b"},
            r"^environment variable CHANUKA__DATABASES__MAIN__URL: ",
        ),
        ({"CHANUKA__OPERATIONS__BACKUP": "{jobs = 0}"}, r"^environment variable CHANUKA__OPERATIONS__BACKUP: "),
        ({"CHANUKA__OPERATIONS__MONITORING__DISABLED": "[1"}, "DISABLED: not valid TOML"),
        ({"CHANUKA__STATE_DIR": "/x"}, r"^environment variable CHANUKA__STATE_DIR: state_dir: unknown key"),
        ({"CHANUKA__ENVIRONMENT": "prod"}, r"^environment variable CHANUKA__ENVIRONMENT: environment: should be"),
        ({"CHANUKA_CONFIG": "gone.toml"}, r"CHANUKA_CONFIG names .*gone\.toml, which is not a file"),
    ],
)
def test_what_is_wrong_in_a_variable_names_the_variable(load: Load, environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load(None, environ)


def test_a_contradiction_between_file_and_variable_names_both(load: Load, tmp_path: Path) -> None:
    environ = {"DATABASE_URL": "postgresql://ops:hunter2@a/b"}
    with pytest.raises(ConfigurationError, match="give it once") as caught:
        load(MAIN + 'password = {env = "X"}\n', environ)
    assert str(tmp_path / "chanuka.toml") in str(caught.value)
    assert "DATABASE_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_toml_is_named_with_the_line(load: Load) -> None:
    with pytest.raises(ConfigurationError, match=r"chanuka\.toml: not valid TOML: .*line 1"):
        load("databases = = 3\n")


def test_a_file_that_is_no_text_is_named(load: Load, tmp_path: Path) -> None:
    (tmp_path / "chanuka.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"chanuka\.toml: can't be read"):
        load()


def test_a_database_that_is_not_configured_is_told_with_those_that_are(load: Load) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("'x' is not configured (configured: main)")):
        load(MAIN).database("x")


def test_settings_are_immutable(load: Load) -> None:
    settings = load(MAIN)
    keys = ((settings, "environment"), (settings.features, "health_monitoring"), (settings.database("main"), "url"))
    for section, key in keys:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, "x")

"""Every command and setting in the documents works."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from chanuka_ops import config
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health.exporting import prometheus
from chanuka_ops.health.exporting.model import Seen
from chanuka_ops.health.model import CheckResult, HealthReport, Status
from chanuka_ops_tests.plugins.processes import Cli, url_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^ *```(?P<kind>\w*)\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)
CODES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
REACHED = CheckResult("server.reachable", Status.OK, 0.0)
DEMO_LINE = re.compile(r"^(?P<name>[a-z ]+?) +done +[\d.]+ s", re.MULTILINE)


def blocks(kind: str) -> list[tuple[Path, str]]:
    return [
        (path, m["body"]) for path in DOCUMENTS for m in FENCE.finditer(path.read_text("utf-8")) if m["kind"] == kind
    ]


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for _, body in blocks("sh") for line in body.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


def of(program: str) -> list[str]:
    return [line for line in commands() if line.startswith(program + " ")]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    known = {*of("make"), *of("chanuka-ops"), *of("dagster"), *of("export")}
    assert set(commands()) == known
    assert of("make")
    assert of("chanuka-ops")


@pytest.mark.parametrize("line", of("make"))
def test_make_has_the_target(line: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)  # sixty programs, on a machine that may be busy
@pytest.mark.postgres
def test_the_commands_run_in_order(cli: Cli, database: DatabaseSettings) -> None:
    """As in the documents: on one database, and a state directory of its own; ID is the newest backup's."""
    env = {"DATABASE_URL": url_of(database)}
    assert cli("db", "setup", env=env).status == 0  # the documents speak of Chanuka's own tables
    ran = 0
    for line in of("chanuka-ops"):
        words = shlex.split(line)[1:]
        if "demo" in words or "up" in words:
            continue  # tested by themselves
        if "ID" in words:
            newest = cli("backup", "list", "--json", env=env).json["backups"][0]["backup_id"]
            words = [newest if word == "ID" else word for word in words]
        # the test cluster runs with fsync off, which health rightly calls critical
        nagios, health = "--nagios" in words, words[:2] == ["health", "check"]
        extra = ["--fail-on", "never"] if health and not nagios else []
        done = cli(*words, *extra, env=env)
        wanted = CODES.index(done.stdout.split()[0]) if nagios else 0
        assert done.status == wanted, (line, done.stderr)
        assert done.stdout, line
        ran += 1
    assert ran >= 8


def test_the_settings_shown_are_valid(tmp_path: Path) -> None:
    ((_, body),) = [item for item in blocks("toml") if "[databases.main]" in item[1]]
    (tmp_path / "chanuka.toml").write_text(body, encoding="utf-8")
    settings = config.load({}, tmp_path)
    assert settings.operations.backup.jobs == 4, "the overlay of the environment it names"
    assert tomllib.loads(body)["databases"]["main"]["pool"]["size"] == settings.database("main").pool.size


@pytest.mark.postgres
def test_the_code_shown_runs(manager: ConnectionManager) -> None:
    done: list[object] = []
    for path, body in blocks("python"):
        exec(compile(body, path.name, "exec"), {"manager": manager, "work": done.append})
    assert len(done) == len(blocks("python")) > 0


def test_the_storage_shown_is_yaml_of_dagsters_schema() -> None:
    ((_, body),) = blocks("yaml")
    assert list(yaml.safe_load(body)["storage"]) == ["postgres"]


def test_the_rules_shown_are_of_metrics_that_there_are() -> None:
    ((_, body),) = blocks("yml")
    expressions = [rule["expr"] for group in yaml.safe_load(body)["groups"] for rule in group["rules"]]
    named = {name for expression in expressions for name in re.findall(r"chanuka_\w+", expression)}
    seen = Seen(HealthReport("main", Status.OK, "18.6", 0.1, (), (REACHED,)), datetime.now(UTC))
    written = set(re.findall(r"^# TYPE (\w+) gauge$", prometheus.text([seen], now=seen.at).decode(), re.MULTILINE))
    howto = (ROOT / "docs" / "howto" / "health-and-alerts.md").read_text("utf-8")
    assert named
    assert named <= written
    assert written == set(re.findall(r"`(chanuka_health_\w+)`", howto)), "each is explained"


def test_links_between_documents_lead_somewhere() -> None:
    dead = [
        (path.name, target)
        for path in DOCUMENTS
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8"))
        if not (path.parent / target).exists()
    ]
    assert not dead


@pytest.mark.slow
@pytest.mark.postgres
def test_the_readme_shows_the_steps_the_demo_has(cli: Cli) -> None:
    shown = DEMO_LINE.findall((ROOT / "README.md").read_text("utf-8"))
    done = cli("demo")
    assert done.status == 0, done.stderr
    assert DEMO_LINE.findall(done.stdout) == shown

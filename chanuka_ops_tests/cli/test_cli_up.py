"""`chanuka-ops up`: the UI answers, what it shows is there, a run works, and its end is the end of all of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.config import Settings
from chanuka_ops.orchestrators.database import database_settings
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import scalars
from chanuka_ops_tests.plugins.processes import PROGRAM, left_of, running

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

START_TIMEOUT_S = 60
RUN_TIMEOUT_S = 60
SELECTOR = 'repositoryLocationName: "chanuka_ops", repositoryName: "__repository__"'
LAUNCH = f"""
mutation {{
  launchRun(executionParams: {{selector: {{{SELECTOR}, jobName: "health_check"}}, runConfigData: {{}}}}) {{
    __typename ... on LaunchRunSuccess {{run {{runId}}}} ... on PythonError {{message}}
  }}
}}"""
OBJECTS = f"""
{{
  repositoryOrError(repositorySelector: {{{SELECTOR}}}) {{
    ... on Repository {{jobs {{name}} schedules {{name}} sensors {{name}} assetNodes {{assetKey {{path}}}}}}
  }}
}}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(port: int, query: str) -> dict[str, Any]:
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        document: dict[str, Any] = json.loads(answer.read())
    assert "errors" not in document, document
    data: dict[str, Any] = document["data"]
    return data


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as answer:
            return bool(json.loads(answer.read())["dagster_version"])
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def up(env: dict[str, str], cwd: Path) -> Iterator[tuple[subprocess.Popen[str], int, Callable[[], str]]]:
    """The program serving on a free port, and what it has said so far."""
    port = free_port()
    with running([*PROGRAM, "up", "--port", str(port)], env, cwd) as process:
        said: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=said.extend, args=(process.stderr,))
        reader.start()
        try:
            ready = wait_until(
                lambda: process.poll() is not None or answers(port), timeout_s=START_TIMEOUT_S, poll_s=0.5
            )
            assert ready, "".join(said)
            assert process.poll() is None, "".join(said)
            yield process, port, lambda: "".join(said)
        finally:
            process.terminate()
            reader.join(timeout=40)


def finished_run(port: int, run_id: str) -> str:
    deadline = time.monotonic() + RUN_TIMEOUT_S
    status = ""
    while time.monotonic() < deadline and status not in {"SUCCESS", "FAILURE", "CANCELED"}:
        time.sleep(0.5)
        answer = ask(port, f'{{runOrError(runId: "{run_id}") {{... on Run {{status}}}}}}')
        status = answer["runOrError"]["status"]
    return status


def test_it_serves_runs_a_job_and_ends_with_all_it_started(
    base_environment: dict[str, str], tmp_path: Path, state_dir: Path
) -> None:
    with up(base_environment, tmp_path) as (process, port, said):
        repository = ask(port, OBJECTS)["repositoryOrError"]
        assert {"nightly", "health_check", "backup"} <= {job["name"] for job in repository["jobs"]}
        assert {"nightly_schedule", "health_check_schedule"} <= {one["name"] for one in repository["schedules"]}
        assert {"backup_freshness_sensor"} <= {sensor["name"] for sensor in repository["sensors"]}
        assert ["backups", "main"] in [node["assetKey"]["path"] for node in repository["assetNodes"]]

        launched = ask(port, LAUNCH)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        assert finished_run(port, launched["run"]["runId"]) == "SUCCESS", said()

        settings = Settings(state_dir=state_dir, source=None)
        with database_settings(settings, "main") as database:
            stored = scalars(database.with_dbname("dagster"), "select status from runs")
        assert stored == ["SUCCESS"]  # Dagster's own storage is a database beside ours

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 1
        assert wait_until(lambda: left_of(state_dir) == [], timeout_s=15), left_of(state_dir)
    assert "Traceback" not in said()


def test_a_chanuka_toml_here_is_the_one_that_dagster_reads(
    base_environment: dict[str, str], tmp_path: Path, state_dir: Path
) -> None:
    url = "postgresql://ops:hunter2@127.0.0.1:1/chanuka"
    (tmp_path / "chanuka.toml").write_text(f'[databases.elsewhere]\nurl = "{url}"\n', encoding="utf-8")
    with up(base_environment, tmp_path) as (process, port, said):
        nodes = ask(port, OBJECTS)["repositoryOrError"]["assetNodes"]
        assert {node["assetKey"]["path"][1] for node in nodes} == {"elsewhere"}
        assert not (state_dir / "postgres").exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=40) == 1
        assert wait_until(lambda: left_of(state_dir) == [], timeout_s=15), left_of(state_dir)
    assert "hunter2" not in said()

"""`dagster job execute`, as CI and cron run it: a process with nothing but DATABASE_URL."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

import chanuka_ops
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.processes import Ran, finished, left_of, running, sessions, url_of

pytestmark = pytest.mark.postgres

ROOT = Path(chanuka_ops.__file__).parents[1]


def command(job: str) -> list[str]:
    return [sys.executable, "-m", "dagster", "job", "execute", "-m", "chanuka_ops.definitions", "-j", job]


def executed(job: str, env: dict[str, str], cwd: Path) -> Ran:
    with running(command(job), env, cwd) as process:
        return finished(process, timeout_s=80)


@pytest.fixture
def env(base_environment: dict[str, str], database: DatabaseSettings) -> dict[str, str]:
    execute(database, "create table bills as select g as id from generate_series(1, 1000) g")
    return {**base_environment, "DATABASE_URL": url_of(database)}


def proven(state_dir: Path) -> bool:
    return any('"proven"' in path.read_text() for path in (state_dir / "backups").glob("main/*/status.json"))


@pytest.mark.slow
def test_nightly_from_another_directory(env: dict[str, str], tmp_path: Path, state_dir: Path) -> None:
    ran = executed("nightly", env, tmp_path)
    assert ran.status == 0, ran.output
    assert proven(state_dir)
    assert left_of(state_dir) == []


@pytest.mark.slow
@pytest.mark.parametrize("home", [True, False])
def test_nightly_from_the_repositorys_root(env: dict[str, str], tmp_path: Path, state_dir: Path, *, home: bool) -> None:
    if home:
        (tmp_path / "home").mkdir()
        env["DAGSTER_HOME"] = str(tmp_path / "home")
    before = set(ROOT.iterdir())
    ran = executed("nightly", env, ROOT)
    assert ran.status == 0, ran.output
    assert proven(state_dir)
    assert {path for path in set(ROOT.iterdir()) - before if "dagster" in path.name} == set()


@pytest.mark.slow
@pytest.mark.parametrize("cwd", [ROOT, None])
def test_a_database_that_is_down(base_environment: dict[str, str], tmp_path: Path, cwd: Path | None) -> None:
    env = {
        **base_environment,
        "DATABASE_URL": "postgresql://ops:hunter2@127.0.0.1:1/chanuka",
        "CHANUKA__OPERATIONS__RUNS__RETRY_WAIT": "10ms",
    }
    ran = executed("nightly", env, cwd or tmp_path)
    assert ran.status != 0
    assert "TargetUnavailable: can't connect to ops:***@127.0.0.1:1/chanuka: nobody listens there" in ran.output
    assert ran.output.count("STEP_UP_FOR_RETRY") == 3, "longer waits are Dagster's"
    assert "hunter2" not in ran.output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_cancelled_in_mid_dump_leaves_nothing(
    env: dict[str, str], database: DatabaseSettings, tmp_path: Path, state_dir: Path, number: signal.Signals
) -> None:
    env["CHANUKA__DATABASES__MAIN__TIMEOUTS__LOCK"] = "60s"
    with ConnectionManager("holder", database) as holder, holder.transaction() as connection:
        connection.execute(text("lock table bills in access exclusive mode"))
        with running(command("backup"), env, tmp_path) as process:
            assert wait_until(lambda: any("/pg_dump " in line for line in left_of(state_dir)), timeout_s=60)
            process.send_signal(number)
            ran = finished(process)
        assert ran.status != 0
        assert wait_until(lambda: left_of(state_dir) == [] and len(sessions(database)) == 1, timeout_s=10), sessions(
            database
        )
        assert not list((state_dir / "backups").glob("**/dump"))
        assert not list((state_dir / "backups").glob("**/manifest.json"))


# Python lets what it runs around a fork fail without anybody noticing. The signal comes just there, once: at the fork
# of pg_dumpall, beside the threads that a backup has.
IN_A_FORK = """
import os, runpy, sys, threading
number = int(sys.argv.pop(1))
sent = []
def interrupt():
    if not sent and any(thread.name == "fingerprint" for thread in threading.enumerate()):
        sent.append(number)
        os.kill(os.getpid(), number)
        for _ in range(1000): pass
os.register_at_fork(before=interrupt)
runpy.run_module("dagster", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_cancelled_in_the_midst_of_a_fork_ends(
    env: dict[str, str], database: DatabaseSettings, tmp_path: Path, state_dir: Path, number: signal.Signals
) -> None:
    env["CHANUKA__DATABASES__MAIN__TIMEOUTS__LOCK"] = "10min"
    argv = [sys.executable, "-c", IN_A_FORK, str(int(number)), *command("backup")[3:]]
    with ConnectionManager("holder", database) as holder, holder.transaction() as connection:
        connection.execute(text("lock table bills in access exclusive mode"))
        with running(argv, env, tmp_path) as process:
            ran = finished(process, timeout_s=80)
        assert ran.status != 0
        assert "Exception ignored" not in ran.output
        assert "DagsterExecutionInterruptedError" in ran.output
        assert wait_until(lambda: left_of(state_dir) == [] and len(sessions(database)) == 1, timeout_s=10)


@pytest.mark.slow
def test_a_run_cancelled_in_mid_query_cancels_the_query(
    env: dict[str, str], database: DatabaseSettings, tmp_path: Path, state_dir: Path
) -> None:
    revision = (
        '"""Slow."""\nfrom alembic import op\nrevision = "r0"\ndown_revision = None\n'
        'def upgrade():\n    op.execute("select pg_sleep(60)")\ndef downgrade():\n    pass\n'
    )
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text((ROOT / "migrations" / "env.py").read_text())
    (tmp_path / "migrations" / "versions" / "r0.py").write_text(revision)
    with running(command("migrate"), env, tmp_path) as process:
        assert wait_until(lambda: len(sessions(database)) >= 2, timeout_s=40)
        process.terminate()
        assert finished(process).status != 0
    assert wait_until(lambda: left_of(state_dir) == [] and sessions(database) == [], timeout_s=10)

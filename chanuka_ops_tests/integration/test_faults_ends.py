"""What a process that ends leaves behind, and what a program forgets to give back: F19, F20."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, FeatureSettings, PoolSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.fault_cases import line_of
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.nodes import free_port
from chanuka_ops_tests.plugins.processes import clean_environment, finished, running, sessions, url_of

pytestmark = pytest.mark.postgres

BURST = 3  # failures that open a breaker

# As the command line takes SIGTERM: see chanuka_ops.cli.main
WORKER = """
import signal, sys, time
from pydantic import SecretStr
from sqlalchemy import text
from chanuka_ops import context
from chanuka_ops.cli import main
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
signal.signal(signal.SIGTERM, main._terminate)
with context.scope(operation="worker"):
    manager = ConnectionManager("main", DatabaseSettings(url=SecretStr(sys.argv[1])))
    with manager.transaction() as connection:
        connection.execute(text("insert into kept values (1)"))
        print("inside", flush=True)
        if sys.argv[2] == "statement":
            connection.execute(text("select pg_sleep(600)"))
        time.sleep(600)
"""


@pytest.mark.parametrize("busy", ["statement", "python"])
def test_a_process_that_is_terminated_in_a_transaction_leaves_nothing(database: DatabaseSettings, busy: str) -> None:
    execute(database, "create table kept(v int)")
    argv = [sys.executable, "-c", WORKER, url_of(database), busy]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert line_of(process) == "inside"
            assert working(database) == 1
            process.terminate()
            assert wait_until(lambda: working(database) == 0, timeout_s=2), "within two seconds"
            assert process.wait(timeout=10) != 0
        finally:
            process.kill()
    assert scalars(database, "select v from kept") == []


def working(database: DatabaseSettings) -> int:
    return sum("/worker/" in name for name in sessions(database))


JOB = """
import os, time
import dagster as dg
from pydantic import SecretStr
from sqlalchemy import text
from chanuka_ops import context
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager

@dg.op
def hold():
    settings = DatabaseSettings(url=SecretStr(os.environ["DATABASE_URL"]))
    with context.scope(operation="worker"), ConnectionManager("main", settings) as manager:
        with manager.transaction() as connection:
            connection.execute(text("insert into kept values (1)"))
            connection.execute(text("select pg_sleep(600)"))

@dg.job(executor_def=dg.in_process_executor)
def holding():
    hold()
"""


@pytest.mark.slow
def test_a_dagster_run_that_is_terminated_in_a_transaction_leaves_nothing(
    database: DatabaseSettings, tmp_path: Path, state_dir: Path
) -> None:
    execute(database, "create table kept(v int)")
    (tmp_path / "job.py").write_text(JOB)
    argv = [sys.executable, "-m", "dagster", "job", "execute", "-f", "job.py", "-j", "holding"]
    env = clean_environment(state_dir, {"DATABASE_URL": url_of(database)})
    with running(argv, env, tmp_path) as process:
        asleep = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
        assert wait_until(lambda: scalars(database, asleep) == [1], timeout_s=60)
        assert working(database) == 1
        process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: working(database) == 0, timeout_s=2), "within two seconds"
        assert finished(process).status != 0
    assert scalars(database, "select v from kept") == []


def leaks(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    told = [record.__dict__ for record in caplog.records if record.__dict__.get("event") == "db.leak"]
    return [(record["file"], record["line"]) for record in told]


def leaky(database: DatabaseSettings, leak_after_s: float) -> ConnectionManager:
    return ConnectionManager("main", database.model_copy(update={"pool": PoolSettings(leak_after_s=leak_after_s)}))


def line_here() -> int:
    return sys._getframe(1).f_lineno


def test_a_connection_that_is_kept_is_told_with_its_line(
    database: DatabaseSettings, caplog: pytest.LogCaptureFixture
) -> None:
    manager = leaky(database, 0.05)
    with ExitStack() as forgotten:
        forgotten.enter_context(manager.transaction())
        line = line_here() - 1
        assert wait_until(lambda: manager.snapshot()["nodes"][0]["pool"]["leaked"] == 1, timeout_s=10)
        assert leaks(caplog) == [(__file__, line)]
        assert manager.snapshot()["nodes"][0]["pool"]["leaked"] == 1, "told once"
        assert leaks(caplog) == [(__file__, line)]
    manager.close()
    assert len(leaks(caplog)) == 1, "it was given back in the end"


def test_a_connection_that_is_never_given_back_is_closed_and_told_at_the_end(
    database: DatabaseSettings, caplog: pytest.LogCaptureFixture
) -> None:
    manager = leaky(database, 3600)
    forgotten = manager.read()
    connection = forgotten.__enter__()
    line = line_here() - 1
    pid = connection.execute(text("select pg_backend_pid()")).scalar_one()
    assert manager.snapshot()["nodes"][0]["pool"]["leaked"] == 0
    assert leaks(caplog) == []
    manager.close()
    assert leaks(caplog) == [(__file__, line)]
    gone = f"select 1 from pg_stat_activity where pid = {pid}"
    assert wait_until(lambda: scalars(database, gone) == [], timeout_s=5)
    with pytest.raises(errors.DatabaseError):
        forgotten.__exit__(None, None, None)


def test_what_may_be_held_for_long_is_not_told(database: DatabaseSettings, caplog: pytest.LogCaptureFixture) -> None:
    with leaky(database, 3600) as manager, caplog.at_level(logging.DEBUG), manager.read():
        start = time.monotonic()
        assert wait_until(lambda: time.monotonic() - start > 0.15, timeout_s=5)
        assert manager.snapshot()["nodes"][0]["pool"]["leaked"] == 0
    assert leaks(caplog) == []


@pytest.mark.parametrize("breaker", [True, False])
def test_a_breaker_that_is_switched_off_is_absent_and_writes_nothing(
    database: DatabaseSettings, state_dir: Path, *, breaker: bool
) -> None:
    features = FeatureSettings(circuit_breaker=breaker)
    gone = database.model_copy(update={"url": SecretStr(f"postgresql://ops@127.0.0.1:{free_port()}/chanuka")})
    with ConnectionManager("main", gone, features=features, state_dir=state_dir) as manager:
        for _ in range(BURST):
            with pytest.raises(errors.TargetUnavailable):
                manager.budget()
        snapshot = manager.snapshot()
        node = snapshot["nodes"][0]
        assert (node["breaker"], node["breakers"] != {}) == (("open", True) if breaker else ("off", False))
        assert snapshot["breaker_shared"] is (True if breaker else None)
        assert (manager.reset_breakers() != []) is breaker
    assert (list(state_dir.iterdir()) != []) is breaker

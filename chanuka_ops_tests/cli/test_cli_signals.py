"""Ctrl-C, SIGTERM and a reader that left: one message, no traceback, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.processes import PROGRAM, Cli, finished, left_of, running, sessions, url_of

pytestmark = pytest.mark.postgres


@pytest.fixture
def stuck_dump(
    database: DatabaseSettings, base_environment: dict[str, str]
) -> Iterator[tuple[DatabaseSettings, dict[str, str]]]:
    """A database whose dump waits for a table, and the environment of the program that dumps it."""
    execute(database, "create table bills as select g as id from generate_series(1, 100) g")
    env = {**base_environment, "DATABASE_URL": url_of(database), "CHANUKA__DATABASES__MAIN__TIMEOUTS__LOCK": "60s"}
    with ConnectionManager("holder", database) as holder, holder.transaction() as connection:
        connection.execute(text("lock table bills in access exclusive mode"))
        yield database, env


def dumping(database: DatabaseSettings) -> bool:
    """Whether pg_dump waits for the table; the fingerprint beside it waits too, but by a SELECT."""
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query ilike 'lock table%'"
    return bool(scalars(database, waiting))


@contextmanager
def backup_under_way(
    stuck: tuple[DatabaseSettings, dict[str, str]], cwd: Path, *options: str, sigint_ignored: bool = False
) -> Iterator[subprocess.Popen[str]]:
    database, env = stuck
    with running([*PROGRAM, *options, "backup", "create"], env, cwd, sigint_ignored=sigint_ignored) as process:
        assert wait_until(lambda: dumping(database) or process.poll() is not None, timeout_s=30)
        assert process.poll() is None
        yield process


def gone(database: DatabaseSettings, state_dir: Path) -> bool:
    """Whether no process, no session but the lock's holder, and no half backup is left."""
    quiet = wait_until(lambda: left_of(state_dir) == [] and len(sessions(database)) == 1, timeout_s=10)
    return quiet and not list((state_dir / "backups").glob("**/dump"))


SIGHUP = pytest.param(signal.SIGHUP, marks=pytest.mark.slow)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, SIGHUP])
def test_a_signal_in_mid_dump_stops_everything(
    stuck_dump: tuple[DatabaseSettings, dict[str, str]], tmp_path: Path, state_dir: Path, number: signal.Signals
) -> None:
    with backup_under_way(stuck_dump, tmp_path) as process:
        process.send_signal(number)
        ran = finished(process)
    assert (ran.status, ran.stdout) == (1, "")
    assert ran.stderr.strip() == "Interrupted: stopped, and so was everything that was started"
    assert gone(stuck_dump[0], state_dir)


@pytest.mark.slow
def test_with_json_an_interruption_is_a_document_too(
    stuck_dump: tuple[DatabaseSettings, dict[str, str]], tmp_path: Path, state_dir: Path
) -> None:
    with backup_under_way(stuck_dump, tmp_path, "--json") as process:
        process.terminate()
        ran = finished(process)
    assert ran.json["error"]["kind"] == "Interrupted"
    assert gone(stuck_dump[0], state_dir)


def test_a_background_job_with_sigint_ignored_ends_by_sigterm(
    stuck_dump: tuple[DatabaseSettings, dict[str, str]], tmp_path: Path, state_dir: Path
) -> None:
    with backup_under_way(stuck_dump, tmp_path, sigint_ignored=True) as process:
        process.send_signal(signal.SIGINT)  # as at the terminal, for the job in the foreground
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.terminate()
        ran = finished(process)
    assert ran.status == 1
    assert "Traceback" not in ran.output
    assert gone(stuck_dump[0], state_dir)


@pytest.mark.slow
def test_ctrl_c_twice_is_no_traceback_either(
    stuck_dump: tuple[DatabaseSettings, dict[str, str]], tmp_path: Path, state_dir: Path
) -> None:
    with backup_under_way(stuck_dump, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        ran = finished(process)
    assert ran.status == 1
    assert "Traceback" not in ran.output
    assert gone(stuck_dump[0], state_dir)


@pytest.mark.slow
def test_sigkill_leaves_no_backup_no_tool_and_no_session(
    stuck_dump: tuple[DatabaseSettings, dict[str, str]], tmp_path: Path, state_dir: Path, here: Cli
) -> None:
    database, env = stuck_dump
    with backup_under_way(stuck_dump, tmp_path) as process:
        process.kill()
        finished(process)
    assert wait_until(lambda: left_of(state_dir) == [] and len(sessions(database)) == 1, timeout_s=15)
    assert here("backup", "list", "--json", env=env).json["backups"] == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_left_is_no_traceback(
    base_environment: dict[str, str], tmp_path: Path, options: list[str]
) -> None:
    with running([*PROGRAM, "health", "list", *options], base_environment, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()  # before a word was written
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=20) in {0, 1}

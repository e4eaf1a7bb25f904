"""However `backup create` ends: what is listed is whole, and nothing of it still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import local, scalars
from chanuka_ops_tests.plugins.processes import clean_environment, url_of

pytestmark = pytest.mark.postgres

GONE_WITHIN_S = 5.0
ENDS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Creating:
    """A `backup create` under way, and where its work shows."""

    process: subprocess.Popen[str]
    store: Path
    database: DatabaseSettings

    def partial(self) -> list[Path]:
        """What lies in the store's directory of unfinished backups."""
        return [path for path in self.store.glob(".partial/*") if path.is_dir()]

    def listed(self) -> list[Path]:
        return list(self.store.glob("main/*"))

    def ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def creating(
    database: DatabaseSettings, service: BackupService, state_dir: Path, pg_bin: str | None
) -> Iterator[Creating]:
    extra = {"CHANUKA__POSTGRES__BIN_DIR": pg_bin} if pg_bin else {}
    process = subprocess.Popen(
        [sys.executable, "-m", "chanuka_ops.cli.main", "--json", "backup", "create"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(state_dir, {"DATABASE_URL": url_of(database), **extra}),
        cwd=state_dir,
    )
    with process:
        try:
            yield Creating(process, local(service).root, database)
        finally:
            process.kill()


@pytest.fixture
def start(
    service: BackupService, state_dir: Path, request: pytest.FixtureRequest
) -> Callable[[DatabaseSettings], object]:
    pg_bin = request.config.getoption("--pg-bin")
    return lambda database: creating(database, service, state_dir, pg_bin)


def until(reached: Callable[[], bool], run: Creating) -> None:
    assert wait_until(lambda: reached() or run.ended(), timeout_s=ENDS_WITHIN_S, poll_s=0.001)


def dumps_of(database: DatabaseSettings) -> list[str]:
    """Command lines of every pg_dump and pg_dumpall of that database."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "pg_dump" in words.split("\0")[0] and str(database.sqlalchemy_url.database) in words:
            found.append(words)
    return found


def sessions_of(database: DatabaseSettings) -> list[object]:
    return scalars(
        database,
        "select application_name || ': ' || query from pg_stat_activity where datname = current_database()"
        " and pid <> pg_backend_pid() and application_name ~ '^(chanuka/backup/|pg_dump)'",
    )


def assert_nothing_runs(database: DatabaseSettings) -> None:
    clear = wait_until(lambda: not dumps_of(database) and not sessions_of(database), timeout_s=GONE_WITHIN_S)
    assert clear, (dumps_of(database), sessions_of(database))


def assert_all_listed_are_whole(service: BackupService) -> None:
    for backup in service.catalogue():
        assert backup.problem is None
        assert service.verify(backup.backup_id).problems == ()


def after(seconds: float) -> Callable[[Creating], None]:
    return lambda _: time.sleep(seconds)


def at_the_partial(run: Creating) -> None:
    until(lambda: bool(run.partial()), run)


def at_the_roles(run: Creating) -> None:
    until(lambda: any(path.joinpath("globals/roles.sql").exists() for path in run.partial()), run)


def at_the_first_data(run: Creating) -> None:
    until(lambda: any(list(path.glob("dump/*.dat*")) for path in run.partial()), run)


def in_mid_data(run: Creating) -> None:
    at_the_first_data(run)
    time.sleep(0.4)


def at_the_table_of_contents(run: Creating) -> None:
    """pg_dump writes it last: from here on files are hashed and fsynced."""
    until(lambda: any(path.joinpath("dump/toc.dat").exists() for path in run.partial()), run)


def at_the_manifest(run: Creating) -> None:
    until(lambda: any(path.joinpath("manifest.json").exists() for path in run.partial()) or bool(run.listed()), run)


def when_listed(run: Creating) -> None:
    until(lambda: bool(run.listed()), run)


Start = Callable[[DatabaseSettings], object]


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(after(0.15), id="at_once"),
        at_the_partial,
        at_the_roles,
        at_the_first_data,
        in_mid_data,
        at_the_table_of_contents,
        at_the_manifest,
        when_listed,
    ],
)
def test_kill_9_leaves_nothing_half_done(
    moment: Callable[[Creating], None],
    start: Callable[[DatabaseSettings], object],
    large: DatabaseSettings,
    service: BackupService,
) -> None:
    with start(large) as run:  # type: ignore[attr-defined]
        moment(run)
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
    assert_nothing_runs(large)
    assert_all_listed_are_whole(service)
    before = {backup.backup_id for backup in service.catalogue()}
    with ConnectionManager("main", large) as manager:
        created = service.create(manager)
    assert list((local(service).root / ".partial").iterdir()) == [], "the next backup sweeps what was left"
    assert {backup.backup_id for backup in service.catalogue()} == before | {created.backup_id}
    assert service.verify(created.backup_id).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [at_the_roles, in_mid_data])
def test_an_interrupt_cleans_up(
    moment: Callable[[Creating], None],
    number: signal.Signals,
    start: Callable[[DatabaseSettings], object],
    large: DatabaseSettings,
    service: BackupService,
) -> None:
    with start(large) as run:  # type: ignore[attr-defined]
        moment(run)
        run.process.send_signal(number)
        stdout, stderr = run.process.communicate(timeout=ENDS_WITHIN_S)
    assert run.process.returncode == 1, stderr
    assert '"kind": "Interrupted"' in stdout
    (line,) = stderr.strip().splitlines()
    assert line.startswith("Interrupted: ")
    assert list((local(service).root / ".partial").iterdir()) == []
    assert service.catalogue() == []
    assert_nothing_runs(large)


def signalled(pattern: str, database: DatabaseSettings, number: signal.Signals) -> int:
    """Signal every program of that name at work on the database; return how many there were."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name == pattern and str(database.sqlalchemy_url.database) in "\0".join(words):
            os.kill(int(entry.name), number)
            count += 1
    return count


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_pg_dump_is_killed_by_somebody_else(
    number: signal.Signals,
    start: Callable[[DatabaseSettings], object],
    large: DatabaseSettings,
    service: BackupService,
) -> None:
    with start(large) as run:  # type: ignore[attr-defined]
        at_the_first_data(run)
        assert signalled("pg_dump", large, number)
        stdout, _ = run.process.communicate(timeout=ENDS_WITHIN_S)
    assert run.process.returncode == 1
    assert '"kind": "ToolFailed"' in stdout
    assert "pg_dump" in stdout
    assert service.catalogue() == []
    assert list((local(service).root / ".partial").iterdir()) == []
    assert_nothing_runs(large)

"""Servers of our own: they live as long as somebody uses them, and not a moment longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.postgres import home, lease
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server, embedded, embedded_major, scratch
from chanuka_ops_tests.plugins.backup import execute, scalars

pytestmark = pytest.mark.postgres

# a user of its own process: it holds a server until it's killed
USER = """
import signal, sys
from pathlib import Path
from chanuka_ops.postgres import server
from chanuka_ops.postgres.binaries import Binaries

how, state, bin_dir, major, origin = sys.argv[1:]
found = Binaries(Path(bin_dir), int(major), f"{major}.0", origin)
with getattr(server, how)(Path(state), found) as running:
    print(running.pid, running.socket_dir, flush=True)
    signal.pause()
"""


def user(how: str, state_dir: Path, pg: Binaries, **environment: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", USER, how, str(state_dir), str(pg.bin_dir), str(pg.major), pg.origin]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})


def told(process: subprocess.Popen[str]) -> tuple[int, Path]:
    assert process.stdout is not None
    pid, socket_dir = process.stdout.readline().split()
    return int(pid), Path(socket_dir)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_the_embedded_servers_data_stays(pg: Binaries, state_dir: Path) -> None:
    assert embedded_major(state_dir) is None
    with embedded(state_dir, pg) as first:
        execute(first.settings("postgres"), "create table kept as select 42 as answer")
    assert not alive(first.pid), "its last user is gone"
    assert embedded_major(state_dir) == pg.major
    with embedded(state_dir, pg) as second:
        assert scalars(second.settings("postgres"), "select answer from kept") == [42]
        assert second.pid != first.pid
        assert scalars(second.settings("postgres"), "show archive_mode") == ["off"]
        assert scalars(second.settings("postgres"), "show listen_addresses") == [""]
        assert scalars(second.settings("postgres"), "show fsync") == ["on"]
        assert second.socket_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_two_users_share_one_server_and_the_first_to_leave_does_not_stop_it(pg: Binaries, state_dir: Path) -> None:
    with user("embedded", state_dir, pg) as first:
        pid, _ = told(first)
        with embedded(state_dir, pg) as second:
            assert second.pid == pid
            first.kill()
            first.wait()
            time.sleep(1)
            assert scalars(second.settings("postgres"), "select 1") == [1]
    assert wait_until(lambda: not alive(pid), timeout_s=5)


@pytest.mark.slow
def test_the_one_that_started_it_may_leave_first(pg: Binaries, state_dir: Path) -> None:
    with embedded(state_dir, pg) as mine:
        second = user("embedded", state_dir, pg)
        with second:
            pid, _ = told(second)
            assert pid == mine.pid
            second.kill()
        assert scalars(mine.settings("postgres"), "select 1") == [1]


def test_a_killed_user_leaves_no_server(pg: Binaries, state_dir: Path) -> None:
    with user("embedded", state_dir, pg) as only:
        pid, _ = told(only)
        only.kill()
    assert wait_until(lambda: not alive(pid), timeout_s=5)
    with embedded(state_dir, pg) as again:
        assert scalars(again.settings("postgres"), "select 1") == [1]


@pytest.mark.slow
def test_a_killed_user_leaves_no_scratch_server_and_no_directory(pg: Binaries, state_dir: Path) -> None:
    with user("scratch", state_dir, pg) as only:
        pid, socket_dir = told(only)
        assert socket_dir.exists()
        only.kill()
    assert wait_until(lambda: not alive(pid), timeout_s=5)
    assert wait_until(lambda: not socket_dir.exists(), timeout_s=5)
    assert wait_until(lambda: list((state_dir / "scratch").iterdir()) == [], timeout_s=5)


@pytest.mark.slow
def test_a_killed_keeper_takes_its_server_along(pg: Binaries, state_dir: Path) -> None:
    with scratch(state_dir, pg) as server:
        status = Path(f"/proc/{server.pid}/status").read_text()
        keeper = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        os.kill(keeper, signal.SIGKILL)
        assert wait_until(lambda: not alive(server.pid), timeout_s=5)


def test_a_scratch_server_is_removed_whatever_ends_its_block(pg: Binaries, state_dir: Path) -> None:
    with pytest.raises(KeyError), scratch(state_dir, pg) as server:  # noqa: PT012 - the block must be entered first
        assert scalars(server.settings("postgres"), "show archive_mode") == ["off"]
        assert server.superuser.startswith("chanuka_scratch_")
        raise KeyError
    assert not alive(server.pid)
    assert list((state_dir / "scratch").iterdir()) == []


@pytest.mark.slow
def test_what_a_user_left_that_was_killed_early_is_swept(pg: Binaries, state_dir: Path) -> None:
    old, young, used = (state_dir / "scratch" / name for name in ("old", "young", "used"))
    for directory in (old, young, used):
        (directory / "data.unfinished").mkdir(parents=True)
        directory.chmod(0o711)
    for directory in (old, used):
        os.utime(directory, (0, 0))
    with lease.leased(used):
        os.utime(used, (0, 0))
        with scratch(state_dir, pg):
            assert {path.name for path in (state_dir / "scratch").iterdir()} >= {"young", "used"}
            assert not old.exists()


@pytest.mark.slow
def test_a_cluster_of_another_major_is_left_alone(pg: Binaries, state_dir: Path) -> None:
    with embedded(state_dir, pg):
        pass
    other = Binaries(pg.bin_dir, pg.major + 1, f"{pg.major + 1}.0", pg.origin)
    words = rf"is a cluster of PostgreSQL {pg.major}, the programs found are {pg.major + 1}\.0"
    with pytest.raises(errors.ServerError, match=words), embedded(state_dir, other):
        pass
    assert embedded_major(state_dir) == pg.major


@pytest.mark.slow
def test_a_very_long_path_has_its_socket_elsewhere(pg: Binaries, state_dir: Path) -> None:
    deep = state_dir / ("d" * 90) / ("e" * 90)
    with scratch(deep, pg) as server:
        assert state_dir not in server.socket_dir.parents
        assert scalars(server.settings("postgres"), "select 1") == [1]
        where = server.socket_dir
    assert not where.exists()


def test_a_start_that_fails_says_what_the_log_said(pg: Binaries, state_dir: Path) -> None:
    with (
        pytest.raises(errors.ServerError, match=r"didn't start: .*no_such_setting") as failure,
        scratch(state_dir, pg, settings={"no_such_setting": "on"}),
    ):
        pass
    assert "FATAL" in str(failure.value)
    assert list((state_dir / "scratch").iterdir()) == []


@pytest.mark.slow
def test_the_environment_of_its_user_does_not_reach_it(pg: Binaries, state_dir: Path) -> None:
    odd = {"PGPORT": "5999", "PGHOST": "/nonexistent", "PGUSER": "nobody", "PGOPTIONS": "-c geqo=off", "LC_ALL": "C"}
    with user("scratch", state_dir, pg, **odd) as process:
        _, socket_dir = told(process)
        assert (socket_dir / ".s.PGSQL.5432").exists()
        process.kill()


def test_its_socket_admits_nobody_else(server: Server) -> None:
    assert server.socket_dir.stat().st_mode & 0o077 == 0
    assert (server.socket_dir.parent / "data").stat().st_mode & 0o077 == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a server then runs as another account")
def test_as_root_it_runs_as_another_account(server: Server) -> None:
    account = home.server_account()
    assert account is not None
    status = Path(f"/proc/{server.pid}/status").read_text()
    uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    assert set(uids) == {str(account.uid)}
    assert account.uid != 0

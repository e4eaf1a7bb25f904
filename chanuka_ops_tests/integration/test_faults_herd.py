"""Many processes and one server that is down: F17, F18. And what a process that ends leaves behind: F19, F20."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, FeatureSettings, PoolSettings
from chanuka_ops.db.breaker import JITTER, OPEN, Record
from chanuka_ops.db.breaker_file import BreakerFile
from chanuka_ops.db.classify import FailureClass
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.nodes import free_port
from chanuka_ops_tests.plugins.processes import clean_environment, finished, running, sessions, url_of
from chanuka_ops_tests.plugins.proxy import Proxy, ProxyTo, socket_of, through

pytestmark = pytest.mark.postgres

AVAILABILITY = FailureClass.AVAILABILITY
CAP_S = OPEN[AVAILABILITY].most_s * (1 + JITTER)
BURST = 3  # failures that open it


def plainly(database: DatabaseSettings, proxy: Proxy) -> DatabaseSettings:
    """Through a proxy, with one connection to it for each attempt: neither TLS nor GSS is tried first."""
    url = make_url(url_of(through(database, proxy)))
    stated = url.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
    return database.model_copy(update={"url": SecretStr(stated.render_as_string(hide_password=False))})


def target_of(database: DatabaseSettings) -> str:
    with ConnectionManager("look", database) as manager:
        gate = manager._cluster.nodes[0].gate
    assert gate is not None
    return gate.target


def record_of(database: DatabaseSettings, state_dir: Path) -> Record:
    records = BreakerFile(state_dir / "breaker")
    try:
        return records.read(target_of(database), AVAILABILITY)
    finally:
        records.close()


# One of the herd: told to go, it tries until it comes through.
MEMBER = """
import sys, time
from pathlib import Path
from pydantic import SecretStr
from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, FeatureSettings
from chanuka_ops.db.manager import ConnectionManager
url, state_dir, breaker = sys.argv[1:]
features = FeatureSettings(circuit_breaker=breaker == "True")
manager = ConnectionManager("main", DatabaseSettings(url=SecretStr(url)), features=features, state_dir=Path(state_dir))
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        with manager.read():
            break
    except errors.ConnectError:
        time.sleep(0.02)
print("through", flush=True)
"""


@contextmanager
def herd(
    database: DatabaseSettings, state_dir: Path, size: int, *, breaker: bool = True
) -> Iterator[list[subprocess.Popen[str]]]:
    argv = [sys.executable, "-c", MEMBER, url_of(database), str(state_dir), str(breaker)]
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(size)]
    try:
        for process in processes:
            assert line_of(process) == "ready"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def sit_out(seconds: float) -> None:
    """Let the outage last: its length is what the test is about."""
    ends = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= ends, timeout_s=seconds + 5, poll_s=0.1)


SIZES = [(3, 1.5), pytest.param(12, 12.0, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("size", "dead_s"), SIZES)
def test_a_herd_tries_a_dead_server_once_an_open_period_and_is_back_soon(
    *, server: Server, database: DatabaseSettings, proxy_to: ProxyTo, state_dir: Path, size: int, dead_s: float
) -> None:
    proxy = proxy_to(server)
    proxy.retarget(state_dir / "nobody")  # it accepts, and hangs up at once
    dead = plainly(database, proxy)
    with herd(dead, state_dir, size) as processes:
        go(processes)
        sit_out(dead_s)
        tried, record = proxy.connections, record_of(dead, state_dir)
        assert record.trips >= (2 if dead_s > CAP_S else 1)
        # who was on the way when it opened, and one for each time it opened again
        assert BURST <= tried <= BURST + size + record.trips, record
        proxy.retarget(socket_of(server))
        back = time.monotonic()
        assert [line_of(process) for process in processes] == ["through"] * size
        assert time.monotonic() - back <= CAP_S + 1
    assert record_of(dead, state_dir).open_until == 0.0


@pytest.mark.parametrize(
    ("size", "dead_s", "at_least"), [(4, 2.0, 20), pytest.param(12, 12.0, 200, marks=pytest.mark.slow)]
)
def test_without_breakers_the_herd_hammers(
    *,
    server: Server,
    database: DatabaseSettings,
    proxy_to: ProxyTo,
    state_dir: Path,
    size: int,
    dead_s: float,
    at_least: int,
) -> None:
    """The twin."""
    proxy = proxy_to(server)
    proxy.retarget(state_dir / "nobody")
    with herd(plainly(database, proxy), state_dir, size, breaker=False) as processes:
        go(processes)
        sit_out(dead_s)
        assert proxy.connections >= at_least
    assert not (state_dir / "breaker").exists()


def half_open(database: DatabaseSettings, state_dir: Path) -> None:
    records = BreakerFile(state_dir / "breaker")
    records.change(target_of(database), AVAILABILITY, lambda _: Record(open_until=time.time() - 1, failures=3, trips=1))
    records.close()


@pytest.mark.parametrize("killed", [True, False])
def test_a_prober_that_is_killed_in_mid_probe_leaves_its_turn_to_the_next(
    *, server: Server, database: DatabaseSettings, proxy_to: ProxyTo, state_dir: Path, killed: bool
) -> None:
    proxy = proxy_to(server)
    known = plainly(database, proxy)
    half_open(known, state_dir)
    proxy.silent()
    with herd(known, state_dir, 1) as (prober,), ConnectionManager("next", known, state_dir=state_dir) as following:
        go([prober])
        assert wait_until(lambda: proxy.connections == 1, timeout_s=10)
        assert record_of(known, state_dir).probe_until > time.time()
        if not killed:  # the twin: as long as it lives, the turn is its own
            with pytest.raises(errors.CircuitOpen, match="another session is trying it"), following.read():
                pass
            return
        prober.kill()
        prober.wait()
        proxy.thaw()
        start = time.monotonic()
        with following.read() as connection:
            assert connection.execute(text("select 1")).scalar_one() == 1
        assert time.monotonic() - start < 2, "not after the dead one's deadline"
    assert record_of(known, state_dir).open_until == 0.0


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

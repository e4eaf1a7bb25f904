"""Many processes and one server that is down: F17, F18."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.breaker import JITTER, OPEN, Record
from chanuka_ops.db.breaker_file import BreakerFile
from chanuka_ops.db.classify import FailureClass
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration.fault_cases import line_of
from chanuka_ops_tests.plugins.processes import url_of
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


@pytest.mark.slow
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

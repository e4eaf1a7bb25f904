"""Packets that vanish without a word, on the way between two network namespaces: no reset, no unreachable, nothing."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings, TimeoutSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import KEEPALIVES, Profile
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.nodes import Node, free_port, opened
from chanuka_ops_tests.plugins.postgres import connect
from chanuka_ops_tests.plugins.replicas import Template

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network namespace"),
]

_NETWORK = f"10.213.{os.getpid() % 250 + 1}"  # another session of the tests has another
SERVER, CLIENT = f"{_NETWORK}.1", f"{_NETWORK}.2"
NOBODY = "02:00:00:00:00:01"  # an Ethernet address that no card has
FREED_S = 0.5
SLACK_S = 1.5


@dataclass(frozen=True)
class Wire:
    """A namespace for the client, wired to ours; the server listens at our end."""

    namespace: str
    device: str
    node: Node

    def database(self, statement_s: float) -> DatabaseSettings:
        query = {"sslmode": "disable"}
        url = URL.create(DRIVER, "postgres", host=SERVER, port=self.node.port, database="postgres", query=query)
        limits = TimeoutSettings(statement_s=statement_s)
        return DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False)), timeouts=limits)

    def lose(self) -> None:
        """From now on what the server's side sends arrives nowhere: no answer, and no acknowledgement."""
        words = ("ip", "neigh", "replace", CLIENT, "lladdr", NOBODY, "nud", "permanent", "dev", self.device)
        ours = f"/proc/{os.getpid()}/ns/net"  # a thread of the client's namespace may be who asks
        subprocess.run(words, check=True, timeout=5, preexec_fn=lambda: into(ours))

    def inside(self, work: Callable[[], Any], *, wait_s: float) -> list[Any]:
        """Run it on a thread of the client's namespace; return what it returned, or nothing if it still hangs then."""
        done: list[Any] = []

        def enter() -> None:
            into(f"/var/run/netns/{self.namespace}")
            done.append(work())

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        thread.join(wait_s)
        return done


def into(namespace: str) -> None:
    """Move this thread there."""
    with Path(namespace).open("rb") as handle:
        assert ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0) == 0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=5)


@pytest.fixture
def wire(replication_template: Template, state_dir: Path) -> Iterator[Wire]:
    """A server and a client's namespace, a wire between them."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 isn't installed")
    key = uuid.uuid4().hex[:6]
    namespace, device = f"chanuka-{key}", f"cha{key}"
    try:
        try:
            ip("netns", "add", namespace)
            ip("link", "add", device, "type", "veth", "peer", "name", f"{device}p", "netns", namespace)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode(errors='replace').strip()}")
        ip("addr", "add", f"{SERVER}/30", "dev", device)
        ip("link", "set", device, "up")
        ip("-n", namespace, "addr", "add", f"{CLIENT}/30", "dev", f"{device}p")
        ip("-n", namespace, "link", "set", f"{device}p", "up")
        data, programs = replication_template
        with opened(Node, state_dir / "wired", data, programs, port=free_port()) as node:
            node.write("pg_hba.conf", f"local all all trust\nhost all all {CLIENT}/32 trust\n")
            node.configure(listen_addresses=f"'{SERVER}'")
            node.start()
            yield Wire(namespace, device, node)
    finally:
        for words in (("link", "del", device), ("netns", "del", namespace)):
            with suppress(subprocess.CalledProcessError):
                ip(*words)


def lost_in_mid_work(wire: Wire, profile: Profile, *, lose_after_s: float = 0.0) -> tuple[errors.DatabaseError, float]:
    """Open a transaction, ask, and lose everything before or meanwhile: the failure, and how long it took."""

    def work() -> tuple[errors.DatabaseError, float]:
        start = time.monotonic()
        with ConnectionManager("main", wire.database(2.0)) as manager:
            try:
                with manager.transaction(profile=profile) as connection:
                    later = threading.Timer(lose_after_s, wire.lose)
                    later.start()
                    if not lose_after_s:
                        later.join()
                    start = time.monotonic()
                    connection.execute(text("select pg_sleep(1)"))
            except errors.DatabaseError as error:
                return error, time.monotonic() - start
        raise AssertionError("it got an answer")

    done = wire.inside(work, wait_s=60)
    assert done, "it hangs"
    failure, took_s = done[0]
    return failure, took_s


def test_a_statement_whose_packets_vanish_ends_at_the_deadline(wire: Wire) -> None:
    failure, took_s = lost_in_mid_work(wire, Profile.QUERY)
    print(f"watchdog: {took_s:.3f} s, deadline 2.0 s")  # noqa: T201 - the figure
    assert type(failure) is errors.DeadlineExceeded
    assert 1.9 < took_s < 2.0 + FREED_S + SLACK_S


@pytest.mark.parametrize("lose_after_s", [0.0, 0.5], ids=["nothing is acknowledged", "there is nothing to send"])
def test_without_a_limit_the_kernel_gives_up(wire: Wire, lose_after_s: float) -> None:
    """By its user timeout for what it has sent, by keepalives where it only waits: all that maintenance has."""
    failure, took_s = lost_in_mid_work(wire, Profile.MAINTENANCE, lose_after_s=lose_after_s)
    longest_s = KEEPALIVES["keepalives_idle"] + KEEPALIVES["keepalives_interval"] * KEEPALIVES["keepalives_count"]
    print(f"kernel: {took_s:.3f} s, at most {longest_s} s")  # noqa: T201 - the figure
    assert type(failure) is errors.ConnectionLost
    assert took_s < longest_s + 5


def test_with_the_drivers_own_defaults_the_thread_would_hang(wire: Wire) -> None:
    ended = threading.Event()
    sockets: list[socket.socket] = []

    def work() -> None:
        with suppress(psycopg.Error), connect(wire.database(2.0)) as plain:
            sockets.append(socket.socket(fileno=os.dup(plain.fileno())))
            plain.execute("select 1")
            wire.lose()
            try:
                plain.execute("select 1")
            finally:
                ended.set()

    assert wire.inside(work, wait_s=5) == []
    assert not ended.is_set()
    with sockets[0] as wired:
        wired.shutdown(socket.SHUT_RDWR)
    assert ended.wait(5)


def test_a_server_that_was_lost_is_refused_by_the_acquire_deadline(wire: Wire) -> None:
    def work() -> tuple[errors.DatabaseError, float]:
        wire.lose()
        start = time.monotonic()
        with ConnectionManager("main", wire.database(2.0)) as manager:
            try:
                with manager.read():
                    pass
            except errors.DatabaseError as error:
                return error, time.monotonic() - start
        raise AssertionError("it got an answer")

    done = wire.inside(work, wait_s=60)
    assert done, "it hangs"
    failure, took_s = done[0]
    print(f"connect: {took_s:.3f} s")  # noqa: T201 - the figure
    assert isinstance(failure, errors.TargetUnavailable)
    assert took_s < 10 + SLACK_S
    assert wait_until(lambda: wire.node.running, timeout_s=1)

"""Nobody there, somebody who says nothing, a name that leads nowhere: all within the one deadline, each told apart."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings, PoolSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.nodes import LOCALHOST, Node, free_port, opened
from chanuka_ops_tests.plugins.proxy import ProxyTo, through
from chanuka_ops_tests.plugins.replicas import Template

pytestmark = pytest.mark.postgres

ACQUIRE_S = 2.0
SLACK_S = 1.5
SECOND = "127.0.0.2"  # the whole of 127/8 is this machine
NAMED = "db.internal"
FORMS = ["host:port,host:port", "host=host:port&host=host:port", "host,host port,port"]


def at(host: str, port: int | None = None, **query: str) -> DatabaseSettings:
    url = URL.create(DRIVER, "postgres", host=host, port=port, database="postgres", query=query)
    return hasty(DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False))))


def listed(ports: list[int], form: str) -> DatabaseSettings:
    """This host several times, in one of the forms that a URL has for it."""
    hosts = [LOCALHOST] * len(ports)
    pairs = [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
    queries: dict[str, dict[str, tuple[str, ...]]] = {
        "host:port,host:port": {"host": (",".join(pairs),)},
        "host=host:port&host=host:port": {"host": tuple(pairs)},
        "host,host port,port": {"host": (",".join(hosts),), "port": (",".join(map(str, ports)),)},
    }
    url = URL.create(DRIVER, "postgres", database="postgres", query=queries[form])
    return hasty(DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False))))


def hasty(database: DatabaseSettings, **pool: Any) -> DatabaseSettings:
    return database.model_copy(update={"pool": PoolSettings(**{"acquire_timeout_s": ACQUIRE_S, **pool})})


def answer(manager: ConnectionManager, query: str) -> Any:
    with manager.transaction() as connection:
        return connection.execute(text(query)).scalar_one()


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    took_s = time.monotonic() - start
    print(f"{what}: {took_s:.3f} s of {seconds:.1f} s")  # noqa: T201 - the figure
    assert took_s < seconds + SLACK_S


def refused(database: DatabaseSettings, what: str) -> errors.ConnectError:
    with ConnectionManager("main", database) as manager, within(ACQUIRE_S, what):  # noqa: SIM117
        with pytest.raises(errors.ConnectError) as caught:
            answer(manager, "select 1")
    return caught.value


# ------------------------------------------------------------------ somebody accepts, and says nothing


@contextmanager
def deaf(host: str = LOCALHOST, port: int = 0) -> Iterator[int]:
    """A port on which the kernel accepts, and nobody answers."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen()
        yield sock.getsockname()[1]


def test_three_silent_hosts_share_the_one_deadline() -> None:
    with ExitStack() as stack:
        ports = [stack.enter_context(deaf()) for _ in range(3)]
        failure = refused(listed(ports, FORMS[0]), "three silent hosts")
    assert type(failure) is errors.TargetUnavailable
    assert "says nothing" in str(failure)


@pytest.mark.parametrize("form", [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])])
def test_the_third_host_is_reached_past_two_silent_ones(proxy_to: ProxyTo, server: Server, form: str) -> None:
    proxy = proxy_to(server)
    with deaf() as first, deaf() as second:
        ports = [first, second, proxy.port]
        with ConnectionManager("main", listed(ports, form)) as manager:
            with within(ACQUIRE_S, "past two silent hosts"):
                assert answer(manager, "select 1") == 1
            names = [node["name"] for node in manager.snapshot()["nodes"]]
            assert names == [f"{LOCALHOST}:{port}" for port in ports], "asked in the order of the URL"
            with within(0.0, "the next time"):
                assert answer(manager, "select 2") == 2, "whoever took the last write is asked first"


def test_waiting_for_a_slot_and_connecting_share_the_one_deadline(proxy_to: ProxyTo, server: Server) -> None:
    proxy = proxy_to(server)
    one = hasty(through(server.settings("postgres"), proxy), size=1, overflow=0)
    with ConnectionManager("main", one) as manager:
        holding, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with suppress(errors.ConnectionLost), manager.transaction() as connection:
                holding.set()
                let_go.wait(10)
                connection.execute(text("select 1"))  # it was cut meanwhile: the pool has none

        holder = threading.Thread(target=hold)
        holder.start()
        assert holding.wait(5)
        proxy.silent()
        proxy.cut()
        later = threading.Timer(ACQUIRE_S * 0.6, let_go.set)
        later.start()
        with within(ACQUIRE_S, "a slot and a silent server"), pytest.raises(errors.TargetUnavailable):
            answer(manager, "select 1")
        holder.join()
        later.join()


# ------------------------------------------------------------------ names and addresses


class Names:
    """Resolves a name of the test's own; everything else as ever."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.hangs = threading.Event()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, *args: Any, **named: Any) -> Any:
        if host != NAMED:
            return self._real(host, *args, **named)
        if not self.addresses:
            self.hangs.wait(30)
            raise socket.gaierror
        return [found for address in self.addresses for found in self._real(address, *args, **named)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    fake = Names()
    monkeypatch.setattr(socket, "getaddrinfo", fake)
    yield fake
    fake.hangs.set()


@pytest.fixture(scope="module")
def node(replication_template: Template, session_dir: Path) -> Iterator[Node]:
    """A server at two addresses of this machine."""
    data, programs = replication_template
    with opened(Node, session_dir / "two-addresses", data, programs, port=free_port()) as started:
        started.write("pg_hba.conf", "local all all trust\nhost all all 127.0.0.0/8 trust\n")
        started.configure(listen_addresses=f"'{LOCALHOST},{SECOND}'")
        started.start()
        yield started


def test_a_closed_port_is_refused_at_once() -> None:
    failure = refused(at(LOCALHOST, free_port()), "a closed port")
    assert type(failure) is errors.TargetUnavailable
    assert "nobody listens there" in str(failure)


def test_a_name_that_does_not_exist() -> None:
    failure = refused(at("name.invalid", sslmode="disable"), "name.invalid")
    assert type(failure) is errors.TargetUnavailable
    assert "name doesn't resolve" in str(failure)


def test_a_resolver_that_hangs_is_left_behind_at_the_deadline(names: Names) -> None:
    failure = refused(at(NAMED, sslmode="disable"), "a resolver that hangs")
    assert type(failure) is errors.TargetUnavailable
    assert "took too long" in str(failure)


def test_a_name_that_leads_elsewhere_is_followed_when_a_connection_has_lived_long_enough(
    names: Names, node: Node
) -> None:
    database = hasty(at(NAMED, node.port, sslmode="disable"), max_lifetime_s=0.2)
    where = "select host(inet_server_addr())"
    with ConnectionManager("main", database) as manager:
        names.addresses = [LOCALHOST]
        assert answer(manager, where) == LOCALHOST
        names.addresses = [SECOND]
        assert wait_until(lambda: answer(manager, where) == SECOND, timeout_s=5)


def test_a_name_that_leads_elsewhere_is_followed_when_a_connection_broke(names: Names, node: Node) -> None:
    with ConnectionManager("main", at(NAMED, node.port, sslmode="disable")) as manager:
        names.addresses = [LOCALHOST]
        pid = answer(manager, "select pg_backend_pid()")
        names.addresses = [SECOND]
        assert answer(manager, "select host(inet_server_addr())") == LOCALHOST, "a connection that works is kept"
        node.query(f"select pg_terminate_backend({pid}, 5000)")
        assert answer(manager, "select host(inet_server_addr())") == SECOND


def test_the_second_address_of_a_name_is_reached_past_a_closed_one(names: Names, node: Node) -> None:
    names.addresses = ["127.0.0.9", SECOND]
    with ConnectionManager("main", at(NAMED, node.port, sslmode="disable")) as manager, within(0.0, "a closed address"):
        assert answer(manager, "select host(inet_server_addr())") == SECOND


def test_the_second_address_of_a_name_is_reached_past_a_silent_one(names: Names, node: Node) -> None:
    names.addresses = ["127.0.0.9", SECOND]
    with deaf("127.0.0.9", node.port), within(ACQUIRE_S, "a silent address"):  # noqa: SIM117
        with ConnectionManager("main", at(NAMED, node.port, sslmode="disable")) as manager:
            assert answer(manager, "select host(inet_server_addr())") == SECOND

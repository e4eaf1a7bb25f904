"""The tests' own proxy cuts, freezes and diverts as its callers rely on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.proxy import Proxy, ProxyTo, through
from chanuka_ops_tests.plugins.wires import Where

pytestmark = pytest.mark.postgres

Connect = Callable[..., psycopg.Connection]

SHORT_S = 2  # libpq takes less for that


@pytest.fixture
def proxy(server: Server, proxy_to: ProxyTo) -> Proxy:
    return proxy_to(server)


@pytest.fixture
def connect(database: DatabaseSettings, proxy: Proxy) -> Iterator[Connect]:
    """Connect to the test's database by way of the proxy."""
    url = through(database, proxy).url.get_secret_value().replace("+psycopg", "")
    made: list[psycopg.Connection] = []

    def new(timeout_s: int = 20) -> psycopg.Connection:
        made.append(psycopg.connect(url, connect_timeout=timeout_s))
        return made[-1]

    yield new
    for connection in made:
        connection.close()


def answers(connection: psycopg.Connection) -> bool:
    return connection.execute("select 42").fetchone() == (42,)


def test_it_forwards_and_counts(connect: Connect, proxy: Proxy) -> None:
    first, second = connect(), connect()
    assert answers(first)
    assert answers(second)
    long = first.execute("select repeat('x', 20000000)").fetchone()
    assert long is not None
    assert len(long[0]) == 20_000_000
    assert (proxy.connections, proxy.open, proxy.cuts) == (2, 2, 0)
    first.close()
    assert wait_until(lambda: proxy.open == 1, timeout_s=5)
    assert proxy.connections == 2


def test_much_goes_the_other_way_too(connect: Connect) -> None:
    sent = connect().execute("select length(%s)", ["x" * 20_000_000]).fetchone()
    assert sent == (20_000_000,)


@pytest.mark.parametrize("reset", [True, False])
def test_cut_ends_what_is_open_and_nothing_else(connect: Connect, proxy: Proxy, *, reset: bool) -> None:
    first, second = connect(), connect()
    assert proxy.cut(reset=reset) == 2
    assert (proxy.open, proxy.cuts) == (0, 2)
    for connection in (first, second):
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    assert answers(connect())


def test_the_server_notices_a_cut(connect: Connect, proxy: Proxy, database: DatabaseSettings) -> None:
    pid = connect().info.backend_pid
    proxy.cut()
    query = f"select count(*) from pg_stat_activity where pid = {pid}"
    assert wait_until(lambda: scalars(database, query) == [0], timeout_s=5)


def test_refuse_and_accept(connect: Connect, proxy: Proxy) -> None:
    before, port = connect(), proxy.port
    proxy.refuse()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        connect()
    assert answers(before)
    proxy.accept()
    assert proxy.port == port
    assert answers(connect())


@pytest.mark.slow
def test_freeze_keeps_everything_open_and_says_nothing(connect: Connect, proxy: Proxy) -> None:
    before = connect()
    proxy.freeze()
    with ThreadPoolExecutor() as pool:
        answered = pool.submit(answers, before)
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            connect(SHORT_S)
        assert not answered.done()
        assert proxy.open == 2
        proxy.thaw()
        assert answered.result(timeout=5)
    assert answers(connect())


@pytest.mark.slow
def test_silent_concerns_new_connections_only(connect: Connect, proxy: Proxy) -> None:
    before = connect()
    proxy.silent()
    assert answers(before)
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        connect(SHORT_S)
    proxy.thaw()
    assert answers(connect())


def test_a_cancel_needs_the_wire_too(connect: Connect, proxy: Proxy, database: DatabaseSettings) -> None:
    connection = connect()
    asleep = f"select wait_event from pg_stat_activity where pid = {connection.info.backend_pid}"
    with ThreadPoolExecutor() as pool:
        sleeping = pool.submit(connection.execute, "select pg_sleep(30)")
        assert wait_until(lambda: scalars(database, asleep) == ["PgSleep"], timeout_s=10)
        proxy.silent()
        with pytest.raises(psycopg.errors.CancellationTimeout):
            connection.cancel_safe(timeout=0.5)
        assert not sleeping.done()
        proxy.thaw()
        connection.cancel_safe(timeout=5)
        with pytest.raises(psycopg.errors.QueryCanceled):
            sleeping.result(timeout=5)


def test_retarget_leads_later_connections_elsewhere(connect: Connect, proxy: Proxy, server: Server) -> None:
    before = connect()
    with Proxy(server.socket_dir / "nobody") as nowhere, Proxy(server.socket_dir / ".s.PGSQL.5432") as second:
        proxy.retarget("127.0.0.1", second.port)
        assert answers(connect())
        assert second.connections == 1
        proxy.retarget("127.0.0.1", nowhere.port)
        with pytest.raises(psycopg.OperationalError):
            connect()
        assert answers(before)
        proxy.retarget(server.socket_dir / ".s.PGSQL.5432")
        assert answers(connect())


@pytest.mark.parametrize(("where", "committed"), [("before", 0), ("sent", 1), ("answered", 1)])
def test_a_commit_whose_answer_never_comes(
    connect: Connect, proxy: Proxy, database: DatabaseSettings, where: Where, committed: int
) -> None:
    execute(database, "create table kept (id int)")
    with closing(connect()) as connection:
        proxy.cut_after(b"COMMIT", where)
        connection.execute("insert into kept values (1)")
        armed = [proxy.armed]
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        assert [*armed, proxy.armed] == [True, False]
        assert (proxy.open, proxy.cuts) == (0, 1)
    query = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    assert wait_until(lambda: scalars(database, query) == [0], timeout_s=5)
    assert scalars(database, "select count(*) from kept") == [committed]


def test_it_cuts_once_and_can_be_armed_again(connect: Connect, proxy: Proxy) -> None:
    for cuts in (1, 2):
        proxy.cut_after(b"COMMIT", "sent")
        connection = connect()
        assert answers(connection)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        again = connect()
        assert answers(again)
        again.commit()
        assert proxy.cuts == cuts
    proxy.cut_after(b"COMMIT", "before")
    proxy.disarm()
    again.execute("select 1")
    again.commit()


def test_a_delay_keeps_the_client_waiting(connect: Connect, proxy: Proxy) -> None:
    connection = connect()
    proxy.cut_after(b"pg_backend_pid", "sent", delay_s=0.5, reset=False)
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select pg_backend_pid()")
    assert 0.4 < time.monotonic() - began < 5


def test_a_pattern_in_two_pieces_is_seen(connect: Connect, proxy: Proxy) -> None:
    connection = connect()
    proxy.cut_after(b"the needle", "before")
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select %s", ["x" * 65_530 + "the needle" + "y" * 500_000])
    assert proxy.cuts == 1


def test_it_leaves_no_thread_and_no_socket(server: Server) -> None:
    with Proxy(server.socket_dir / ".s.PGSQL.5432") as proxy:
        thread, sockets = proxy._thread, (proxy._listener, proxy._wake, proxy._woken)
    proxy.close()
    assert not thread.is_alive()
    assert {sock.fileno() for sock in sockets} == {-1}

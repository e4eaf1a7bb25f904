"""A client reads through the relay at the set rate, and everything else is as without it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres import process, relay
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.nodes import Node, opened
from chanuka_ops_tests.plugins.postgres import connect
from chanuka_ops_tests.plugins.processes import Guarded, sessions, url_of
from chanuka_ops_tests.plugins.replicas import Template
from chanuka_ops_tests.plugins.tls import TlsServer

pytestmark = pytest.mark.postgres

SOON_S = 15.0
FAST = 10**9
ROWS = "insert into big select g, repeat(md5(g::text), 30) from generate_series(1, {}) g"  # 1 kB each


def relays() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("chanuka-relay")]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test neither a thread of the relay's nor a connection through it is left."""
    before = set(Path(f"/proc/{os.getpid()}/fd").iterdir()) if sys.platform == "linux" else set()
    yield
    assert not relays()
    if before:
        sockets = [
            fd
            for fd in set(Path(f"/proc/{os.getpid()}/fd").iterdir()) - before
            if fd.exists() and str(fd.readlink()).startswith("socket:")
        ]
        assert not sockets


@contextmanager
def big(database: DatabaseSettings, kilobytes: int) -> Iterator[None]:
    execute(database, "create table big(id int, v text)", ROWS.format(kilobytes))
    yield
    execute(database, "drop table big")


def pg_dump(database: DatabaseSettings, programs: Binaries, target: Path) -> list[str | Path]:
    return [
        programs.path("pg_dump"),
        "--no-password",
        f"--file={target}",
        f"--dbname={parameters.conninfo(database)}",
    ]


def dumped(database: DatabaseSettings, programs: Binaries, target: Path, *options: str) -> list[str]:
    """Dump as SQL; return its lines but those that are random."""
    process.run([*pg_dump(database, programs, target), *options], deadline_s=60)
    lines = target.read_text(encoding="utf-8").splitlines() if target.is_file() else []
    return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]


def test_a_dump_keeps_to_the_rate_and_holds_the_same(database: DatabaseSettings, pg: Binaries, tmp_path: Path) -> None:
    with big(database, 4_500):
        direct = dumped(database, pg, tmp_path / "direct.sql")
        start = time.monotonic()
        with relay.limited(database, bytes_per_s=2_000_000) as through:
            slow = dumped(through, pg, tmp_path / "slow.sql")
        took_s = time.monotonic() - start
        assert slow == direct
        assert 2.0 <= took_s < 20


def test_a_parallel_dump_shares_the_rate(database: DatabaseSettings, pg: Binaries, tmp_path: Path) -> None:
    with big(database, 1_500):
        execute(database, "create table big2 as select * from big")
        start = time.monotonic()
        with relay.limited(database, bytes_per_s=2_000_000) as through:
            dumped(through, pg, tmp_path / "dump", "--format=directory", "--jobs=2")
        assert 1.3 <= time.monotonic() - start < 20


def test_two_connections_share_the_rate(database: DatabaseSettings) -> None:
    query = "select repeat('x', 1000) from generate_series(1, 750)"
    with relay.limited(database, bytes_per_s=1_000_000) as through:

        def read(_: int) -> int:
            with connect(through) as connection:
                return len(connection.execute(query).fetchall())

        start = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(read, range(2))) == [750, 750]
        assert 1.3 <= time.monotonic() - start < 20


def test_without_reaching_the_limit_it_costs_little(database: DatabaseSettings) -> None:
    with relay.limited(database, bytes_per_s=FAST) as through, connect(through) as connection:
        start = time.monotonic()
        for number in range(200):
            assert connection.execute("select %s::int", (number,)).fetchall() == [(number,)]
        rows = connection.execute("select repeat('x', 1000) from generate_series(1, 20000)").fetchall()
        assert len(rows) == 20_000
        assert time.monotonic() - start < 30


def test_much_passes_upwards_at_once(database: DatabaseSettings) -> None:
    """Only what comes from the server is held back."""
    with relay.limited(database, bytes_per_s=50_000) as through, connect(through) as connection:
        start = time.monotonic()
        found = connection.execute("select length(%s)", ("x" * 5_000_000,)).fetchall()
        assert found == [(5_000_000,)]
        assert time.monotonic() - start < 20


def test_a_password_passes_and_a_wrong_one_does_not(database: DatabaseSettings, guarded: Guarded) -> None:
    with (
        relay.limited(guarded.of(database), bytes_per_s=FAST) as through,
        ConnectionManager("through", through) as manager,
    ):
        assert manager.probe().major >= 15
    with (
        relay.limited(guarded.of(database, "wrong"), bytes_per_s=FAST) as through,
        ConnectionManager("through", through) as manager,
        pytest.raises(errors.AuthenticationFailed),
    ):
        manager.probe()


def through_tls(database: DatabaseSettings) -> bool:
    with relay.limited(database, bytes_per_s=FAST) as through, psycopg.connect(parameters.conninfo(through)) as session:
        row = session.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
        return bool(row and row[0])


def test_tls_goes_from_end_to_end(tls_server: TlsServer) -> None:
    assert through_tls(tls_server.settings(sslmode="verify-full", root_cert=tls_server.ca))


def test_the_certificate_is_checked_for_the_name_of_the_server(tls_server: TlsServer) -> None:
    """Not for the relay's: the certificate is made out to another name than this one's."""
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        through_tls(tls_server.settings("127.0.0.1", "verify-full", tls_server.ca))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        through_tls(tls_server.settings(sslmode="verify-full", root_cert=tls_server.other_ca))


def test_a_dump_under_tls(tls_server: TlsServer, tmp_path: Path) -> None:
    database = tls_server.settings(sslmode="verify-full", root_cert=tls_server.ca)
    with big(database, 1_000):
        programs = tls_server.node.binaries
        direct = dumped(database, programs, tmp_path / "direct.sql")
        start = time.monotonic()
        with relay.limited(database, bytes_per_s=1_000_000) as through:
            assert dumped(through, programs, tmp_path / "slow.sql") == direct
        assert time.monotonic() - start >= 0.8


def test_a_cancel_request_passes(database: DatabaseSettings) -> None:
    with relay.limited(database, bytes_per_s=FAST) as through, connect(through) as connection:
        waiting = threading.Timer(0.3, connection.cancel_safe)
        waiting.start()
        start = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(60)")
        waiting.join()
        assert time.monotonic() - start < SOON_S


def test_what_the_server_says_last_arrives(database: DatabaseSettings) -> None:
    """Though the limit holds it back, and the client says something more to a server that has hung up."""
    with relay.limited(database, bytes_per_s=400) as through, connect(through) as connection:
        pid = connection.info.backend_pid
        assert scalars(database, f"select pg_terminate_backend({pid}, 5000)") == [True]
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("select 1")


def test_a_server_that_is_killed_ends_the_client(
    replication_template: Template, state_dir: Path, pg: Binaries, tmp_path: Path
) -> None:
    with opened(Node, state_dir / "killed", *replication_template) as node:
        node.start()
        database = node.settings()
        execute(database, "create table big(id int, v text)", ROWS.format(3_000))
        with (
            relay.limited(database, bytes_per_s=1_000_000) as through,
            process.started(pg_dump(through, pg, tmp_path / "dump")) as running,
        ):
            assert wait_until(lambda: _reads(node), timeout_s=SOON_S)
            node.kill()
            with pytest.raises(errors.ToolFailed, match="pg_dump exited with 1"):
                running.wait(deadline_s=SOON_S)


def _reads(node: Node) -> bool:
    return bool(node.query("select 1 from pg_stat_activity where query like 'COPY%' and application_name = 'pg_dump'"))


def test_a_client_that_is_killed_leaves_no_session(database: DatabaseSettings, pg: Binaries, tmp_path: Path) -> None:
    with big(database, 3_000), relay.limited(database, bytes_per_s=200_000) as through:
        with process.started(pg_dump(through, pg, tmp_path / "dump")) as running:
            assert wait_until(lambda: sessions(database) == ["pg_dump"], timeout_s=SOON_S)
            os.kill(running.pid, signal.SIGKILL)
            assert wait_until(lambda: not sessions(database), timeout_s=SOON_S)
        assert wait_until(lambda: len(relays()) == 1, timeout_s=SOON_S), "the one that waits for the next"


def test_a_client_that_hangs_up_while_nothing_flows_leaves_no_session(database: DatabaseSettings) -> None:
    with relay.limited(database, bytes_per_s=FAST) as through, connect(through) as connection:
        assert sessions(database)
        with socket.socket(fileno=os.dup(connection.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
        assert wait_until(lambda: not sessions(database), timeout_s=SOON_S)
        connection.close()


def test_the_end_of_the_block_ends_every_connection(database: DatabaseSettings) -> None:
    """Also one that would wait for the limit for half a minute."""
    with relay.limited(database, bytes_per_s=20) as through:
        connecting = threading.Thread(target=_fail_to_connect, args=(through,))
        connecting.start()
        assert wait_until(lambda: bool(sessions(database)), timeout_s=SOON_S)
        start = time.monotonic()
    assert time.monotonic() - start < 4
    connecting.join(timeout=SOON_S)
    assert not connecting.is_alive()
    assert wait_until(lambda: not sessions(database), timeout_s=SOON_S)


def _fail_to_connect(database: DatabaseSettings) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(parameters.conninfo(database), connect_timeout=60)


def test_a_server_that_is_not_there_ends_the_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = DatabaseSettings(url=SecretStr(f"postgresql://u@/main?host={tmp_path}"))
    with (
        relay.limited(nowhere, bytes_per_s=FAST) as through,
        pytest.raises(psycopg.OperationalError, match="closed the connection"),
    ):
        psycopg.connect(parameters.conninfo(through))
    assert f"the relay can't reach {tmp_path}/.s.PGSQL.5432: No such file" in caplog.text.replace("[Errno 2] ", "")


KILLED = """
import sys, time
from pydantic import SecretStr
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.postgres import relay

with relay.limited(DatabaseSettings(url=SecretStr(sys.stdin.readline().strip())), bytes_per_s=100_000) as through:
    print(through.url.get_secret_value(), flush=True)
    time.sleep(60)
"""


def test_when_the_relays_process_is_killed_nothing_runs_on(
    database: DatabaseSettings, pg: Binaries, tmp_path: Path
) -> None:
    with big(database, 3_000):
        argv = [sys.executable, "-c", KILLED]
        holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert holder.stdin is not None
        assert holder.stdout is not None
        with holder.stdin, holder.stdout:
            try:
                print(url_of(database), file=holder.stdin, flush=True)
                through = DatabaseSettings(url=SecretStr(holder.stdout.readline().strip()))
                with process.started(pg_dump(through, pg, tmp_path / "dump")) as running:
                    assert wait_until(lambda: sessions(database) == ["pg_dump"], timeout_s=SOON_S)
                    holder.kill()
                    with pytest.raises(errors.ToolFailed, match="pg_dump exited with 1"):
                        running.wait(deadline_s=SOON_S)
                assert wait_until(lambda: not sessions(database), timeout_s=SOON_S)
            finally:
                holder.kill()
                holder.wait()
        shutil.rmtree(str(through.sqlalchemy_url.query["host"]))


def test_others_can_not_come_in_by_it(database: DatabaseSettings, server: Server) -> None:
    """The socket of a local server's relay is in a directory of this account's alone."""
    with relay.limited(database, bytes_per_s=FAST) as through:
        directory = Path(str(through.sqlalchemy_url.query["host"]))
        assert directory != server.socket_dir
        assert directory.stat().st_mode & 0o077 == 0
        assert directory.stat().st_uid == os.geteuid()

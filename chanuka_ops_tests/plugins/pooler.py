"""A real PgBouncer, pooling by transaction, in front of the session's server.

It ignores no startup parameter: a client that sends `options` is refused, as it is by PgBouncer's own defaults.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import URL

from chanuka_ops.config import DRIVER, DatabaseSettings
from chanuka_ops.postgres import home as homes
from chanuka_ops.postgres.process import started, wait_until
from chanuka_ops.postgres.server import PORT, Server
from chanuka_ops_tests.plugins.nodes import LOCALHOST, PATIENCE_S, free_port

POOL_SIZE = 2
PLACES = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"  # an ordinary account's PATH lacks the first
CONFIGURATION = """
[databases]
* = host={server_host} port={server_port}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {home}/users.txt
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 100
"""


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer."""

    port: int
    pid: int
    user: str

    def settings(self, dbname: str) -> DatabaseSettings:
        """How to connect to a database of the server through it."""
        url = URL.create(DRIVER, username=self.user, host=LOCALHOST, port=self.port, database=dbname)
        return DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False)))


@contextmanager
def pooling(directory: Path, host: str | Path, port: int, user: str, *, mode: str = "transaction") -> Iterator[Pooler]:
    """Run one in front of the server there, for the block. Its `mode` may be "session" too."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=PLACES)
    if program is None:
        pytest.skip("the program pgbouncer isn't installed")
    account = homes.server_account()  # it refuses to run as root, and must pass into the socket's directory
    preferred = directory / f"pgbouncer-{uuid.uuid4().hex[:8]}"
    home = homes.make_home(preferred, account)
    own = free_port()
    text = CONFIGURATION.format(
        server_host=host, server_port=port, host=LOCALHOST, port=own, home=home, pool_size=POOL_SIZE, mode=mode
    )
    for name, content in (("pgbouncer.ini", text), ("users.txt", f'"{user}" ""\n')):
        (home / name).write_text(content, encoding="utf-8")
        (home / name).chmod(0o644)
    info = f"host={LOCALHOST} port={own} user={user} dbname=postgres connect_timeout=2"
    try:
        with started([program, home / "pgbouncer.ini"], account=account, cwd=Path("/")) as running:
            assert wait_until(
                lambda: running.ended() or psycopg.pq.PGconn.ping(info.encode()) == psycopg.pq.Ping.OK,
                timeout_s=PATIENCE_S,
            )
            assert not running.ended(), running.wait(deadline_s=PATIENCE_S, check=False).stderr
            yield Pooler(own, running.pid, user)
    finally:
        for left in (home, preferred):
            shutil.rmtree(left, ignore_errors=True)


@pytest.fixture
def pgbouncer(server: Server, session_dir: Path) -> Iterator[Pooler]:
    """A PgBouncer of the test's own."""
    with pooling(session_dir, server.socket_dir, PORT, server.superuser) as pooler:
        yield pooler


@pytest.fixture
def pgbouncer_by_session(server: Server, session_dir: Path) -> Iterator[Pooler]:
    """One that lends a session for as long as its client is connected."""
    with pooling(session_dir, server.socket_dir, PORT, server.superuser, mode="session") as pooler:
        yield pooler

"""A real PostgreSQL server for the session, and a fresh database for each test.

`--pg-bin=DIR` (or PG_BIN) says which installation; without it, the newest that is found. That of Debian's 15
runs the same tests there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from chanuka_ops import context
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import credentials, parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch

MEMORY_BYTES = 6 * 2**30
SERVER_SETTINGS = {
    "wal_level": "logical",
    "max_prepared_transactions": "10",
    "max_connections": "60",
    "autovacuum_naptime": "1h",
    "track_io_timing": "on",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pg-bin", default=os.environ.get("PG_BIN"), help="directory of PostgreSQL's programs to test on")


@pytest.fixture(scope="session")
def pg(request: pytest.FixtureRequest) -> Binaries:
    """The installation under test: server and client programs."""
    stated: str | None = request.config.getoption("--pg-bin")
    configured = Path(stated) if stated else None
    return binaries.find(configured=configured, programs=(*binaries.SERVER, *binaries.CLIENT))


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """A directory for the session that other accounts can pass: pytest's own is closed to them."""
    path = Path(tempfile.mkdtemp(prefix="chanuka-tests-", dir=_memory()))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _memory() -> Path | None:
    """A file system in memory, where there is room and programs may be run from it: clusters are copied a lot."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shutil.disk_usage(shared).free < MEMORY_BYTES:
        return None
    return None if os.statvfs(shared).f_flag & os.ST_NOEXEC else shared


@pytest.fixture(scope="session")
def server(pg: Binaries, session_dir: Path) -> Iterator[Server]:
    """The session's server, its superuser `postgres`."""
    with scratch(session_dir, pg, superuser="postgres", settings=SERVER_SETTINGS) as running:
        yield running


def connect(
    database: DatabaseSettings, profile: Profile = Profile.QUERY, *, lock_timeout_s: float | None = None
) -> psycopg.Connection[Any]:
    """A plain connection of the driver: for what a test does beside the manager."""
    return psycopg.connect(
        parameters.conninfo(database),
        password=credentials.password_of(database),
        options=parameters.session_options(database, profile, lock_timeout_s=lock_timeout_s),
        application_name=context.current().application_name(),
    )


@pytest.fixture
def state_dir(session_dir: Path) -> Iterator[Path]:
    """A state directory of the test's own."""
    path = session_dir / f"state-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def database(server: Server) -> Iterator[DatabaseSettings]:
    """A fresh empty database, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with ConnectionManager("admin", server.settings("postgres")) as admin:
        with admin.autocommit() as connection:
            connection.execute(text(f"create database {name} template template0"))
        yield server.settings(name)
        with admin.autocommit() as connection:
            connection.execute(text(f"drop database if exists {name} with (force)"))


@pytest.fixture
def manager(database: DatabaseSettings) -> Iterator[ConnectionManager]:
    """A connection manager on a fresh empty database."""
    with ConnectionManager("main", database) as opened:
        yield opened

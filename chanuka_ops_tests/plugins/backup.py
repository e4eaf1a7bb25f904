"""Backups of the test's own: a service on a store below the test's state directory."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.storing.local import LocalStore
from chanuka_ops.config import BackupSettings, DatabaseSettings, OperationSettings, PostgresSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server

VERBATIM = {"no_parameters": True}  # percent signs and colons in the text are the server's

Serve = Callable[..., BackupService]


def local(service: BackupService) -> LocalStore:
    """The service's first store, which is a directory here."""
    assert isinstance(service.store, LocalStore)
    return service.store


def execute(database: DatabaseSettings, *statements: str) -> None:
    """Run statements one by one in one session, each its own transaction."""
    with ConnectionManager("plant", database) as manager, manager.autocommit() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options=VERBATIM)


def scalars(database: DatabaseSettings, query: str) -> list[object]:
    with ConnectionManager("look", database) as manager, manager.read() as connection:
        return list(connection.exec_driver_sql(query, execution_options=VERBATIM).scalars())


def as_role(database: DatabaseSettings, role: str, password: str | None = None) -> DatabaseSettings:
    """The same database for another role."""
    url = make_url(database.url.get_secret_value()).set(username=role, password=password)
    return database.model_copy(update={"url": SecretStr(url.render_as_string(hide_password=False))})


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def fresh_database(
    server: Server, name: str, statements: Iterable[str] = (), options: str = ""
) -> Iterator[DatabaseSettings]:
    """Make a database of that very name, run statements in it, and drop it afterwards."""
    elsewhere = server.settings("template1" if name == "postgres" else "postgres")
    if name == "postgres":
        execute(elsewhere, "drop database postgres")
    execute(elsewhere, f"create database {quoted(name)} template template0 {options}")
    try:
        execute(server.settings(name), *statements)
        yield server.settings(name)
    finally:
        execute(elsewhere, f"drop database {quoted(name)} with (force)")
        if name == "postgres":
            execute(elsewhere, "create database postgres")


@pytest.fixture
def serve(state_dir: Path, request: pytest.FixtureRequest) -> Serve:
    """Make a service: serve(), serve(jobs=1), serve(bin_dir=…); its store is below the test's state directory."""
    stated: str | None = request.config.getoption("--pg-bin")

    def make(*, bin_dir: Path | None = Path(stated) if stated else None, **options: object) -> BackupService:
        return BackupService(
            Settings(
                state_dir=state_dir,
                source=None,
                postgres=PostgresSettings(bin_dir=bin_dir),
                operations=OperationSettings(backup=BackupSettings.model_validate(options)),
            )
        )

    return make


@pytest.fixture
def service(serve: Serve) -> BackupService:
    """A service with the settings that are the default."""
    return serve()


SMALL = (
    "create table bills(id int primary key, title text)",
    "insert into bills select g, 'bill ' || g from generate_series(1, 1000) g",
    "create index bills_title on bills(title)",
    "create table votes(bill int references bills, vote text)",
    "insert into votes select g, 'aye' from generate_series(1, 500) g",
    "create sequence numbers",
    "select nextval('numbers')",
    "select lo_from_bytea(4711, 'large')",
)


@pytest.fixture
def small(database: DatabaseSettings) -> DatabaseSettings:
    """A small database with a bit of each: tables, an index, a key, a sequence, a large object."""
    execute(database, *SMALL)
    return database


@pytest.fixture(scope="session")
def taken_once(server: Server, pg: Binaries, session_dir: Path) -> Path:
    """A backup of a database as `small` is: its directory."""
    service = BackupService(
        Settings(state_dir=session_dir / "taken", source=None, postgres=PostgresSettings(bin_dir=pg.bin_dir))
    )
    with (
        fresh_database(server, f"taken_{uuid.uuid4().hex[:8]}", SMALL) as database,
        ConnectionManager("main", database) as manager,
    ):
        return local(service).directory(service.create(manager).backup_id)


@pytest.fixture
def taken(service: BackupService, taken_once: Path) -> str:
    """The id of a backup in the test's own store, to be damaged at will."""
    shutil.copytree(taken_once, local(service).root / "main" / taken_once.name)
    return taken_once.name


@pytest.fixture(scope="session")
def large(server: Server) -> Iterator[DatabaseSettings]:
    """A database whose backup takes a second or two: there's time to break it."""
    filling = (
        f"create table big_{n} as select g as id, md5(g::text) || md5((g * {n + 2})::text) as v"
        " from generate_series(1, 250000) g"
        for n in range(4)
    )
    with fresh_database(server, f"large_{uuid.uuid4().hex[:8]}", filling) as database:
        yield database


@pytest.fixture(scope="session")
def pg_15() -> Binaries:
    """Debian's PostgreSQL 15, where it is installed beside a newer one."""
    from chanuka_ops.postgres import binaries  # noqa: PLC0415

    for found in binaries.installations(None, (*binaries.SERVER, *binaries.CLIENT)):
        if found.major == 15:
            return found
    return pytest.skip("PostgreSQL 15 is not installed here")

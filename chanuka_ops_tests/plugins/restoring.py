"""Restores of the test's own: a place for the restored database, the verbs, and a process that dies at a boundary.

Run as `python -m chanuka_ops_tests.plugins.restoring '{"boundary": …, "args": […]}'` it is the command line that kills
itself there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.backup import boundaries
from chanuka_ops.backup.model import Manifest
from chanuka_ops.backup.restoring import archive, restore
from chanuka_ops.backup.restoring.restored import Options, Restored
from chanuka_ops.backup.service import BackupService
from chanuka_ops.cli import main
from chanuka_ops.config import BackupSettings, DatabaseSettings, PostgresSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.integration.backup_cases import NASTY, ODD_SETTINGS, ROLES
from chanuka_ops_tests.plugins.backup import execute, fresh_database, quoted, scalars
from chanuka_ops_tests.plugins.postgres import SERVER_SETTINGS


@dataclass(frozen=True)
class Spot:
    """A name on a server, where a database may be or not; the databases that restores make of it begin with it."""

    server: Server
    name: str

    @property
    def database(self) -> DatabaseSettings:
        return self.server.settings(self.name)

    def make(self, *statements: str, options: str = "") -> DatabaseSettings:
        self.run(f"create database {quoted(self.name)} template template0 {options}")
        execute(self.database, *statements)
        return self.database

    def run(self, *statements: str) -> None:
        execute(self.server.settings("template1"), *statements)

    def databases(self) -> list[str]:
        """Every database that has to do with it, by name."""
        names = scalars(self.server.settings("template1"), "select datname from pg_database order by 1")
        return [str(name) for name in names if str(name).startswith(self.name[:20])]

    def drop(self) -> None:
        for name in self.databases():
            self.run(f"drop database {quoted(name)} with (force)")


@dataclass(frozen=True)
class Backup:
    """A backup's plain files and its manifest: what `restore` is given once they're fetched."""

    directory: Path
    manifest: Manifest
    tools: Binaries
    settings: BackupSettings

    def into(self, database: DatabaseSettings, **options: Any) -> Restored:
        return restore.restore(
            self.directory, self.manifest, database, tools=self.tools, backup=self.settings, options=Options(**options)
        )

    def stating(self, **changes: Any) -> Backup:
        """The same with other words in its manifest."""
        return replace(self, manifest=self.manifest.model_copy(update=changes))

    def with_settings(self, **changes: Any) -> Backup:
        return replace(self, settings=self.settings.model_copy(update=changes))

    def damaged(self, path: Path) -> Backup:
        """A copy of its own whose files a test may change."""
        shutil.copytree(self.directory, path)
        return replace(self, directory=path)

    def data_file(self, table: str) -> Path:
        """The file with a table's rows."""
        entries = archive.read(self.directory / "dump", self.tools).entries
        (file,) = (
            entry.file for entry in entries if entry.kind == "TABLE DATA" and f"{entry.schema}.{entry.name}" == table
        )
        (found,) = (self.directory / "dump").glob(f"{file}*")
        return found


@pytest.fixture(scope="session")
def home(pg: Binaries, session_dir: Path) -> Iterator[Server]:
    """A server that the restores' tests have for themselves: they make roles, and count databases."""
    with scratch(session_dir, pg, superuser="postgres", settings=SERVER_SETTINGS) as running:
        execute(running.settings("postgres"), *ROLES)
        yield running


@pytest.fixture
def spot(home: Server) -> Iterator[Spot]:
    """A name that no database has yet."""
    place = Spot(home, f"spot_{uuid.uuid4().hex[:12]}")
    yield place
    place.drop()


def backup_of(database: DatabaseSettings, pg: Binaries, state_dir: Path) -> Backup:
    service = BackupService(Settings(state_dir=state_dir, source=None, postgres=PostgresSettings(bin_dir=pg.bin_dir)))
    with ConnectionManager("main", database) as manager:
        backup_id = service.create(manager).backup_id
    directory = service.store.directory(backup_id)
    assert directory is not None
    return Backup(directory, service.show(backup_id)[0], pg, BackupSettings())


@pytest.fixture(scope="session")
def everything(home: Server, pg: Binaries, session_dir: Path) -> Iterator[tuple[DatabaseSettings, Backup]]:
    """A database with one of everything and odd settings, and a backup of it."""
    with fresh_database(home, "every thing", NASTY[len(ROLES) :]) as database:
        there = home.settings("template1")
        for setting in ODD_SETTINGS:
            execute(there, f'alter database "every thing" set {setting}')
        execute(
            there,
            "comment on database \"every thing\" is 'a database''s %comment; \"quoted\"\\'",
            'grant connect on database "every thing" to app_reader',
            'revoke temporary on database "every thing" from public',
            "alter role app_reader in database \"every thing\" set work_mem to '7MB'",
            'alter database "every thing" connection limit 44',
            'alter database "every thing" owner to app_owner',
        )
        yield database, backup_of(database, pg, session_dir / "everything")


@pytest.fixture(scope="session")
def plain(home: Server, pg: Binaries, session_dir: Path) -> Backup:
    """A backup of a small database whose objects all belong to `postgres`."""
    statements = (
        "create table bills(id int primary key, title text)",
        "insert into bills select g, 'bill ' || g from generate_series(1, 1000) g",
        "create index bills_title on bills(title)",
        "create table votes(bill int references bills, vote text)",
        "insert into votes select g, 'aye' from generate_series(1, 500) g",
        "create sequence numbers",
        "select nextval('numbers') from generate_series(1, 7)",
        "select lo_from_bytea(4711, 'large')",
    )
    with fresh_database(home, "plain", statements) as database:
        return backup_of(database, pg, session_dir / "plain")


@pytest.fixture(scope="session")
def heavy(home: Server, pg: Binaries, session_dir: Path) -> Backup:
    """A backup that takes a second or two to restore: there's time to break it."""
    statements = (
        *(
            f"create table heavy_{n} as select g as id, md5(g::text) as v from generate_series(1, 200000) g"
            for n in range(2)
        ),
        *(f"create index on heavy_{n} (v, id)" for n in range(2)),
    )
    with fresh_database(home, "heavy", statements) as database:
        return backup_of(database, pg, session_dir / "heavy")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """Do something at a boundary of this process: at("restore: ready", lambda: …)."""

    def arrange(boundary: str, action: Callable[[], object]) -> None:
        def look(step: str) -> None:
            if step == boundary:
                action()

        monkeypatch.setattr(boundaries, "on_reached", look)

    return arrange


def _main() -> int:
    order = json.loads(sys.argv[1])

    def look(step: str) -> None:
        if step == order["boundary"]:
            os.kill(os.getpid(), signal.SIGKILL)

    boundaries.on_reached = look
    return main.run(order["args"])


if __name__ == "__main__":
    sys.exit(_main())

"""Where a restore goes: what the server is, what it has, and what is in the database already."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.backup.restoring.restored import Ended
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import engines, parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.sql.catalog import load

_SEATS = ("postgres", "template1")  # where one connects to make, rename and drop other databases
_ALONE = "target"
_FIRST = 3
_STARTED = 2  # the line of postmaster.pid that says when it started
_SAME_START_S = 5  # it's written a moment before the server takes its own time


@dataclass(frozen=True, slots=True)
class Server:
    """A server and what the role may do there; `data_directory` only where the role may know it."""

    version_num: int
    version: str
    in_recovery: bool
    superuser: bool
    may_create: bool
    started_at: int
    data_directory: str | None

    @property
    def major(self) -> int:
        """Its major version."""
        return self.version_num // 10000


@dataclass(frozen=True, slots=True)
class Existing:
    """A database that is there; `location` is that of its own tablespace."""

    oid: int
    owner: str
    owned: bool
    connectable: bool
    location: str | None
    prepared: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database holds beyond what templates and extensions brought: the first objects, and their number."""

    first: tuple[str, ...]
    number: int

    def words(self) -> str:
        """Name them for a person."""
        more = f" and {self.number - len(self.first)} more" if self.number > len(self.first) else ""
        return f"{self.number} objects: {', '.join(self.first)}{more}"


class Target:
    """A database that is restored into, there or not, seen from another one of its server (the seat)."""

    def __init__(self, settings: DatabaseSettings, seat: ConnectionManager, server: Server) -> None:
        self.settings = settings
        self.seat = seat
        self.server = server
        self.name = str(settings.sqlalchemy_url.database)

    def ask(self, block: str, **values: object) -> list[Any]:
        """Run a named query in the seat and return its rows. Errors: `DatabaseError`."""
        with self.seat.autocommit() as connection:
            statement = text(load("chanuka_ops.backup").sql(block, self.server.major))
            return [row._mapping for row in connection.execute(statement, values)]  # noqa: SLF001 - its public name

    def run(self, block: str, **names: object) -> None:
        """Run, in the seat, the statement that a named query writes. Errors: `DatabaseError`."""
        with self.seat.autocommit() as connection:
            written = connection.execute(text(load("chanuka_ops.backup").sql(block)), names).scalar_one()
            engines.execute_verbatim(connection, written)

    def quoted(self, name: str) -> str:
        """Return a name as the server quotes it."""
        (row,) = self.ask("restore_quoted", name=name)
        return str(row["quote_ident"])

    def existing(self, name: str | None = None) -> Existing | None:
        """Return the target's facts (or another database's), None where it isn't there."""
        rows = self.ask("restore_database", name=name or self.name)
        return Existing(**rows[0]) if rows else None

    def contents(self, name: str | None = None) -> Contents:
        """Look into the target, or another database of its server. Errors: `DatabaseError`."""
        with self.manager(name) as manager, manager.autocommit() as connection:
            rows = connection.execute(text(load("chanuka_ops.backup").sql("restore_contents"))).all()
        return Contents(tuple(str(row.object) for row in rows[:_FIRST]), rows[0].objects if rows else 0)

    def manager(self, name: str | None = None) -> ConnectionManager:
        """Return a manager of the target, or of another database of its server."""
        wanted = self.settings if name is None else self.settings.with_dbname(name)
        return ConnectionManager(name or self.name, wanted)

    def sessions(self, name: str | None = None) -> list[tuple[Ended, bool]]:
        """Return who is in the target (or another database), and whether this role may end that session."""
        rows = self.ask("restore_sessions", name=name or self.name)
        return [
            (
                Ended(pid=r["pid"], role=r["role"], application=r["application"], address=r["address"]),
                bool(r["endable"]),
            )
            for r in rows
        ]

    def roles(self, names: Collection[str]) -> dict[str, bool]:
        """Return which of some roles there are, and whether objects can be given to them."""
        return {row["name"]: row["assignable"] for row in self.ask("restore_roles", names=list(names))}

    def extensions(self, names: Collection[str]) -> dict[str, bool]:
        """Return which of some extensions the server has, and whether only a superuser may create them."""
        return {row["name"]: row["for_superusers"] for row in self.ask("restore_extensions", names=list(names))}

    def tablespaces(self, names: Collection[str]) -> set[str]:
        """Return which of some tablespaces there are and may be used."""
        return {row["spcname"] for row in self.ask("restore_tablespaces", names=list(names))}

    def free_bytes(self) -> int | None:
        """Return how much room there is where the data would lie; None where that can't be known from here."""
        if self.server.data_directory is None or not self._is_here():
            return None
        there = self.existing()
        place = Path(there.location if there and there.location else self.server.data_directory)
        with suppress(OSError):
            found = os.statvfs(place)
            return found.f_bavail * found.f_frsize
        return None

    def _is_here(self) -> bool:
        """Tell whether the server runs on this machine: a local address may also be a tunnel's, or a container's."""
        url = self.settings.sqlalchemy_url
        host = str(url.query.get("host") or url.host or "")
        if not parameters.is_local(host):
            return False
        try:
            lines = (Path(self.server.data_directory or "") / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except PermissionError:  # it's another account's, as it should be
            return host.startswith("/") or not host
        except OSError:
            return False
        stated = lines[_STARTED] if len(lines) > _STARTED else ""
        return stated.isdigit() and abs(int(stated) - self.server.started_at) <= _SAME_START_S


@contextmanager
def seen(settings: DatabaseSettings) -> Iterator[Target]:
    """Look at a target's server for the block. Errors: `ConnectError`."""
    with _seat(settings) as seat:
        with seat.autocommit() as connection:
            row = connection.execute(text(load("chanuka_ops.backup").sql("restore_server"))).mappings().one()
        server = Server(**row)
        if seat.name == _ALONE:  # nobody renames the database that he sits in
            server = replace(server, may_create=False)
        # of several hosts the one that takes writes, for pg_restore too
        yield Target(seat.target().with_dbname(str(settings.sqlalchemy_url.database)), seat, server)


@contextmanager
def _seat(settings: DatabaseSettings) -> Iterator[ConnectionManager]:
    """Connect to a database of the server that isn't the target, or to it where no other lets this role in.

    Errors: `ConnectError`.
    """
    own = settings.sqlalchemy_url.database
    for name in (*(seat for seat in _SEATS if seat != own), own):
        manager = ConnectionManager(_ALONE if name == own else "maintenance", settings.with_dbname(str(name)))
        with manager:
            try:
                manager.probe()
            except (errors.DatabaseMissing, errors.AuthenticationFailed):
                if name == own:
                    raise
                continue
            yield manager
            return

"""One connection for whatever env.py does to get one.

An application's env.py finds its connection in one of four ways, and each gets ours, which has the lock timeout, the
name and the observers: `config.attributes["connection"]` itself; its `.engine`; an engine that it makes by
`create_engine` or `engine_from_config`; one that a module of the application has made.

To that end SQLAlchemy's makers of engines are ours while revisions run. An engine for the database that is migrated is
lent; for another database it is refused, since the migration would go where nobody holds a lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
import sqlalchemy.engine
import sqlalchemy.engine.create
from sqlalchemy.engine import URL, Connection, Engine, make_url

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings
from chanuka_ops.db import parameters

_make_engine = sqlalchemy.create_engine
_PLACES = (sqlalchemy, sqlalchemy.engine, sqlalchemy.engine.create)
_NAME = "create_engine"  # one and the same in each place
_active: list[Lender] = []


def _lend(*args: Any, **options: Any) -> Engine:
    """Be `create_engine`, also for a module that took the name while revisions ran, and calls it afterwards."""
    return _active[-1].engine(*args, **options) if _active else _make_engine(*args, **options)


class Lender:
    """What is lent, while it is."""

    def __init__(self, database: DatabaseSettings) -> None:
        self._database = database
        self._connection: Connection | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stand in for SQLAlchemy's makers of engines for the block."""
        _active.append(self)
        try:
            for place in _PLACES:
                setattr(place, _NAME, _lend)
            yield
        finally:
            _active.remove(self)
            if not _active:
                for place in _PLACES:
                    setattr(place, _NAME, _make_engine)

    @contextmanager
    def lent(self, connection: Connection) -> Iterator[Connection]:
        """Lend a connection for the block: nobody closes it."""
        own = connection.engine
        connection.engine = LentEngine(self, own)
        connection.close = lambda: _settle(connection)  # type: ignore[method-assign]  # on this one only
        self._connection = connection
        try:
            yield connection
        finally:
            self._connection = None
            del connection.close
            connection.engine = own

    def engine(self, url: str | URL = "", **_: Any) -> Engine:
        """Be `create_engine`. Errors: `ConfigurationError` where it's for another database."""
        asked = make_url(url)
        ours = self._database.sqlalchemy_url
        if _address(asked) != _address(ours):
            raise errors.ConfigurationError(
                f"env.py, or what it imports, connects to {asked.render_as_string(hide_password=True)}, and the"
                f" settings name {parameters.where(self._database)}: migrations run on the latter only. Let env.py use"
                " config.attributes['connection'] or the sqlalchemy.url it is given. Nothing was changed."
            )
        return LentEngine(self, _make_engine(f"{DRIVER}://"))

    def now(self) -> Connection:
        """Return the connection. Errors: `ConfigurationError` where none is lent."""
        if self._connection is None:
            raise errors.ConfigurationError(
                "a revision file, or what it imports, connects when it's read: let it do so in upgrade() or env.py."
                " Nothing was changed."
            )
        return self._connection


class LentEngine(Engine):
    """An engine whose every connection is the one that is lent."""

    def __init__(self, lender: Lender, like: Engine) -> None:
        self.__dict__.update(like.__dict__)
        self._lender = lender

    def connect(self) -> Connection:
        """Return the connection that is lent; to close it rolls back what is open in it, and no more."""
        return self._lender.now()

    def execution_options(self, **_: Any) -> LentEngine:  # type: ignore[override]  # another class of engine there
        """Return the engine: what it is lent with stays."""
        return self

    def raw_connection(self) -> Any:
        """Refuse: what goes past SQLAlchemy goes past the observers. Errors: `ConfigurationError`."""
        raise errors.ConfigurationError(
            "env.py, or a revision, asks the engine for a raw connection, on which no journal is kept: let it use"
            " op.get_bind().connection instead. Nothing was changed by it."
        )

    def dispose(self, close: bool = True) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's signature
        """Leave the connection open."""


def _settle(connection: Connection) -> None:
    if connection.in_transaction():
        connection.rollback()


def _address(url: URL) -> tuple[str, int, str]:
    """Return what tells databases apart: the host (this machine is one, however it's reached), port and name."""
    host = str(url.query.get("host") or url.host or "")
    port = url.query.get("port") or url.port or parameters.DEFAULT_PORT
    return ("" if parameters.is_local(host) else host.lower(), int(str(port)), url.database or url.username or "")

"""ConnectionManager: the one way to a database.

`read()`, `transaction()` and `autocommit()` are explicit; nothing sniffs SQL. Whatever ends a block early, also a
cancelled Dagster run, first cancels the statement on the server: psycopg does that for KeyboardInterrupt only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import engines
from chanuka_ops.db.engines import Profile

log = logging.getLogger(__name__)

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@dataclass(frozen=True, slots=True)
class Probe:
    """What one round trip told about a server. `server_version` is PostgreSQL's number, 180006 for 18.6."""

    role: Literal["primary", "standby"]
    server_version: int
    latency_ms: float

    @property
    def major(self) -> int:
        """The major version, 18 for 18.6."""
        return self.server_version // 10000


class ConnectionManager:
    """Connections to one database. Opened lazily; close it, or use it as a context manager."""

    def __init__(self, name: str, settings: DatabaseSettings) -> None:
        self.name = name
        self.settings = settings
        self._pooled: Engine | None = None

    def __repr__(self) -> str:
        return f"ConnectionManager({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Enter a READ ONLY transaction: a write in it fails loudly.

        Errors: `DatabaseError` and below.
        """
        with self.transaction(read_only=True) as connection:
            yield connection

    @contextmanager
    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        profile: Profile = Profile.QUERY,
        lock_timeout_s: float | None = None,
    ) -> Iterator[Connection]:
        """Enter a transaction: committed at the end of the block, rolled back on any exception.

        Errors: `DatabaseError` and below.
        """
        options: dict[str, object] = {"postgresql_readonly": read_only}
        if isolation is not None:
            options["isolation_level"] = isolation
        with (
            self._checked_out(profile, lock_timeout_s, options) as connection,
            connection.begin(),
            _stopped(connection),
        ):
            yield connection

    @contextmanager
    def autocommit(
        self, *, profile: Profile = Profile.MAINTENANCE, lock_timeout_s: float | None = None
    ) -> Iterator[Connection]:
        """Enter a connection on which each statement is its own transaction, as VACUUM or CREATE DATABASE need it.

        Errors: `DatabaseError` and below.
        """
        options: dict[str, object] = {"isolation_level": "AUTOCOMMIT"}
        with self._checked_out(profile, lock_timeout_s, options, own=True) as connection, _stopped(connection):
            yield connection

    def probe(self) -> Probe:
        """Ask a server, on a connection of its own, what it is.

        Errors: `ConnectError` telling down, starting, full, refused and missing apart.
        """
        with self._checked_out(Profile.PROBE, None, {"isolation_level": "AUTOCOMMIT"}) as connection:
            start = time.perf_counter()
            row = connection.execute(
                text("select pg_is_in_recovery(), current_setting('server_version_num')::int")
            ).one()
            latency_ms = round((time.perf_counter() - start) * 1000, 3)
        return Probe("standby" if row[0] else "primary", row[1], latency_ms)

    def snapshot(self) -> dict[str, int]:
        """Return the pool's numbers: connections open, in use, and the most there may be."""
        limit = self.settings.pool.size + self.settings.pool.overflow
        pool = self._pooled.pool if self._pooled is not None else None
        if not isinstance(pool, QueuePool):
            return {"open": 0, "in_use": 0, "limit": limit}
        return {"open": pool.checkedin() + pool.checkedout(), "in_use": pool.checkedout(), "limit": limit}

    def close(self) -> None:
        """Close every pooled connection."""
        if self._pooled is not None:
            self._pooled.dispose()
            self._pooled = None

    @contextmanager
    def _checked_out(
        self, profile: Profile, lock_timeout_s: float | None, options: dict[str, object], *, own: bool = False
    ) -> Iterator[Connection]:
        with engines.translated(), self._engine(profile, lock_timeout_s, own=own).connect() as connection:
            connection = connection.execution_options(**options)  # noqa: PLW2901 - it is the same connection
            yield connection

    def _engine(self, profile: Profile, lock_timeout_s: float | None, *, own: bool) -> Engine:
        if profile is not Profile.QUERY or lock_timeout_s is not None or own:
            return engines.dedicated(self.settings, profile, lock_timeout_s=lock_timeout_s)
        if self._pooled is None:
            self._pooled = engines.pooled(self.settings)
        return self._pooled


@contextmanager
def _stopped(connection: Connection) -> Iterator[None]:
    """Cancel what an interrupt left running, before anything else is asked of the connection.

    SQLAlchemy's own statements were cancelled by their engine; this is for what runs beside it, as COPY does.
    """
    try:
        yield
    except BaseException as error:
        interrupted = not isinstance(error, Exception) and not connection.invalidated
        if interrupted and engines.cancel(connection.connection.driver_connection):
            connection.invalidate()
        raise

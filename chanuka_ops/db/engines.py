"""SQLAlchemy's engines over psycopg 3, and the one place where the driver's errors become ours.

No exception that leaves this module holds the driver's connection: its repr prints the password in clear.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import psycopg
from sqlalchemy import create_engine, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import Connection, Engine, ExceptionContext
from sqlalchemy.pool import NullPool, QueuePool

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings
from chanuka_ops.db import classify
from chanuka_ops.db.classify import Meaning, Phase
from chanuka_ops.db.watchdog import PeerSilent, WatchedConnection
from chanuka_ops.logs import redact

log = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 3.0
_READ_ONLY = "25006"

Creator = Callable[[], WatchedConnection]


def meaning_of(error: psycopg.Error, phase: Phase) -> Meaning:
    """Say what a driver's error means in a phase."""
    # what the server said has a SQLSTATE: an operational error without one is the driver's, of a connection that broke
    lost = error.sqlstate is None and isinstance(error, psycopg.OperationalError)
    return classify.of_session(error.sqlstate, lost=lost, phase=phase)


def translate(error: psycopg.Error, phase: Phase = Phase.IN_TRANSACTION) -> errors.DatabaseError:
    """Turn a driver's error into one of ours that says what the server said, and nothing of the connection."""
    diag = error.diag
    said = diag.message_primary or " ".join(str(error).split())
    extras = [text for text in (diag.message_detail, diag.message_hint) if text]
    message = redact(said + (f" ({'; '.join(extras)})" if extras else ""))
    if isinstance(error, PeerSilent):
        return errors.DeadlineExceeded(message)
    return meaning_of(error, phase).kind(message, sqlstate=error.sqlstate)


def driver_error(error: BaseException) -> psycopg.Error | None:
    """Return the driver's error that an exception is, or wraps."""
    if isinstance(error, sa_exc.DBAPIError) and isinstance(error.orig, psycopg.Error):
        return error.orig
    return error if isinstance(error, psycopg.Error) else None


class translated:  # noqa: N801 - used as a function; a generator would cost thrice as much, several times a checkout
    """Let no driver error out of the block untranslated."""

    __slots__ = ("_phase",)

    def __init__(self, phase: Phase = Phase.IN_TRANSACTION) -> None:
        self._phase = phase

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        driven = driver_error(error) if error is not None else None
        if driven is not None:
            failure = translate(driven, self._phase)
        elif isinstance(error, sa_exc.PendingRollbackError):
            failure = errors.ConnectionLost("the connection broke and the block went on: nothing was committed")
        else:
            return
        try:
            raise failure from None
        finally:
            failure.__context__ = None  # its frames hold the connection


def pooled(database: DatabaseSettings, creator: Creator) -> Engine:
    """Return a server's engine for ordinary work; it connects at the first use, not now.

    How many, and for how long one waits, is bounded by `Slots`, which also knows who has them.
    """
    pool = database.pool
    engine = create_engine(
        f"{DRIVER}://",
        creator=creator,
        poolclass=QueuePool,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_timeout=pool.acquire_timeout_s,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    event.listen(engine, "handle_error", _on_error)
    return engine


def dedicated(creator: Creator) -> Engine:
    """Return an engine whose every connection is its own: for locks, snapshots, probes and maintenance."""
    engine = create_engine(f"{DRIVER}://", creator=creator, poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "handle_error", _on_error)
    return engine


def driver_connection(connection: Connection) -> WatchedConnection:
    """Return the driver's connection under SQLAlchemy's."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, WatchedConnection)  # noqa: S101 - our creators make nothing else
    return raw


def settings_of(connection: Connection) -> DatabaseSettings:
    """Return the settings of the very server a connection goes to, for a program that must see the same."""
    target = driver_connection(connection).target
    assert target is not None  # noqa: S101 - set as soon as there is a connection
    return target


def backend_pid(connection: Connection) -> int:
    """Return the server's process of a connection."""
    raw = driver_connection(connection)
    return raw.info.backend_pid if raw.server_pid is None else raw.server_pid


def server_major(connection: Connection) -> int:
    """Return the server's major version, 18 for 18.6."""
    return driver_connection(connection).info.server_version // 10000


def execute_verbatim(connection: Connection, statement: str) -> list[str]:
    """Run a statement exactly as it stands: a `:` or `%` in a name is no placeholder. Return the server's warnings.

    Errors: `DatabaseError` and below.
    """
    raw = driver_connection(connection)
    warnings: list[str] = []

    def keep(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(str(diagnostic.message_primary))

    raw.add_notice_handler(keep)
    try:
        with translated(Phase.AUTOCOMMIT):
            raw.execute(statement.encode(raw.info.encoding))
    finally:
        raw.remove_notice_handler(keep)
    return warnings


def cancel(connection: object) -> bool:
    """Stop what a driver's connection is doing on the server, and tell whether it did anything.

    So an interrupted run leaves no query behind; the connection is of no use afterwards.
    """
    if not isinstance(connection, psycopg.Connection) or connection.closed:
        return False
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
        return False
    with suppress(psycopg.Error):
        connection.cancel_safe(timeout=CANCEL_TIMEOUT_S)
    log.info("a running statement was cancelled on the server", extra={"event": "db.cancelled"})
    return True


def abandon(connection: psycopg.Connection[Any] | None) -> None:
    """Cancel what a connection of another thread does, and close it."""
    if connection is not None:
        cancel(connection)
        with suppress(psycopg.Error):
            connection.close()


def _on_error(failure: ExceptionContext) -> None:
    """Cancel an interrupted statement before SQLAlchemy closes its connection: later it's too late.

    And have a pool that sits on a demoted primary thrown away: nothing is broken there, so it would stay for ever.
    """
    error = failure.original_exception
    if failure.connection is not None and not isinstance(error, Exception):
        cancel(failure.connection.connection.driver_connection)
    if isinstance(error, psycopg.Error) and error.sqlstate == _READ_ONLY and _stated_by_server(failure):
        failure.is_disconnect = True


def _stated_by_server(failure: ExceptionContext) -> bool:
    """Tell a server that is read only from a transaction that was asked to be."""
    raw = failure.connection.connection.driver_connection if failure.connection is not None else None
    return isinstance(raw, WatchedConnection) and not raw.read_only

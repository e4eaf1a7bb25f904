"""SQLAlchemy engines over psycopg 3, secrets resolved for each connection, driver errors translated here only.

No exception that leaves this module holds the driver's connection: its repr prints the password in clear.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.pool import NullPool, QueuePool

from chanuka_ops import context, errors
from chanuka_ops.config import DRIVER, DatabaseSettings, SecretSource
from chanuka_ops.db import classify
from chanuka_ops.logs import redact

log = logging.getLogger(__name__)

PROBE_STATEMENT_S = 5.0
CANCEL_TIMEOUT_S = 3.0
# A client that was SIGKILLed leaves its query running until the server looks at the socket; the default is never.
# https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-CLIENT-CONNECTION-CHECK-INTERVAL
CONNECTION_CHECK_MS = 2000
SECRET_COMMAND_TIMEOUT_S = 10.0
MINIMUM_LIBPQ_TIMEOUT_S = 2  # libpq takes 1 for 2


class Profile(Enum):
    """How long a session's statements may take: a probe, an ordinary query, or maintenance without a limit."""

    PROBE = "probe"
    QUERY = "query"
    MAINTENANCE = "maintenance"


def session_options(database: DatabaseSettings, profile: Profile, *, lock_timeout_s: float | None = None) -> str:
    """Return libpq's `options`: the deadlines that hold from the first statement on, a lock timeout always."""
    limits = database.timeouts
    statement_s = {Profile.PROBE: PROBE_STATEMENT_S, Profile.QUERY: limits.statement_s, Profile.MAINTENANCE: 0.0}
    settings = {
        "statement_timeout": statement_s[profile],
        "lock_timeout": limits.lock_s if lock_timeout_s is None else lock_timeout_s,
        "idle_in_transaction_session_timeout": 0.0 if profile is Profile.MAINTENANCE else limits.idle_in_transaction_s,
    }
    if profile is Profile.MAINTENANCE:  # the operation's lock is held by a session that does nothing else
        settings["idle_session_timeout"] = 0.0
    words = [f"-c {name}={round(seconds * 1000)}" for name, seconds in settings.items()]
    return " ".join([*words, f"-c client_connection_check_interval={CONNECTION_CHECK_MS}"])


def resolve_secret(source: SecretSource) -> str:
    """Read a secret from where it is kept.

    Errors: `ConfigurationError` naming the source, never the secret.
    """
    if source.env is not None:
        value = os.environ.get(source.env)
        if value is None:
            raise errors.ConfigurationError(f"the password is to come from ${source.env}, which is not set")
        return value
    if source.file is not None:
        try:
            return source.file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise errors.ConfigurationError(f"the password file {source.file} can't be read: {error}") from None
    command = source.command or ()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECRET_COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.ConfigurationError(f"the password command {command[0]!r} failed: {error}") from None
    if done.returncode != 0:
        raise errors.ConfigurationError(f"the password command {command[0]!r} exited with {done.returncode}")
    return done.stdout.rstrip("\r\n")


def password_of(database: DatabaseSettings) -> str | None:
    """Return the password in force now, or None where the server asks for none."""
    if database.password is not None:
        return resolve_secret(database.password)
    stated = database.sqlalchemy_url.password
    return str(stated) if stated is not None else None


def stated_options(database: DatabaseSettings) -> str:
    """Return libpq's `options` as the URL states them: they hold for our sessions and for the tools'."""
    return str(database.sqlalchemy_url.query.get("options", ""))


def conninfo(database: DatabaseSettings, *, dbname: str | None = None) -> str:
    """Return libpq's connection string without a password: fit for an argument list."""
    url = database.sqlalchemy_url
    parts: dict[str, Any] = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    parts.pop("password", None)
    parts.pop("options", None)
    if dbname is not None:
        parts["dbname"] = dbname
    parts.setdefault("connect_timeout", max(MINIMUM_LIBPQ_TIMEOUT_S, round(database.timeouts.connect_s)))
    return make_conninfo("", **parts)


def dbname_only(database: DatabaseSettings) -> str:
    """Return a connection string of nothing but the database: for an option that takes a name, which may hold an =."""
    return make_conninfo("", dbname=database.sqlalchemy_url.database)


def connect(
    database: DatabaseSettings, profile: Profile, *, lock_timeout_s: float | None = None
) -> psycopg.Connection[Any]:
    """Open one connection.

    Errors: a `ConnectError` that says why, without the driver's connection or password.
    """
    options = session_options(database, profile, lock_timeout_s=lock_timeout_s)
    options = f"{stated_options(database)} {options}".strip()
    info = conninfo(database)
    try:
        return psycopg.connect(
            make_conninfo(info, keepalives_idle=10, keepalives_interval=5, keepalives_count=3, tcp_user_timeout=15000),
            password=password_of(database),
            options=options,
            client_encoding="UTF8",  # where the database is SQL_ASCII, psycopg would give bytes for text
            application_name=context.current().application_name(),
        )
    except psycopg.Error as error:
        failure = _connect_failure(database, info, str(error))
    raise failure


def _connect_failure(database: DatabaseSettings, info: str, message: str) -> errors.ConnectError:
    ping = psycopg.pq.Ping(psycopg.pq.PGconn.ping(info.encode()))
    reachability = {
        psycopg.pq.Ping.OK: classify.Reachability.ANSWERS,
        psycopg.pq.Ping.REJECT: classify.Reachability.REJECTS,
    }.get(ping, classify.Reachability.SILENT)
    url = database.sqlalchemy_url
    kind = classify.of_connect(reachability, message, url.database or "")
    where = url.render_as_string(hide_password=True).removeprefix(f"{DRIVER}://")
    advice = {
        errors.TargetUnavailable: "nobody answers there: is the server up, are host and port right?",
        errors.TargetStarting: "the server is starting up, shutting down or recovering: try again shortly",
        errors.TargetSaturated: "no connection slot is free: close sessions or raise max_connections",
        errors.AuthenticationFailed: "the server refused the role or its password",
        errors.DatabaseMissing: "the server answers, but has no database of that name: create it, or correct the URL",
    }.get(kind, "the server answers, and refused")
    detail = redact(" ".join(message.split()))
    return kind(f"can't connect to {where}: {advice} ({detail})")


def translate(error: psycopg.Error) -> errors.DatabaseError:
    """Turn a driver's error into one of ours that says what the server said, and nothing of the connection."""
    diag = error.diag
    sqlstate = error.sqlstate
    # what the server said has a SQLSTATE: an operational error without one is the driver's, of a connection that broke
    closed = sqlstate is None and isinstance(error, psycopg.OperationalError)
    said = diag.message_primary or " ".join(str(error).split())
    extras = [text for text in (diag.message_detail, diag.message_hint) if text]
    message = redact(said + (f" ({'; '.join(extras)})" if extras else ""))
    return classify.of_sqlstate(sqlstate, connection_closed=closed)(message, sqlstate=sqlstate)


@contextmanager
def translated() -> Iterator[None]:
    """Let no driver error out untranslated."""
    failure: errors.DatabaseError
    try:
        yield
    except sa_exc.TimeoutError:
        failure = errors.PoolExhausted("every connection this process may open to that database is in use")
    except sa_exc.DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error):
            raise
        failure = translate(error.orig)
    except psycopg.Error as error:
        failure = translate(error)
    else:
        return
    raise failure from None


def pooled(database: DatabaseSettings) -> Engine:
    """Return the engine of ordinary work; it connects at the first use, not now."""
    pool = database.pool
    engine = create_engine(
        f"{DRIVER}://",
        creator=_creator(database, Profile.QUERY),
        poolclass=QueuePool,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_timeout=pool.acquire_timeout_s,
        pool_recycle=round(pool.max_lifetime_s),
        pool_pre_ping=True,
        hide_parameters=True,
    )
    event.listen(engine, "handle_error", _cancel_first)
    return engine


def dedicated(database: DatabaseSettings, profile: Profile, *, lock_timeout_s: float | None = None) -> Engine:
    """Return an engine whose every connection is its own: for locks, snapshots, probes and maintenance."""
    creator = _creator(database, profile, lock_timeout_s=lock_timeout_s)
    engine = create_engine(f"{DRIVER}://", creator=creator, poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "handle_error", _cancel_first)
    return engine


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
    log.warning("a running statement was cancelled on the server", extra={"event": "db.cancelled"})
    return True


def _cancel_first(failure: ExceptionContext) -> None:
    """Cancel before SQLAlchemy closes the connection of an interrupted statement, as it does: later it's too late."""
    if failure.connection is not None and not isinstance(failure.original_exception, Exception):
        cancel(failure.connection.connection.driver_connection)


def _creator(
    database: DatabaseSettings, profile: Profile, *, lock_timeout_s: float | None = None
) -> Callable[[], psycopg.Connection[Any]]:
    return lambda: connect(database, profile, lock_timeout_s=lock_timeout_s)

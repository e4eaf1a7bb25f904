"""Opens one connection to one server, within a deadline, and finds out why where none came about.

libpq connects without blocking, except for resolving names, which therefore happens in a thread that can be left
behind. A failure's SQLSTATE is not in libpq's interface; but libpq writes it into its message when asked to be verbose
before the handshake, whatever language the server speaks: https://www.postgresql.org/docs/current/libpq-control.html
Where the server said nothing, the stage that the handshake had reached tells what was the matter.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import re
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from psycopg import pq
from psycopg.conninfo import make_conninfo

from chanuka_ops import context, errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import classify, credentials, parameters
from chanuka_ops.db.classify import Meaning, Retry, Stage
from chanuka_ops.db.parameters import Profile
from chanuka_ops.db.watchdog import WatchedConnection
from chanuka_ops.logs import redact

_VERBOSE = 2  # PQERRORS_VERBOSE
_SQLSTATE = re.compile(r":  (?P<sqlstate>[0-9A-Z]{5}): (?P<said>.*)")
_LOCATION = re.compile(r"^\S+:  \S+, \S+:\d+$")  # where in the server's source: of no use to whoever reads it here
KNOCK_S = 0.3
_SSL_REQUEST = struct.pack("!II", 8, 80877103)

_ADVICE: dict[type[errors.DatabaseError], str] = {
    errors.TargetStarting: "the server is starting up, shutting down or recovering: try again shortly",
    errors.TargetSaturated: "no connection slot is free: close sessions or raise max_connections",
    errors.AuthenticationFailed: "the server refused the role or its password",
    errors.DatabaseMissing: "the server answers, but has no database of that name: create it, or correct the URL",
    errors.TlsFailed: "no trustworthy encryption came about: see sslrootcert, and the host's name in its certificate",
}
_ADVICE_BY_STAGE = {
    Stage.NAME: "the host's name doesn't resolve",
    Stage.REFUSED: "nobody listens there: is the server up, are host and port right?",
    Stage.REACH: "no answer from there: is the host up, is a firewall in between?",
    Stage.SILENT: "somebody accepts the connection and says nothing: the server may be frozen",
    Stage.CLOSED: "it hung up: it is going down, or a proxy has no server to pass us on to",
    Stage.PASSWORD: "the server asks for a password and none is configured",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt came to nothing: its meaning, and the typed error to raise."""

    meaning: Meaning
    error: errors.ConnectError


class Failed(Exception):
    """Carries a `Failure` to whoever counts and repeats."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One address was tried: how far it came, and what libpq says of it."""

    stage: Stage
    said: str
    sqlstate: str | None = None


def open_connection(
    database: DatabaseSettings,
    profile: Profile,
    *,
    lock_timeout_s: float | None = None,
    deadline: float,
    password: str | None,
) -> WatchedConnection:
    """Open one connection by `deadline`, a moment of the monotonic clock; each address of the host has its share.

    Errors: `Failed`.
    """
    params = _params(database, profile, lock_timeout_s, password)
    addresses, attempt = _resolve(str(params.get("host", "")), str(params.get("hostaddr", "")), deadline)
    for position, address in enumerate(addresses):
        if address:
            params["hostaddr"] = address
        left_s = max(0.0, deadline - time.monotonic()) / (len(addresses) - position)
        found = _dial(make_conninfo("", **params), time.monotonic() + min(left_s, database.timeouts.connect_s))
        if not isinstance(found, _Attempt):
            return _ready(found, database, profile, lock_timeout_s)
        attempt = found
    assert attempt is not None  # noqa: S101 - no address and no reason: `_resolve` gives one of the two
    raise Failed(_failure(database, attempt))


def _params(
    database: DatabaseSettings, profile: Profile, lock_timeout_s: float | None, password: str | None
) -> dict[str, Any]:
    params = pq_params(parameters.conninfo(database))
    params.update(parameters.KEEPALIVES)
    params["application_name"] = context.current().application_name()
    params["client_encoding"] = "UTF8"  # where the database is SQL_ASCII, psycopg would give bytes for text
    stated = parameters.stated_options(database)
    if database.pooler == "none":
        stated = parameters.session_options(database, profile, lock_timeout_s=lock_timeout_s)
    if stated:  # a pooler refuses options, or ignores them without a word: it gets only what the URL states
        params["options"] = stated
    if password is not None:
        params["password"] = password
    return params


def pq_params(info: str) -> dict[str, Any]:
    """Split a connection string."""
    return {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.parse(info.encode()) if option.val}


def _resolve(host: str, hostaddr: str, deadline: float) -> tuple[list[str], _Attempt | None]:
    """Return the host's addresses; a single empty one where there is nothing to resolve."""
    if hostaddr or not host or host.startswith(("/", "@")):
        return [hostaddr], None
    found: list[list[str]] = []

    def look() -> None:
        with suppress(OSError, UnicodeError):
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.append(list(dict.fromkeys(str(info[4][0]) for info in infos)))

    thread = threading.Thread(target=look, daemon=True, name="chanuka-resolve")
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if found:
        return found[0], None
    slow = "took too long" if thread.is_alive() else "gave nothing"
    return [], _Attempt(Stage.NAME, f"resolving {host!r} {slow}")


def _dial(info: str, deadline: float) -> pq.abc.PGconn | _Attempt:
    """Connect to one address: a libpq connection, or how far it came."""
    pgconn = pq.PGconn.connect_start(info.encode())
    stage = Stage.REACH
    try:
        address: int | None = pgconn.pgconn_ptr  # type: ignore[attr-defined]  # each implementation has it
        if address is not None:
            _libpq().PQsetErrorVerbosity(ctypes.c_void_p(address), _VERBOSE)
        status: int = pq.PollingStatus.WRITING
        while pgconn.status != pq.ConnStatus.BAD:
            if not _ready_by(pgconn.socket, status, deadline):
                return _Attempt(Stage.REACH if stage is Stage.REACH else Stage.SILENT, "the time was up")
            stage = _stage_of(pgconn.status, stage)
            status = pgconn.connect_poll()
            if status == pq.PollingStatus.OK:
                made, pgconn = pgconn, None  # type: ignore[assignment]  # it's the caller's now
                made.nonblocking = 1
                return made
            if status == pq.PollingStatus.FAILED:
                break
            stage = _stage_of(pgconn.status, stage)
        return _diagnosed(pgconn, stage, info)
    finally:
        if pgconn is not None:
            pgconn.finish()


@functools.cache
def _libpq() -> Any:
    """Return the libpq that psycopg itself is bound to; a handle finds its dependencies' symbols too."""
    module = {"binary": "psycopg_binary.pq", "c": "psycopg_c.pq"}.get(pq.__impl__)
    if module is None:
        from psycopg.pq import _pq_ctypes  # noqa: PLC0415 - only where psycopg itself goes through ctypes

        return _pq_ctypes.impl.pq  # type: ignore[attr-defined]  # the module it was made from
    return ctypes.CDLL(importlib.import_module(module).__file__)


def _ready_by(fd: int, status: int, deadline: float) -> bool:
    poll = select.poll()  # select() fails on a descriptor past 1023
    poll.register(fd, select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


_STAGES = {
    pq.ConnStatus.MADE: Stage.CLOSED,
    pq.ConnStatus.AWAITING_RESPONSE: Stage.CLOSED,
    pq.ConnStatus.AUTH_OK: Stage.CLOSED,
    pq.ConnStatus.SSL_STARTUP: Stage.TLS,
}


def _stage_of(status: int, before: Stage) -> Stage:
    return _STAGES.get(pq.ConnStatus(status), before)


def _diagnosed(pgconn: pq.abc.PGconn, stage: Stage, info: str) -> _Attempt:
    message = pgconn.get_error_message()
    lines = [line for line in message.splitlines() if not _LOCATION.match(line.strip())]
    match = _SQLSTATE.search(message)
    if match:
        return _Attempt(stage, match["said"], match["sqlstate"])
    if pgconn.needs_password:
        stage = Stage.PASSWORD
    elif stage in {Stage.REACH, Stage.TLS}:
        stage = _knock(info, tls=stage is Stage.TLS)
    return _Attempt(stage, " ".join(" ".join(lines).split()))


def _knock(info: str, *, tls: bool) -> Stage:
    """Tell a closed port from a host out of reach, and a certificate's failure from a peer that hung up.

    The system's error number is in no language, and neither is the one byte that a server answers an SSLRequest with:
    https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL
    """
    params = pq_params(info)
    host, port = params.get("hostaddr") or params.get("host") or "", params.get("port") or parameters.DEFAULT_PORT
    if not host or host.startswith(("/", "@")):
        return Stage.REFUSED  # a socket file that is missing or dead
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(KNOCK_S)
        try:
            probe.connect((host, int(port)))
            if not tls:
                return Stage.CLOSED  # it is up by now
            probe.sendall(_SSL_REQUEST)
            return Stage.TLS if probe.recv(1) else Stage.CLOSED
        except ConnectionRefusedError:
            return Stage.REFUSED
        except TimeoutError:
            return Stage.SILENT if tls else Stage.REACH
        except OSError:
            return Stage.CLOSED if tls else Stage.REACH


def _failure(database: DatabaseSettings, attempt: _Attempt) -> Failure:
    if attempt.sqlstate is None:
        meaning = classify.of_stage(attempt.stage)
        advice = _ADVICE_BY_STAGE.get(attempt.stage) or _ADVICE[meaning.kind]
    else:
        meaning = classify.of_connect(attempt.sqlstate)
        advice = _ADVICE.get(meaning.kind, "the server answers, and refused")
    detail = redact(" ".join(attempt.said.split()))
    message = f"can't connect to {parameters.where(database)}: {advice} ({detail})"
    error = meaning.kind(message, sqlstate=attempt.sqlstate)
    assert isinstance(error, errors.ConnectError)  # noqa: S101 - both tables hold nothing else
    return Failure(meaning, error)


def _ready(
    pgconn: pq.abc.PGconn, database: DatabaseSettings, profile: Profile, lock_timeout_s: float | None
) -> WatchedConnection:
    made = WatchedConnection(pgconn)
    made.statement_s = parameters.statement_s(database, profile) or None
    made.ping_s = database.timeouts.connect_s
    made.target = database
    made.applied_name = context.current().application_name()
    if database.pooler == "transaction":
        made.prepare_threshold = None  # the next transaction may be another server's session
    elif database.pooler == "session":
        try:
            _set(made, parameters.session_settings(database, profile, lock_timeout_s=lock_timeout_s))
        except BaseException:
            made.close()
            raise
    return made


def _set(made: WatchedConnection, settings: dict[str, str]) -> None:
    """Have the settings in force that a session pooler doesn't pass on with the startup; ask who serves behind it."""
    made.autocommit = True
    for name, value in settings.items():
        made.execute("select set_config(%s, %s, false)", (name, value))
    made.server_pid = made.execute("select pg_backend_pid()").fetchall()[0][0]
    made.autocommit = False


def reachable(database: DatabaseSettings) -> bool:
    """Tell whether a server accepts connections there, without logging in (libpq's PQping)."""
    return pq.PGconn.ping(parameters.conninfo(database).encode()) == pq.Ping.OK


def with_fresh_secret(database: DatabaseSettings, password: str | None, failure: Failure) -> str | None:
    """Return another password to try once, where a refused one has been rotated meanwhile; else None."""
    if failure.meaning.retry is not Retry.NEW_SECRET or database.password is None:
        return None
    fresh = credentials.password_of(database)
    return None if fresh == password else fresh

"""Why a server refuses is read from its code, never from its words, and where it said nothing, from how far it came."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import URL

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings, TimeoutSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import as_role
from chanuka_ops_tests.plugins.nodes import LOCALHOST, Node, opened
from chanuka_ops_tests.plugins.replicas import Template

pytestmark = pytest.mark.postgres

ASKS_FOR_A_PASSWORD = b"R" + struct.pack("!II", 8, 3)


@contextmanager
def speaks(answer: bytes = b"", *, to_tls: bytes = b"N") -> Iterator[int]:
    """A port where a request for TLS is answered so, and a startup so; then it hangs up. With nothing, at once."""

    class Talk(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(5)
            with suppress(OSError):
                while to_tls and len(self.request.recv(4096)) == 8:  # SSLRequest, GSSENCRequest
                    self.request.sendall(to_tls)
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer((LOCALHOST, 0), Talk) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(10)


def at(port: int, sslmode: str = "disable", password: str | None = None) -> DatabaseSettings:
    url = URL.create(DRIVER, "ops", password, LOCALHOST, port, "main", {"sslmode": sslmode})
    shown = SecretStr(url.render_as_string(hide_password=False))
    return DatabaseSettings(url=shown, timeouts=TimeoutSettings(connect_s=1))


def refused(database: DatabaseSettings) -> errors.ConnectError:
    with ConnectionManager("main", database) as manager, pytest.raises(errors.ConnectError) as caught:
        manager.probe()
    return caught.value


# ------------------------------------------------------------------ a server of whatever language


def refusal(severity: str, sqlstate: str, message: str) -> bytes:
    fields = {"S": severity, "V": "FATAL", "C": sqlstate, "M": message, "F": "postmaster.c", "L": "1", "R": "x"}
    body = b"".join(f"{name}{value}".encode() + b"\0" for name, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


SAID: dict[str, type[errors.ConnectError]] = {
    "28P01": errors.AuthenticationFailed,
    "28000": errors.AuthenticationFailed,
    "3D000": errors.DatabaseMissing,
    "53300": errors.TargetSaturated,
    "57P03": errors.TargetStarting,
    "57P01": errors.TargetUnavailable,
    "XX000": errors.ConnectError,
}
IN_WORDS = {
    "German": ("FATAL", "Passwort-Authentifizierung für Benutzer »ops« fehlgeschlagen"),
    "Chinese": ("致命错误", "数据库系统启动中"),
    "of another matter": ("FATAL", 'x:  28P01: database ":  3D000: " does not exist'),
    "none": ("FATAL", ""),
}


@pytest.mark.parametrize("words", IN_WORDS.values(), ids=IN_WORDS.keys())
@pytest.mark.parametrize("sqlstate", SAID)
def test_a_refusal_is_told_by_its_code_whatever_its_words(sqlstate: str, words: tuple[str, str]) -> None:
    severity, message = words
    with speaks(refusal(severity, sqlstate, message)) as port:
        failure = refused(at(port))
    assert type(failure) is SAID[sqlstate]
    assert failure.sqlstate == sqlstate
    assert message.split(":")[0] in str(failure)


def test_without_the_code_all_those_would_look_the_same() -> None:
    """What the driver itself tells of a failed connect has no SQLSTATE: words are all there is."""
    for sqlstate in SAID:
        with speaks(refusal("致命错误", sqlstate, "数据库系统启动中")) as port, pytest.raises(psycopg.Error) as caught:
            psycopg.connect(host=LOCALHOST, port=port, sslmode="disable")
        assert type(caught.value) is psycopg.OperationalError
        assert caught.value.sqlstate is None


# ------------------------------------------------------------------ a server that says nothing


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "verify-full"])
def test_a_peer_that_hangs_up_at_once_is_unavailable_not_untrusted(sslmode: str) -> None:
    with speaks(to_tls=b"") as port:
        failure = refused(at(port, sslmode))
    assert type(failure) is errors.TargetUnavailable
    assert "it hung up" in str(failure)


def test_a_peer_that_hangs_up_after_the_startup_is_unavailable() -> None:
    with speaks() as port:
        assert type(refused(at(port))) is errors.TargetUnavailable


def test_a_peer_without_tls_is_untrusted_where_tls_is_demanded() -> None:
    with speaks() as port:
        assert type(refused(at(port, "verify-full"))) is errors.TlsFailed


def test_a_password_that_is_asked_for_and_not_configured() -> None:
    with speaks(ASKS_FOR_A_PASSWORD) as port:
        failure = refused(at(port))
    assert type(failure) is errors.AuthenticationFailed
    assert "none is configured" in str(failure)


# ------------------------------------------------------------------ real refusals


@pytest.fixture(scope="module")
def node(replication_template: Template, session_dir: Path) -> Iterator[Node]:
    """A server with a role for each way to be refused."""
    data, programs = replication_template
    with opened(Node, session_dir / "told-apart", data, programs) as started:
        rules = "local all secretive scram-sha-256", "local template1 all reject", "local all all trust"
        started.write("pg_hba.conf", "\n".join([*rules, ""]))
        few = {"max_connections": "12", "superuser_reserved_connections": "3", "max_wal_senders": "0"}
        started.configure(**few)
        started.start()
        for role in (
            "secretive login password 'right'",
            "sleeper nologin",
            "full login connection limit 0",
            "plain login",
        ):
            started.query(f"create role {role}")
        yield started


CASES: dict[str, tuple[str, str | None, str, str, type[errors.ConnectError]]] = {
    "a wrong password": ("secretive", "wrong", "postgres", "28P01", errors.AuthenticationFailed),
    "no rule": ("plain", None, "template1", "28000", errors.AuthenticationFailed),
    "a missing role": ("nobody", None, "postgres", "28000", errors.AuthenticationFailed),
    "a role that may not log in": ("sleeper", None, "postgres", "28000", errors.AuthenticationFailed),
    "a missing database": ("plain", None, "nowhere", "3D000", errors.DatabaseMissing),
    "a role without a slot": ("full", None, "postgres", "53300", errors.TargetSaturated),
}


@pytest.mark.parametrize("case", CASES)
def test_a_real_server_tells_its_code(node: Node, case: str) -> None:
    role, password, dbname, sqlstate, kind = CASES[case]
    failure = refused(as_role(node.settings(dbname), role, password))
    assert type(failure) is kind
    assert failure.sqlstate == sqlstate


def test_a_full_server_tells_its_code(node: Node) -> None:
    with ExitStack() as stack:
        fill(node, stack)
        failure = refused(as_role(node.settings(), "plain"))
        assert type(failure) is errors.TargetSaturated
        assert failure.sqlstate == "53300"


def fill(node: Node, stack: ExitStack) -> None:
    info = f"{node.info.replace('user=postgres', 'user=plain')} dbname=postgres"
    with suppress(psycopg.OperationalError):
        while True:
            stack.enter_context(psycopg.connect(info))


def test_a_standby_that_takes_no_sessions_is_starting(replication_template: Template, state_dir: Path) -> None:
    data, programs = replication_template
    with opened(Node, state_dir / "standby", data, programs) as standby:
        standby.write("standby.signal", "")
        standby.configure(hot_standby="off")
        standby.start(wait=False)
        met: list[errors.ConnectError] = []

        def starting() -> bool:
            met.append(refused(standby.settings()))
            return type(met[-1]) is errors.TargetStarting

        assert wait_until(starting, timeout_s=20)
        assert met[-1].sqlstate == "57P03"

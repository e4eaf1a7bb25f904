"""What isn't local is under TLS with a proven peer, and a failure of that is told at once and never repeated."""

from __future__ import annotations

import socket
import time
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings, ReplicaSettings
from chanuka_ops.db import connecting, parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.processes import url_of
from chanuka_ops_tests.plugins.proxy import ProxyTo, through
from chanuka_ops_tests.plugins.tls import CERTIFIED, TlsServer

pytestmark = pytest.mark.postgres

ELSEWHERE = CERTIFIED.upper()  # the same name to resolvers and certificates, and not the one word that is surely here


def stated(url: str) -> DatabaseSettings:
    return DatabaseSettings(url=SecretStr(url))


def sslmode_of(database: DatabaseSettings) -> str | None:
    return connecting.pq_params(parameters.conninfo(database)).get("sslmode")


def counts(manager: ConnectionManager) -> dict[str, int]:
    found: dict[str, int] = manager.snapshot()["nodes"][0]["counts"]
    return found


def breakers(manager: ConnectionManager) -> dict[str, int]:
    shown: dict[str, Any] = manager.snapshot()["nodes"][0]["breakers"]
    return {name: one["failures"] for name, one in shown.items()}


def untrusted(database: DatabaseSettings) -> errors.TlsFailed:
    """The failure, met by one attempt and held against nobody."""
    with ConnectionManager("main", database) as manager:
        start = time.monotonic()
        with pytest.raises(errors.TlsFailed) as caught, manager.transaction():
            pass
        assert time.monotonic() - start < 3
        assert counts(manager) == {"connect_failed.TlsFailed": 1}
        assert breakers(manager) == {"availability": 0, "saturation": 0, "authentication": 0}
    assert "no trustworthy encryption came about" in str(caught.value)
    assert "sslrootcert" in str(caught.value)
    return caught.value


# ------------------------------------------------------------------ the default


@pytest.mark.parametrize("host", ["db.internal", "192.0.2.7", "[2001:db8::7]", ELSEWHERE, "localhost.example", "127.1"])
def test_whatever_is_not_surely_here_is_verified_in_full(host: str) -> None:
    assert sslmode_of(stated(f"postgresql://ops@{host}/main")) == "verify-full"


@pytest.mark.parametrize("query", ["hostaddr=192.0.2.7", "host=db.internal", "host=db.internal:6000"])
def test_a_host_in_the_query_is_verified_in_full(query: str) -> None:
    (spec,) = parameters.nodes_of(stated(f"postgresql://ops@/main?{query}"))
    assert sslmode_of(spec.settings) == "verify-full"


def test_one_host_of_several_that_is_elsewhere_is_verified_in_full() -> None:
    specs = parameters.nodes_of(stated("postgresql://ops@/main?host=localhost&host=db.internal"))
    assert [sslmode_of(spec.settings) for spec in specs] == [None, "verify-full"]
    assert sslmode_of(stated("postgresql://ops@/main?host=localhost,db.internal")) == "verify-full"


def test_a_replica_elsewhere_is_verified_in_full() -> None:
    replica = ReplicaSettings(url=SecretStr("postgresql://db.internal"))
    here = stated("postgresql://ops@localhost/main").model_copy(update={"replicas": (replica,)})
    assert [sslmode_of(spec.settings) for spec in parameters.nodes_of(here)] == [None, "verify-full"]


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "127.0.0.2", "[::1]"])
def test_what_never_leaves_the_machine_is_left_to_libpq(host: str) -> None:
    assert sslmode_of(stated(f"postgresql://ops@{host}/main")) is None
    assert sslmode_of(stated("postgresql://ops@/main?host=/run/postgresql")) is None


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require", "verify-ca"])
def test_a_weaker_mode_is_kept_where_it_is_stated(sslmode: str) -> None:
    assert sslmode_of(stated(f"postgresql://ops@db.internal/main?sslmode={sslmode}")) == sslmode


# ------------------------------------------------------------------ a real server


def in_use(database: DatabaseSettings) -> bool:
    """Whether the manager's session is under TLS, as the server sees it."""
    with ConnectionManager("main", database) as manager, manager.transaction() as connection:
        query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        return bool(connection.execute(text(query)).scalar_one())


def test_the_default_lets_in_who_is_proven(tls_server: TlsServer) -> None:
    database = tls_server.settings(ELSEWHERE, root_cert=tls_server.ca)
    assert sslmode_of(database) == "verify-full"
    assert in_use(database)


def test_the_default_refuses_who_is_not_proven(tls_server: TlsServer) -> None:
    """The twin: the driver's own default takes the same server without a proof."""
    assert "certificate" in str(untrusted(tls_server.settings(ELSEWHERE, root_cert=tls_server.other_ca)))
    with psycopg.connect(url_of(tls_server.settings(ELSEWHERE)).replace("+psycopg", "")) as plain:
        assert plain.pgconn.ssl_in_use


def test_without_an_authority_nobody_is_proven(tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", str(tls_server.ca.with_name("missing.crt")))
    assert "missing.crt" in str(untrusted(tls_server.settings(ELSEWHERE)))


def test_another_authority_is_not_trusted(tls_server: TlsServer) -> None:
    untrusted(tls_server.settings(sslmode="verify-full", root_cert=tls_server.other_ca))


def test_another_name_is_not_trusted(tls_server: TlsServer) -> None:
    failure = untrusted(tls_server.settings("127.0.0.1", "verify-full", tls_server.ca))
    assert "127.0.0.1" in str(failure)
    assert in_use(tls_server.settings("127.0.0.1", "verify-ca", tls_server.ca))


def test_a_server_without_tls_is_not_trusted(server: Server, proxy_to: ProxyTo) -> None:
    database = through(server.settings("postgres"), proxy_to(server))
    url = database.sqlalchemy_url.update_query_dict({"sslmode": "verify-full"})
    failure = untrusted(stated(url.render_as_string(hide_password=False)))
    assert "does not support SSL" in str(failure)


def test_a_server_that_demands_tls_refuses_who_comes_without(tls_server: TlsServer) -> None:
    database = tls_server.settings(sslmode="disable")
    with ConnectionManager("main", database) as manager, pytest.raises(errors.AuthenticationFailed) as caught:
        manager.probe()
    assert caught.value.sqlstate == "28000"


def test_the_addresses_of_a_name_are_verified_by_the_name(
    tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We resolve the name ourselves; the certificate is still compared with the name, not with the address."""
    url = URL.create(DRIVER, "postgres", host="db.internal", port=tls_server.port, database="postgres")
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest, **named: real("127.0.0.1", *rest, **named))
    database = stated(url.update_query_dict({"sslrootcert": str(tls_server.ca)}).render_as_string(hide_password=False))
    assert "db.internal" in str(untrusted(database))

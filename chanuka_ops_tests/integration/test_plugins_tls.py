"""The tests' own server with TLS is one whose certificate matters."""

from __future__ import annotations

import psycopg
import pytest

from chanuka_ops_tests.plugins.processes import url_of
from chanuka_ops_tests.plugins.tls import TlsServer

pytestmark = pytest.mark.postgres


def encrypted(url: str) -> tuple[bool, bool]:
    """Connect; tell whether that is under TLS, as the server and as the client see it."""
    with psycopg.connect(url.replace("+psycopg", ""), connect_timeout=5) as connection:
        row = connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
        assert row is not None
        return row[0], connection.pgconn.ssl_in_use


def test_the_right_authority_is_trusted(tls_server: TlsServer) -> None:
    assert encrypted(url_of(tls_server.settings(sslmode="verify-full", root_cert=tls_server.ca))) == (True, True)


def test_it_is_under_tls_unless_told_otherwise_and_refuses_to_be_without(tls_server: TlsServer) -> None:
    assert encrypted(url_of(tls_server.settings())) == (True, True)
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        encrypted(url_of(tls_server.settings(sslmode="disable")))


def test_another_authority_is_not(tls_server: TlsServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        encrypted(url_of(tls_server.settings(sslmode="verify-full", root_cert=tls_server.other_ca)))


def test_another_name_for_the_same_server_is_not_certified(tls_server: TlsServer) -> None:
    by_address = tls_server.settings("127.0.0.1", "verify-full", tls_server.ca)
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        encrypted(url_of(by_address))
    assert encrypted(url_of(tls_server.settings("127.0.0.1", "verify-ca", tls_server.ca))) == (True, True)

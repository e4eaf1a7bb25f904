"""A server that takes TCP connections under TLS only, its certificate made out to "localhost" by an authority of ours.

Beside it stands another authority that has signed nothing. Not every PostgreSQL can do TLS (that of the wheel can't):
the one under test is taken if it can, otherwise another one of this machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import URL

from chanuka_ops.config import DRIVER, DatabaseSettings
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import run
from chanuka_ops_tests.plugins.nodes import LOCALHOST, SUPERUSER, Node, cluster_template, free_port, opened

CERTIFIED = "localhost"
OPENSSL_S = 20.0
TRIES = 3
HBA = f"local all all trust\nhostssl all all {LOCALHOST}/32 trust\n"
# a file of our own: the system's may add extensions
OPENSSL_CONF = f"""
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:false
subjectAltName = DNS:{CERTIFIED}
"""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class TlsServer:
    """A running server, and the certificates of the authority that signed its own and of one that didn't."""

    node: Node
    port: int
    ca: Path
    other_ca: Path

    def settings(
        self,
        host: str = CERTIFIED,
        sslmode: str | None = None,
        root_cert: Path | None = None,
        dbname: str = "postgres",
    ) -> DatabaseSettings:
        """How to connect to it by TCP."""
        query = {"sslmode": sslmode, "sslrootcert": str(root_cert) if root_cert else None}
        given = {name: value for name, value in query.items() if value is not None}
        url = URL.create(DRIVER, username=SUPERUSER, host=host, port=self.port, database=dbname, query=given)
        return DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False)))


def installation(pg: Binaries) -> Binaries | None:
    """The PostgreSQL under test if it's built with TLS, otherwise the newest on this machine that is."""
    others = sorted(binaries.installations(None, binaries.SERVER), key=lambda found: found.major, reverse=True)
    return next((found for found in (pg, *others) if _built_with_tls(found)), None)


def _built_with_tls(found: Binaries) -> bool:
    try:
        done = subprocess.run([found.path("pg_config"), "--configure"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(r"--with-(openssl|ssl)\b", done.stdout) is not None


class _Authority:
    """Makes keys and certificates in a directory."""

    def __init__(self, directory: Path, openssl: str) -> None:
        self._directory = directory
        self._openssl = openssl
        (directory / "openssl.cnf").write_text(OPENSSL_CONF, encoding="utf-8")

    def _run(self, *words: str) -> None:
        run([self._openssl, *words], deadline_s=OPENSSL_S, cwd=self._directory)

    def authority(self, name: str) -> Path:
        """Make a certificate authority."""
        words = ("-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}", "-days", "2")
        self._run("req", "-x509", "-config", "openssl.cnf", "-extensions", "authority", *_KEY, *words)
        return self._directory / f"{name}.crt"

    def server(self, authority: str) -> tuple[str, str]:
        """Have it sign a server's certificate; return that and its key."""
        words = ("-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={CERTIFIED}")
        self._run("req", "-config", "openssl.cnf", *_KEY, *words)
        signed = ("-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-set_serial", "2", "-days", "2")
        extensions = ("-extfile", "openssl.cnf", "-extensions", "server")
        self._run("x509", "-req", "-in", "server.csr", "-out", "server.crt", *signed, *extensions)
        certificate, key = (self._directory / f"server.{kind}" for kind in ("crt", "key"))
        return certificate.read_text(encoding="ascii"), key.read_text(encoding="ascii")


def _start(node: Node) -> None:
    for further in range(TRIES - 1, -1, -1):
        node.port = free_port()
        try:
            node.start()
        except AssertionError:  # somebody else may have been given the port in between
            if not further or "Address already in use" not in node.log:
                raise
        else:
            return


@pytest.fixture(scope="session")
def tls_server(pg: Binaries, session_dir: Path) -> Iterator[TlsServer]:
    """The session's server with TLS."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the program openssl isn't installed")
    able = installation(pg)
    if able is None:
        pytest.skip("no PostgreSQL of this machine is built with TLS")
    directory = session_dir / "tls"
    directory.mkdir()
    directory.chmod(0o711)
    maker = _Authority(directory, openssl)
    ca, other_ca = maker.authority("ours"), maker.authority("others")
    certificate, key = maker.server("ours")
    settings = {"ssl": "on", "listen_addresses": f"'{LOCALHOST}'"}
    try:
        with (
            cluster_template(directory, able, settings) as (data, programs),
            opened(Node, directory / "node", data, programs) as node,
        ):
            node.write("server.crt", certificate)
            node.write("server.key", key)
            node.write("pg_hba.conf", HBA)
            _start(node)
            yield TlsServer(node, node.port, ca, other_ca)
    finally:
        shutil.rmtree(directory, ignore_errors=True)

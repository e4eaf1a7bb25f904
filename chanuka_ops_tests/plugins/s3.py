"""An S3 server of the session's own, and backups to send there that no database made.

The server is moto's, in a process of its own, so that it can be killed; each test has a bucket of its own, behind a
gate that fails as the test says.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from chanuka_ops.backup import documents
from chanuka_ops.backup.model import File, Fingerprint, Manifest, Source, TableContent
from chanuka_ops.backup.storing.objects import ObjectStore
from chanuka_ops.config import SecretSource, StoreSettings
from chanuka_ops.postgres.process import die_with_parent, wait_until
from chanuka_ops_tests.plugins.gate import PATIENCE_S, Act, Fault, Gate
from chanuka_ops_tests.plugins.nodes import LOCALHOST, free_port

KEY_ID = "AKIATESTTESTTESTTEST"
SECRET = "s3cret/of+the=store"
ENVIRONMENT = {"TEST_S3_KEY_ID": KEY_ID, "TEST_S3_SECRET": SECRET}
PREFIX = "back ups/ü"
_SIGNED = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request,"
    " SignedHeaders=host, Signature=0"
}
_SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address=sys.argv[1], port=int(sys.argv[2]), verbose=False).start()
threading.Event().wait()
"""


@dataclass
class Bucket:
    """A bucket of the test's own, seen past the faults; and the gate through which the store under test goes."""

    gate: Gate
    name: str
    port: int
    signed: bool = True
    """Whether the server is asked with a signature (one that it doesn't check), or without any."""

    @property
    def url(self) -> str:
        return f"s3://{self.name}/{PREFIX}"

    @property
    def endpoint(self) -> str:
        return f"http://{LOCALHOST}:{self.gate.server_address[1]}"

    def settings(self, **options: str) -> StoreSettings:
        return settings_of(self.url, self.endpoint, **options)

    def store(self, name: str = "cloud", *, jobs: int = 4, deadline_s: float = 20.0, **options: str) -> ObjectStore:
        return ObjectStore(name, self.settings(**options), jobs=jobs, deadline_s=deadline_s)

    def fault(
        self,
        method: str,
        key: str,
        act: Act,
        **more: Any,
    ) -> Fault:
        """Let requests fail from now on: method and key are patterns."""
        fault = Fault(method, re.compile(key), act, **more)
        self.gate.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Let all requests through again."""
        for fault in self.gate.faults:
            fault.release.set()
        self.gate.faults.clear()

    def ask(self, method: str, path: str = "", body: bytes = b"") -> bytes:
        """Ask the server itself."""
        connection = http.client.HTTPConnection(LOCALHOST, self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, f"/{self.name}{path}", body, _SIGNED if self.signed else {})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, (method, path, answer.status, content[:500])
        return content

    def data_keys(self) -> list[str]:
        """Every key there is, leases aside, without the prefix."""
        return [key for key in self.all_keys() if "/.leases/" not in key]

    def all_keys(self) -> list[str]:
        found: list[str] = []
        while True:
            after = f"&start-after={quote(f'{PREFIX}/{found[-1]}')}" if found else ""
            page = self.ask("GET", f"?list-type=2{after}").decode()
            more = [key.removeprefix(f"{PREFIX}/") for key in re.findall(r"<Key>([^<]*)</Key>", page)]
            found += more
            if "<IsTruncated>true" not in page:
                return found

    def uploads(self) -> list[str]:
        """The keys of multipart uploads that were begun and neither finished nor aborted."""
        return re.findall(r"<Key>([^<]*)</Key>", self.ask("GET", "?uploads").decode())

    def read(self, key: str) -> bytes:
        return self.ask("GET", self._path(key))

    def write(self, key: str, content: bytes) -> None:
        self.ask("PUT", self._path(key), content)

    def remove(self, key: str) -> None:
        self.ask("DELETE", self._path(key))

    def _path(self, key: str) -> str:
        return "/" + quote(f"{PREFIX}/{key}")


def settings_of(url: str, endpoint: str, **options: str) -> StoreSettings:
    return StoreSettings(
        url=url,
        options={"endpoint": endpoint, "region": "us-east-1", "allow_http": "true", **options},
        secrets={
            "access_key_id": SecretSource(env="TEST_S3_KEY_ID"),
            "secret_access_key": SecretSource(env="TEST_S3_SECRET"),
        },
    )


@contextmanager
def serving(*program: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run an S3 server for the block, moto's or a program that is told address and port: (port, process)."""
    port = free_port()
    process = subprocess.Popen(
        [*(program or (sys.executable, "-c", _SERVER)), LOCALHOST, str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - two system calls
    )
    try:
        assert wait_until(lambda: _listens(port) or process.poll() is not None, timeout_s=PATIENCE_S)
        assert process.poll() is None, "the S3 server didn't start"
        yield port, process
    finally:
        process.kill()
        process.wait()


@contextmanager
def bucket_on(port: int, *, signed: bool = True) -> Iterator[Bucket]:
    """Make a bucket on a server, and a gate to it, for the block."""
    gate = Gate(port)
    try:
        made = Bucket(gate, f"test-{uuid.uuid4().hex[:12]}", port, signed)
        made.ask("PUT")
        yield made
    finally:
        gate.end()


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of the session's S3 server."""
    with serving() as (port, _):
        yield port


@pytest.fixture
def s3_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment in which a test's stores find their credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(s3_port: int, s3_secrets: None) -> Iterator[Bucket]:
    """A bucket of the test's own."""
    with bucket_on(s3_port) as made:
        yield made


@dataclass(frozen=True)
class Sample:
    """A backup that no database made: files in a directory, and their manifest."""

    directory: Path
    manifest: Manifest

    @property
    def backup_id(self) -> str:
        return self.manifest.backup_id

    def send(self, store: ObjectStore) -> None:
        with store.writing(self.manifest.database, self.backup_id) as writer:
            writer.receive(self.directory, self.manifest.files)
            writer.publish(self.manifest)

    def plant(self, bucket: Bucket) -> None:
        """Put it into a bucket as it is when it's published, past the store under test."""
        folder = f"{self.manifest.database}/{self.backup_id}"
        content, status = documents.first_documents(self.manifest)
        for file in self.manifest.files:
            bucket.write(f"{folder}/{file.path}", (self.directory / file.path).read_bytes())
        bucket.write(f"{folder}/{documents.STATUS}", status)
        bucket.write(f"{folder}/{documents.MANIFEST}", content)

    def is_whole_in(self, store: ObjectStore) -> bool:
        """Whether the store holds every byte of it."""
        found = store.files(self.backup_id)
        return store.manifest(self.backup_id) == self.manifest and found == {f.path: f for f in self.manifest.files}


SIZES: Mapping[str, int] = {"dump/toc.dat": 1000, "dump/1.dat": 70_000, "dump/empty.dat": 0, "globals/roles.sql": 30}


def sample(
    directory: Path,
    sizes: Mapping[str, int] = SIZES,
    *,
    database: str = "main",
    at: datetime = datetime(2026, 11, 22, 17, 5, 9, tzinfo=UTC),
    number: int = 0,
) -> Sample:
    """Write files of those sizes and describe them."""
    files = [_written(directory, path, size) for path, size in sizes.items()]
    return Sample(directory, manifest_of(files, database=database, at=at, number=number))


def manifest_of(files: Sequence[File], *, database: str, at: datetime, number: int) -> Manifest:
    return Manifest(
        backup_id=f"main-{at:%Y%m%dT%H%M%SZ}-{number:06x}",
        database=database,
        created_at=at,
        seconds=1.0,
        actor="test",
        run_id="test",
        tool_version="18.1",
        tool_major=18,
        compression_level=1,
        jobs=1,
        source=Source(
            dbname=database, server_version="18.1", server_version_num=180001, encoding="UTF8", collate="C", ctype="C",
            source_bytes=1, snapshot_at=at, schema_revision=None,
        ),
        files=tuple(files),
        fingerprint=Fingerprint(
            tables={}, large_objects=TableContent(rows=0, hash="0"), sequences={}, extensions={}, objects={},
            schema_hash="",
        ),
    )  # fmt: skip


def _written(directory: Path, path: str, size: int) -> File:
    target = directory / path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), size
    with target.open("wb") as file:
        while left:
            content = os.urandom(min(left, 1 << 20))
            digest.update(content)
            file.write(content)
            left -= len(content)
    return File(path=path, bytes=size, sha256=digest.hexdigest())


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((LOCALHOST, port)) == 0

"""An S3 server of the session's own, and a wire to it that fails as a test says.

The server is moto's, in a process of its own, so that it can be killed. In front of it stands an HTTP proxy whose
faults are rules: for a method, a pattern of the key, the first so many requests. The server checks a condition and
writes in two steps, where S3 does it in one: the proxy lets conditional puts through one by one.
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
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import pytest

from chanuka_ops.backup.model import File, Fingerprint, Manifest, Source, TableContent
from chanuka_ops.backup.objects import ObjectStore
from chanuka_ops.config import SecretSource, StoreSettings
from chanuka_ops.postgres.process import die_with_parent, wait_until
from chanuka_ops_tests.plugins.nodes import LOCALHOST, free_port

PATIENCE_S = 30.0
KEY_ID = "AKIATESTTESTTESTTEST"
SECRET = "s3cret/of+the=store"
ENVIRONMENT = {"TEST_S3_KEY_ID": KEY_ID, "TEST_S3_SECRET": SECRET}
PREFIX = "back ups/ü"
_CONDITIONS = ("if-match", "if-none-match")
_SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address=sys.argv[1], port=int(sys.argv[2]), verbose=False).start()
threading.Event().wait()
"""

Act = Literal[
    "status",  # answer `status` instead of the server
    "delay",  # wait `seconds`, then go on
    "cut_upload",  # reset in the middle of the request's body
    "cut_download",  # reset in the middle of the answer's body
    "lose_reply",  # let the server do it, then reset
    "hold",  # wait for `release`, then reset without having asked the server
    "hold_reply",  # let the server do it, wait for `release`, then reset
    "unconditional",  # the server doesn't get to see the conditions
    "page",  # list `status` keys at a time
]


@dataclass
class Fault:
    """What happens to the requests it fits: after the first `after` of them, to so many as `times` says."""

    method: str
    key: re.Pattern[str]
    act: Act
    times: int | None = 1
    after: int = 0
    status: int = 503
    seconds: float = 0.0
    conditional: bool = False
    seen: int = 0
    hits: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def fits(self, method: str, target: str, headers: Mapping[str, str]) -> bool:
        if not re.fullmatch(self.method, method) or not self.key.search(unquote(target)):
            return False
        if self.conditional and not any(name in headers for name in _CONDITIONS):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


class Gate(ThreadingHTTPServer):
    """The proxy. `requests` is what was asked for so far: method and decoded target."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__((LOCALHOST, 0), _Handler)
        self.upstream = port
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.deciding = threading.Lock()
        self.conditional = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def fault_of(self, method: str, target: str, headers: Mapping[str, str]) -> Fault | None:
        with self.deciding:
            self.requests.append((method, unquote(target)))
            return next((fault for fault in self.faults if fault.fits(method, target, headers)), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: that clients and servers vanish is what it's for."""

    def end(self) -> None:
        for fault in self.faults:
            fault.release.set()
        self.shutdown()
        self.server_close()
        self._thread.join(PATIENCE_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
        """Say nothing."""

    def handle_any(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length", 0))
        fault = self.server.fault_of(self.command, self.path, headers)
        act = fault.act if fault else None
        body = self.rfile.read(length // 2 if act == "cut_upload" else length)
        if fault is None:
            self.answer(headers, body)
        elif act == "cut_upload":
            self.reset()
        elif act == "status":
            self.say(fault.status)
        elif act == "delay":
            time.sleep(fault.seconds)
            self.answer(headers, body)
        elif act == "hold":
            fault.reached.set()
            fault.release.wait(PATIENCE_S)
            self.reset()
        elif act == "unconditional":
            self.answer({name: value for name, value in headers.items() if name not in _CONDITIONS}, body)
        elif act == "page":
            self.path += f"&max-keys={fault.status}"
            self.answer(headers, body)
        else:
            self.answer(headers, body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def answer(self, headers: Mapping[str, str], body: bytes, fault: Fault | None = None) -> None:
        with self.server.conditional if any(name in headers for name in _CONDITIONS) else suppress():
            upstream = http.client.HTTPConnection(LOCALHOST, self.server.upstream, timeout=PATIENCE_S)
            try:
                upstream.request(self.command, self.path, body, dict(headers))
                got = upstream.getresponse()
                content = got.read()
            except OSError:  # it's gone
                self.reset()
                return
            finally:
                upstream.close()
        if fault is not None and fault.act != "cut_download":
            fault.reached.set()
            if fault.act == "hold_reply":
                fault.release.wait(PATIENCE_S)
            self.reset()
            return
        self.send_response_only(got.status, got.reason)
        for name, value in got.getheaders():
            if name.lower() not in {"connection", "content-length", "transfer-encoding"}:
                self.send_header(name, value)
        length = got.getheader("content-length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if fault is not None:
            self.wfile.write(content[: len(content) // 2])
            self.reset()
        else:
            self.wfile.write(content)

    def say(self, status: int) -> None:
        code = {500: "InternalError", 501: "NotImplemented", 503: "SlowDown", 403: "AccessDenied"}[status]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as the test says</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        # the handler's own files hold the socket open
        with suppress(OSError):
            self.rfile.close()
        with suppress(OSError):
            self.connection.close()


@dataclass
class Bucket:
    """A bucket of the test's own, seen past the faults; and the gate through which the store under test goes."""

    gate: Gate
    name: str
    port: int

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
            connection.request(method, f"/{self.name}{path}", body, {"Authorization": f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"})  # fmt: skip
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, (method, path, answer.status, content[:500])
        return content

    def keys(self) -> list[str]:
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
def serving() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run an S3 server for the block: (port, process)."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, LOCALHOST, str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - two system calls
    )
    try:
        assert wait_until(lambda: _listens(port) or process.poll() is not None, timeout_s=PATIENCE_S)
        assert process.poll() is None, "moto's server didn't start"
        yield port, process
    finally:
        process.kill()
        process.wait()


@contextmanager
def bucket_on(port: int) -> Iterator[Bucket]:
    """Make a bucket on a server, and a gate to it, for the block."""
    gate = Gate(port)
    try:
        made = Bucket(gate, f"test-{uuid.uuid4().hex[:12]}", port)
        made.ask("PUT")
        yield made
    finally:
        gate.end()


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of the session's S3 server; `CHANUKA_TEST_S3_PORT` names another implementation's instead."""
    stated = os.environ.get("CHANUKA_TEST_S3_PORT")
    if stated:
        yield int(stated)
        return
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

"""Limits how fast a client program may read from a server: it connects to a relay in this process instead.

pg_dump has no such option. The relay passes bytes both ways as they are, so password, TLS (end to end, by the server's
own name) and cancel requests go through; what comes from the server is held back, over all connections together. It
ends with the block or with this process, and every connection through it with it.
"""

from __future__ import annotations

import logging
import os
import selectors
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.engine import URL

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import parameters

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
BURST_S = 0.1
CHUNK = 65536
_LEAST_CHUNK = 512
_CHUNKS_PER_S = 20  # so that bytes flow, and don't come in heaps
_END_S = 2.0
_KEEPALIVES = {
    "TCP_KEEPIDLE": "keepalives_idle",
    "TCP_KEEPINTVL": "keepalives_interval",
    "TCP_KEEPCNT": "keepalives_count",
    "TCP_USER_TIMEOUT": "tcp_user_timeout",
}


class Bucket:
    """Decides when bytes may pass, so that over any time `t` no more do than `rate · (t + BURST_S)` and one chunk.

    It is told the time and never waits itself. What was not used is lost, but for the last `BURST_S`.
    """

    def __init__(self, bytes_per_s: int, *, now_s: float) -> None:
        if bytes_per_s <= 0:
            raise ValueError(f"{bytes_per_s} bytes a second: a limit is more than 0")
        self.bytes_per_s = bytes_per_s
        self._free_at_s = now_s

    def take(self, count: int, *, now_s: float) -> float:
        """Count bytes, and return in how many seconds they may pass."""
        self._free_at_s = max(self._free_at_s, now_s - BURST_S) + count / self.bytes_per_s
        return max(0.0, self._free_at_s - now_s)


class Throttle:
    """Holds threads back to so many bytes a second together: call `take` for each chunk."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bucket = Bucket(bytes_per_s, now_s=time.monotonic())
        self._lock = threading.Lock()
        self._released = threading.Event()

    @property
    def chunk(self) -> int:
        """How many bytes to take at once, so that they flow evenly."""
        return min(CHUNK, max(_LEAST_CHUNK, self._bucket.bytes_per_s // _CHUNKS_PER_S))

    def take(self, count: int) -> None:
        """Wait until `count` more bytes may pass."""
        with self._lock:
            wait_s = self._bucket.take(count, now_s=time.monotonic())
        if wait_s > 0:
            self._released.wait(wait_s)

    def release(self) -> None:
        """Hold nobody back any more: who waits goes on at once."""
        self._released.set()


@dataclass(frozen=True, slots=True)
class _Server:
    """Where the server is: a socket's path, or a host and its port."""

    path: str | None
    host: str
    port: int
    connect_s: float

    def dial(self) -> socket.socket:
        """Connect. Errors: `OSError`."""
        if self.path is None:
            sock = socket.create_connection((self.host, self.port), timeout=self.connect_s)
            _watch(sock)
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(self.connect_s)
            try:
                sock.connect(self.path)
            except OSError:
                sock.close()
                raise
        sock.settimeout(None)
        return sock


def _watch(sock: socket.socket) -> None:
    """Have a dead network noticed here: the client's own keepalives reach no further than us."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, name in _KEEPALIVES.items():
        if hasattr(socket, option):  # not every system has each
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), parameters.KEEPALIVES[name])


class _Wire:
    """One connection through the relay, in two threads: one for each direction."""

    def __init__(self, client: socket.socket, server: _Server, throttle: Throttle) -> None:
        self._client = client
        self._to = server
        self._throttle = throttle
        self._lock = threading.Lock()
        self._server: socket.socket | None = None
        self._ended = False
        self.thread = threading.Thread(target=self._run, name="chanuka-relay-up", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Hang up on both sides; the threads end soon after."""
        with self._lock:
            self._ended = True
            for sock in (self._client, self._server):
                if sock is not None:
                    with suppress(OSError):  # it has hung up itself
                        sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        with self._client:
            try:
                server = self._to.dial()
            except OSError as error:
                where = self._to.path or f"{self._to.host}:{self._to.port}"
                log.warning("the relay can't reach %s: %s", where, error, extra={"event": "relay.unreachable"})
                return
            with server:
                with self._lock:
                    self._server = server
                    if self._ended:
                        return
                down = threading.Thread(target=self._down, args=(server,), name="chanuka-relay-down", daemon=True)
                down.start()
                if _pass_on(self._client, server, None):
                    self.end()
                down.join()  # a server that has hung up may have said why: that is still to arrive

    def _down(self, server: socket.socket) -> None:
        try:
            _pass_on(server, self._client, self._throttle)
        finally:
            self.end()


def _pass_on(source: socket.socket, sink: socket.socket, throttle: Throttle | None) -> bool:
    """Pass bytes on until a side hangs up, and tell whether that was the source: what came before that arrived."""
    size = CHUNK if throttle is None else throttle.chunk
    while True:
        try:
            data = source.recv(size)
        except OSError:  # broken off: for the other side that's an end like any other
            return True
        if not data:
            return True
        if throttle is not None:
            throttle.take(len(data))
        try:
            sink.sendall(data)
        except OSError:
            return False


class _Relay:
    """Takes connections, in a thread, until it is closed."""

    def __init__(self, listener: socket.socket, server: _Server, throttle: Throttle) -> None:
        self._listener = listener
        self._to = server
        self._throttle = throttle
        self._wires: list[_Wire] = []
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="chanuka-relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections, and end those there are."""
        self._waker.close()
        self._thread.join()
        for wire in self._wires:
            wire.end()
        self._throttle.release()  # only now: what was held back must not arrive at the end as if there were no limit
        deadline = time.monotonic() + self._to.connect_s + _END_S  # one may be connecting still
        for wire in self._wires:
            wire.thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector, self._woken, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._woken in ready:
                    return
                try:
                    client, _ = self._listener.accept()
                except OSError as error:  # it went away again, or no descriptor is left: the client sees it, too
                    log.warning("the relay lost a connection: %s", error, extra={"event": "relay.lost"})
                    time.sleep(1 / _CHUNKS_PER_S)
                    continue
                client.settimeout(None)
                if client.family == socket.AF_INET:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._wires = [wire for wire in self._wires if wire.thread.is_alive()]
                self._wires.append(_Wire(client, self._to, self._throttle))


@contextmanager
def limited(database: DatabaseSettings, *, bytes_per_s: int) -> Iterator[DatabaseSettings]:
    """Give the settings of the same database through a relay, which lets `bytes_per_s` pass from server to client.

    These are bytes on the wire, so of rows as they are sent, before the client compresses them. A password in a
    `.pgpass` is found only where its line has `*` for the port (TCP) or the host (socket).
    Errors: `ConfigurationError` where the URL names no server or several, or asks to check the socket's owner;
    `ServerError` where nothing can be listened on.
    """
    throttle = Throttle(bytes_per_s)
    url, server = _target(database)
    directory = Path(tempfile.mkdtemp(prefix="chanuka-relay-")) if server.path is not None else None
    try:
        try:
            listener = _listen(directory, server.port)
        except OSError as error:
            raise errors.ServerError(f"the relay for the rate limit can't listen: {error}") from None
        through = _through(url, directory, listener)
        relay = _Relay(listener, server, throttle)
        try:
            yield database.model_copy(update={"url": SecretStr(through), "replicas": ()})
        finally:
            relay.close()
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


def _target(database: DatabaseSettings) -> tuple[URL, _Server]:
    nodes = parameters.nodes_of(database.model_copy(update={"replicas": ()}))
    if len(nodes) != 1:
        raise errors.ConfigurationError(f"{parameters.where(database)}: a rate limit is for one server: name one")
    url = nodes[0].settings.sqlalchemy_url
    host, address = str(url.query.get("host") or url.host or ""), str(url.query.get("hostaddr", ""))
    port = url.port or parameters.DEFAULT_PORT
    connect_s = database.timeouts.connect_s
    if not host and not address:
        raise errors.ConfigurationError(
            f"{parameters.where(database)}: for a rate limit the URL must name the server, be it ?host=/its/directory"
        )
    if address or not host.startswith(("/", "@")):
        return url, _Server(None, address or host, port, connect_s)
    if "requirepeer" in url.query:
        raise errors.ConfigurationError(
            f"{parameters.where(database)}: with a rate limit the socket's owner can't be checked: drop requirepeer"
        )
    path = f"{host}/.s.PGSQL.{port}"
    return url, _Server(f"\0{path[1:]}" if path.startswith("@") else path, host, port, connect_s)


def _listen(directory: Path | None, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET if directory is None else socket.AF_UNIX)
    try:
        listener.bind((LOOPBACK, 0) if directory is None else os.fspath(directory / f".s.PGSQL.{port}"))
        listener.listen()
        listener.settimeout(0)  # a client may be gone between its call and our answer
    except OSError:
        listener.close()
        raise
    return listener


def _through(url: URL, directory: Path | None, listener: socket.socket) -> str:
    """Return the URL by way of the relay. The server's name stays, so that its certificate is checked for it."""
    query = dict(url.query)
    if directory is not None:
        return url.set(query={**query, "host": str(directory)}).render_as_string(hide_password=False)
    if not parameters.is_local(str(query.get("hostaddr", ""))):  # by the relay's address it would pass for local
        query.setdefault("sslmode", "verify-full")
    port: int = listener.getsockname()[1]
    host = url.host or str(query["hostaddr"])
    return url.set(host=host, port=port, query={**query, "hostaddr": LOOPBACK}).render_as_string(hide_password=False)

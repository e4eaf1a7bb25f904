"""A wire that a test can cut, freeze, or lead elsewhere: a TCP proxy in front of a server.

One thread owns every socket, and a call from the test is run by that thread between two of its steps: when
`freeze()` or `cut()` returns, it has happened. What TLS hides can't be watched for.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.postgres.server import PORT, Server
from chanuka_ops_tests.plugins.nodes import LOCALHOST
from chanuka_ops_tests.plugins.wires import CHUNK, End, Trap, Where, Wire, bound

PATIENCE_S = 10.0
CONNECT_S = 2.0

Target = Path | tuple[str, int]
T = TypeVar("T")


class Proxy:
    """Forwards 127.0.0.1:`port` to a Unix socket's path or a (host, port), until it's told otherwise."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._wires: list[Wire] = []
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._listener = bound(0)
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0  # accepted so far
        self.cuts = 0  # connections cut so far, by cut() and cut_after()
        self._listening, self._frozen, self._silent, self._over = True, False, False, False
        self._trap: Trap | None = None
        self._thread = threading.Thread(target=self._serve, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket and end the thread. Safe to call twice."""
        if self._thread.is_alive():
            self._call(lambda: setattr(self, "_over", True))
            self._thread.join(PATIENCE_S)
        for wire in self._wires:
            wire.close()
        for sock in (self._listener, self._wake, self._woken):
            sock.close()

    @property
    def open(self) -> int:
        """The connections that are open now."""
        return self._call(lambda: sum(not wire.draining for wire in self._wires))

    @property
    def armed(self) -> bool:
        """Whether `cut_after` still waits for its pattern."""
        return self._call(lambda: self._trap is not None)

    def cut(self, *, reset: bool = True) -> int:
        """Close all connections on both sides, the client's with a reset; return how many. New ones are served."""
        return self._call(lambda: sum(self._cut(wire, reset=reset) for wire in list(self._wires) if not wire.draining))

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        self._call(lambda: self._listen(listening=False))

    def accept(self) -> None:
        """Take new connections again, on the same port."""
        self._call(lambda: self._listen(listening=True))

    def freeze(self) -> None:
        """Neither read nor write any more, close nothing, and go on accepting: the peers' kernels see a live wire."""
        self._call(lambda: setattr(self, "_frozen", True))

    def silent(self) -> None:
        """Accept new connections and never say anything to them; those that are open go on."""
        self._call(lambda: setattr(self, "_silent", True))

    def thaw(self) -> None:
        """Undo `freeze` and `silent`; connections made meanwhile are served now."""
        self._call(lambda: self.__dict__.update(_frozen=False, _silent=False))

    def retarget(self, host: str | Path, port: int = PORT) -> None:
        """Lead later connections to another host, or Unix socket's path; those that are open stay where they are."""
        self._call(lambda: setattr(self, "_target", host if isinstance(host, Path) else (host, port)))

    def cut_after(self, pattern: bytes, where: Where, *, delay_s: float = 0.0, reset: bool = True) -> None:
        """Cut, once, the first connection whose client says `pattern`.

        "before" the server sees it; when it has been "sent" to the server, `delay_s` later, whatever it answered;
        or when the server has "answered" (its first bytes are here) and the client has seen nothing of it.
        """

        def arm() -> None:
            self._trap = Trap(pattern, where, delay_s, reset)
            for wire in self._wires:
                wire.seen = b""

        self._call(arm)

    def disarm(self) -> None:
        """Take back a `cut_after` that hasn't happened."""
        self._call(lambda: setattr(self, "_trap", None))

    def _call(self, what: Callable[[], T]) -> T:
        """Have the thread run it between two steps, and return what it returned."""
        result: Future[T] = Future()
        self._calls.put(lambda: result.set_result(what()))
        self._wake.send(b"!")
        return result.result(PATIENCE_S)

    def _serve(self) -> None:
        while not self._over:
            if not (self._frozen or self._silent):
                for wire in [wire for wire in self._wires if wire.server is None]:
                    self._connect(wire)
            self._step()

    def _step(self) -> None:
        reads: list[socket.socket | End] = [self._woken, *([self._listener] if self._listening else [])]
        writes: list[End] = []
        for wire in [] if self._frozen else self._wires:
            more_reads, more_writes = wire.wants()
            reads += more_reads
            writes += more_writes
        due = min((wire.cut_at for wire in self._wires if wire.cut_at is not None), default=None)
        timeout = None if due is None else max(0.0, due - time.monotonic())
        readable, writable, _ = select.select(reads, writes, [], timeout)
        if self._woken in readable:  # what it asks for may concern the rest
            self._woken.recv(CHUNK)
            with suppress(Empty):
                while True:
                    self._calls.get_nowait()()
            return
        for end in writable:
            self._flush(end)
        for ready in readable:
            if not isinstance(ready, End):
                self._admit()
            elif ready.wire in self._wires:  # nobody has closed it in this step
                self._read(ready)
        for wire in [wire for wire in self._wires if wire.cut_at is not None and wire.cut_at <= time.monotonic()]:
            self._drain(wire)

    def _admit(self) -> None:
        with suppress(OSError):  # it has gone away again
            client, _ = self._listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._wires.append(Wire(client))

    def _connect(self, wire: Wire) -> None:
        unix = isinstance(self._target, Path)
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.settimeout(CONNECT_S)
        try:
            sock.connect(str(self._target) if isinstance(self._target, Path) else self._target)
        except OSError:
            sock.close()
            self._forget(wire)
        else:
            wire.server = End(sock, wire)

    def _read(self, end: End) -> None:
        wire = end.wire
        try:
            data = end.sock.recv(CHUNK)
        except OSError:
            data = b""
        if wire.server is None or (wire.draining and data):
            return
        other = wire.server if end is wire.client else wire.client
        if not data:
            wire.ending = True
            if wire.draining or not other.out:
                self._forget(wire)
        elif end is wire.client:
            self._from_client(wire, wire.server, data)
        elif wire.caught is not None and wire.caught.where == "answered":
            self._drain(wire)
        else:
            other.out += data
            self._flush(other)

    def _from_client(self, wire: Wire, server: End, data: bytes) -> None:
        trap = self._trap
        if trap is not None:
            wire.seen += data
            if trap.pattern in wire.seen:
                self._trap, wire.caught = None, trap
            wire.seen = wire.seen[len(wire.seen) - len(trap.pattern) + 1 :]
        if wire.caught is not None and wire.caught.where == "before":
            self._cut(wire, reset=wire.caught.reset)
            return
        server.out += data
        self._flush(server)

    def _flush(self, end: End) -> None:
        wire = end.wire
        if wire not in self._wires or not end.out:
            return
        try:
            del end.out[: end.sock.send(end.out)]
        except BlockingIOError:
            return
        except OSError:
            self._forget(wire)
            return
        if end.out:
            return
        if wire.ending:
            self._forget(wire)
        elif end is wire.server and wire.caught is not None and wire.caught.where == "sent":
            wire.cut_at = time.monotonic() + wire.caught.delay_s

    def _drain(self, wire: Wire) -> None:
        """Part the client from the server, which is told that nothing more comes and may finish what it has."""
        caught, server = wire.caught, wire.server
        wire.cut_at, wire.draining = None, True
        self.cuts += 1
        wire.hang_up(reset=caught is not None and caught.reset)
        if server is None:
            self._forget(wire)
            return
        with suppress(OSError):
            server.sock.shutdown(socket.SHUT_WR)

    def _cut(self, wire: Wire, *, reset: bool) -> int:
        self.cuts += 1  # before the client can know
        wire.hang_up(reset=reset)
        self._forget(wire)
        return 1

    def _forget(self, wire: Wire) -> None:
        self._wires.remove(wire)
        wire.close()

    def _listen(self, *, listening: bool) -> None:
        if listening and not self._listening:
            self._listener.listen()
        elif self._listening and not listening:
            self._listener.close()
            self._listener = bound(self.port)  # kept, so that no other program and no client is given the port
        self._listening = listening


ProxyTo = Callable[[Server], Proxy]


def socket_of(server: Server) -> Path:
    """The path of a server's Unix socket."""
    return server.socket_dir / f".s.PGSQL.{PORT}"


def through(database: DatabaseSettings, proxy: Proxy) -> DatabaseSettings:
    """The same database by way of a proxy."""
    url = make_url(database.url.get_secret_value())
    url = url.difference_update_query(["host", "port", "hostaddr"]).set(host=LOCALHOST, port=proxy.port)
    return database.model_copy(update={"url": SecretStr(url.render_as_string(hide_password=False))})


@pytest.fixture
def proxy_to() -> Iterator[ProxyTo]:
    """Put a proxy in front of a server, for the test: proxy_to(server)."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(Proxy(socket_of(server)))

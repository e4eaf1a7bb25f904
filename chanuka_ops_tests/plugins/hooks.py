"""Receivers of notices and heartbeats: real HTTP servers on 127.0.0.1 that answer as a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self

import pytest

LOCALHOST = "127.0.0.1"
TRICKLE_S = 0.1

Answer = int | Literal["silence", "trickle"]
"""A status; nothing at all; a byte of a header now and then, without an end."""


@dataclass(frozen=True)
class Request:
    """What arrived."""

    method: str
    path: str
    body: bytes


class Receiver:
    """Gives each request the next of its answers, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[Request] = []
        self._answers = list(answers) or [200]
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer((LOCALHOST, 0), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, scheme: str = "http", path: str = "/") -> str:
        return f"{scheme}://{LOCALHOST}:{self.port}{path}"

    def answer(self, request: Request) -> Answer:
        """Take a request, and say what it gets."""
        with self._turn:
            self.requests.append(request)
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of the test; True then."""
        return self._over.wait(seconds)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = receiver.answer(Request(self.command, self.path, body))
                with suppress(OSError):  # whoever asked may be gone
                    _give(self, answer, receiver.wait)

            do_GET = do_POST = do_HEAD = _take  # noqa: N815 - the base class's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Say nothing: what is tested is who logs what."""

        return Handler


def _give(handler: BaseHTTPRequestHandler, answer: Answer, wait: Callable[[float | None], bool]) -> None:
    if answer == "silence":
        wait(None)
    elif answer == "trickle":
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not wait(TRICKLE_S):
            handler.wfile.write(b"x")
    else:
        handler.send_response(answer)
        if 300 <= answer < 400:
            handler.send_header("Location", "file:///etc/passwd")
        handler.send_header("Content-Length", "0")
        handler.end_headers()


Receive = Callable[..., Receiver]


@pytest.fixture
def receive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receive]:
    """Start receivers: `receive(500, 200)` refuses the first request and takes the others."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield lambda *answers: stack.enter_context(Receiver(*answers))


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port of 127.0.0.1 that is taken, so that nobody comes to listen there."""
    with socket.socket() as taken:
        taken.bind((LOCALHOST, 0))
        yield taken.getsockname()[1]

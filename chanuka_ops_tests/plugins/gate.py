"""An HTTP proxy that fails as a test says.

Faults are rules: for a method, a pattern of the target, the first so many requests. The server behind it checks a
condition and writes in two steps, where S3 does it in one: so conditional puts pass one by one.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote

from chanuka_ops_tests.plugins.nodes import LOCALHOST

PATIENCE_S = 30.0
_CONDITIONS = ("if-match", "if-none-match")

Act = Literal[
    "status",  # answer `status` instead of the server
    "delay",  # wait `seconds`, then go on
    "cut_upload",  # reset in the middle of the request's body
    "cut_download",  # reset in the middle of the answer's body
    "deny",  # let the server do it, then answer `status`
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
    disable_nagle_algorithm = True  # it would hold back each answer's body for 40 ms
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

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - the names are given

    def answer(self, headers: Mapping[str, str], body: bytes, fault: Fault | None = None) -> None:
        with self.server.conditional if any(name in headers for name in _CONDITIONS) else nullcontext():
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
        if fault is not None and fault.act == "deny":
            self.say(fault.status)
            return
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

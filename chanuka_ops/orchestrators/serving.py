"""Serves health as Prometheus scrapes it: one thread looks, others answer from memory what was last seen, with its age.

A scrape never causes a look, so that an eager scraper is no load on the databases; and what is too old is not shown as
if it were new.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NoReturn

from chanuka_ops import errors, interrupts
from chanuka_ops.config import Settings
from chanuka_ops.health.exporting import prometheus
from chanuka_ops.health.exporting.model import Seen
from chanuka_ops.orchestrators import looking
from chanuka_ops.orchestrators.database import known_names

log = logging.getLogger(__name__)

PATH: Final = "/metrics"
READER: Final = "endpoint"  # with samples of its own: neither the daemon's nor those by hand are disturbed
SWEEPS_TO_STALE: Final = 3  # as many may fail or be late before what is remembered is withheld
_CLIENT_TIMEOUT_S: Final = 10.0  # whoever connects and says nothing holds a thread no longer than that


class Remembered:
    """What was last seen of each database. Written by the thread that looks, read by those that answer."""

    def __init__(self, every_s: float) -> None:
        self._stale_after_s = every_s * SWEEPS_TO_STALE
        self._lock = threading.Lock()
        self._seen: dict[str, Seen] = {}

    def put(self, seen: Seen) -> None:
        """Remember a database's newest look."""
        with self._lock:
            self._seen[seen.database] = seen

    def pace(self, round_s: float) -> None:
        """Take down how long a round takes: where it's longer than planned, all of it is older than planned too."""
        with self._lock:
            self._stale_after_s = round_s * SWEEPS_TO_STALE

    def text(self, now: datetime) -> bytes | None:
        """Return Prometheus's text as it is at that time; None before the first database was looked at."""
        with self._lock:
            seen, stale_after_s = list(self._seen.values()), self._stale_after_s
        return prometheus.text(seen, now=now, stale_after_s=stale_after_s) if seen else None


def sweeping(
    settings: Settings,
    remembered: Remembered,
    *,
    every_s: float,
    wait: Callable[[float], object] = time.sleep,
) -> NoReturn:
    """Look at every database, again and again, each round beginning `every_s` after the last at the earliest.

    Ends by an interrupt only. Errors: as `looking.sweep`.
    """
    while True:
        began = time.monotonic()
        looking.sweep(settings, known_names(settings), reader=READER, told=remembered.put)
        took_s = time.monotonic() - began
        remembered.pace(max(every_s, took_s))
        wait(max(0.0, every_s - took_s))


@contextmanager
def answering(host: str, port: int, remembered: Remembered) -> Iterator[tuple[str, int]]:
    """Answer scrapes during the block; give the address, with the port that port 0 came to.

    Errors: `ConfigurationError` where the address can't be had.
    """

    class Handler(_Handler):
        memory = remembered

    try:
        server = (_Six if ":" in host else _Server)((host, port), Handler)
    except (OSError, OverflowError) as error:
        words = getattr(error, "strerror", None) or error
        raise errors.ConfigurationError(f"{host} port {port} can't be listened on: {words}") from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    try:
        with interrupts.held():
            thread.start()
        yield str(server.server_address[0]), int(server.server_address[1])
    finally:
        if thread.is_alive():  # else shutdown() would wait for a loop that never began
            server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Six(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of /metrics."""

    memory: Remembered
    timeout = _CLIENT_TIMEOUT_S
    server_version = "chanuka-ops"
    sys_version = ""

    def do_GET(self) -> None:
        content, status = self._content()
        self._send(status, content)
        self.wfile.write(content)

    def do_HEAD(self) -> None:
        content, status = self._content()
        self._send(status, content)

    def _content(self) -> tuple[bytes, HTTPStatus]:
        if self.path.split("?", 1)[0] != PATH:
            return f"there is only {PATH}\n".encode(), HTTPStatus.NOT_FOUND
        content = self.memory.text(datetime.now(UTC))
        if content is None:  # no sample at all is the truth: the scrape fails, and the target is shown as down
            return b"no database has been looked at yet\n", HTTPStatus.SERVICE_UNAVAILABLE
        return content, HTTPStatus.OK

    def _send(self, status: HTTPStatus, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", prometheus.CONTENT_TYPE)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name for it
        log.debug("scrape: " + format, *args, extra={"event": "health.scraped"})  # noqa: G003 - likewise its format

"""Carries one message out, in a process of its own: an order on standard input, an answer on standard output.

Why a process: Apprise's hundred services log what they like, a token in a URL's path too, on loggers that they share
with others; their timeouts are of one read, so that a server which sends a byte now and then holds them for ever; and a
thread that hangs can't be ended. Here nothing is logged, the answer is made of words that stand in this file, and the
kernel ends the process at its deadline (SIGALRM), whoever still waits for it. Nobody else pays for importing Apprise.

Standard library only, until Apprise is asked for; nothing of this package, which takes longer to import than to send.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from typing import IO, Any, Final

START_S: Final = 30
"""How long it may take to start and to import Apprise, on a machine that has other things to do. In seconds."""
BEGUN: Final = "begun"
"""The first line of the answer: the order is understood, and its deadline runs."""
AGENT: Final = "chanuka_ops"

_HTTP_CODE = re.compile(r"\berror=(\d{3})\b")
_NO_CONNECTION = re.compile("connection error", re.IGNORECASE)
# the client's fault, so that the same would be refused again; but for: took too long, too early, too many
_FINAL_CODES = frozenset(range(400, 500)) - {408, 425, 429}

Answer = dict[str, str | bool]


def main() -> None:
    """Read an order, carry it out, answer. `SIGALRM` ends the process where it takes too long."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, START_S)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a service prints is no answer
    order = json.load(sys.stdin)
    carry = _touch if order["kind"] == "touch" else _notify
    try:
        answer = carry(order, answers)
    except Exception as error:  # noqa: BLE001 - a service may raise anything, and its words may hold the URL
        answer = _failed(type(error).__name__)
    print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # a service's threads may be at work still, and nobody waits for them


def _begin(order: Mapping[str, Any], answers: IO[str]) -> None:
    """Let the deadline run from here."""
    print(BEGUN, file=answers, flush=True)
    signal.setitimer(signal.ITIMER_REAL, order["timeout_s"])


def _longer(order: Mapping[str, Any]) -> float:
    """Return a timeout for one read: a little longer, so that it's the deadline that ends a wait, and says so."""
    return float(order["timeout_s"]) + 1.0


def _failed(problem: str, *, again: bool = True) -> Answer:
    return {"delivered": False, "problem": problem, "again": again}


def _refused(who: str, code: int) -> Answer:
    return _failed(f"{who} answered with HTTP {code}", again=code not in _FINAL_CODES)


class _Kept(logging.Handler):
    """Keeps what Apprise logs, to find out why a message wasn't delivered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said += record.getMessage() + "\n"


def _notify(order: Mapping[str, Any], answers: IO[str]) -> Answer:
    """Hand a message to the service that an Apprise URL names."""
    try:
        import apprise  # noqa: PLC0415 - a touch needs none
    except ImportError:
        return _failed("Apprise is not installed", again=False)
    kept = _Kept()
    apprise.logger.addHandler(kept)
    apprise.logger.propagate = False
    asset = apprise.AppriseAsset(
        app_id=AGENT, app_desc=AGENT, storage_mode="memory", async_mode=False, service_timeout=0
    )
    service = apprise.Apprise.instantiate(order["url"], asset=asset)
    if service is None:
        return _failed("its URL is none that Apprise can use", again=False)
    stated = order["url"].partition("?")[2]
    if "overflow=" not in stated:
        service.overflow_mode = apprise.OverflowMode.TRUNCATE  # what is too long for a service is still one message
    service.socket_connect_timeout = service.socket_read_timeout = _longer(order)
    sender = apprise.Apprise(asset=asset)
    sender.add(service)
    _begin(order, answers)
    delivered = sender.notify(
        title=order["title"],
        body=order["body"],
        notify_type=apprise.NotifyType(_TYPES[order["severity"]]),
        body_format=apprise.NotifyFormat.TEXT,  # a table called <script> is no markup
    )
    if delivered:
        return {"delivered": True}
    return _reason(str(service.service_name), kept.said)


_TYPES: Final = {"info": "info", "warning": "warning", "critical": "failure"}


def _reason(name: str, said: str) -> Answer:
    """Say why a message wasn't delivered in words of our own: what Apprise says may hold the URL."""
    code = _HTTP_CODE.search(said)
    if code:
        return _refused(name, int(code[1]))
    if _NO_CONNECTION.search(said):
        return _failed(f"{name}: no connection to it")
    return _failed(f"{name} did not take it")


def _touch(order: Mapping[str, Any], answers: IO[str]) -> Answer:
    """GET a URL. Only http and https, also where it leads elsewhere."""
    from urllib import error, request  # noqa: PLC0415 - the process that only asks for a message doesn't need it

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPRedirectHandler(),
        request.HTTPErrorProcessor(),
        request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    _begin(order, answers)
    try:
        answered = opener.open(
            request.Request(order["url"], headers={"User-Agent": AGENT}),  # noqa: S310 - http and https only
            timeout=_longer(order),
        )
    except error.HTTPError as refused:
        return _refused("it", refused.code)
    except OSError as failure:  # URLError is one
        reason = getattr(failure, "reason", failure)
        number = reason.errno if isinstance(reason, ConnectionError) else None
        said = type(reason).__name__ if number is None else os.strerror(number)  # others' words may name the host
        return _failed(f"no connection to it: {said}")
    return {"delivered": True} if answered is not None else _failed("it leads to what is no HTTP", again=False)


if __name__ == "__main__":
    main()

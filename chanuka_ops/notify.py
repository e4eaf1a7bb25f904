"""Tells people what happened, by the routes of the settings, and touches what notices silence.

Nothing here raises into the operation it tells of: a message that isn't delivered is a warning in the log
(`notice.undelivered`), and an answer. Each try is a process of its own, which has its deadline (`sender.py`); routes
are served at the same time, so that one that is down doesn't keep the others waiting.

A try that ran into its deadline may have been delivered all the same; it's made again, for a message too many is
better than one too few.
"""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from chanuka_ops import durable, errors, sender
from chanuka_ops.config import HeartbeatSettings, NotifySettings, RouteSettings, SecretSource
from chanuka_ops.db.credentials import resolve_secret
from chanuka_ops.db.retry import Backoff
from chanuka_ops.logs import redact

log = logging.getLogger(__name__)

_Order = dict[str, object]

Severity = Literal["info", "warning", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
"""The worse the later."""

HEARTBEAT_TIMEOUT_S: Final = 10.0
HEARTBEAT_ATTEMPTS: Final = 3
TITLE_MAX_CHARS: Final = 200
BODY_MAX_CHARS: Final = 8000  # what a service takes less of, it cuts itself
BACKOFF: Final = Backoff(first_s=1.0, most_s=8.0)
_GRACE_S: Final = 5.0  # beyond the sender's own deadlines: for a kernel that forgot it
_DATABASE: Final = "{database}"


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened: a stable word (`backup.failed`), how bad it is, to which database, in words, in figures.

    `database` is None where it concerns none in particular, and so all of them. `checks` are the ids of the health
    checks that it is about, if it is about any.
    """

    event: str
    severity: Severity
    database: str | None
    title: str
    body: str
    facts: Mapping[str, object] = field(default_factory=dict)
    checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a message fared on its way: by which route, whether it arrived, after how many tries, why not."""

    route: str
    delivered: bool
    attempts: int
    problem: str | None = None


def routes_for(notice: Notice, settings: NotifySettings, tags: Mapping[str, str]) -> list[str]:
    """Name the routes a notice goes by, in the settings' order; `tags` are the database's.

    A notice of no database in particular goes wherever its event and severity do: better to one too many than to none.
    """
    return [name for name, route in settings.routes.items() if _wants(route, notice, tags)]


def _wants(route: RouteSettings, notice: Notice, tags: Mapping[str, str]) -> bool:
    if notice.severity not in route.severities or not _like(notice.event, route.events):
        return False
    if notice.checks and not any(_like(check, route.checks) for check in notice.checks):
        return False
    if notice.database is None:
        return True
    tagged = all(tags.get(name) == value for name, value in route.tags.items())
    return tagged and _like(notice.database, route.databases)


def _like(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def message(notice: Notice) -> tuple[str, str]:
    """Write a notice as (title, body): plain text, secrets masked, the figures a line each."""
    database = f"{notice.database}: " if notice.database else ""
    title = redact(" ".join(f"[{notice.severity}] {database}{notice.title}".split()))
    lines = [notice.body, "", *(f"{name}: {value}" for name, value in notice.facts.items()), f"event: {notice.event}"]
    return _cut(title, TITLE_MAX_CHARS), _cut(redact("\n".join(lines)).strip(), BODY_MAX_CHARS)


def _cut(text: str, most: int) -> str:
    """Keep both ends of what is too long: it begins with what failed and ends with the figures."""
    if len(text) <= most:
        return text
    gap = f" … {len(text) - most} more … "
    return text[: most * 3 // 4 - len(gap)] + gap + text[-most // 4 :]


def send(notice: Notice, settings: NotifySettings, *, tags: Mapping[str, str] | None = None) -> tuple[Delivery, ...]:
    """Tell everybody whose route a notice fits, once each; wait until it's delivered or given up.

    That is at most `attempts` times `timeout`, with short waits between, and the second or so it takes to start.
    Never raises for what goes wrong on the way: see `Delivery`, and the log.
    """
    names = routes_for(notice, settings, tags or {})
    if settings.routes and not names:
        log.info("no route fits %s", notice.event, extra={"event": "notice.unrouted", "notice": notice.event})
    title, body = message(notice) if names else ("", "")
    order = {"kind": "message", "title": title, "body": body, "severity": notice.severity}
    tries = _Tries(settings.attempts, settings.timeout_s)
    deliveries = tries.deliver({name: settings.routes[name].url for name in names}, lambda url: {**order, "url": url})
    for delivery in deliveries:
        extra = {"notice": notice.event, "route": delivery.route, "attempts": delivery.attempts}
        if delivery.delivered:
            log.info("route %s told of %s", delivery.route, notice.event, extra={"event": "notice.delivered", **extra})
        else:
            log.warning(
                "route %s not told of %s (%s) after %d tries: %s", delivery.route, notice.event, redact(notice.title),
                delivery.attempts, delivery.problem, extra={"event": "notice.undelivered", **extra},
            )  # fmt: skip
    return deliveries


def heartbeat(
    settings: HeartbeatSettings,
    facts: Mapping[str, object],
    *,
    timeout_s: float = HEARTBEAT_TIMEOUT_S,
    attempts: int = HEARTBEAT_ATTEMPTS,
) -> tuple[Delivery, ...]:
    """Say that all is well: GET the URL, write `facts` and the time to the file. Neither keeps the other back.

    `{database}` in either stands for `facts["database"]`: with several databases each needs its own, for a heartbeat
    that another one keeps alive tells nobody of the silence. The URL gets no facts: it belongs to others.
    Never raises for what goes wrong: see `Delivery`, and the log (`heartbeat.missed`).
    """
    deliveries: tuple[Delivery, ...] = ()
    database = quote(str(facts.get("database") or ""), safe="")
    if settings.url is not None:
        tries = _Tries(attempts, timeout_s)
        deliveries += tries.deliver({"url": settings.url}, lambda url: _touch(url.replace(_DATABASE, database)))
    if settings.file is not None:
        deliveries += (_written(Path(str(settings.file).replace(_DATABASE, database)), facts),)
    for delivery in deliveries:
        if not delivery.delivered:
            log.warning(
                "the heartbeat's %s was not reached after %d tries: %s", delivery.route, delivery.attempts,
                delivery.problem, extra={"event": "heartbeat.missed", "route": delivery.route},
            )  # fmt: skip
    return deliveries


def _touch(url: str) -> _Order:
    if url.partition("://")[0].lower() not in {"http", "https"}:
        raise errors.ConfigurationError("its URL is neither http:// nor https://")
    return {"kind": "touch", "url": url}


def _written(path: Path, facts: Mapping[str, object]) -> Delivery:
    line = json.dumps({"at": datetime.now(UTC), **facts}, default=_plain)
    try:
        durable.replace(path, f"{redact(line)}\n".encode())
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or type(error).__name__
        return Delivery("file", delivered=False, attempts=1, problem=f"{path} can't be written: {said}")
    return Delivery("file", delivered=True, attempts=1)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


class _Tries:
    """So many tries for each message, each with its deadline."""

    def __init__(self, attempts: int, timeout_s: float) -> None:
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._over = threading.Event()

    def deliver(self, urls: Mapping[str, SecretSource], order: Callable[[str], _Order]) -> tuple[Delivery, ...]:
        """Carry out, at the same time for each route, what `order` makes of its URL; return how each fared."""
        found: dict[str, Delivery] = {}

        def work(name: str) -> None:
            found[name] = self._delivered(name, urls[name], order)

        started = []
        try:
            with suppress(RuntimeError):  # the system has no thread left: said below
                for name in urls:
                    thread = threading.Thread(target=work, args=(name,), name=f"notify-{name}", daemon=True)
                    thread.start()
                    started.append(thread)
            for thread in started:
                thread.join()
        finally:
            self._over.set()  # Ctrl-C or SIGTERM in the midst: nobody tries again behind the back of what ended
        none = "no thread could be started"
        return tuple(found.get(name) or Delivery(name, delivered=False, attempts=0, problem=none) for name in urls)

    def _delivered(self, name: str, source: SecretSource, order: Callable[[str], _Order]) -> Delivery:
        attempts = 0
        try:
            ordered = {**order(resolve_secret(source, "its URL").strip()), "timeout_s": self._timeout_s}
            while True:
                attempts += 1
                answer = _tried(ordered, self._timeout_s)
                if answer["delivered"]:
                    return Delivery(name, delivered=True, attempts=attempts)
                wait_s = BACKOFF.wait_s(attempts, random.random())  # noqa: S311 - jitter
                final = attempts >= self._attempts or not answer.get("again", True)
                if final or self._over.wait(wait_s):
                    return Delivery(name, delivered=False, attempts=attempts, problem=str(answer["problem"]))
        except errors.ConfigurationError as error:  # it names where the URL is kept, never the URL
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - what is told of must not fail for it; the words may hold the URL
            problem = type(error).__name__
        return Delivery(name, delivered=False, attempts=attempts, problem=problem)


def _tried(order: _Order, timeout_s: float) -> dict[str, Any]:
    """Make one try in a process of its own, and return its answer."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(sender.__file__)],  # -P: beside it lie logs.py and others that aren't meant
            input=json.dumps(order).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback may hold the URL
            timeout=sender.START_S + timeout_s + _GRACE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"delivered": False, "problem": f"the sender could not be run: {type(error).__name__}"}
    answer = (done.stdout.decode(errors="replace").splitlines() or [""])[-1]
    if done.returncode == -signal.SIGALRM:
        late = f"no answer within {timeout_s:g} s" if answer == sender.BEGUN else f"no start within {sender.START_S} s"
        return {"delivered": False, "problem": late}
    if done.returncode != 0:
        return {"delivered": False, "problem": f"the sender ended with {done.returncode}"}
    return dict(json.loads(answer))

"""Logging: text or JSON on stderr, the operation in every record, secrets masked.

Every record carries a stable machine word (`extra={"event": "backup.listed"}`) beside the human sentence.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from chanuka_ops import context

MASK = "********"
# user:password@host in any URL; password=… in a conninfo string, a repr or a traceback line
_URL_PASSWORD = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)\S*(?=@)", re.IGNORECASE)
_KEY_PASSWORD = re.compile(
    r"(?P<head>\b(?:sslpassword|password|pgpassword)\\?['\"]?\s*[=:]\s*b?)(?P<value>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&)'\"]+)",
    re.IGNORECASE,
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def redact(text: str) -> str:
    """Mask the passwords of URLs and conninfo strings.

    >>> redact("postgresql://ops:s3cret@db/x and password='a b' host=h")
    "postgresql://ops:********@db/x and password='********' host=h"
    >>> redact('{"password": "s3cret", "n": 1}')
    '{"password": "********", "n": 1}'
    """
    masked = _URL_PASSWORD.sub(lambda m: m["head"] + MASK, text)
    return _KEY_PASSWORD.sub(lambda m: m["head"] + _masked(m["value"]), masked)


def _masked(value: str) -> str:
    """Keep the quotes, so that a JSON document stays one."""
    quote = value[0] if value[0] in "'\"" else ""
    return f"{quote}{MASK}{quote}"


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        now = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        where = context.current()
        if not self._as_json:
            return redact(f"{now} {record.levelname:<7} {where.operation}: {message}")
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        document = {
            "time": now,
            "level": record.levelname,
            "logger": record.name,
            "operation": where.operation,
            "database": where.database,
            "run_id": where.run_id,
            "message": redact(message),
            **extra,
        }
        return redact(json.dumps(document, default=str))


def configure(*, as_json: bool = False, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send this package's log to `stream` (default stderr). Called by the faces, never at import."""
    root = logging.getLogger("chanuka_ops")
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter(as_json=as_json))
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


class Stopwatch:
    """Seconds since it was started, and the final figure once stopped."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Elapsed wall-clock seconds, to the millisecond."""
        elapsed = time.perf_counter() - self._start if self._seconds is None else self._seconds
        return round(elapsed, 3)

    def stop(self) -> None:
        """Keep the figure as it is now."""
        self._seconds = time.perf_counter() - self._start


@contextmanager
def timed(logger: logging.Logger, event: str, message: str) -> Iterator[Stopwatch]:
    """Time a step and log it at its end, also when it fails."""
    watch = Stopwatch()
    outcome = "failed"
    try:
        yield watch
        outcome = "done"
    finally:
        watch.stop()
        logger.debug(
            "%s: %s in %.3f s", message, outcome, watch.seconds, extra={"event": event, "seconds": watch.seconds}
        )

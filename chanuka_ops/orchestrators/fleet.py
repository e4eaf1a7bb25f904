"""The same migration on every database of the settings: a process for each, the canary first.

Alembic isn't safe on threads, and one database's broken migration must not take the others' with it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal

from chanuka_ops import errors
from chanuka_ops.config import Settings
from chanuka_ops.postgres import process

log = logging.getLogger(__name__)

PROGRAM = "chanuka_ops.cli.main"
GRACE_S = 60.0  # beyond the migration's own deadline and its wait for the lock: to start, and to say how it went

Status = Literal["done", "failed", "refused", "unknown", "not_started"]
_STATUSES: dict[int, Status] = {0: "done", 3: "refused", 4: "unknown"}


@dataclass(frozen=True, slots=True)
class Member:
    """How one database fared. `document` is what its own `migrate up --json` said."""

    database: str
    status: Status
    seconds: float
    document: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `migrate up --all-databases`."""
        return {
            "database": self.database,
            "status": self.status,
            "seconds": self.seconds,
            "from": self.document.get("from"),
            "to": self.document.get("to"),
            "applied": self.document.get("applied", []),
            "error": self.document.get("error"),
        }


@dataclass(frozen=True, slots=True)
class Fared:
    """How all fared, in the settings' order."""

    members: tuple[Member, ...]

    @property
    def done(self) -> bool:
        """Whether each stands where it shall."""
        return all(member.status == "done" for member in self.members)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `migrate up --all-databases`."""
        counts = dict.fromkeys(("done", "failed", "refused", "unknown", "not_started"), 0)
        for member in self.members:
            counts[member.status] += 1
        return {"databases": [member.to_json() for member in self.members], "counts": counts}


@dataclass(frozen=True, slots=True)
class Fleet:
    """How to go about it. `stop_after` is how many failures are enough; None: all are tried."""

    to: str = "head"
    max_parallel: int = 2
    stop_after: int | None = None
    canary: str | None = None


def migrate(settings: Settings, fleet: Fleet, told: Callable[[Member], None] = lambda _: None) -> Fared:
    """Migrate every database up. `told` hears of each as it ends.

    Errors: `ConfigurationError` where no database, or no such canary, is configured.
    """
    names = list(settings.databases)
    if not names:
        raise errors.ConfigurationError("no database is configured: --all-databases has nothing to go through")
    if fleet.canary is not None and fleet.canary not in names:
        raise errors.ConfigurationError(f"--canary {fleet.canary}: no such database; known: {', '.join(names)}")
    found: dict[str, Member] = {}
    if fleet.canary is not None:
        first = found[fleet.canary] = _migrate_one(settings, fleet.canary, fleet.to)
        told(first)
        if first.status != "done":
            log.warning("the canary %s ended as %s: no other database is touched", first.database, first.status,
                        extra={"event": "fleet.canary"})  # fmt: skip
            return _in_order(names, found)
    _others(settings, fleet, [name for name in names if name not in found], found, told)
    return _in_order(names, found)


def _others(
    settings: Settings, fleet: Fleet, names: Sequence[str], found: dict[str, Member], told: Callable[[Member], None]
) -> None:
    waiting, failures = list(names), 0
    with ThreadPoolExecutor(fleet.max_parallel) as pool:  # of threads that wait for a process each
        running: set[Future[Member]] = set()
        while waiting or running:
            enough = fleet.stop_after is not None and failures >= fleet.stop_after
            while waiting and not enough and len(running) < fleet.max_parallel:
                running.add(pool.submit(_migrate_one, settings, waiting.pop(0), fleet.to))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                member = future.result()
                found[member.database] = member
                failures += member.status != "done"
                told(member)


def _migrate_one(settings: Settings, name: str, to: str) -> Member:
    started = time.monotonic()
    migration = settings.operations.migration
    argv = [sys.executable, "-m", PROGRAM, "migrate", "up", "--to", to, "--database", name, "--json"]
    lines: list[str] = []
    deadline_s = migration.deadline_s + migration.wait_s + GRACE_S
    try:
        finished = process.run(argv, deadline_s=deadline_s, on_line=lines.append, check=False)
        document = json.loads("\n".join(lines))
        status = _STATUSES.get(finished.status, "failed")
    except errors.ToolFailed as error:
        document, status = _said("ToolFailed", str(error)), "unknown"
    except json.JSONDecodeError:
        document, status = _said("ToolFailed", "its process ended without saying how"), "unknown"
    return Member(name, status, round(time.monotonic() - started, 3), document)


def _said(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}}


def _in_order(names: Sequence[str], found: dict[str, Member]) -> Fared:
    return Fared(tuple(found.get(name, Member(name, "not_started", 0.0, {})) for name in names))

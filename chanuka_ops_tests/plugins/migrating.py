"""Migrates in processes that end, or lose their session or their server, at a boundary that an order names.

Run as `python -m chanuka_ops_tests.plugins.migrating`, with orders as `forked.py` takes them.

::

    url, location, direction, to, settings
    boundary    where (migrator/running/boundaries.py), with the revision: "b2 before:3"; none: nowhere
    kind        client: it kills itself · backend: its session is terminated · server: the postmaster stops at once
    postmaster  the process to stop
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from sqlalchemy.engine import make_url

from chanuka_ops import context, errors
from chanuka_ops.config import DRIVER, DatabaseSettings, MigrationSettings
from chanuka_ops.migrator import scripts
from chanuka_ops.migrator.running import boundaries
from chanuka_ops.migrator.running.steps import Steps
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.forked import Order, serve

Kind = Literal["client", "backend", "server"]
GONE_WITHIN_S = 20.0


class Told:
    """What the migration said, and the boundaries it passed."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.revision = ""
        self.pid = 0
        self.applied: list[str] = []
        self.boundaries: list[str] = []

    def emit(self, event: dict[str, Any]) -> None:
        if event["event"] == "attempt":
            self.revision, self.pid = event["revision"], event["pid"]
        elif event["event"] == "applied":
            self.applied.append(event["revision"])

    def reached(self, boundary: str) -> None:
        name = f"{self.revision} {boundary}"
        self.boundaries.append(name)
        if name == self.order.get("boundary"):
            self.order["boundary"] = None
            self._strike(self.order["kind"])

    def _strike(self, kind: Kind) -> None:
        if kind == "client":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "backend":
            url = make_url(self.order["url"]).set(drivername="postgresql")
            with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as other:
                alive = "select pg_terminate_backend(pid) from pg_stat_activity where pid = %s"
                wait_until(lambda: other.execute(alive, [self.pid]).fetchone() is None, timeout_s=GONE_WITHIN_S)
        else:
            postmaster = self.order["postmaster"]
            os.kill(postmaster, signal.SIGQUIT)
            wait_until(lambda: not Path(f"/proc/{postmaster}").exists(), timeout_s=GONE_WITHIN_S)


def do(order: Order, told: Told) -> None:
    boundaries.on_reached = told.reached
    database = DatabaseSettings(url=order["url"])
    settings = MigrationSettings(**order.get("settings", {}))
    with context.scope(actor="test", operation="migrate"):
        steps = Steps(database, settings, scripts.load(Path(order["location"])), told.emit)
        steps.move(order["direction"], order["to"])


def act(order: Order) -> dict[str, Any]:
    told = Told(order)
    answer: dict[str, Any] = {}
    try:
        do(order, told)
    except errors.ChanukaError as error:
        answer = {"error": f"{type(error).__name__}: {error}", "exit_code": error.exit_code}
    return {**answer, "applied": told.applied, "boundaries": told.boundaries}


class Migrations:
    """Runs migrations in processes of their own."""

    def __init__(self) -> None:
        module = [sys.executable, "-m", "chanuka_ops_tests.plugins.migrating"]
        self._driver = subprocess.Popen(module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(
        self,
        database: DatabaseSettings,
        location: Path,
        *,
        direction: str = "up",
        to: str = "head",
        boundary: str | None = None,
        kind: Kind | None = None,
        postmaster: int = 0,
        **settings: Any,
    ) -> dict[str, Any]:
        """Run one; return {status, applied, boundaries}, with {error, exit_code} or {crash} where it failed."""
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        order = {
            "url": database.sqlalchemy_url.set(drivername=DRIVER).render_as_string(hide_password=False),
            "location": str(location),
            "direction": direction,
            "to": to,
            "boundary": boundary,
            "kind": kind,
            "postmaster": postmaster,
            "settings": settings,
        }
        self._driver.stdin.write(json.dumps(order) + "\n")
        self._driver.stdin.flush()
        answer: dict[str, Any] = json.loads(self._driver.stdout.readline())
        assert "crash" not in answer, answer["crash"]
        return answer

    def end(self) -> None:
        """Let the driver end."""
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.close()
        self._driver.wait(timeout=GONE_WITHIN_S)
        self._driver.stdout.close()


@pytest.fixture(scope="module")
def migrations() -> Iterator[Migrations]:
    """Runs migrations that are killed where a test wants it."""
    runner = Migrations()
    yield runner
    runner.end()


if __name__ == "__main__":
    serve(act)

"""The abort line before a crowd: a hundred sessions wait behind a migration that may hold up five."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import scratch
from chanuka_ops_tests.integration.operations_cases import ask
from chanuka_ops_tests.integration.test_migrator_abort import BLOCKING, location_of, nothing_of_it
from chanuka_ops_tests.integration.test_migrator_trouble import in_background, migrator
from chanuka_ops_tests.plugins.postgres import SERVER_SETTINGS, connect

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

CROWD, MOST = 100, 5
PROMPTLY_S = 5.0  # 2 s is what is promised; a machine under load takes its time
LOCKED = "select count(*) from pg_locks where relation = 'busy'::regclass and mode = 'AccessExclusiveLock' and granted"
WAITING = "select count(*) from pg_locks where relation = 'busy'::regclass and not granted"


@pytest.fixture
def roomy(pg: Binaries, session_dir: Path) -> Iterator[DatabaseSettings]:
    """A server with room for the crowd."""
    settings = {**SERVER_SETTINGS, "max_connections": str(CROWD + 30)}
    with scratch(session_dir, pg, superuser="postgres", settings=settings) as server:
        yield server.settings("postgres")


def read_without_waiting(connection: psycopg.Connection[Any]) -> None:
    """Send a query, and leave its answer for later: a crowd needs no threads."""
    connection.pgconn.send_query(b"select count(*) from busy")
    connection.pgconn.flush()


@pytest.mark.parametrize("most", [MOST, None])
def test_it_is_cancelled_in_time_whatever_the_crowd(most: int | None, roomy: DatabaseSettings, tmp_path: Path) -> None:
    location = location_of(roomy, tmp_path, BLOCKING.replace("20", "7"))
    with ConnectionManager("main", roomy) as manager, ExitStack() as stack:
        crowd = [connect(roomy, lock_timeout_s=90) for _ in range(CROWD)]
        for connection in crowd:
            stack.callback(connection.close)
        subject = migrator(manager, location, max_blocked_sessions=most)
        running = stack.enter_context(in_background(subject.up))
        assert wait_until(lambda: ask(manager, LOCKED) == [(1,)], timeout_s=60, poll_s=0.02)
        for connection in crowd:
            read_without_waiting(connection)
        begun = time.monotonic()
        if most is None:
            assert wait_until(lambda: ask(manager, WAITING) == [(CROWD,)], timeout_s=5)
            assert [step.revision for step in running.result(60).applied] == ["b2"]
            return
        assert wait_until(lambda: ask(manager, LOCKED) == [(0,)], timeout_s=60, poll_s=0.02)
        took_s = time.monotonic() - begun
        print(f"cancelled {took_s:.2f} s after the last of {CROWD} sessions was blocked")  # noqa: T201 - a figure to read
        assert took_s < PROMPTLY_S
        with pytest.raises(errors.MigrationAborted, match=f"{MOST} are the limit") as caught:
            running.result(60)
        print(caught.value)  # noqa: T201 - as above
        nothing_of_it(manager, roomy, location)

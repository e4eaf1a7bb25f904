"""A server without a free slot: told as that, not as a dead one; what is connected goes on, and it is used again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, PoolSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import as_role
from chanuka_ops_tests.plugins.nodes import Node, opened
from chanuka_ops_tests.plugins.replicas import Template

pytestmark = pytest.mark.postgres

MAX_CONNECTIONS, RESERVED = 8, 2
ROLE = "plain"
SLACK_S = 1.5

Fill = Callable[[], ExitStack]


@pytest.fixture(scope="module")
def node(replication_template: Template, session_dir: Path) -> Iterator[Node]:
    """A server with room for six sessions of an ordinary role."""
    data, programs = replication_template
    with opened(Node, session_dir / "few-slots", data, programs) as started:
        few = {"max_connections": str(MAX_CONNECTIONS), "superuser_reserved_connections": str(RESERVED)}
        started.configure(**few, max_wal_senders="0")
        started.start()
        started.query(f"create role {ROLE} login")
        started.query("create role narrow login connection limit 4")
        yield started


@pytest.fixture
def fill(node: Node) -> Iterator[Fill]:
    """Take all slots that are left: fill(). What it returns gives them back when it is closed."""
    with ExitStack() as outer:

        def take() -> ExitStack:
            taken = outer.enter_context(ExitStack())
            info = f"{node.info} dbname=postgres".replace("user=postgres", f"user={ROLE}")
            with suppress(psycopg.OperationalError):
                while True:
                    taken.enter_context(psycopg.connect(info, autocommit=True))
            return taken

        assert wait_until(lambda: in_use(node) == 0, timeout_s=10), "the sessions of the test before"
        yield take


def in_use(node: Node) -> int:
    count: int = node.query(f"select count(*) from pg_stat_activity where usename = '{ROLE}'")[0][0]
    return count


def ordinary(node: Node, role: str = ROLE, **pool: Any) -> DatabaseSettings:
    settings = {"acquire_timeout_s": 2.0, "runs": 1, **pool}
    return as_role(node.settings(), role).model_copy(update={"pool": PoolSettings(**settings)})


def states(manager: ConnectionManager) -> dict[str, str]:
    shown: dict[str, Any] = manager.snapshot()["nodes"][0]["breakers"]
    return {name: one["state"] for name, one in shown.items()}


def pid_of(manager: ConnectionManager) -> int:
    with manager.transaction() as connection:
        return engines.backend_pid(connection)


def test_a_full_server_is_told_as_full(node: Node, fill: Fill) -> None:
    fill()
    with ConnectionManager("main", ordinary(node)) as manager:
        start = time.monotonic()
        with pytest.raises(errors.TargetSaturated, match="no connection slot is free") as caught:
            pid_of(manager)
        took_s = time.monotonic() - start
        print(f"full: {took_s:.3f} s, {manager.snapshot()['nodes'][0]['counts']}")  # noqa: T201 - the figure
        assert caught.value.sqlstate == "53300"
        assert took_s < 2 + SLACK_S
        counts = manager.snapshot()["nodes"][0]["counts"]
        assert counts["retries.TargetSaturated"] >= 1, "a slot may come free at any moment"
        assert states(manager)["availability"] == "closed"
        assert manager.snapshot()["nodes"][0]["pool"]["in_use"] == 0


def test_what_is_connected_goes_on_and_the_rest_recovers(node: Node, fill: Fill) -> None:
    with ConnectionManager("main", ordinary(node)) as manager:
        pid = pid_of(manager)
        taken = fill()
        with pytest.raises(errors.TargetSaturated), manager.session():
            pass
        assert states(manager) == {"availability": "closed", "saturation": "open", "authentication": "closed"}
        with pytest.raises(errors.CircuitOpen, match="no connection slot free") as caught, manager.session():
            pass
        assert 0 < (caught.value.retry_after_s or 0) < 3
        assert pid_of(manager) == pid, "a pooled connection is no new one"
        taken.close()

        def recovered() -> bool:
            with suppress(errors.TargetSaturated, errors.CircuitOpen), manager.session() as connection:
                return bool(connection.execute(text("select true")).scalar_one())
            return False

        start = time.monotonic()
        assert wait_until(recovered, timeout_s=10)
        print(f"recovered after {time.monotonic() - start:.3f} s")  # noqa: T201 - the figure
        assert set(states(manager).values()) == {"closed"}


def test_a_slot_that_comes_free_meanwhile_is_taken(node: Node, fill: Fill) -> None:
    """The breaker must not be in the way of the retry that would have succeeded: it opens at the third failure."""
    taken = fill()
    with ConnectionManager("main", ordinary(node)) as manager:
        with pytest.raises(errors.TargetSaturated):
            manager.probe()
        taken.close()
        assert wait_until(lambda: in_use(node) == 0, timeout_s=10)
        assert pid_of(manager) > 0


def test_the_budget_is_the_servers(node: Node) -> None:
    with ConnectionManager("main", ordinary(node, runs=2, size=2, overflow=3)) as manager:
        budget = manager.budget()
    assert (budget.needed, budget.available, budget.fits) == (10, MAX_CONNECTIONS - RESERVED, False)
    with ConnectionManager("main", ordinary(node, runs=2, size=2, overflow=1)) as manager:
        assert manager.budget().fits
    with ConnectionManager("main", ordinary(node, "narrow", runs=2, size=2, overflow=1)) as manager:
        budget = manager.budget()
    assert (budget.needed, budget.available) == (6, 4), "a role's own limit is the narrower one"


def test_a_budget_that_does_not_fit_is_said_once(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    def told() -> list[str]:
        return [one.getMessage() for one in caplog.records if getattr(one, "event", "") == "db.budget"]

    with caplog.at_level(logging.WARNING, "chanuka_ops"):
        with ConnectionManager("main", ordinary(node, runs=10)) as manager:
            for _ in range(3):
                pid_of(manager)
                manager.probe()
            with manager.transaction(), manager.read():
                pass
        assert len(told()) == 1
        assert "10 runs x (1 + 2) = 30 connections; the server has 6 for ordinary roles" in told()[0]
        with ConnectionManager("main", ordinary(node, runs=2)) as manager:
            pid_of(manager)
        assert len(told()) == 1, "what fits is not worth a word"

"""A server that crashes, is killed, or is restarted: who works with it goes on as soon as it takes connections again.

With the breaker it's as soon as that lets anybody try; that is its open time later at the most.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import FeatureSettings
from chanuka_ops.db import breaker, engines
from chanuka_ops.db.classify import FailureClass
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.integration.fault_cases import counts, insert, node_of, pids_of, plant, tokens
from chanuka_ops_tests.plugins.nodes import Node, opened
from chanuka_ops_tests.plugins.replicas import Template

pytestmark = pytest.mark.postgres

PATIENCE_S = 30.0
RECOVERED_S = 1.0  # after the server takes connections again
POLL_S = 0.002

Fault = Callable[[Node], None]
WITHOUT_BREAKER = FeatureSettings(circuit_breaker=False)


@pytest.fixture(scope="module")
def node(replication_template: Template, session_dir: os.PathLike[str]) -> Iterator[Node]:
    """A server of these tests' own, to be killed again and again."""
    data, programs = replication_template
    with opened(Node, type(data)(session_dir) / "crashing", data, programs) as made:
        made.start()
        plant(made.settings())
        yield made


@pytest.fixture(autouse=True)
def _up(node: Node) -> None:
    """Each test begins with a server that is up, and an empty table."""
    if not node.running:
        node.start()
    node.wait_ready()
    node.query("truncate tokens")


def kill_a_backend(node: Node) -> None:
    """SIGKILL one backend: the server ends all others and recovers."""
    info = f"{node.info} dbname=postgres"
    with psycopg.connect(info, autocommit=True) as victim, psycopg.connect(info, autocommit=True) as witness:
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        assert wait_until(lambda: _broke(witness), timeout_s=PATIENCE_S, poll_s=POLL_S)


def _broke(witness: psycopg.Connection) -> bool:
    try:
        witness.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


def kill(node: Node) -> None:
    node.kill()
    node.start(wait=False)


def restart(node: Node) -> None:
    node.stop("fast")
    node.start(wait=False)


@dataclass
class Worker:
    """A thread that has transactions all the time: when each went well, and how the others failed."""

    work: Callable[[str], object]
    done: list[tuple[float, str]] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        number = 0
        while not self.over.wait(0.002):
            number += 1
            token = f"token {number:05}"
            try:
                self.work(token)
            except errors.OutcomeUnknown:
                self.in_doubt.append(token)
            except errors.DatabaseError as error:
                self.failed.append(error)
            else:
                self.done.append((time.monotonic(), token))

    def done_since(self, moment: float) -> bool:
        return bool(self.done) and self.done[-1][0] > moment

    def end(self) -> None:
        self.over.set()
        self.thread.join(timeout=PATIENCE_S)
        assert not self.thread.is_alive()


def lag_s(node: Node, fault: Fault, work: Callable[[str], object]) -> tuple[float, Worker]:
    """Have a server fail under a worker: how long after it takes connections again the next transaction is done."""
    worker = Worker(work)
    try:
        assert wait_until(lambda: len(worker.done) > 10, timeout_s=PATIENCE_S, poll_s=POLL_S)
        fault(node)
        assert wait_until(node.accepts, timeout_s=PATIENCE_S, poll_s=POLL_S)
        accepted = time.monotonic()
        assert wait_until(lambda: worker.done_since(accepted), timeout_s=PATIENCE_S, poll_s=POLL_S)
        first = min(moment for moment, _ in worker.done if moment > accepted)
    finally:
        worker.end()
    return first - accepted, worker


def none_is_lost_or_doubled(node: Node, worker: Worker) -> None:
    found = tokens(node.settings())
    assert len(set(found)) == len(found)
    known = {token for _, token in worker.done}
    assert known <= set(found)
    assert set(found) - known <= set(worker.in_doubt)


FAULTS = pytest.mark.parametrize("fault", [kill_a_backend, kill, restart])


@FAULTS
def test_a_loop_of_transactions_goes_on_as_soon_as_the_server_does(node: Node, fault: Fault) -> None:
    with ConnectionManager("main", node.settings(), features=WITHOUT_BREAKER) as manager:

        def work(token: str) -> None:
            with manager.transaction() as connection:
                insert(connection, token)

        lag, worker = lag_s(node, fault, work)
    assert lag <= RECOVERED_S
    none_is_lost_or_doubled(node, worker)


@FAULTS
def test_repeated_transactions_bridge_what_is_short(node: Node, fault: Fault) -> None:
    with ConnectionManager("main", node.settings(), features=WITHOUT_BREAKER) as manager:
        lag, worker = lag_s(
            node, fault, lambda token: manager.run_transaction(lambda c: insert(c, token), idempotent=True)
        )
    assert lag <= RECOVERED_S
    assert worker.failed == [], "nobody has noticed"
    none_is_lost_or_doubled(node, worker)


@FAULTS
def test_with_the_breaker_it_takes_no_longer_than_that_is_open(node: Node, fault: Fault) -> None:
    longest_s = breaker.OPEN[FailureClass.AVAILABILITY].most_s * (1 + breaker.JITTER)
    with ConnectionManager("main", node.settings()) as manager:
        lag, worker = lag_s(
            node, fault, lambda token: manager.run_transaction(lambda c: insert(c, token), idempotent=True)
        )
        assert manager.snapshot()["nodes"][0]["breakers"]["availability"]["state"] == "closed"
    assert lag <= longest_s + RECOVERED_S
    none_is_lost_or_doubled(node, worker)


@pytest.mark.slow
def test_after_an_outage_that_the_breaker_has_met_too(node: Node) -> None:
    longest_s = breaker.OPEN[FailureClass.AVAILABILITY].most_s * (1 + breaker.JITTER)

    def away(node: Node) -> None:
        node.stop("fast")
        assert wait_until(lambda: counts(manager).get("breaker_opened", 0) >= 2, timeout_s=PATIENCE_S)
        node.start(wait=False)

    with ConnectionManager("main", node.settings()) as manager:
        lag, worker = lag_s(node, away, lambda token: manager.run_transaction(lambda c: insert(c, token)))
    assert lag <= longest_s + RECOVERED_S
    none_is_lost_or_doubled(node, worker)


def test_without_the_ping_a_restart_is_an_error_for_whoever_comes_next(node: Node) -> None:
    with ConnectionManager("main", node.settings(), features=WITHOUT_BREAKER) as manager:
        before = pids_of(manager, 1)
        restart(node)
        node.wait_ready()
        assert not before & pids_of(manager, 1), "with it there's none"
        node_of(manager).pooled.pool._pre_ping = False
        restart(node)
        node.wait_ready()
        with pytest.raises(errors.ConnectionLost), manager.transaction() as connection:
            connection.execute(text("select 1"))


@pytest.mark.parametrize("fault", [kill_a_backend, kill])
def test_what_a_crash_breaks_in_its_midst_leaves_nothing(node: Node, fault: Fault) -> None:
    calls: list[int] = []

    def work(connection: Connection) -> int:
        calls.append(insert(connection, f"half {len(calls)}"))
        if len(calls) == 1:
            fault(node)
        return insert(connection, f"whole {len(calls)}")

    with ConnectionManager("main", node.settings(), features=WITHOUT_BREAKER) as manager:
        with pytest.raises(errors.ConnectionLost):
            manager.run_transaction(work)
        assert wait_until(node.accepts, timeout_s=PATIENCE_S)
        assert tokens(node.settings()) == []
        calls.clear()
        assert manager.run_transaction(work, idempotent=True) == calls[-1]
        assert counts(manager)["retries.if_idempotent"] == 1
    assert tokens(node.settings()) == ["half 1", "whole 2"]


def test_who_asks_while_it_is_down_is_told_what_it_is(node: Node) -> None:
    with ConnectionManager("main", node.settings()) as manager:
        with manager.read() as connection:
            assert engines.backend_pid(connection) > 0
        node.stop("fast")
        with pytest.raises(errors.TargetUnavailable) as caught, manager.read():
            pass
        assert caught.value.retry_after_s is not None, "when another try may be worth it"
        with pytest.raises(errors.CircuitOpen), manager.read():
            pass
        node.start()
        assert manager.reset_breakers() != []
        with manager.read() as connection:
            assert connection.execute(text("select 1")).scalar_one() == 1

"""What became of a COMMIT is said only by the server that had it, and only as long as it can know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration.fault_cases import before_commit, insert, plant, tokens
from chanuka_ops_tests.plugins.nodes import Node, opened
from chanuka_ops_tests.plugins.proxy import Proxy, ProxyTo, socket_of, through
from chanuka_ops_tests.plugins.replicas import Cluster, Template

pytestmark = pytest.mark.postgres


@pytest.fixture
def node(replication_template: Template, state_dir: Path) -> Iterator[Node]:
    """A server of the test's own."""
    data, programs = replication_template
    with opened(Node, state_dir / "node", data, programs) as made:
        made.start()
        plant(made.settings())
        yield made


def restarted(node: Node, down: Callable[[], None]) -> tuple[list[object], BaseException | None]:
    """Have a server go down and come up again right after a COMMIT, before anybody can ask what became of it."""
    with Proxy(socket_of(node.server)) as proxy, ConnectionManager("main", through(node.settings(), proxy)) as manager:

        def again() -> None:
            assert wait_until(lambda: proxy.cuts == 1, timeout_s=10, poll_s=0.002)
            down()
            node.start()
            proxy.accept()

        def work(connection: Connection) -> None:
            insert(connection, "in doubt")
            before_commit(connection, proxy.refuse)

        proxy.cut_after(b"COMMIT", "answered")
        restarting = threading.Thread(target=again)
        restarting.start()
        caught: BaseException | None = None
        try:
            manager.run_transaction(work)
        except errors.OutcomeUnknown as error:
            caught = error
        restarting.join(timeout=30)
    return tokens(node.settings()), caught


def test_after_a_crash_nobody_can_say(node: Node) -> None:
    found, caught = restarted(node, node.kill)
    assert found == ["in doubt"]
    assert "failed over or crashed since" in str(caught)
    assert "pg_xact_status" in str(caught)


def test_after_a_restart_in_good_order_it_is_known(node: Node) -> None:
    found, caught = restarted(node, node.stop)
    assert (found, caught) == (["in doubt"], None)


def test_another_timeline_cannot_say(cluster: Cluster) -> None:
    first, second, _ = cluster.nodes
    plant(first.settings())
    cluster.caught_up()
    with (
        Proxy(socket_of(first.server)) as proxy,
        ConnectionManager("main", through(first.settings(), proxy)) as manager,
    ):

        def fail_over() -> None:
            first.synchronous()
            second.promote()
            proxy.retarget(socket_of(second.server))

        def work(connection: Connection) -> None:
            insert(connection, "on the old one alone")
            before_commit(connection, fail_over)

        proxy.cut_after(b"COMMIT", "answered")
        with pytest.raises(errors.OutcomeUnknown, match="failed over or crashed since"):
            manager.run_transaction(work)
    assert (tokens(first.settings()), tokens(second.settings())) == (["on the old one alone"], [])


def test_a_server_that_stays_away_leaves_it_unknown(
    database: DatabaseSettings, server: Server, proxy_to: ProxyTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(database)
    proxy = proxy_to(server)
    monkeypatch.setattr("chanuka_ops.db.repeat.RESOLVE_S", 0.5)
    with ConnectionManager("main", through(database, proxy)) as manager:

        def work(connection: Connection) -> None:
            insert(connection, "in doubt")
            before_commit(connection, proxy.refuse)

        proxy.cut_after(b"COMMIT", "sent")
        start = time.monotonic()
        with pytest.raises(errors.OutcomeUnknown, match="could not be found out"):
            manager.run_transaction(work, idempotent=True)
        assert time.monotonic() - start < 5
    assert wait_until(lambda: tokens(database) == ["in doubt"], timeout_s=5)

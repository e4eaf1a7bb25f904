"""Reads on streaming replicas: who serves them, and who does when replicas lag, fail, or are somebody else's."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, FeatureSettings, PoolSettings, ReplicaSettings, RoutingSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.node import Node
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.replicas import Cluster, Replica, across

pytestmark = pytest.mark.postgres

QUICK = RoutingSettings(probe_every_s=0.1)
SHORT = PoolSettings(acquire_timeout_s=2.0)


def who(connection: Connection) -> str:
    return str(connection.execute(text("show cluster_name")).scalar_one())


def reader(manager: ConnectionManager) -> str:
    with manager.read() as connection:
        return who(connection)


def writer(manager: ConnectionManager) -> str:
    with manager.transaction() as connection:
        return who(connection)


def over(cluster: Cluster, routing: RoutingSettings = QUICK, **changed: Any) -> ConnectionManager:
    return ConnectionManager("main", across(*cluster.nodes, routing=routing, pool=SHORT, **changed))


def shown(manager: ConnectionManager, node: Replica) -> dict[str, Any]:
    [found] = [one for one in manager.snapshot()["nodes"] if one["name"].startswith(str(node.socket_dir))]
    return dict(found)


def weighted(first: Replica, weights: dict[Replica, int], **changed: Any) -> DatabaseSettings:
    entries = tuple(ReplicaSettings(url=node.settings().url, weight=weight) for node, weight in weights.items())
    return first.settings().model_copy(update={"replicas": entries, "pool": SHORT, "routing": QUICK, **changed})


def test_writes_go_to_the_primary_and_reads_are_split(replicas: Cluster) -> None:
    with over(replicas) as manager:
        served = Counter(reader(manager) for _ in range(100))
        assert writer(manager) == "primary"
        manager.look()
        roles = [shown(manager, node)["role"] for node in replicas.nodes]
        assert manager.snapshot()["reads_on_primary"] == 0
    assert set(served) == {"sync", "asynchronous"}
    assert min(served.values()) >= 20
    assert roles == ["primary", "standby", "standby"]


def test_with_the_feature_off_the_replicas_get_no_reads(replicas: Cluster) -> None:
    features = FeatureSettings(read_replicas=False)
    with ConnectionManager("main", across(*replicas.nodes), features=features) as manager:
        assert {reader(manager) for _ in range(20)} == {"primary"}
        assert manager.snapshot()["reads_on_primary"] == 0


def test_a_replica_of_weight_0_gets_no_reads(replicas: Cluster) -> None:
    with ConnectionManager("main", weighted(replicas.primary, {replicas.sync: 0, replicas.asynchronous: 3})) as manager:
        assert {reader(manager) for _ in range(20)} == {"asynchronous"}
        assert shown(manager, replicas.sync)["ejected"] == "its weight is 0"


def test_who_is_primary_is_found_by_asking(replicas: Cluster) -> None:
    settings = across(replicas.sync, replicas.primary, replicas.asynchronous)
    with ConnectionManager("main", settings) as manager:
        assert {writer(manager) for _ in range(5)} == {"primary"}
        assert {reader(manager) for _ in range(50)} == {"asynchronous", "sync"}  # the url's own is a standby here
        for block in (manager.session(), manager.autocommit()):
            with block as connection:
                assert who(connection) == "primary"
        manager.look()
        assert [one["role"] for one in manager.snapshot()["nodes"]] == ["standby", "primary", "standby"]
        assert manager.snapshot()["failovers"] == 0


def test_a_server_of_another_cluster_is_never_read_from(replicas: Cluster, server: Server) -> None:
    foreign = ReplicaSettings(url=server.settings("postgres").url, weight=100)
    settings = across(*replicas.nodes, routing=QUICK)
    settings = settings.model_copy(update={"replicas": (foreign, *settings.replicas)})
    with ConnectionManager("main", settings) as manager:
        assert {reader(manager) for _ in range(20)} <= {"sync", "asynchronous"}
        manager.look()
        out = manager.snapshot()["nodes"][1]["ejected"]
    assert out is not None
    assert out.startswith("it belongs to another cluster (system ")


def test_the_first_reads_of_many_threads_wait_for_the_first_look(replicas: Cluster) -> None:
    with over(replicas) as manager, ThreadPoolExecutor(16) as threads:
        served = list(threads.map(lambda _: reader(manager), range(32)))
    assert set(served) <= {"sync", "asynchronous"}


def test_a_manager_that_is_closed_while_it_looks_leaves_nothing_behind(
    replicas: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    ours = "select count(*) from pg_stat_activity where application_name like 'chanuka/%'"
    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            with over(replicas, RoutingSettings(probe_every_s=0.001)) as manager:
                reader(manager)
                assert reader(manager) != "primary"  # a look is due at each read: one is under way now
    assert not caplog.records
    for node in replicas.nodes:
        assert wait_until(lambda node=node: node.query(ours) == [(0,)], timeout_s=10)  # type: ignore[misc]


def test_a_read_names_the_server_it_is_on(replicas: Cluster) -> None:
    with over(replicas) as manager, manager.read() as connection:
        query = engines.settings_of(connection).sqlalchemy_url.query
        node = {"sync": replicas.sync, "asynchronous": replicas.asynchronous}[who(connection)]
    assert query["host"] == str(node.socket_dir)


def test_a_transaction_that_nobody_has_committed_yet_makes_no_standby_late(replicas: Cluster) -> None:
    replicas.primary.query("create table pending(v int)")
    replicas.caught_up()
    with (
        over(replicas, RoutingSettings(probe_every_s=0.1, max_lag_s=0.2)) as manager,
        psycopg.connect(f"{replicas.primary.info} dbname=postgres") as session,
    ):
        session.execute("insert into pending values (1)")
        began = time.monotonic()
        lags: list[int] = []
        while time.monotonic() < began + 0.8:
            manager.look()
            lags += [shown(manager, node)["lag_bytes"] for node in (replicas.sync, replicas.asynchronous)]
        assert reader(manager) != "primary"
    assert set(lags) == {0}


def test_a_replica_that_dies_costs_no_read_and_comes_back(cluster: Cluster) -> None:
    only = cluster.sync.settings().model_copy(update={"pool": SHORT})
    with over(cluster) as manager, ConnectionManager("main", only) as alone:
        assert {reader(manager) for _ in range(20)} == {"sync", "asynchronous"}
        assert reader(alone) == "sync"
        cluster.sync.kill()
        longest = 0.0
        for _ in range(200):
            start = time.monotonic()
            assert reader(manager) == "asynchronous"
            longest = max(longest, time.monotonic() - start)
        manager.look()
        assert "reached" in shown(manager, cluster.sync)["ejected"]
        for _ in range(3):  # who knows no other server has none
            with pytest.raises(errors.ConnectError):
                reader(alone)
        cluster.sync.start()
        assert wait_until(lambda: reader(manager) == "sync", timeout_s=20)
    print(f"the slowest of 200 reads took {longest * 1000:.0f} ms")  # noqa: T201 - pytest -s shows it
    assert longest < 5


def test_with_all_replicas_down_the_primary_serves_and_that_is_counted(cluster: Cluster) -> None:
    with over(cluster) as manager, over(cluster, RoutingSettings(probe_every_s=0.1, primary_fallback=False)) as strict:
        assert {reader(manager), reader(strict)} <= {"sync", "asynchronous"}
        cluster.sync.kill()
        cluster.asynchronous.kill()
        assert {reader(manager) for _ in range(20)} == {"primary"}
        assert manager.snapshot()["reads_on_primary"] == 20
        strict.look()
        with pytest.raises(errors.ReplicaTooStale, match=r"can't be reached.*can't be reached"):
            reader(strict)
        cluster.asynchronous.start()
        for each in (manager, strict):
            assert wait_until(lambda each=each: _reads_on(each, "asynchronous"), timeout_s=20)  # type: ignore[misc]


def _reads_on(manager: ConnectionManager, name: str) -> bool:
    try:
        return reader(manager) == name
    except errors.ReplicaTooStale:
        return False


def test_with_the_primary_down_reads_go_on_and_writes_say_so_in_time(cluster: Cluster) -> None:
    with over(cluster) as manager:
        assert writer(manager) == "primary"
        cluster.primary.kill()
        start = time.monotonic()
        with pytest.raises((errors.NotPrimary, errors.TargetUnavailable), match="is a standby"):
            writer(manager)
        took_s = time.monotonic() - start
        assert {reader(manager) for _ in range(20)} <= {"sync", "asynchronous"}
    assert took_s < SHORT.acquire_timeout_s + 2


def test_the_first_read_after_an_outage_of_everything_is_served(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = Node.observe

    def slowly(node: Node, ends: float) -> None:
        time.sleep(0.05)
        observe(node, ends)

    with over(cluster) as manager:
        reader(manager)
        for node in cluster.nodes:
            node.stop("immediate")
        manager.look()
        with pytest.raises(errors.TargetUnavailable, match=r"no server can be reached.*can't be reached"):
            reader(manager)
        for node in cluster.nodes:
            node.start()
        monkeypatch.setattr(Node, "observe", slowly)
        manager.reset_breakers()
        assert wait_until(lambda: not _fresh(manager), timeout_s=10)
        assert reader(manager) in {"primary", "sync", "asynchronous"}


def _fresh(manager: ConnectionManager) -> bool:
    """Whether the last look is so young that none is due."""
    lookout = manager._cluster._lookout
    return time.monotonic() - lookout._begun_s < QUICK.probe_every_s


def _conflict(cluster: Cluster) -> None:
    """Have the primary remove rows which a snapshot on the asynchronous standby still sees, and wait until it has."""
    cluster.primary.query("delete from rows")
    cluster.primary.query("vacuum (freeze) rows")
    cluster.asynchronous.wait_replayed(str(cluster.primary.query("select pg_current_wal_lsn()")[0][0]))


@pytest.fixture
def impatient(replicas: Cluster) -> Iterator[Cluster]:
    """The session's cluster, with a table `rows`; its asynchronous standby lets no read hold up its replay."""
    standby, delay = replicas.asynchronous, "show max_standby_streaming_delay"
    replicas.primary.query("drop table if exists rows")
    replicas.primary.query("create table rows as select generate_series(1, 1000) v")
    replicas.caught_up()
    standby.configure(max_standby_streaming_delay="0")
    assert wait_until(lambda: standby.query(delay) == [("0",)], timeout_s=10, poll_s=0.01)
    yield replicas
    standby.configure(max_standby_streaming_delay="30s")
    assert wait_until(lambda: standby.query(delay) == [("30s",)], timeout_s=10, poll_s=0.01)


def test_a_read_that_a_standby_cancels_for_its_recovery_is_served_elsewhere(impatient: Cluster) -> None:
    seen: list[tuple[str, int]] = []

    def count(connection: Connection) -> tuple[str, int, int]:
        query = text("select count(*) from rows")
        first = connection.execute(query).scalar_one()
        seen.append((who(connection), first))
        if len(seen) == 1:
            _conflict(impatient)
        return who(connection), first, connection.execute(query).scalar_one()

    mostly_async = weighted(impatient.primary, {impatient.asynchronous: 10**9, impatient.sync: 1})
    with ConnectionManager("main", mostly_async) as manager:
        answer = manager.run_transaction(count, read_only=True, isolation="REPEATABLE READ")
        retries = shown(manager, impatient.asynchronous)["counts"]["retries.transaction"]
    assert seen == [("asynchronous", 1000), ("sync", 0)]
    assert answer == ("sync", 0, 0)
    assert retries == 1


@pytest.mark.parametrize("busy", [False, True], ids=["between statements", "in a statement"])
def test_a_plain_read_says_that_a_standby_cancelled_it(impatient: Cluster, *, busy: bool) -> None:
    only = weighted(impatient.primary, {impatient.asynchronous: 1})
    with ConnectionManager("main", only) as manager:
        reading = manager.read(isolation="REPEATABLE READ")
        with pytest.raises(errors.DatabaseError) as caught, reading as connection:  # noqa: PT012 - it begins before it
            assert connection.execute(text("select count(*) from rows")).scalar_one() == 1000
            rival = threading.Timer(0.3 if busy else 0.0, _conflict, (impatient,))
            rival.start()
            if busy:
                connection.execute(text("select pg_sleep(20)"))
            rival.join()
            connection.execute(text("select count(*) from rows"))
        assert caught.value.sqlstate == "40001"
        rival.join()
        assert reader(manager) == "asynchronous"


def test_with_one_server_only_a_cancelled_read_runs_again_on_that(impatient: Cluster) -> None:
    served: list[str] = []

    def count(connection: Connection) -> int:
        served.append(who(connection))
        first: int = connection.execute(text("select count(*) from rows")).scalar_one()
        if len(served) == 1:
            _conflict(impatient)
        return first + int(connection.execute(text("select count(*) from rows")).scalar_one())

    with ConnectionManager("main", impatient.asynchronous.settings()) as manager:
        assert manager.run_transaction(count, read_only=True, isolation="REPEATABLE READ") == 0
    assert served == ["asynchronous", "asynchronous"]

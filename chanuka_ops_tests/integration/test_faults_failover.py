"""Failover: acknowledged writes are kept, writes find the new primary, and nobody goes on writing to an old one."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, PoolSettings, ReplicaSettings, RoutingSettings
from chanuka_ops.db import engines, repeat
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.pooler import pooling
from chanuka_ops_tests.plugins.proxy import ProxyTo, socket_of, through
from chanuka_ops_tests.plugins.replicas import Cluster, Replica, across

pytestmark = pytest.mark.postgres

WRITERS = 4
POOL = PoolSettings(size=WRITERS, acquire_timeout_s=5.0)
HASTY = PoolSettings(size=WRITERS, acquire_timeout_s=1.0)
QUICK = RoutingSettings(probe_every_s=0.1)
NEVER = RoutingSettings(probe_every_s=3600.0)
INSERT = text("insert into written values (:token)")


def who(connection: Connection) -> str:
    return str(connection.execute(text("show cluster_name")).scalar_one())


def over(*nodes: Replica, routing: RoutingSettings = QUICK, pool: PoolSettings = POOL) -> ConnectionManager:
    return ConnectionManager("main", across(*nodes, pool=pool, routing=routing))


def insert(manager: ConnectionManager, token: str | None = None) -> str:
    """Write one token; return who took it."""

    def run(connection: Connection) -> str:
        connection.execute(INSERT, {"token": token or uuid.uuid4().hex})
        return who(connection)

    return manager.run_transaction(run, idempotent=True)


@dataclass
class Load:
    """What writers were told: which tokens were acknowledged, and when, and what they met."""

    acknowledged: list[tuple[float, str]] = field(default_factory=list)
    met: list[errors.ChanukaError] = field(default_factory=list)

    @property
    def gap_s(self) -> float:
        """The longest time in which nobody's write succeeded."""
        moments = sorted(at_s for at_s, _ in self.acknowledged)
        return max(after - before for before, after in itertools.pairwise(moments))

    def since(self, moment: float) -> int:
        return sum(at_s > moment for at_s, _ in list(self.acknowledged))

    def lost(self, node: Replica) -> int:
        kept = {row[0] for row in node.query("select token from written")}
        return sum(token not in kept for _, token in self.acknowledged)

    def kinds(self) -> dict[str, int]:
        names = sorted(type(error).__name__ for error in self.met)
        return {name: names.count(name) for name in names}


@contextmanager
def writing(manager: ConnectionManager) -> Iterator[Load]:
    """Have threads write all through the block, each write its own token."""
    load, over_ = Load(), threading.Event()

    def write() -> None:
        while not over_.is_set():
            token = uuid.uuid4().hex
            try:
                insert(manager, token)
            except (errors.DatabaseError, errors.OutcomeUnknown) as error:
                load.met.append(error)
            else:
                load.acknowledged.append((time.monotonic(), token))

    with ThreadPoolExecutor(WRITERS) as threads:
        running = [threads.submit(write) for _ in range(WRITERS)]
        try:
            yield load
        finally:
            over_.set()
    for each in running:
        each.result()


def prepare(cluster: Cluster) -> None:
    cluster.primary.query("drop table if exists written")
    cluster.primary.query("create table written(token text primary key)")
    cluster.caught_up()


def fail_over(cluster: Cluster, standby: Replica) -> tuple[float, float]:
    """Kill the primary, and promote a standby half a second later; return when each had happened."""
    cluster.primary.kill()
    killed_s = time.monotonic()
    time.sleep(0.5)  # what it takes somebody to notice
    standby.promote()
    return killed_s, time.monotonic()


def test_a_failover_under_load_loses_no_acknowledged_write(cluster: Cluster) -> None:
    prepare(cluster)
    with over(*cluster.nodes) as manager:
        with writing(manager) as load:
            assert wait_until(lambda: len(load.acknowledged) > 200, timeout_s=20)
            killed_s, promoted_s = fail_over(cluster, cluster.sync)
            assert wait_until(lambda: load.since(promoted_s) > 200, timeout_s=20)
        failovers = manager.snapshot()["failovers"]
    figures = f"{load.lost(cluster.sync)} lost; gap {load.gap_s:.2f} s, promotion at {promoted_s - killed_s:.2f} s"
    print(f"{len(load.acknowledged)} writes acknowledged, {figures}; met: {load.kinds()}")  # noqa: T201 - pytest -s shows it
    assert load.lost(cluster.sync) == 0
    assert load.gap_s <= promoted_s - killed_s + 3
    assert failovers == 1
    assert len(load.met) <= 2 * WRITERS


def test_a_manager_that_knows_one_server_never_recovers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat, "RESOLVE_S", 0.5)  # a COMMIT in doubt is asked after for that long
    prepare(cluster)
    with over(cluster.primary, pool=HASTY) as manager:
        with writing(manager) as load:
            assert wait_until(lambda: len(load.acknowledged) > 20, timeout_s=20)
            killed_s, _ = fail_over(cluster, cluster.sync)
            assert wait_until(lambda: len(load.met) > 3 * WRITERS, timeout_s=30)
        assert load.since(killed_s + 0.1) == 0


@pytest.mark.slow
def test_what_a_standby_never_got_is_lost_and_the_test_sees_it(cluster: Cluster) -> None:
    prepare(cluster)
    cluster.primary.synchronous()
    cluster.asynchronous.freeze(backends=True)
    with over(cluster.primary, cluster.asynchronous) as manager, writing(manager) as load:
        assert wait_until(lambda: len(load.acknowledged) > 200, timeout_s=20)
        cluster.primary.kill()
        cluster.asynchronous.thaw()
        cluster.asynchronous.promote()
        promoted_s = time.monotonic()
        assert wait_until(lambda: load.since(promoted_s) > 50, timeout_s=20)
    lost = load.lost(cluster.asynchronous)
    print(f"an asynchronous standby: {lost} of {len(load.acknowledged)} writes lost")  # noqa: T201 - pytest -s shows it
    assert lost > 0


def test_everything_that_needs_the_primary_finds_the_new_one(cluster: Cluster) -> None:
    prepare(cluster)
    with over(*cluster.nodes) as manager:
        assert insert(manager) == "primary"
        assert manager.target().sqlalchemy_url.query["host"] == str(cluster.primary.socket_dir)
        fail_over(cluster, cluster.sync)
        blocks: list[Callable[[], Any]] = [manager.transaction, manager.session, manager.autocommit]
        for block in blocks:
            with block() as connection:
                assert who(connection) == "sync"
                host = engines.settings_of(connection).sqlalchemy_url.query["host"]
                assert host == str(cluster.sync.socket_dir)
        assert manager.target().sqlalchemy_url.query["host"] == str(cluster.sync.socket_dir)
        with operation_lock(manager):
            held = cluster.sync.query("select count(*) from pg_locks where locktype = 'advisory'")
        assert held == [(1,)]
        assert manager.probe().role == "primary"
        assert manager.token().timeline == 2


def test_a_pool_on_a_primary_that_was_demoted_meets_one_error_at_most(cluster: Cluster) -> None:
    prepare(cluster)
    with over(*cluster.nodes) as manager:
        assert insert(manager) == "primary"
        cluster.primary.stop()
        cluster.sync.promote()
        cluster.primary.demote(cluster.sync)
        failed = 0
        for _ in range(10):
            try:
                with manager.transaction() as connection:
                    connection.execute(INSERT, {"token": uuid.uuid4().hex})
                    assert who(connection) == "sync"
            except errors.DatabaseError:
                failed += 1
        assert failed <= 1
        manager.look()
        roles = [node["role"] for node in manager.snapshot()["nodes"]]
    assert roles == ["standby", "primary", "standby"]


def addressed(front: DatabaseSettings, primary: Replica, **changed: Any) -> DatabaseSettings:
    """That address first, and the primary's own beside it."""
    replicas = (ReplicaSettings(url=primary.settings().url, weight=0),)
    return front.model_copy(update={"replicas": replicas, "pool": POOL, "routing": NEVER, **changed})


def test_an_address_that_leads_to_a_standby_from_now_on_costs_no_write(replicas: Cluster, proxy_to: ProxyTo) -> None:
    prepare(replicas)
    proxy = proxy_to(replicas.primary.server)
    front = through(replicas.primary.settings(), proxy)
    plain = sqlalchemy.create_engine(front.sqlalchemy_url, pool_pre_ping=True)
    with ConnectionManager("main", addressed(front, replicas.primary)) as manager:
        assert insert(manager) == "primary"
        assert plain_write(plain) is None
        proxy.retarget(socket_of(replicas.asynchronous.server))
        proxy.cut()
        assert [insert(manager) for _ in range(10)] == ["primary"] * 10
        assert manager.snapshot()["failovers"] == 1
    assert [plain_write(plain) for _ in range(5)] == ["25006"] * 5  # for ever: nothing is broken there
    plain.dispose()


def plain_write(engine: sqlalchemy.Engine) -> str | None:
    """Write through a plain engine; return the SQLSTATE of what it met."""
    try:
        with engine.begin() as connection:
            connection.execute(INSERT, {"token": uuid.uuid4().hex})
    except sqlalchemy.exc.DBAPIError as error:
        return str(getattr(error.orig, "sqlstate", None))
    return None


@pytest.mark.parametrize("repeated", [True, False], ids=["run_transaction", "transaction"])
def test_a_live_connection_that_leads_to_a_standby_now_is_left(
    replicas: Cluster, proxy_to: ProxyTo, session_dir: Path, *, repeated: bool
) -> None:
    prepare(replicas)
    proxy = proxy_to(replicas.primary.server)
    with pooling(session_dir, "127.0.0.1", proxy.port, "postgres") as pooler:
        settings = addressed(pooler.settings("postgres"), replicas.primary, pooler="transaction")
        with ConnectionManager("main", settings) as manager:
            assert insert(manager) == "primary"
            proxy.retarget(socket_of(replicas.asynchronous.server))
            proxy.cut()  # PgBouncer's own connections: its clients' live on
            if not repeated:
                with pytest.raises(errors.ReadOnlyServer), manager.transaction() as connection:
                    connection.execute(INSERT, {"token": "refused"})
            assert [insert(manager) for _ in range(10)] == ["primary"] * 10
            counts = manager.snapshot()["nodes"][0]["counts"]
    assert counts["demoted"] == 1
    assert counts.get("retries.rediscover", 0) == int(repeated)


def test_a_server_that_was_made_read_only_takes_no_writes_until_that_ends(replicas: Cluster) -> None:
    prepare(replicas)
    only = replicas.primary.settings().model_copy(update={"pool": HASTY})

    def switched(*, on: bool) -> None:
        replicas.primary.configure(default_transaction_read_only="on" if on else "off")
        shown = [("on" if on else "off",)]
        query = "show default_transaction_read_only"
        assert wait_until(lambda: replicas.primary.query(query) == shown, timeout_s=10, poll_s=0.01)

    with ConnectionManager("main", only) as manager:
        assert insert(manager) == "primary"
        switched(on=True)
        with pytest.raises(errors.ReadOnlyServer), manager.transaction() as connection:
            connection.execute(INSERT, {"token": "refused"})
        with ThreadPoolExecutor(1) as threads:
            writing = threads.submit(insert, manager)
            seen = "retries.rediscover"
            assert wait_until(lambda: manager.snapshot()["nodes"][0]["counts"].get(seen, 0) > 0, timeout_s=10)
            switched(on=False)
            assert writing.result(timeout=10) == "primary"


def test_a_primary_beside_one_that_was_promoted_later_gets_no_more_writes(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(cluster)
    cluster.primary.synchronous()
    with over(*cluster.nodes, pool=HASTY) as manager, over(*cluster.nodes, routing=NEVER) as blind:
        assert {insert(manager), insert(blind)} == {"primary"}
        cluster.sync.promote()
        with caplog.at_level(logging.ERROR):
            assert wait_until(lambda: insert(manager) == "sync", timeout_s=10, poll_s=0.02)
        assert [record.__dict__["event"] for record in caplog.records] == ["db.split"]
        assert insert(blind) == "primary"  # which looks no more: it writes what will be lost
        with over(*cluster.nodes) as fresh:
            assert insert(fresh) == "sync"
        cluster.sync.stop("immediate")  # the old one is there still, and gets nothing
        with pytest.raises(errors.NotPrimary, match="timeline 2 was begun already"):
            insert(manager)


@pytest.mark.slow
def test_a_primary_of_another_cluster_is_no_refuge(cluster: Cluster, server: Server) -> None:
    prepare(cluster)
    foreign = ReplicaSettings(url=server.settings("postgres").url)
    settings = across(cluster.primary, routing=QUICK, pool=HASTY).model_copy(update={"replicas": (foreign,)})
    with ConnectionManager("main", settings) as manager:
        assert insert(manager) == "primary"
        cluster.primary.kill()
        with pytest.raises(errors.NotPrimary, match="belongs to another cluster"), manager.transaction():
            pytest.fail("it was written to another cluster")

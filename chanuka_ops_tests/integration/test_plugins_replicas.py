"""The tests' own cluster of replicas does what tests of replication rely on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.nodes import Node
from chanuka_ops_tests.plugins.replicas import Cluster

pytestmark = pytest.mark.postgres


def plant(node: Node, name: str) -> None:
    node.query(f"create table {name} as select 42 as answer")


def answers(node: Node, name: str) -> bool:
    return node.query(f"select answer from {name}") == [(42,)]


def test_a_write_is_seen_on_both_standbys(replicas: Cluster) -> None:
    plant(replicas.primary, "seen")
    replicas.caught_up()
    assert answers(replicas.sync, "seen")
    assert answers(replicas.asynchronous, "seen")
    assert replicas.streams() == {"sync": "sync", "asynchronous": "async"}
    assert [node.query("select pg_is_in_recovery()") for node in replicas.nodes] == [[(False,)], [(True,)], [(True,)]]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        plant(replicas.sync, "refused")


def test_replay_pauses_and_resumes(replicas: Cluster) -> None:
    replicas.asynchronous.pause_replay()
    try:
        plant(replicas.primary, "held_back")
        replicas.sync.wait_replayed(str(replicas.primary.query("select pg_current_wal_lsn()")[0][0]))
        missing = replicas.asynchronous.query("select to_regclass('held_back')")
    finally:
        replicas.asynchronous.resume_replay()
    assert missing == [(None,)]
    replicas.caught_up()
    assert answers(replicas.asynchronous, "held_back")


@pytest.mark.slow
def test_a_commit_waits_for_the_synchronous_standby(cluster: Cluster) -> None:
    cluster.sync.freeze(backends=True)
    waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
    with ThreadPoolExecutor() as pool:
        commit = pool.submit(plant, cluster.primary, "late")
        try:
            assert wait_until(lambda: cluster.primary.query(waiting) == [(1,)], timeout_s=10)
            assert not commit.done()
            cluster.sync.thaw()
            commit.result(timeout=10)
        finally:
            cluster.primary.synchronous()  # releases whoever waits
    cluster.sync.stop()
    plant(cluster.primary, "alone")


@pytest.mark.slow
def test_a_killed_node_starts_again(cluster: Cluster) -> None:
    plant(cluster.primary, "kept")
    before = cluster.primary.pid
    cluster.primary.kill()
    assert not cluster.primary.running
    assert not Path(f"/proc/{before}").exists()
    with pytest.raises(psycopg.OperationalError):
        cluster.primary.query("select 1")
    cluster.primary.start()
    assert answers(cluster.primary, "kept")
    assert wait_until(lambda: cluster.streams() == {"sync": "sync", "asynchronous": "async"}, timeout_s=20)


@pytest.mark.slow
def test_a_failover_and_the_way_back(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    plant(first, "before_it")
    first.kill()
    second.promote()
    third.follow(second)
    plant(second, "after_it")
    assert wait_until(lambda: second.query("select count(*) from pg_stat_replication") == [(1,)], timeout_s=20)
    first.demote(second)
    cluster.caught_up(second)
    for node in cluster.nodes:
        assert answers(node, "before_it")
        assert answers(node, "after_it")
    assert wait_until(lambda: set(cluster.streams(second)) == {first.name, third.name}, timeout_s=20)
    assert first.query("select pg_is_in_recovery()") == [(True,)]


@pytest.mark.slow
def test_a_primary_that_went_on_alone_is_rewound(cluster: Cluster) -> None:
    first, second, _ = cluster.nodes
    second.stop()
    first.synchronous()
    plant(first, "lost")
    second.start()
    first.freeze(backends=True)
    second.promote()
    first.thaw()
    plant(first, "lost_too")
    plant(second, "kept")
    first.demote(second)
    first.wait_replayed(str(second.query("select pg_current_wal_lsn()")[0][0]))
    assert answers(first, "kept")
    assert first.query("select to_regclass('lost_too')") == [(None,)]

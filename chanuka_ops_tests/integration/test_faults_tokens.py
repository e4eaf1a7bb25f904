"""Consistency tokens: whoever carries one reads what was committed before it, whatever the replicas are doing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, PoolSettings, ReplicaSettings, RoutingSettings, TimeoutSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.router import ConsistencyToken
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import as_role
from chanuka_ops_tests.plugins.replicas import Cluster, Replica, across

pytestmark = pytest.mark.postgres

WIDE = PoolSettings(size=8)
READERS = 8
MORE_THAN_LAG = "select pg_logical_emit_message(true, 'test', repeat('x', 10000))"


def over(cluster: Cluster, **routing: Any) -> ConnectionManager:
    stated = RoutingSettings(**{"probe_every_s": 0.1, **routing})
    return ConnectionManager("main", across(*cluster.nodes, pool=WIDE, routing=stated))


@pytest.fixture
def paused(replicas: Cluster) -> Iterator[Cluster]:
    """The session's cluster, with an empty table `counted`, and the asynchronous standby standing still."""
    replicas.primary.query("drop table if exists counted")
    replicas.primary.query("create table counted(v int)")
    replicas.caught_up()
    replicas.asynchronous.pause_replay()
    yield replicas
    for node in (replicas.asynchronous, replicas.sync):
        node.resume_replay()
    replicas.caught_up()


def write(manager: ConnectionManager, number: int) -> ConsistencyToken:
    with manager.transaction() as connection:
        connection.execute(text("insert into counted values (:number)"), {"number": number})
    return manager.token()


def newest(manager: ConnectionManager, after: ConsistencyToken | None) -> tuple[int, str]:
    """The highest number that a read sees, and whom it was read from."""
    with manager.read(after=after) as connection:
        row = connection.execute(text("select coalesce(max(v), 0), current_setting('cluster_name') from counted")).one()
    return row[0], row[1]


def stale_reads(manager: ConnectionManager, writes: int, reads: int, *, token: bool) -> tuple[int, set[str]]:
    """How many reads, so many after each write, did not see it; and who served them."""
    stale, served = 0, set()
    with ThreadPoolExecutor(READERS) as threads:
        for number in range(1, writes + 1):
            after = write(manager, number)
            for seen, who in threads.map(
                lambda _, after=after: newest(manager, after if token else None), range(reads)
            ):
                stale += seen < number
                served.add(who)
    return stale, served


@pytest.mark.parametrize("writes", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_no_read_with_a_token_is_stale_while_a_standby_stands_still(paused: Cluster, writes: int) -> None:
    with over(paused) as manager:
        start = time.monotonic()
        stale, served = stale_reads(manager, writes, 50, token=True)
        took_s = time.monotonic() - start
        counted = manager.snapshot()["reads_on_primary"]
    print(f"{writes * 50} reads in {took_s:.1f} s, {counted} of them on the primary")  # noqa: T201 - pytest -s shows it
    assert stale == 0
    assert "sync" in served
    assert "asynchronous" not in served


def test_without_a_token_reads_are_stale_then(paused: Cluster) -> None:
    with over(paused) as manager:
        stale, served = stale_reads(manager, 5, 40, token=False)
    assert stale > 0
    assert "asynchronous" in served


@pytest.mark.parametrize("limit", [{"max_lag_bytes": 1000}, {"max_lag_s": 0.01}], ids=["bytes", "seconds"])
def test_a_standby_that_stands_still_is_left_out_after_two_looks(paused: Cluster, limit: dict[str, float]) -> None:
    with over(paused, **limit) as manager:
        manager.look()
        assert [node["ejected"] for node in manager.snapshot()["nodes"]] == [None, None, None]
        paused.primary.query(MORE_THAN_LAG)
        paused.sync.wait_replayed(str(paused.primary.query("select pg_current_wal_lsn()")[0][0]))
        for _ in range(2):
            time.sleep(0.02)  # more than max_lag_s: it's the time between two looks that is measured
            manager.look()
        out = [node["ejected"] for node in manager.snapshot()["nodes"]]
        assert {newest(manager, None)[1] for _ in range(20)} == {"sync"}
    assert out[:2] == [None, None]
    assert out[2].startswith("it lags by ")


def test_by_itself_a_manager_notices_within_two_probes(paused: Cluster) -> None:
    paused.sync.pause_replay()
    with over(paused, max_lag_bytes=1000, probe_every_s=0.2) as manager:
        assert newest(manager, None)[1] != "primary"
        paused.primary.query(MORE_THAN_LAG)
        start = time.monotonic()
        assert wait_until(lambda: newest(manager, None)[1] == "primary", timeout_s=10, poll_s=0.01)
        took_s = time.monotonic() - start
        before = manager.snapshot()["reads_on_primary"]
        assert {newest(manager, None)[1] for _ in range(20)} == {"primary"}
        assert manager.snapshot()["reads_on_primary"] == before + 20
        paused.sync.resume_replay()
        assert wait_until(lambda: newest(manager, None)[1] == "sync", timeout_s=10, poll_s=0.01)
    print(f"ejected after {took_s:.2f} s, at a probe each 0.2 s")  # noqa: T201 - pytest -s shows it
    assert took_s < 3


def test_after_a_pause_a_read_goes_by_nothing_that_was_seen_before_it(paused: Cluster) -> None:
    routing = RoutingSettings(probe_every_s=0.05, max_lag_s=0.05, max_lag_bytes=1000)
    settings = across(paused.primary, paused.asynchronous, routing=routing, timeouts=TimeoutSettings(connect_s=0.2))
    with ConnectionManager("main", settings) as manager:
        assert newest(manager, None)[1] == "asynchronous"
        paused.primary.query(MORE_THAN_LAG)
        lookout = manager._cluster._lookout
        assert wait_until(lambda: time.monotonic() > lookout._begun_s + lookout.blind_after_s, timeout_s=10)
        assert newest(manager, None)[1] == "primary"


def test_without_the_primary_to_fall_back_on_a_read_says_who_is_late_and_why(paused: Cluster) -> None:
    paused.sync.pause_replay()
    with over(paused, primary_fallback=False, token_wait_s=0.2, max_lag_bytes=10**6) as strict:
        token = write(strict, 1)
        with pytest.raises(errors.ReplicaTooStale) as caught:
            newest(strict, token)
        said = str(caught.value)
        for node in (paused.sync, paused.asynchronous):
            assert f"{node.socket_dir}:5432: it can't be proved to hold what {token} stands for" in said
        assert f"{paused.primary.socket_dir}:5432: it is the primary" in said
    with (
        over(paused, primary_fallback=False, max_lag_bytes=10) as strict,
        pytest.raises(errors.ReplicaTooStale) as caught,
    ):
        newest(strict, None)
    assert str(caught.value).count("it lags by ") == 2


def test_a_standby_that_comes_in_time_is_waited_for(paused: Cluster) -> None:
    settings = across(paused.primary, paused.asynchronous, routing=RoutingSettings(token_wait_s=20))
    with ConnectionManager("main", settings) as manager, ThreadPoolExecutor(1) as threads:
        token = write(manager, 1)
        reading = threads.submit(newest, manager, token)
        assert wait_until(lambda: manager._cluster.nodes[1].slots.in_use == 1, timeout_s=10, poll_s=0.005)
        assert not reading.done()
        paused.asynchronous.resume_replay()
        assert reading.result(timeout=20) == (1, "asynchronous")
        assert manager.snapshot()["reads_on_primary"] == 0


def test_a_standby_that_does_not_come_in_time_costs_the_wait_and_no_more(paused: Cluster) -> None:
    settings = across(paused.primary, paused.asynchronous, routing=RoutingSettings(token_wait_s=0.3))
    with ConnectionManager("main", settings) as manager:
        token = write(manager, 1)
        start = time.monotonic()
        assert newest(manager, token) == (1, "primary")
        took_s = time.monotonic() - start
        assert manager.snapshot()["reads_on_primary"] == 1
        assert manager.snapshot()["nodes"][1]["counts"]["reads_refused_as_stale"] == 1
    assert 0.3 <= took_s < 5


def test_a_standby_that_stands_still_delays_no_read_that_another_can_serve(paused: Cluster) -> None:
    routing = RoutingSettings(token_wait_s=5, probe_every_s=0.1)
    heavy = ReplicaSettings(url=paused.asynchronous.settings().url, weight=10**9)
    replicas = (heavy, ReplicaSettings(url=paused.sync.settings().url))
    settings = paused.primary.settings().model_copy(update={"replicas": replicas, "routing": routing})
    with ConnectionManager("main", settings) as manager:
        token = write(manager, 1)
        start = time.monotonic()
        assert newest(manager, token) == (1, "sync")
        assert time.monotonic() - start < 4


def test_of_two_late_standbys_the_one_that_comes_is_not_missed_for_the_one_that_stands_still(paused: Cluster) -> None:
    paused.sync.pause_replay()
    heavy = ReplicaSettings(url=paused.asynchronous.settings().url, weight=10**9)
    replicas = (heavy, ReplicaSettings(url=paused.sync.settings().url))
    routing = RoutingSettings(token_wait_s=60, probe_every_s=0.1, primary_fallback=False)
    settings = paused.primary.settings().model_copy(update={"replicas": replicas, "routing": routing})
    with ConnectionManager("main", settings) as manager, ThreadPoolExecutor(1) as threads:
        token = write(manager, 1)
        reading = threads.submit(newest, manager, token)
        standing = manager._cluster.nodes[1]
        assert wait_until(lambda: standing.slots.in_use == 1, timeout_s=10, poll_s=0.005)
        time.sleep(0.3)  # both were asked, and are waited for
        paused.sync.resume_replay()
        assert reading.result(timeout=20) == (1, "sync")  # well before the minute that one of them would have cost
        assert manager.snapshot()["reads_on_primary"] == 0


def test_a_token_at_the_end_of_a_page_of_the_log_is_reached(replicas: Cluster) -> None:
    primary = replicas.primary
    emit = "select pg_logical_emit_message(false, 'test', repeat('x', {}))"

    def place() -> int:
        return int(primary.query("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint % 8192")[0][0])

    def fill() -> bool:
        """Write one record that ends where a page does, if it fits: the next one's place is behind a header."""
        begun = place()
        primary.query(emit.format(1004))
        overhead = place() - begun - 1004
        left = 8192 - place() - overhead
        if left > 300:
            primary.query(emit.format(left))
        return place() in {24, 40}

    assert wait_until(fill, timeout_s=10, poll_s=0)
    with over(replicas, primary_fallback=False, token_wait_s=5) as manager:
        replicas.caught_up()
        with manager.read(after=manager.token()) as connection:
            assert connection.execute(text("select pg_is_in_recovery()")).scalar_one()


def test_a_token_is_text_that_another_process_can_use(replicas: Cluster) -> None:
    program = """
import sys
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.router import ConsistencyToken
settings = DatabaseSettings(url=sys.argv[1], replicas=({"url": sys.argv[2]},))
with ConnectionManager("other", settings) as manager:
    with manager.read(after=ConsistencyToken.parse(sys.argv[3])) as connection:
        print(connection.exec_driver_sql("select v, pg_is_in_recovery() from carried").one())
"""
    replicas.primary.query("create table carried as select 7 v")
    with over(replicas) as manager:
        token = str(manager.token())
    urls = [node.settings().url.get_secret_value() for node in (replicas.primary, replicas.sync)]
    run = subprocess.run([sys.executable, "-c", program, *urls, token], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.returncode) == ("(7, True)", 0), run.stderr


def as_weak(settings: DatabaseSettings) -> DatabaseSettings:
    entries = tuple(ReplicaSettings(url=as_role(_alone(each), "weak").url) for each in settings.replicas)
    return as_role(settings, "weak").model_copy(update={"replicas": entries})


def _alone(replica: ReplicaSettings) -> DatabaseSettings:
    return DatabaseSettings(url=replica.url)


def test_a_role_that_sees_no_timeline_of_a_standby_reads_with_tokens_on_the_primary(replicas: Cluster) -> None:
    replicas.primary.query("create role weak login")
    replicas.primary.query("drop table if exists counted")
    replicas.primary.query("create table counted(v int)")
    replicas.primary.query("grant all on counted to weak")
    replicas.caught_up()
    with ConnectionManager("main", as_weak(across(*replicas.nodes))) as manager:
        token = write(manager, 1)
        assert [newest(manager, token) for _ in range(5)] == [(1, "primary")] * 5
        assert newest(manager, None)[1] != "primary"
        assert manager.snapshot()["reads_on_primary"] == 5
        replicas.primary.query("grant pg_monitor to weak")
        replicas.caught_up()
        assert wait_until(lambda: newest(manager, token)[1] != "primary", timeout_s=10)


def promoted(cluster: Cluster) -> Replica:
    """End the primary, and have its synchronous standby take over."""
    cluster.primary.kill()
    cluster.sync.promote()
    cluster.asynchronous.follow(cluster.sync)
    there = "select count(*) from pg_stat_wal_receiver where received_tli = 2"
    assert wait_until(lambda: cluster.asynchronous.query(there) == [(1,)], timeout_s=20)
    return cluster.sync


def test_a_token_of_before_a_failover_is_served_by_the_new_primary_alone(cluster: Cluster) -> None:
    cluster.primary.query("create table counted(v int)")
    with over(cluster, token_wait_s=0.2) as manager, over(cluster, primary_fallback=False, token_wait_s=0.2) as strict:
        old = write(manager, 1)
        leader = promoted(cluster)
        assert newest(manager, old) == (1, "sync")
        assert manager.snapshot()["reads_on_primary"] >= 1
        with pytest.raises(errors.ReplicaTooStale, match="can't be proved to hold"):  # it has it; who is to know
            newest(strict, old)
        ahead = replace(old, lsn=old.lsn + 2**32)
        with pytest.raises(errors.ReplicaTooStale, match="can't be proved to hold"):
            newest(manager, ahead)
        fresh = write(manager, 2)
        assert fresh.timeline == old.timeline + 1
        assert fresh.lsn > old.lsn
        cluster.caught_up(leader)
        assert newest(strict, fresh) == (2, "asynchronous")

"""A primary and its standbys: who is behind, who is missing, who hears nothing; and every check on a standby."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from chanuka_ops.config import DatabaseSettings, MonitoringSettings, Threshold
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health import service
from chanuka_ops.health.model import Finding
from chanuka_ops_tests.plugins.nodes import PATIENCE_S
from chanuka_ops_tests.plugins.replicas import Cluster

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
MISSING, SYNC, RECEIVER, LAG = (
    "replication.standby_missing", "replication.sync_missing", "replication.wal_receiver_down", "replication.lag",
)  # fmt: skip
BEHIND_BYTES = 1_000_000


def look(settings: DatabaseSettings, *checks: str, lag: float | None = None) -> list[Finding]:
    thresholds = {} if lag is None else {LAG: Threshold(warning=lag)}
    with ConnectionManager("main", settings) as manager:
        return list(service.check(manager, MonitoringSettings(thresholds=thresholds), only=checks).findings)


def said(settings: DatabaseSettings, wanted: Sequence[tuple[str, str]], *checks: str) -> list[tuple[str, str]]:
    """What the checks say: looked for until it is what's wanted, or patience is at its end."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = sorted((one.check, str(one.status)) for one in look(settings, *checks))
        if found == sorted(wanted) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_a_paused_replay_is_behind_and_an_idle_primary_is_not(replicas: Cluster) -> None:
    replicas.caught_up()
    assert look(replicas.settings, LAG, lag=BEHIND_BYTES) == []
    replicas.asynchronous.pause_replay()
    try:
        replicas.primary.query("create table behind as select repeat(md5(g::text), 30) from generate_series(1, 3000) g")
        (found,) = look(replicas.settings, LAG, lag=BEHIND_BYTES)
        assert (found.object, found.status) == ("asynchronous", "warning")
        assert look(replicas.settings, LAG) == []  # not by the default limit
        (own,) = look(replicas.asynchronous.settings(), LAG, lag=BEHIND_BYTES)  # asked of itself
        assert own.object == "this standby"
        assert "paused" in own.summary
    finally:
        replicas.asynchronous.resume_replay()
        replicas.primary.query("drop table behind")
    replicas.caught_up()
    assert look(replicas.settings, LAG, lag=BEHIND_BYTES) == []


def test_every_check_can_look_on_a_standby(replicas: Cluster) -> None:
    with ConnectionManager("standby", replicas.asynchronous.settings()) as manager:
        report = service.check(manager, MonitoringSettings())
    assert {result.check: result.reason for result in report.checks if result.status == "unknown"} == {}
    assert not [found for found in report.findings if found.check == "self.check_errors"]


def test_standbys_that_go_away_are_missed(cluster: Cluster) -> None:
    primary, checks = cluster.settings, (MISSING, SYNC)
    assert said(primary, [], *checks) == []
    cluster.asynchronous.stop()
    one_gone = [(MISSING, "warning")]
    assert said(primary, one_gone, *checks) == one_gone
    cluster.sync.stop()
    both_gone = [(MISSING, "critical"), (SYNC, "critical")]
    assert said(primary, both_gone, *checks) == both_gone


def test_a_standby_whose_primary_is_gone_hears_nothing(cluster: Cluster) -> None:
    standby = cluster.asynchronous.settings()
    assert said(standby, [], RECEIVER) == []
    cluster.primary.stop("immediate")
    deaf = [(RECEIVER, "critical")]
    assert said(standby, deaf, RECEIVER) == deaf

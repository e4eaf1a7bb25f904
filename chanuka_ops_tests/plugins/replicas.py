"""A primary with a synchronous and an asynchronous standby, to read from, to kill and to promote.

The standbys aren't base backups: a cluster that was shut down cleanly is copied three times, which is as good and
takes a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.config import DatabaseSettings, ReplicaSettings
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import run, wait_until
from chanuka_ops_tests.plugins.nodes import PATIENCE_S, Node, cluster_template, opened

NAMES = ("primary", "sync", "asynchronous")
# nothing lower than the template was run with: a standby refuses that of max_connections and its like
REPLICATION_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "10",
    "wal_keep_size": "64MB",
    "hot_standby_feedback": "off",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
    "max_prepared_transactions": "10",
}

# the session's template: the data directory to copy, and the programs it's of
Template = tuple[Path, Binaries]


class Replica(Node):
    """One node of a `Cluster`, in whatever role it has at the time."""

    def follow(self, leader: Replica) -> None:
        """As a standby, stream from that node; one that is running changes over."""
        conninfo = f"{leader.info} application_name={self.name}"
        self.configure(primary_conninfo=f"'{conninfo}'")

    def stand_by(self, leader: Replica) -> None:
        """Make the stopped node a standby of that one."""
        assert not self.running
        self.write("standby.signal", "")
        self.configure(synchronous_standby_names="''")
        self.follow(leader)

    def synchronous(self, *standbys: str) -> None:
        """As a primary, wait at each commit for the first of these standbys; for none without one."""
        self.configure(synchronous_standby_names=f"'{', '.join(standbys)}'")

    def promote(self) -> None:
        """Make the standby a primary, and wait until it is."""
        assert self.query(f"select pg_promote(true, {PATIENCE_S:.0f})") == [(True,)]

    def demote(self, leader: Replica) -> None:
        """Make a former primary, in whatever state, the standby of another: what that one never got is rewound."""
        self.stop()
        leader.query("checkpoint")  # pg_rewind of before 16 reads the new timeline only from one
        source = f"--source-server={leader.info} dbname=postgres"
        rewind: list[str | Path] = [self.binaries.path("pg_rewind"), "-D", self.data, source, "--no-sync"]
        run(rewind, deadline_s=PATIENCE_S, account=self.account, cwd=Path("/"))
        self.stand_by(leader)
        self.start()

    def pause_replay(self) -> None:
        """As a standby, go on receiving and stop applying; wait until it has."""
        self.query("select pg_wal_replay_pause()")
        paused = [("paused",)]
        assert wait_until(lambda: self.query("select pg_get_wal_replay_pause_state()") == paused, timeout_s=PATIENCE_S)

    def resume_replay(self) -> None:
        """As a standby, apply again."""
        self.query("select pg_wal_replay_resume()")

    def wait_replayed(self, lsn: str) -> None:
        """Wait until it, a standby, has applied the log up to there."""
        query = f"select pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn"
        assert wait_until(lambda: self.query(query) == [(True,)], timeout_s=PATIENCE_S, poll_s=0.01)


@dataclass(frozen=True)
class Cluster:
    """The three nodes, by the role they began with."""

    primary: Replica
    sync: Replica
    asynchronous: Replica

    @property
    def nodes(self) -> tuple[Replica, Replica, Replica]:
        return self.primary, self.sync, self.asynchronous

    @property
    def settings(self) -> DatabaseSettings:
        """How to connect to all three."""
        return across(*self.nodes)

    def caught_up(self, leader: Replica | None = None) -> None:
        """Wait until every standby that is running has applied all that the leader (the primary) has written."""
        leader = leader or self.primary
        lsn = str(leader.query("select pg_current_wal_lsn()")[0][0])
        for node in self.nodes:
            if node is not leader and node.running:
                node.wait_replayed(lsn)

    def streams(self, leader: Replica | None = None) -> dict[str, str]:
        """Who streams from the leader (the primary), and its `sync_state`."""
        query = "select application_name, sync_state from pg_stat_replication where state = 'streaming'"
        return dict((leader or self.primary).query(query))


def across(first: Node, *replicas: Node, **changed: Any) -> DatabaseSettings:
    """The settings of a database that the first node is asked for first, and the others replicate."""
    entries = tuple(ReplicaSettings(url=node.settings().url) for node in replicas)
    return first.settings().model_copy(update={"replicas": entries, **changed})


@contextmanager
def cluster_of(directory: Path, template: Template) -> Iterator[Cluster]:
    """Make a cluster in a new directory, and remove it after the block."""
    data, programs = template
    with ExitStack() as stack:
        nodes = [stack.enter_context(opened(Replica, directory / name, data, programs)) for name in NAMES]
        cluster = Cluster(*nodes)
        cluster.primary.synchronous("sync")
        for node in nodes:
            node.configure(cluster_name=f"'{node.name}'")
            if node is not cluster.primary:
                node.stand_by(cluster.primary)
            node.start(wait=False)
        for node in nodes:
            node.wait_ready()
        both = {"sync": "sync", "asynchronous": "async"}
        assert wait_until(lambda: cluster.streams() == both, timeout_s=PATIENCE_S, poll_s=0.01), cluster.primary.log
        yield cluster


@pytest.fixture(scope="session")
def replication_template(pg: Binaries, session_dir: Path) -> Iterator[Template]:
    """The cluster that all replicas are copies of."""
    with cluster_template(session_dir, pg, REPLICATION_SETTINGS) as template:
        yield template


@pytest.fixture(scope="session")
def replicas(replication_template: Template, session_dir: Path) -> Iterator[Cluster]:
    """The session's cluster: for tests that only read from it, or pause its replay and resume it."""
    with cluster_of(session_dir / "replicas", replication_template) as cluster:
        yield cluster


@pytest.fixture
def cluster(replication_template: Template, state_dir: Path) -> Iterator[Cluster]:
    """A cluster of the test's own, to kill and promote."""
    with cluster_of(state_dir / "cluster", replication_template) as fresh:
        yield fresh

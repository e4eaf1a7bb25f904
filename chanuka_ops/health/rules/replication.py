"""Replication and archiving: what would be missing if this server were lost, and what could stop it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Rows, Scope, Status

# One WAL segment: what a slot keeps back beyond it will not stop growing while nobody reads.
SLOT_BYTES = 16 * 1024 * 1024
# Bytes, because time says nothing on an idle primary and nothing of a paused replay.
LAG_WARNING_BYTES = 50 * 1024 * 1024
LAG_CRITICAL_BYTES = 1024 * 1024 * 1024
# The directory may pass max_wal_size for a while under load; twice the allowance is something else's doing.
WAL_WARNING_PERCENT = 200.0


def slot_inactive(rows: Rows, case: Case) -> Iterator[Finding]:
    """Nobody reads, the WAL piles up."""
    for row in rows:
        # a slot that a standby keeps in step with its primary is inactive by design
        if row["active"] or row["synced"] or row["wal_status"] == "lost" or row["retained_bytes"] is None:
            continue
        yield case.finding(
            row["name"],
            f"nobody uses {row['kind']} replication slot {row['name']}, which keeps {_mb(row['retained_bytes'])} of"
            " WAL: it grows until the disk is full",
            f"start its consumer, or: select pg_drop_replication_slot('{row['name']}')",
            value=row["retained_bytes"],
        )


def slot_lost(rows: Rows, case: Case) -> Iterator[Finding]:
    """The WAL it needs is gone, or will be at the next checkpoint."""
    for row in rows:
        if row["wal_status"] == "lost" or row["invalidation_reason"]:
            why = f" ({row['invalidation_reason']})" if row["invalidation_reason"] else ""
            yield case.finding(
                row["name"],
                f"replication slot {row['name']} is lost{why}: its consumer can't go on from it",
                f"select pg_drop_replication_slot('{row['name']}'), then set the standby or subscription up again",
            )
        elif row["wal_status"] == "unreserved":
            yield case.finding(
                row["name"],
                f"replication slot {row['name']} is about to be lost: it needs WAL past max_slot_wal_keep_size",
                "let its consumer catch up before the next checkpoint, or raise max_slot_wal_keep_size",
                status=Status.WARNING,
            )


def no_replica_identity(rows: Rows, case: Case) -> Iterator[Finding]:
    """Published, and nothing names a row: UPDATE and DELETE fail."""
    for row in rows:
        name = row["name"]
        yield case.finding(
            name,
            f"publication {row['publication']} sends updates of {name}, which has no replica identity: UPDATE and"
            " DELETE on it fail",
            f"give {name} a primary key; until then: alter table {name} replica identity full",
        )


def lag(rows: Rows, case: Case) -> Iterator[Finding]:
    """How much WAL is written here and not replayed there. An idle primary has none."""
    for row in rows:
        if row["lag_bytes"] is None:  # pg_receivewal and its like replay nothing
            continue
        yield case.finding(
            row["name"],
            f"{row['name']} ({row['state']}, {row['sync_state']}) is {_mb(row['lag_bytes'])} behind",
            "look whether its replay is paused or held by a query, and at its disk and network",
            value=max(row["lag_bytes"], 0.0),
        )


def sync_missing(rows: Rows, case: Case) -> Iterator[Finding]:
    """Commits wait for standbys that aren't there."""
    names = case.facts.settings.get("synchronous_standby_names", "")
    if not names.strip() or case.facts.standby or case.facts.settings.get("synchronous_commit") in {"off", "local"}:
        return
    wanted = required_standbys(names)
    there = sum(row["sync_state"] in {"sync", "quorum"} for row in rows)
    if there < wanted:
        yield case.finding(
            "synchronous_standby_names",
            f"commits wait for {wanted} synchronous standbys and {there} are there ({names}): every write hangs",
            "start the standby; or, giving up the guarantee: alter system set synchronous_standby_names = '', reload",
            value=there,
        )


def required_standbys(names: str) -> int:
    """Return how many standbys a commit waits for.

    >>> [required_standbys(text) for text in ("a, b", "FIRST 2 (a, b, c)", "ANY 1 (*)", "2 (a, b)")]
    [1, 2, 1, 2]
    """
    match = re.match(r"\s*(?:(?:first|any)\s+)?(\d+)\s*\(", names, re.IGNORECASE)
    return int(match[1]) if match else 1


def subscription_down(rows: Rows, case: Case) -> Iterator[Finding]:
    """Enabled, and no worker."""
    for row in rows:
        if row["enabled"] and not row["works"]:
            yield case.finding(
                row["name"],
                f"subscription {row['name']} is enabled and has no worker: nothing is applied",
                "the server's log says why it ends: a conflict, a wrong connection, or too few workers",
            )


def archive_failing(rows: Rows, case: Case) -> Iterator[Finding]:
    """The last try failed. Old failures before a success don't count, and an idle server isn't stalled."""
    for row in rows:
        failed, succeeded = row["last_failed_time"], row["last_archived_time"]
        if row["archive_mode"] == "off" or failed is None or (succeeded is not None and succeeded >= failed):
            continue
        yield case.finding(
            row["last_failed_wal"],
            f"archiving fails: {row['last_failed_wal']} at {failed:%Y-%m-%d %H:%M:%S}, last success"
            f" {succeeded.strftime('%Y-%m-%d %H:%M:%S') if succeeded else 'never'}; WAL piles up, and backups can't be"
            " brought up to date",
            "run archive_command by hand as the server's account: its message is in the server's log",
            value=row["failed_count"],
        )


def wal_directory_size(rows: Rows, case: Case) -> Iterator[Finding]:
    """More WAL than the settings account for."""
    for row in rows:
        if row["bytes"] is None or not row["allowed"]:
            continue
        yield case.finding(
            None,
            f"the WAL directory holds {_mb(row['bytes'])}; max_wal_size and wal_keep_size allow for"
            f" {_mb(row['allowed'])}",
            "look at replication slots (replication.slot_inactive) and the archiver (archive.failing)",
            value=100.0 * row["bytes"] / row["allowed"],
        )


def _mb(size: float) -> str:
    return f"{size / 1024 / 1024:.1f} MB"


_C = Scope.CLUSTER

CHECKS = (
    Check(
        "replication.slot_inactive",
        "replication slots are in use",
        (Status.CRITICAL,),
        slot_inactive,
        "A slot keeps all WAL that its consumer has not read. Without a consumer it grows until the disk is full and"
        " the server stops. Less than one WAL segment is left out.",
        query="slots",
        scope=_C,
        unit="bytes",
        limits=Limits(SLOT_BYTES),
    ),
    Check(
        "replication.slot_lost",
        "replication slots have their WAL",
        (Status.CRITICAL,),
        slot_lost,
        "Past max_slot_wal_keep_size the server removes what a slot still needs. Its consumer must be set up anew.",
        query="slots",
        scope=_C,
    ),
    Check(
        "replication.no_replica_identity",
        "published tables have an identity",
        (Status.CRITICAL,),
        no_replica_identity,
        "UPDATE and DELETE on a published table without a primary key or replica identity fail with an error: an outage"
        " that begins with CREATE PUBLICATION.",
        query="published_tables",
    ),
    Check(
        "replication.lag",
        "standbys keep up",
        (Status.WARNING, Status.CRITICAL),
        lag,
        "WAL written here and not yet replayed there, in bytes: a paused replay shows, an idle primary doesn't.",
        query="replicas",
        scope=_C,
        unit="bytes",
        limits=Limits(LAG_WARNING_BYTES, LAG_CRITICAL_BYTES),
        needs=(Need.SESSIONS,),
    ),
    Check(
        "replication.sync_missing",
        "synchronous standbys are there",
        (Status.CRITICAL,),
        sync_missing,
        "With synchronous_standby_names set, every commit waits until enough of those standbys confirm it.",
        query="replicas",
        scope=_C,
        unit="standbys",
        needs=(Need.SESSIONS,),
    ),
    Check(
        "replication.subscription_down",
        "subscriptions have a worker",
        (Status.CRITICAL,),
        subscription_down,
        "An enabled subscription whose worker ends at once applies nothing, and its slot on the publisher keeps WAL.",
        query="subscriptions",
    ),
    Check(
        "archive.failing",
        "WAL is archived",
        (Status.CRITICAL,),
        archive_failing,
        "Failing means that the last failure is newer than the last success. Until it is cured, WAL piles up and no"
        " point in time after the last archived segment can be restored.",
        query="archiver",
        scope=_C,
        unit="failures",
    ),
    Check(
        "wal.directory_size",
        "the WAL directory has its usual size",
        (Status.WARNING,),
        wal_directory_size,
        "WAL far beyond max_wal_size is kept for somebody: a slot, a failing archiver, a checkpoint that can't end.",
        query="wal_directory",
        scope=_C,
        unit="%",
        limits=Limits(WAL_WARNING_PERCENT),
        needs=(Need.WAL_FILES,),
    ),
)

"""Replication: what would be missing if this server were lost, and what could stop it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Rows, Scope, Status

# One WAL segment: what a slot keeps back beyond it will not stop growing while nobody reads.
SLOT_BYTES = 16 * 1024 * 1024
# Bytes, because time says nothing on an idle primary and nothing of a paused replay.
LAG_WARNING_BYTES = 50 * 1024 * 1024
LAG_CRITICAL_BYTES = 1024 * 1024 * 1024


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
        name, failing = row["name"], row["wal_level"] == "logical"
        yield case.finding(
            name,
            f"publication {row['publication']} sends updates of {name}, which has no replica identity: UPDATE and"
            f" DELETE on it {'fail' if failing else 'will fail as soon as wal_level is logical'}",
            f"give {name} a primary key; until then: alter table {name} replica identity full",
            status=Status.CRITICAL if failing else Status.WARNING,
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


def standby_missing(rows: Rows, case: Case) -> Iterator[Finding]:
    """Fewer standbys stream than the settings name, or a slot that a standby used has nobody.

    What nobody declared and no slot remembers can't be missed.
    """
    if case.facts.standby:
        return
    there = sum(row["kind"] == "standby" for row in rows)
    declared = case.facts.replicas
    if there < declared:
        yield case.finding(
            None,
            f"the settings name {declared} replicas, and {there} standbys stream from here",
            "start the standby and look at its log; or take it out of the settings' replicas",
            value=declared - there,
            status=Status.WARNING if there else Status.CRITICAL,
        )
    for row in rows:
        if row["kind"] == "slot":
            yield case.finding(
                row["name"],
                f"the standby of replication slot {row['name']} is not connected",
                f"start the standby; if it is gone for good: select pg_drop_replication_slot('{row['name']}')",
                value=1,
                status=Status.WARNING,
            )


def wal_receiver_down(rows: Rows, case: Case) -> Iterator[Finding]:
    """A standby that was told where its primary is, and doesn't hear it."""
    if not case.facts.standby or not case.facts.settings.get("primary_conninfo", "").strip():
        return
    for row in rows:
        if row["status"] not in {"streaming", "waiting"}:
            yield case.finding(
                None,
                f"this standby receives nothing from its primary (its WAL receiver is {row['status'] or 'not there'});"
                f" the last transaction that it replayed was committed at {row['replayed'] or 'no known time'}",
                "look at this server's log: the primary is down, refuses, or no longer has the WAL that is needed",
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
    """Enabled, and no worker; or disabled by an error, or by somebody."""
    for row in rows:
        if not row["enabled"]:
            by_error = row["disable_on_error"]
            yield case.finding(
                row["name"],
                f"subscription {row['name']} is disabled{' (it disables itself at an error)' if by_error else ''}:"
                " nothing is applied, and its slot on the publisher keeps WAL",
                f"mend what the server's log says, then: alter subscription {row['name']} enable; or drop it",
                status=Status.CRITICAL if by_error else Status.INFO,
            )
        elif not row["works"]:
            yield case.finding(
                row["name"],
                f"subscription {row['name']} is enabled and has no worker: nothing is applied",
                "the server's log says why it ends: a conflict, a wrong connection, or too few workers",
            )


def _mb(size: float) -> str:
    return f"{size / 1024 / 1024:.1f} MB"


_C = Scope.CLUSTER
_CRITICAL = (Status.CRITICAL,)

CHECKS = (
    Check(
        "replication.slot_inactive",
        "replication slots are in use",
        _CRITICAL,
        slot_inactive,
        "A slot keeps all WAL that its consumer has not read. Without a consumer it grows until the disk is full and"
        " the server stops. Less than one WAL segment is left out.",
        remedy="Start its consumer. If that is gone for good: select pg_drop_replication_slot(…), after which the"
        " standby or subscription must be set up anew. max_slot_wal_keep_size sets an end to what any slot may keep.",
        link="https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS",
        query="slots",
        scope=_C,
        unit="bytes",
        limits=Limits(SLOT_BYTES),
    ),
    Check(
        "replication.slot_lost",
        "replication slots have their WAL",
        _CRITICAL,
        slot_lost,
        "Past max_slot_wal_keep_size the server removes what a slot still needs. Its consumer must be set up anew.",
        remedy="select pg_drop_replication_slot(…), then make the standby anew from a base backup, or the"
        " subscription with copy_data. For next time: a larger max_slot_wal_keep_size, and an alarm on"
        " replication.lag.",
        link="https://www.postgresql.org/docs/current/view-pg-replication-slots.html",
        query="slots",
        scope=_C,
    ),
    Check(
        "replication.no_replica_identity",
        "published tables have an identity",
        _CRITICAL,
        no_replica_identity,
        "UPDATE and DELETE on a published table without a primary key or replica identity fail with an error: an outage"
        " that begins with CREATE PUBLICATION.",
        remedy="ALTER TABLE … ADD PRIMARY KEY, or ALTER TABLE … REPLICA IDENTITY USING INDEX a unique one on columns"
        " that are NOT NULL; until then REPLICA IDENTITY FULL, which writes whole rows to the WAL. Each takes ACCESS"
        " EXCLUSIVE for a moment.",
        link="https://www.postgresql.org/docs/current/logical-replication-publication.html#LOGICAL-REPLICATION-PUBLICATION-REPLICA-IDENTITY",
        query="published_tables",
    ),
    Check(
        "replication.lag",
        "standbys keep up",
        (Status.WARNING, Status.CRITICAL),
        lag,
        "WAL written here and not yet replayed there, in bytes: a paused replay shows, an idle primary doesn't.",
        remedy="On the standby: select pg_get_wal_replay_pause_state(), then pg_wal_replay_resume(); a long query"
        " there may hold replay for max_standby_streaming_delay. Else look at its disk and network, and at bulk work"
        " on the primary.",
        link="https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-REPLICATION-VIEW",
        query="replicas",
        scope=_C,
        unit="bytes",
        limits=Limits(LAG_WARNING_BYTES, LAG_CRITICAL_BYTES),
        needs=(Need.SESSIONS,),
    ),
    Check(
        "replication.standby_missing",
        "standbys are connected",
        (Status.WARNING, Status.CRITICAL),
        standby_missing,
        "A standby that went away is missed on the day it is needed. Judged by what was declared: the replicas in the"
        " settings, and physical slots that a standby used. Where neither is, nothing is expected. It is critical when"
        " no declared standby is left.",
        remedy="Look at the standby's log. If the primary no longer has the WAL it needs, make it anew from a base"
        " backup. If it was taken away on purpose, take it out of the settings and drop its slot: select"
        " pg_drop_replication_slot(…).",
        link="https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION",
        query="standbys",
        scope=_C,
        unit="standbys",
        needs=(Need.SESSIONS,),
    ),
    Check(
        "replication.wal_receiver_down",
        "this standby hears its primary",
        _CRITICAL,
        wal_receiver_down,
        "Asked of a standby: with primary_conninfo set and no WAL receiver it falls behind, minute by minute, and"
        " answers reads as if nothing were wrong.",
        remedy="Read the standby's log. Primary down or address wrong: mend primary_conninfo and reload. \"Requested"
        ' WAL segment has already been removed": restore it from the archive (restore_command), or make the standby'
        " anew from a base backup.",
        link="https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-WAL-RECEIVER-VIEW",
        query="wal_receiver",
        scope=_C,
        needs=(Need.SESSIONS,),
    ),
    Check(
        "replication.sync_missing",
        "synchronous standbys are there",
        _CRITICAL,
        sync_missing,
        "With synchronous_standby_names set, every commit waits until enough of those standbys confirm it.",
        remedy="Start the standby. To go on without it, giving up the guarantee: alter system set"
        " synchronous_standby_names = ''; select pg_reload_conf(). What waits then commits at once. Who was"
        " cancelled meanwhile has committed here and perhaps nowhere else.",
        link="https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES",
        query="replicas",
        scope=_C,
        unit="standbys",
        needs=(Need.SESSIONS,),
    ),
    Check(
        "replication.subscription_down",
        "subscriptions have a worker",
        _CRITICAL,
        subscription_down,
        "An enabled subscription whose worker ends at once applies nothing, and its slot on the publisher keeps WAL."
        " So does one that is disabled: critical where an error did that, else an info.",
        remedy="The server's log says why its worker ends. A conflict: change the row on this side, or ALTER"
        " SUBSCRIPTION … SKIP (lsn = …) (15+). A wrong connection: ALTER SUBSCRIPTION … CONNECTION '…'. Too few"
        " workers: max_logical_replication_workers.",
        link="https://www.postgresql.org/docs/current/logical-replication-conflicts.html",
        query="subscriptions",
    ),
)

"""Rates, not totals: what was added to the server's counters since the look before.

On a first look there is nothing to compare with. What the totals since the statistics began prove by themselves is
then said as info, and never as an alarm: it may have been last year.
"""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Rates, Row, Rows, Scope, Status
from chanuka_ops.health.sampling.rules import added

# One is a program's mistake: two transactions take the same locks in different orders.
DEADLOCKS = 1.0
# Some programs roll back by habit after reading; a tenth of all is more than habit.
ROLLBACK_PERCENT = 10.0
ROLLBACK_FLOOR = 50
# Requested for want of WAL space more often than by time: max_wal_size is too small for what is written.
REQUESTED_PERCENT = 50.0
REQUESTED_FLOOR = 3
# A sort that doesn't fit now and then is nothing; a hundred megabytes an hour is one of every few queries.
TEMP_MB_PER_HOUR = 100.0
TEMP_FLOOR_MB = 1.0
_MB = 1024.0 * 1024.0
# Below ten thousand rows a scan costs less than what one would do about it.
SCAN_ROWS = 10_000
SCANS_FLOOR = 20
SCANS_PER_HOUR = 20.0
# Where nine of ten updates touch every index, an index or the fill factor is at fault, not chance.
LOW_HOT_PERCENT = 10.0
LOW_HOT_FLOOR_UPDATES = 10_000
LOW_HOT_FLOOR_UPDATES_ADDED = 1_000
HOUR_S = 3600.0


def span(row: Row, case: Case) -> str:
    """Say over which time a row's numbers were counted."""
    if row["was"] is not None and case.elapsed_s is not None:
        return f"in the last {lasting(case.elapsed_s)}"
    return f"since its statistics began{' (' + row['since'] + ')' if row.get('since') else ''}"


def lasting(seconds: float) -> str:
    """Write a time as a person would.

    >>> lasting(90.0), lasting(7200.0)
    ('90 seconds', '120 minutes')
    """
    return f"{seconds:.0f} seconds" if seconds < 2 * 60 else f"{seconds / 60:.0f} minutes"


def per_hour(row: Row, case: Case, amount: float) -> float:
    """Return an amount as a rate; over an unknown time, the amount itself."""
    return amount if row["was"] is None or case.elapsed_s is None else amount * HOUR_S / max(case.elapsed_s, 1.0)


def at_first(row: Row) -> Status | None:
    """Return the status of what totals alone prove; None where the value is judged as a rate."""
    return Status.INFO if row["was"] is None else None


def deadlocks(rows: Rows, case: Case) -> Iterator[Finding]:
    """Deadlocks since the last look."""
    for row in rows:
        count = added(row, "deadlocks")
        if count or row["was"] is not None:
            yield case.finding(
                None,
                f"{count:.0f} deadlocks {span(row, case)}",
                "the server's log names both statements of each: let every transaction take its locks in one order",
                value=count,
                status=at_first(row) if count else Status.OK,
            )


def rollback_ratio(rows: Rows, case: Case) -> Iterator[Finding]:
    """What share of the transactions was rolled back."""
    for row in rows:
        rolled, done = added(row, "rollbacks"), added(row, "commits")
        if rolled < ROLLBACK_FLOOR:
            continue
        yield case.finding(
            None,
            f"{rolled:.0f} of {rolled + done:.0f} transactions were rolled back {span(row, case)}",
            "look in the server's log for what fails (ERROR); an application that reads may commit as well",
            value=100.0 * rolled / (rolled + done),
        )


def checkpoints_requested(rows: Rows, case: Case) -> Iterator[Finding]:
    """Checkpoints for want of WAL space. What was asked for by hand or by a backup writes no WAL, so it isn't counted.

    The server begins one when max_wal_size / (1 + checkpoint_completion_target) is written since the last.
    """
    for row in rows:
        apart = row["max_wal_bytes"] / (1.0 + row["completion_target"])
        forced = min(added(row, "requested"), added(row, "wal_bytes") // max(apart, 1.0))
        total = forced + added(row, "timed")
        if forced < REQUESTED_FLOOR:
            continue
        judged = case.finding(
            "max_wal_size",
            f"{forced:.0f} of {total:.0f} checkpoints were begun because max_wal_size was used up {span(row, case)}",
            f"alter system set max_wal_size = '{4 * row['max_wal_bytes'] / _MB:.0f}MB'; select pg_reload_conf()",
            value=100.0 * forced / total,
        )
        yield judged if row["was"] is not None or judged.status is Status.OK else informed(judged)


def informed(found: Finding) -> Finding:
    """Return a finding as info."""
    return Finding(found.check, Status.INFO, found.object, found.value, found.unit, found.threshold, found.summary,
                   found.remedy)  # fmt: skip


def temp_files(rows: Rows, case: Case) -> Iterator[Finding]:
    """Sorts and hashes that didn't fit into memory."""
    for row in rows:
        megabytes = added(row, "temp_bytes") / _MB
        small = megabytes < TEMP_FLOOR_MB
        if small and row["was"] is None:
            continue
        yield case.finding(
            None,
            f"{added(row, 'temp_files'):.0f} temporary files of {megabytes:.1f} MB were written {span(row, case)}",
            "set log_temp_files = '10MB' to see which statements; give those sessions more work_mem, or an index",
            value=per_hour(row, case, megabytes),
            status=Status.OK if small else at_first(row),
        )


def seq_scan_heavy(rows: Rows, case: Case) -> Iterator[Finding]:
    """Large tables that are read whole again and again."""
    for row in rows:
        scans, read = added(row, "seq_scans"), added(row, "seq_rows")
        if scans < SCANS_FLOOR or read / scans < SCAN_ROWS:
            continue
        yield case.finding(
            row["name"],
            f"{row['name']} was read whole {scans:.0f} times {span(row, case)}, {read / scans:.0f} rows each time",
            f"find the statements (pg_stat_statements, auto_explain) that read {row['name']}, and the condition that"
            " an index would serve",
            value=per_hour(row, case, scans),
            status=at_first(row),
        )


def low_hot(rows: Rows, case: Case) -> Iterator[Finding]:
    """Updates that have to touch every index."""
    for row in rows:
        updated = added(row, "updated")
        if updated < (LOW_HOT_FLOOR_UPDATES if row["was"] is None else LOW_HOT_FLOOR_UPDATES_ADDED):
            continue
        percent = 100.0 * added(row, "hot_updated") / updated
        limit = case.limits_for(row["name"]).first
        if percent < (LOW_HOT_PERCENT if limit is None else limit):
            yield case.finding(
                row["name"],
                f"only {percent:.1f} % of {updated:.0f} updates of {row['name']} spared its indexes {span(row, case)}",
                f"look for an index on a column that often changes; or alter table {row['name']} set (fillfactor = 90)",
                value=percent,
                status=Status.INFO,
            )


_OF_DATABASE = Rates(("deadlocks", "commits", "rollbacks", "temp_files", "temp_bytes"))

CHECKS = (
    Check(
        "lock.deadlocks",
        "no transaction was ended by a deadlock",
        (Status.WARNING,),
        deadlocks,
        "The server ends one of the transactions that wait for each other, and its work is lost. Counted since the look"
        " before; the total since the statistics began is no alarm, since it never goes down again.",
        remedy="The server's log has both statements of each deadlock. Let all transactions take their locks in one"
        " order (update rows by ascending key), keep them short, and repeat a transaction that was ended (40P01).",
        link="https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-DEADLOCKS",
        query="database_counters",
        scope=Scope.SESSION,
        unit="deadlocks",
        limits=Limits(DEADLOCKS),
        rates=_OF_DATABASE,
    ),
    Check(
        "txn.rollback_ratio",
        "transactions are committed",
        (Status.INFO,),
        rollback_ratio,
        "Rolled back work is done for nothing, and errors that an application swallows show here. Some programs end"
        " each read with a rollback: then it's a habit and no error.",
        remedy="Look for ERROR in the server's log, by database and application. Nothing needs to be done where it's"
        " the driver's habit: raise the limit for that database.",
        link="https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-DATABASE-VIEW",
        query="database_counters",
        scope=Scope.SESSION,
        unit="%",
        limits=Limits(ROLLBACK_PERCENT),
        rates=_OF_DATABASE,
    ),
    Check(
        "query.temp_files",
        "sorts and hashes fit into memory",
        (Status.INFO,),
        temp_files,
        "What doesn't fit into work_mem is written to the disk and read again.",
        remedy="log_temp_files = '10MB' names the statements. set work_mem for the role or the session that needs it"
        " (alter role … set work_mem): each sort of each session may take that much, so raise it nowhere else.",
        link="https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-WORK-MEM",
        query="database_counters",
        scope=Scope.SESSION,
        unit="MB an hour",
        limits=Limits(TEMP_MB_PER_HOUR),
        rates=_OF_DATABASE,
    ),
    Check(
        "wal.checkpoints_requested",
        "checkpoints come by time",
        (Status.WARNING,),
        checkpoints_requested,
        "A checkpoint that comes because max_wal_size is used up comes too often: pages are written more often, and"
        " each is written whole into the WAL again. Those by hand or of a backup are left out, as far as the amount of"
        " WAL tells.",
        remedy="alter system set max_wal_size = '…'; select pg_reload_conf(). It's disk space for speed: recovery after"
        " a crash takes longer by as much.",
        link="https://www.postgresql.org/docs/current/wal-configuration.html",
        query="checkpoints",
        scope=Scope.CLUSTER,
        unit="%",
        limits=Limits(REQUESTED_PERCENT),
        rates=Rates(("timed", "requested", "wal_bytes")),
    ),
    Check(
        "query.seq_scan_heavy",
        "large tables are read by index",
        (Status.INFO,),
        seq_scan_heavy,
        "A table of many rows that is read from end to end many times an hour mostly lacks an index. Where a report"
        " needs all rows, that is what it takes; so it's advice. Scans of few rows (a LIMIT, a small table) don't"
        " count.",
        remedy="Find the statements in pg_stat_statements and look at them with EXPLAIN (ANALYZE, BUFFERS); then create"
        " index concurrently on what they filter by: SHARE UPDATE EXCLUSIVE, so writes go on.",
        link="https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ALL-TABLES-VIEW",
        query="table_counters",
        unit="scans an hour",
        limits=Limits(SCANS_PER_HOUR),
        rates=Rates(("seq_scans", "seq_rows", "updated", "hot_updated")),
    ),
    Check(
        "table.low_hot",
        "updates spare the indexes",
        (Status.INFO,),
        low_hot,
        "An update that changes no indexed column and finds room on its page touches no index (HOT). Where hardly any"
        " does, an index on a busy column or full pages cost on every write.",
        remedy="Look for an index on a column that often changes (a last_seen_at, a status) and ask whether a query"
        " needs it. Else leave room: alter table … set (fillfactor = 90) counts for new pages.",
        link="https://www.postgresql.org/docs/current/storage-hot.html",
        query="table_counters",
        unit="%",
        limits=Limits(LOW_HOT_PERCENT),
        rates=Rates(("seq_scans", "seq_rows", "updated", "hot_updated")),
    ),
)

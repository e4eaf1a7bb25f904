"""Sessions and locks: who waits, who makes others wait, how many fit."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Scope, Status

# The tools' defaults lie between 70 and 90 %; ten per cent is what a deploy or a reconnect storm takes at once.
SATURATION_WARNING_PERCENT = 80.0
SATURATION_CRITICAL_PERCENT = 90.0
# Five minutes is the middle of the field (30 s to 30 min), and longer than any transaction a person waits for.
IDLE_IN_TRANSACTION_S = 300.0
LONG_QUERY_S = 300.0
# Half of deadlock_timeout's default: waits below it are ordinary traffic, above it somebody notices.
BLOCKED_S = 0.5
# The lock table can't grow, and every session fails when it is full; it fills within seconds when it fills.
LOCK_TABLE_WARNING_PERCENT = 20.0
LOCK_TABLE_CRITICAL_PERCENT = 80.0

_IN_TRANSACTION = ("idle in transaction", "idle in transaction (aborted)")
# Dumps hold one transaction for hours by design, and a parallel one's leader is idle in it.
_DUMPS = ("pg_dump", "pg_dumpall", "pg_basebackup", "pg_restore")
_OWN_BACKUP = "chanuka/backup"
# Locks that DDL asks for and behind which readers or writers queue.
_DDL_MODES = frozenset({"AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock"})


def connection_saturation(rows: Rows, case: Case) -> Iterator[Finding]:
    """Share of the usable slots, of the server and of every role and database that has a limit of its own."""
    for row in rows:
        if row["allowed"] <= 0:
            continue
        share = 100.0 * row["used"] / row["allowed"]
        what = "the server" if row["kind"] == "server" else f"{row['kind']} {row['name']}"
        object_ = None if row["kind"] == "server" else what
        yield case.finding(
            object_,
            f"{row['used']} of {row['allowed']} connections of {what} are in use, {row['idle']} of them idle",
            "close idle sessions, put a pooler in front, or raise the limit",
            value=share,
        )


def _a_dump(row: Row) -> bool:
    application = row["application"] or ""
    return application in _DUMPS or application.startswith(_OWN_BACKUP)


def idle_in_transaction(rows: Rows, case: Case) -> Iterator[Finding]:
    """Judged by how long it has been idle, not by how long its transaction is."""
    for row in rows:
        if row["state"] not in _IN_TRANSACTION or _a_dump(row) or row["state_s"] is None:
            continue
        holds = [
            word for word, there in (("a transaction id", row["holds_xid"]), ("a snapshot", row["holds_xmin"])) if there
        ]
        yield case.finding(
            f"pid {row['pid']}",
            f"session {_who(row)} is {row['state']} for {row['state_s']:.0f} s"
            + (f" and holds {' and '.join(holds)}" if holds else "")
            + f"; last: {row['query']}",
            f"select pg_terminate_backend({row['pid']}); then have the application commit, or set"
            " idle_in_transaction_session_timeout",
            value=row["state_s"],
        )


def long_query(rows: Rows, case: Case) -> Iterator[Finding]:
    """A statement that runs and runs."""
    for row in rows:
        if row["state"] not in {"active", "fastpath function call"} or _a_dump(row) or row["query_s"] is None:
            continue
        yield case.finding(
            f"pid {row['pid']}",
            f"session {_who(row)} runs one statement for {row['query_s']:.0f} s: {row['query']}",
            f"if nobody waits for it: select pg_cancel_backend({row['pid']})",
            value=row["query_s"],
        )


def _who(row: Row) -> str:
    return f"{row['pid']} (user {row['user'] or '-'}, application {row['application'] or '-'})"


def _victims(by_pid: dict[int, Row], blocker: int) -> set[int]:
    """Return all who wait for a session, directly or behind another that does."""
    found: set[int] = set()
    todo = {blocker}
    while todo:
        todo = {pid for pid, row in by_pid.items() if todo & set(row["blockers"])} - found
        found |= todo
    return found - {blocker}


def _roots(by_pid: dict[int, Row]) -> Iterator[int]:
    """Yield those who block and aren't blocked; of a ring that nobody stands outside of, its lowest pid."""
    blockers = {pid for row in by_pid.values() for pid in row["blockers"]}
    roots = sorted(pid for pid in blockers if pid not in by_pid or not by_pid[pid]["blockers"])
    yield from roots
    covered = set(roots).union(*(_victims(by_pid, root) for root in roots))
    while ring := blockers - covered:
        first = min(ring)
        yield first
        covered |= {first} | _victims(by_pid, first)


def blocked(rows: Rows, case: Case) -> Iterator[Finding]:
    """One finding for each root, with all who wait behind it."""
    by_pid = {row["pid"]: row for row in rows}
    for root in _roots(by_pid):
        waiting = _victims(by_pid, root)
        waits = [by_pid[pid]["waits_s"] or 0.0 for pid in waiting]
        row = by_pid.get(root)
        if root == 0 or row is None:
            who, remedy = "a prepared transaction", "select * from pg_prepared_xacts; then commit or roll back prepared"
        else:
            who = f"session {_who(row)}, {row['state']}, last: {row['query']}"
            remedy = f"end it in its application, or: select pg_terminate_backend({root})"
        yield case.finding(
            f"pid {root}",
            f"{len(waiting)} sessions wait, {max(waits, default=0.0):.1f} s the longest, for {who}"
            f" (waiting: {', '.join(str(pid) for pid in sorted(waiting))})",
            remedy,
            value=max(waits, default=0.0),
        )


def ddl_queue(rows: Rows, case: Case) -> Iterator[Finding]:
    """A strong lock that waits stops everybody who comes after it, though it holds nothing yet."""
    by_pid = {row["pid"]: row for row in rows}
    for pid, row in sorted(by_pid.items()):
        if not row["blockers"] or row["locktype"] != "relation" or row["mode"] not in _DDL_MODES:
            continue
        behind = [other for other in by_pid.values() if pid in other["blockers"]]
        if not behind:
            continue
        holders = ", ".join(str(blocker) for blocker in row["blockers"])
        yield case.finding(
            row["relation"],
            f"{len(behind)} sessions queue behind {_who(row)}, which waits {row['waits_s']:.1f} s for {row['mode']} on"
            f" {row['relation'] or 'a table'} held by {holders}: {row['query']}",
            f"select pg_cancel_backend({pid}); run it again with a lock_timeout, after {holders} has ended",
            value=row["waits_s"],
        )


def lock_table_use(rows: Rows, case: Case) -> Iterator[Finding]:
    """Share of the shared lock table."""
    for row in rows:
        yield case.finding(
            None,
            f"{row['used']} of about {row['allowed']} places of the lock table are taken",
            "find who holds many (select pid, count(*) from pg_locks group by 1), or raise max_locks_per_transaction",
            value=100.0 * row["used"] / max(row["allowed"], 1),
        )


_SEES = (Need.SESSIONS,)

CHECKS = (
    Check(
        "connections.saturation",
        "connection slots are free",
        (Status.WARNING, Status.CRITICAL),
        connection_saturation,
        "When the last slot is taken, new sessions are refused. Counted against what ordinary roles may use (without"
        " the reserved slots), and against the limits of single roles and databases.",
        query="connections",
        scope=Scope.CLUSTER,
        unit="%",
        limits=Limits(SATURATION_WARNING_PERCENT, SATURATION_CRITICAL_PERCENT),
        needs=_SEES,
    ),
    Check(
        "session.idle_in_transaction",
        "no session idles in a transaction",
        (Status.WARNING,),
        idle_in_transaction,
        "Such a session keeps its locks and holds back vacuum, while nobody works. An aborted transaction counts too."
        " Dumps and replication are left out.",
        query="sessions",
        scope=Scope.SESSION,
        unit="s",
        limits=Limits(IDLE_IN_TRANSACTION_S),
        needs=_SEES,
    ),
    Check(
        "session.long_query",
        "statements end",
        (Status.WARNING,),
        long_query,
        "A statement that runs for minutes holds its snapshot and its locks all the while. Replication, autovacuum and"
        " dumps are left out; raise the limit where reports take longer.",
        query="sessions",
        scope=Scope.SESSION,
        unit="s",
        limits=Limits(LONG_QUERY_S),
        needs=_SEES,
    ),
    Check(
        "lock.blocked",
        "no session is blocked",
        (Status.WARNING,),
        blocked,
        "Who waits for whom, by pg_blocking_pids(). The finding names the root: ending anyone else helps nobody.",
        query="lock_waits",
        scope=Scope.SESSION,
        unit="s",
        limits=Limits(BLOCKED_S),
        needs=_SEES,
    ),
    Check(
        "lock.ddl_queue",
        "nobody queues behind waiting DDL",
        (Status.CRITICAL,),
        ddl_queue,
        "ALTER TABLE waits for one long reader, and every new query on the table waits for the ALTER TABLE: an outage."
        " Cancel the DDL first; it holds nothing yet.",
        query="lock_waits",
        scope=Scope.SESSION,
        unit="s",
        limits=Limits(BLOCKED_S),
        needs=_SEES,
    ),
    Check(
        "lock.table_use",
        "the lock table has room",
        (Status.WARNING, Status.CRITICAL),
        lock_table_use,
        "The table has max_locks_per_transaction * (max_connections + max_prepared_transactions) places for the whole"
        " server and can't grow without a restart. When it is full, statements of any session fail.",
        query="lock_table",
        scope=Scope.CLUSTER,
        unit="%",
        limits=Limits(LOCK_TABLE_WARNING_PERCENT, LOCK_TABLE_CRITICAL_PERCENT),
    ),
)

"""Locks: who waits, who makes others wait, how much of the lock table is taken."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Scope, Status
from chanuka_ops.health.rules.sessions import who

# Half of deadlock_timeout's default: waits below it are ordinary traffic, above it somebody notices.
BLOCKED_S = 0.5
# The lock table can't grow, and every session fails when it is full; it fills within seconds when it fills.
LOCK_TABLE_WARNING_PERCENT = 20.0
LOCK_TABLE_CRITICAL_PERCENT = 80.0
# Leaders and workers poll within minutes; who has done nothing for an hour isn't at work.
ADVISORY_IDLE_S = 3600.0

# Locks that DDL asks for and behind which readers or writers queue.
_DDL_MODES = frozenset({"AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock"})


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
            holder, remedy = (
                "a prepared transaction",
                "select * from pg_prepared_xacts; then commit or roll back prepared",
            )
        else:
            holder = f"session {who(row)}, {row['state']}, last: {row['query']}"
            remedy = f"end it in its application, or: select pg_terminate_backend({root})"
        yield case.finding(
            f"pid {root}",
            f"{len(waiting)} sessions wait, {max(waits, default=0.0):.1f} s the longest, for {holder}"
            f" (waiting: {', '.join(str(pid) for pid in sorted(waiting))})",
            remedy,
            value=max(waits, default=0.0),
        )


def ddl_queue(rows: Rows, case: Case) -> Iterator[Finding]:
    """A strong lock stops everybody who comes after it: one that waits as well as one that is held."""
    by_pid = {row["pid"]: row for row in rows}
    for pid, row in sorted(by_pid.items()):
        behind = [other for other in by_pid.values() if pid in other["blockers"] and other["locktype"] == "relation"]
        if not behind:
            continue
        if row["blockers"] and row["locktype"] == "relation" and row["mode"] in _DDL_MODES:
            yield _behind_waiting_ddl(case, row, behind)
            continue
        held = set(row["locked_out"] or ()) & {other["relation"] for other in behind}
        shut_out = [other for other in behind if other["relation"] in held]
        if shut_out:
            yield _behind_held_lock(case, row, min(held), shut_out)


def _behind_waiting_ddl(case: Case, row: Row, behind: list[Row]) -> Finding:
    holders = ", ".join(str(blocker) for blocker in row["blockers"])
    return case.finding(
        row["relation"],
        f"{len(behind)} sessions queue behind {who(row)}, which waits {row['waits_s']:.1f} s for {row['mode']} on"
        f" {row['relation'] or 'a table'} held by {holders}: {row['query']}",
        f"select pg_cancel_backend({row['pid']}); run it again with a lock_timeout, after {holders} has ended",
        value=row["waits_s"],
    )


def _behind_held_lock(case: Case, row: Row, relation: str, shut_out: list[Row]) -> Finding:
    longest = max(other["waits_s"] for other in shut_out)
    return case.finding(
        relation,
        f"{len(shut_out)} sessions wait, {longest:.1f} s the longest, for {who(row)}, {row['state']}, which holds"
        f" AccessExclusiveLock on {relation}: nobody can even read it; last: {row['query']}",
        f"commit or roll back there, or: select pg_terminate_backend({row['pid']})",
        value=longest,
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


def advisory_held_long(rows: Rows, case: Case) -> Iterator[Finding]:
    """Held by a session that does nothing."""
    for row in rows:
        yield case.finding(
            f"pid {row['pid']}",
            f"session {who(row)} holds {row['locks']} advisory locks (key {row['key']} for one) and has been idle for"
            f" {row['state_s']:.0f} s",
            f"if its work is over: select pg_terminate_backend({row['pid']})",
            value=row["state_s"],
        )


_SEES = (Need.SESSIONS,)

CHECKS = (
    Check(
        "lock.blocked",
        "no session is blocked",
        (Status.WARNING,),
        blocked,
        "Who waits for whom, by pg_blocking_pids(). The finding names the root: ending anyone else helps nobody.",
        remedy="Look at the root first: if it is idle in its transaction, pg_terminate_backend(pid) frees everybody"
        " behind it; if it works, let it end or pg_cancel_backend(pid). A prepared transaction is ended by COMMIT"
        " PREPARED or ROLLBACK PREPARED. Ending those who wait helps nobody.",
        link="https://www.postgresql.org/docs/current/functions-info.html",
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
        "ALTER TABLE waits for one long reader, and every new query on the table waits for the ALTER TABLE: an outage,"
        " though it holds nothing yet. The same where it has its lock and its transaction is left open.",
        remedy="select pg_cancel_backend(pid) of the DDL that waits, or pg_terminate_backend(pid) of the session that"
        " holds the lock and idles. Then run the change again with set lock_timeout = '2s' and a few retries, so that"
        " it gives up before others queue behind it.",
        link="https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES",
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
        remedy="Find who holds many: select pid, count(*) from pg_locks group by 1 order by 2 desc. Dumps and DDL over"
        " thousands of partitions take one place for each; split them, or raise max_locks_per_transaction, which needs"
        " a restart (on standbys first).",
        link="https://www.postgresql.org/docs/current/runtime-config-locks.html#GUC-MAX-LOCKS-PER-TRANSACTION",
        query="lock_table",
        scope=Scope.CLUSTER,
        unit="%",
        limits=Limits(LOCK_TABLE_WARNING_PERCENT, LOCK_TABLE_CRITICAL_PERCENT),
    ),
    Check(
        "lock.advisory_held_long",
        "advisory locks are given back",
        (Status.INFO,),
        advisory_held_long,
        "A session that idles for hours with an advisory lock at session level is a job that forgot to unlock, or a"
        " pooled connection that was handed on with the lock still held: the next job waits or gives up. Locks that a"
        " session at work holds are left out, and so are leader elections that say so by a higher limit.",
        remedy="In that session select pg_advisory_unlock_all(), or from outside: select pg_terminate_backend(pid)."
        " Behind a pooler in transaction mode use pg_advisory_xact_lock(), which ends with the transaction.",
        link="https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS",
        query="advisory_locks",
        scope=Scope.SESSION,
        unit="s",
        limits=Limits(ADVISORY_IDLE_S),
        needs=_SEES,
    ),
)

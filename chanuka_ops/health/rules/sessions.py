"""Sessions: how many fit, who idles in a transaction, who runs and runs."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Scope, Status

# The tools' defaults lie between 70 and 90 %; ten per cent is what a deploy or a reconnect storm takes at once.
SATURATION_WARNING_PERCENT = 80.0
SATURATION_CRITICAL_PERCENT = 90.0
# Five minutes is the middle of the field (30 s to 30 min), and longer than any transaction a person waits for.
IDLE_IN_TRANSACTION_S = 300.0
LONG_QUERY_S = 300.0
# Most of an hour: longer than a report, shorter than what an application's transaction ever needs.
LONG_TRANSACTION_S = 3600.0

_IN_TRANSACTION = ("idle in transaction", "idle in transaction (aborted)")
# Dumps hold one transaction for hours by design, and a parallel one's leader is idle in it.
_DUMPS = ("pg_dump", "pg_dumpall", "pg_basebackup", "pg_restore")
_OWN_BACKUP = "chanuka/backup"


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


def idle_share(rows: Rows, case: Case) -> Iterator[Finding]:
    """A chart: every pool keeps idle sessions by design."""
    for row in rows:
        if row["kind"] == "server" and row["used"]:
            percent = 100.0 * row["idle"] / row["used"]
            yield case.finding(None, f"{percent:.0f} % of the sessions are idle", "", value=percent, status=Status.OK)


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
            f"session {who(row)} is {row['state']} for {row['state_s']:.0f} s"
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
            f"session {who(row)} runs one statement for {row['query_s']:.0f} s: {row['query']}",
            f"if nobody waits for it: select pg_cancel_backend({row['pid']})",
            value=row["query_s"],
        )


def who(row: Row) -> str:
    """Name a session as a person would look for it."""
    return f"{row['pid']} (user {row['user'] or '-'}, application {row['application'] or '-'})"


def long_transaction(rows: Rows, case: Case) -> Iterator[Finding]:
    """A transaction that goes on and on, though it neither idles nor runs one long statement."""
    for row in rows:
        if row["xact_s"] is None or _a_dump(row) or not (row["holds_xid"] or row["holds_xmin"]):
            continue
        yield case.finding(
            f"pid {row['pid']}",
            f"session {who(row)} is in one transaction for {row['xact_s']:.0f} s, {row['state']}; last: {row['query']}",
            f"have the application commit in smaller pieces; to end it now: select pg_terminate_backend({row['pid']})",
            value=row["xact_s"],
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
        remedy="See who holds them: select usename, application_name, state, count(*) from pg_stat_activity group by"
        " 1, 2, 3. Close idle ones with pg_terminate_backend(pid), put a pooler in front, and only then raise"
        " max_connections, which needs a restart. A role's or database's own limit is raised at once: alter role …"
        " connection limit 50.",
        link="https://www.postgresql.org/docs/current/runtime-config-connection.html",
        query="connections",
        scope=Scope.CLUSTER,
        unit="%",
        limits=Limits(SATURATION_WARNING_PERCENT, SATURATION_CRITICAL_PERCENT),
        needs=_SEES,
    ),
    Check(
        "connections.idle_share",
        "share of the sessions that are idle",
        (Status.OK,),
        idle_share,
        "A chart beside connections.saturation: where slots run out and most sessions are idle, a pooler helps, and"
        " more slots don't. Never an alarm, because an application's pool keeps sessions idle by design.",
        remedy="Nothing by itself. Behind many application servers: one pooler in transaction mode for all, instead of"
        " a pool in each.",
        link="https://www.postgresql.org/docs/current/runtime-config-connection.html",
        query="connections",
        scope=Scope.CLUSTER,
        unit="%",
        needs=_SEES,
    ),
    Check(
        "session.idle_in_transaction",
        "no session idles in a transaction",
        (Status.WARNING,),
        idle_in_transaction,
        "Such a session keeps its locks and holds back vacuum, while nobody works. An aborted transaction counts too."
        " Dumps and replication are left out.",
        remedy="select pg_terminate_backend(pid) ends it now and rolls its work back. Then mend the application: commit"
        " before it waits for a person or another service. As a net: alter role … set"
        " idle_in_transaction_session_timeout = '5min'.",
        link="https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-IN-TRANSACTION-SESSION-TIMEOUT",
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
        remedy="If nobody waits for the answer: select pg_cancel_backend(pid) ends the statement and keeps the session."
        " Look at its plan with EXPLAIN; give reports a role of their own with a statement_timeout, or a standby.",
        link="https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-STATEMENT-TIMEOUT",
        query="sessions",
        scope=Scope.SESSION,
        unit="s",
        limits=Limits(LONG_QUERY_S),
        needs=_SEES,
    ),
    Check(
        "txn.long_running",
        "transactions end",
        (Status.WARNING,),
        long_transaction,
        "One transaction of an hour keeps every row that others removed since, and every lock it took, even where each"
        " of its statements is short and it never idles: a batch job without commits, for one. Dumps are left out.",
        remedy="Commit every few thousand rows. To end it now: select pg_terminate_backend(pid), which rolls back all"
        " it did. From 17 on transaction_timeout sets an end: alter role … set transaction_timeout = '1h'.",
        link="https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-BASICS",
        query="sessions",
        scope=Scope.SESSION,
        unit="s",
        limits=Limits(LONG_TRANSACTION_S),
        needs=_SEES,
    ),
)

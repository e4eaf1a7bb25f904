"""Transaction ids: how far from the end, and who holds back the horizon."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Scope, Status

# The server takes no more writes three million ids before the end (SetTransactionIdLimit in varsup.c).
STOP_AT = 2**31 - 1 - 3_000_000
# Of the room between the point where autovacuum must freeze and the point where the server stops. A tenth: autovacuum
# doesn't keep up. Half: days are left on a busy server. Relative: a server with a high freeze age raises no alarm.
ROOM_WARNING_PERCENT = 10.0
ROOM_CRITICAL_PERCENT = 50.0
# Of the table's own freeze age. Past it autovacuum must have come; at twice the age it can't.
FREEZE_WARNING_PERCENT = 100.0
FREEZE_CRITICAL_PERCENT = 200.0
# One twentieth and a half of the default freeze age: hours of a busy server, in which no dead row was removed.
HORIZON_WARNING_XIDS = 10_000_000
HORIZON_CRITICAL_XIDS = 100_000_000
# Two-phase commit takes milliseconds; a transaction that stands for half a minute has lost its coordinator. Where
# nobody of its owner's is connected any more, it is lost at once.
PREPARED_S = 30.0
ABANDONED_S = 1.0


def _room(age: float, freeze_at: float) -> float:
    return 100.0 * (age - freeze_at) / max(STOP_AT - freeze_at, 1.0)


def _ages(rows: Rows, case: Case, column: str, setting: str, what: str) -> Iterator[Finding]:
    freeze_at = case.facts.number(setting, 200_000_000)
    for row in rows:
        age = row[column]
        yield case.finding(
            f"database {row['name']}",
            f"the oldest {what} of database {row['name']} is {age} old; autovacuum freezes from {freeze_at:.0f}, the"
            f" server stops at {STOP_AT}",
            "vacuum (freeze) its oldest tables (vacuum.freeze_age names them), and end what holds back the horizon",
            value=max(_room(age, freeze_at), 0.0),
        )


def wraparound(rows: Rows, case: Case) -> Iterator[Finding]:
    """Transaction ids, per database."""
    yield from _ages(rows, case, "xid_age", "autovacuum_freeze_max_age", "transaction id")


def multixact(rows: Rows, case: Case) -> Iterator[Finding]:
    """Multixact ids, per database."""
    yield from _ages(rows, case, "mxid_age", "autovacuum_multixact_freeze_max_age", "multixact id")


def freeze_age(rows: Rows, case: Case) -> Iterator[Finding]:
    """A table, or its TOAST table, past the age at which it was to be frozen."""
    xid_limit = case.facts.number("autovacuum_freeze_max_age", 200_000_000)
    mxid_limit = case.facts.number("autovacuum_multixact_freeze_max_age", 400_000_000)
    for row in rows:
        percent, age, what = max(
            (*_of_limit(row, "xid", xid_limit), "transactions"), (*_of_limit(row, "mxid", mxid_limit), "multixacts")
        )
        found = case.finding(
            row["name"],
            f"the oldest row of {row['name']} is {age:.0f} {what} old, {percent:.0f} % of the age at which it was to be"
            " frozen",
            f"vacuum (freeze) {row['name']}",
            value=percent,
        )
        if found.status is Status.WARNING and row["being_vacuumed"]:
            continue  # the vacuum that was due is at work
        yield found


def _of_limit(row: Row, kind: str, server_limit: float) -> tuple[float, float]:
    """Return how many per cent of its limit the table or its TOAST table has reached, and that one's age."""
    own = min(row[f"own_{kind}_limit"] or server_limit, server_limit)  # a table may lower the limit, not raise it
    toast = min(row[f"toast_{kind}_limit"] or own, server_limit)
    age, toast_age = float(row[f"{kind}_age"]), float(row[f"toast_{kind}_age"] or 0)
    return max((100.0 * age / own, age), (100.0 * toast_age / toast, toast_age))


def xmin_horizon(rows: Rows, case: Case) -> Iterator[Finding]:
    """The oldest holder is the finding: until it is gone, the others don't matter."""
    held = [row for row in rows if row["xids"] is not None]
    if not held:
        return
    oldest = max(held, key=lambda row: row["xids"])
    since = f", for {oldest['seconds']:.0f} s" if oldest["seconds"] is not None else ""
    remedy = {
        "session": f"select pg_terminate_backend({oldest['name']})",
        "prepared transaction": "commit prepared or rollback prepared, after asking its coordinator",
        "replication slot": "let its consumer catch up, or drop the slot: select pg_drop_replication_slot(…)",
        "standby": "end the long query on the standby, or set hot_standby_feedback = off there",
    }[oldest["kind"]]
    yield case.finding(
        f"{oldest['kind']} {oldest['name']}",
        f"{oldest['kind']} {oldest['name']} ({oldest['detail']}) has held back the removal of dead rows for"
        f" {oldest['xids']} transactions{since}; {len(held) - 1} younger holders",
        remedy,
        value=oldest["xids"],
    )


def prepared_orphan(rows: Rows, case: Case) -> Iterator[Finding]:
    """Prepared and forgotten."""
    for row in rows:
        yield case.finding(
            row["gid"],
            f"transaction {row['gid']!r} of {row['owner']} has stood prepared for {row['seconds']:.0f} s: it keeps its"
            " locks over restarts, and holds back vacuum",
            "ask its coordinator; then commit prepared or rollback prepared, in this database",
            value=row["seconds"],
            status=Status.CRITICAL if row["seconds"] >= ABANDONED_S and not row["owner_is_here"] else None,
        )


_ROOM = Limits(ROOM_WARNING_PERCENT, ROOM_CRITICAL_PERCENT)
_RISES = (Status.WARNING, Status.CRITICAL)

CHECKS = (
    Check(
        "txn.wraparound",
        "transaction ids are far from their end",
        _RISES,
        wraparound,
        "At two billion transactions without freezing, the server takes no more writes. The value is the share used of"
        " the room between autovacuum_freeze_max_age and that end: 0 % is normal however high the setting is.",
        remedy="End what holds back the horizon (txn.xmin_horizon names it), then VACUUM (FREEZE, VERBOSE) the"
        " oldest tables (vacuum.freeze_age names them); it takes SHARE UPDATE EXCLUSIVE, so reads and writes go on."
        " From 14 on autovacuum hurries by itself past vacuum_failsafe_age. Don't start in single-user mode: vacuum"
        " works without it.",
        link="https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-WRAPAROUND",
        query="database_ages",
        scope=Scope.CLUSTER,
        unit="%",
        limits=_ROOM,
    ),
    Check(
        "txn.multixact",
        "multixact ids are far from their end",
        _RISES,
        multixact,
        "The same for the ids of shared row locks, which foreign keys and SELECT FOR SHARE use up.",
        remedy="VACUUM (FREEZE) the tables that are locked by foreign keys most; it takes SHARE UPDATE EXCLUSIVE. A"
        " parent that all rows of a busy child refer to uses up most: SELECT … FOR KEY SHARE is taken there for each"
        " insert.",
        link="https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-MULTIXACT-WRAPAROUND",
        query="database_ages",
        scope=Scope.CLUSTER,
        unit="%",
        limits=_ROOM,
    ),
    Check(
        "vacuum.freeze_age",
        "tables are frozen in time",
        _RISES,
        freeze_age,
        "Against the table's own autovacuum_freeze_max_age and its multixact twin, with its TOAST table and"
        " materialised views. A table that is being vacuumed just now is left out.",
        remedy="VACUUM (FREEZE, VERBOSE) the table: SHARE UPDATE EXCLUSIVE, so reads and writes go on; it says what"
        " it can't freeze. If autovacuum starts and never ends, somebody cancels it: DDL, or a lock at each try.",
        link="https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-WRAPAROUND",
        query="table_ages",
        unit="% of the limit",
        limits=Limits(FREEZE_WARNING_PERCENT, FREEZE_CRITICAL_PERCENT),
    ),
    Check(
        "txn.xmin_horizon",
        "dead rows can be removed",
        _RISES,
        xmin_horizon,
        "Vacuum removes no row that the oldest snapshot might see. The holder is a session, a prepared transaction, a"
        " replication slot or a standby; it also explains dead rows, bloat and wraparound.",
        remedy="Session: have it commit, or select pg_terminate_backend(pid). Prepared transaction: COMMIT PREPARED"
        " or ROLLBACK PREPARED. Slot: let its consumer catch up, or select pg_drop_replication_slot(…), after which"
        " the consumer must be set up anew. Standby: end its long query, or hot_standby_feedback = off there. Then"
        " vacuum.",
        link="https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-BASICS",
        query="horizon",
        unit="transactions",
        limits=Limits(HORIZON_WARNING_XIDS, HORIZON_CRITICAL_XIDS),
        needs=(Need.SESSIONS,),
    ),
    Check(
        "txn.prepared_orphan",
        "prepared transactions end",
        (Status.CRITICAL,),
        prepared_orphan,
        "A transaction that was prepared and forgotten keeps its locks even over a restart, and holds back vacuum until"
        " someone commits it or rolls it back. One whose owner has no session here any more is forgotten already.",
        remedy="Ask the coordinator what became of it; then, in the transaction's own database, COMMIT PREPARED"
        " 'gid' or ROLLBACK PREPARED 'gid' (its owner or a superuser may). Where nothing uses two-phase commit:"
        " max_prepared_transactions = 0.",
        link="https://www.postgresql.org/docs/current/sql-prepare-transaction.html",
        query="prepared",
        unit="s",
        limits=Limits(PREPARED_S),
    ),
)

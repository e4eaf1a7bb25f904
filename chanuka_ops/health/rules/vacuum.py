"""Vacuum: dead rows, and tables that it doesn't come to."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Facts, Finding, Limits, Row, Rows, Status
from chanuka_ops.health.rules.triggers import insert_trigger, vacuum_trigger

# Autovacuum starts at 100 % of the trigger, and comes by once a minute: a fifth more is more than waiting for that.
DEAD_TRIGGER_PERCENT = 120.0
# Under ten thousand rows nobody feels them, whatever the share; but who set a table's own trigger drew a line there.
DEAD_FLOOR_ROWS = 10_000
DEAD_FLOOR_ROWS_OWN_TRIGGER = 1_000
_OWN_TRIGGER = ("autovacuum_vacuum_threshold", "autovacuum_vacuum_scale_factor", "autovacuum_vacuum_max_threshold")
# Between two visits any number of tables comes due. One past twice its trigger was passed over.
OVERDUE_SHARE = 2.0
# A worker takes one table after another: five for each is a queue that grows faster than it is served.
QUEUE_PER_WORKER = 5.0
# A table whose updates mostly can't be HOT shows single digits; one with a mixed load, half and more.

_OFF = frozenset({"false", "off", "no", "n", "f", "0", "fal", "fals", "of"})  # what parse_bool() takes for false


def dead_tuples(rows: Rows, case: Case) -> Iterator[Finding]:
    """Dead rows well past the table's own trigger, and no vacuum at work on it."""
    for row in rows:
        for toast, dead in ((False, row["dead"]), (True, row["toast_dead"] or 0)):
            own = any(name in row["options"] or (toast and name in row["toast_options"]) for name in _OWN_TRIGGER)
            if dead < (DEAD_FLOOR_ROWS_OWN_TRIGGER if own else DEAD_FLOOR_ROWS):
                continue
            trigger = vacuum_trigger(row, case.facts, toast=toast)
            share = 100.0 * dead / max(trigger, 1.0)
            found = case.finding(
                row["name"],
                f"{'the TOAST table of ' if toast else ''}{row['name']} has {dead} dead rows; autovacuum was to come at"
                f" {trigger:.0f}",
                f"vacuum (analyze) {row['name']}; if it removes nothing, look at txn.xmin_horizon",
                value=share,
            )
            if found.status is not Status.OK and row["being_vacuumed"]:
                continue  # it is being dealt with
            yield found


def _switched_off(row: Row) -> str | None:
    """Return the prefix of the storage parameter by which autovacuum is off for a table or its TOAST table."""
    for options, prefix in ((row["options"], " "), (row["toast_options"], "toast.")):
        if str(options.get("autovacuum_enabled", "true")).lower() in _OFF:
            return prefix
    return None


def overdue(row: Row, facts: Facts) -> float:
    """Return how many times over a table is due, by dead rows or by inserted ones; below 1 it isn't."""
    by_dead = row["dead"] / max(vacuum_trigger(row, facts), 1.0)
    inserts = insert_trigger(row, facts)
    return float(max(by_dead, 0.0 if inserts is None else row["inserted_since_vacuum"] / max(inserts, 1.0)))


def stale(rows: Rows, case: Case) -> Iterator[Finding]:
    """More tables long due than the workers can take.

    That a table was not vacuumed for long says nothing: one that nobody writes to needs none.
    """
    due = [row for row in rows if overdue(row, case.facts) >= OVERDUE_SHARE]
    due = [row for row in due if not row["being_vacuumed"] and _switched_off(row) is None]
    workers = max(case.facts.number("autovacuum_max_workers", 3), 1.0)
    yield case.finding(
        None,
        f"{len(due)} tables wait for {workers:.0f} autovacuum workers at more than {OVERDUE_SHARE:.0f} times their"
        f" trigger{': ' if due else ''}{', '.join(row['name'] for row in due[:3])}",
        "select * from pg_stat_progress_vacuum says whether workers are busy; then raise autovacuum_vacuum_cost_limit,"
        " and only then the number of workers",
        value=len(due) / workers,
    )


def disabled_table(rows: Rows, case: Case) -> Iterator[Finding]:
    """Autovacuum switched off for one table, or for its TOAST table only."""
    for row in rows:
        name = row["name"]
        if part := _switched_off(row):
            yield case.finding(
                name,
                f"autovacuum is off for {'the TOAST table of ' if part == 'toast.' else ''}{name}",
                f"alter table {name} reset ({part.strip()}autovacuum_enabled)",
            )


def unthrottled(rows: Rows, case: Case) -> Iterator[Finding]:
    """A cost delay of 0 lets one vacuum take all the disk there is."""
    delay = case.facts.number("autovacuum_vacuum_cost_delay", 2)
    if delay == 0 or (delay == -1 and case.facts.number("vacuum_cost_delay") == 0):
        yield case.finding(
            "autovacuum_vacuum_cost_delay",
            "autovacuum runs without any throttle on every table",
            "alter system reset autovacuum_vacuum_cost_delay; select pg_reload_conf()",
        )
    for row in rows:
        for options, part in ((row["options"], ""), (row["toast_options"], "toast.")):
            value = options.get("autovacuum_vacuum_cost_delay")
            if value is not None and float(value) == 0:
                yield case.finding(
                    row["name"],
                    f"autovacuum runs without any throttle on {row['name']}",
                    f"alter table {row['name']} reset ({part}autovacuum_vacuum_cost_delay)",
                )


CHECKS = (
    Check(
        "vacuum.dead_tuples",
        "dead rows are removed",
        (Status.WARNING,),
        dead_tuples,
        "Counted against the point at which autovacuum comes to this very table, by its own settings and the server's,"
        " and not by how long ago the last vacuum was. Past it, either autovacuum can't keep up or something holds back"
        " the horizon.",
        remedy="VACUUM (ANALYZE, VERBOSE) the table; it takes SHARE UPDATE EXCLUSIVE, so reads and writes go on. If it"
        " removes nothing, txn.xmin_horizon names who stands in its way. If autovacuum is too slow: raise"
        " autovacuum_vacuum_cost_limit, or alter table … set (autovacuum_vacuum_scale_factor = 0.02).",
        link="https://www.postgresql.org/docs/current/routine-vacuuming.html#AUTOVACUUM",
        query="tables",
        unit="% of the trigger",
        limits=Limits(DEAD_TRIGGER_PERCENT),
    ),
    Check(
        "vacuum.stale",
        "vacuum comes to every table that is due",
        (Status.WARNING,),
        stale,
        "Tables past twice their own trigger, by dead rows or by inserted ones that nobody froze: more of them than the"
        " workers can take, so each waits longer than the last. A table that nobody writes to is never due, however"
        " long ago its last vacuum was.",
        remedy="Look whether workers are busy (pg_stat_progress_vacuum) or blocked (lock.blocked). Raise"
        " autovacuum_vacuum_cost_limit first: all workers share it, so more workers alone are no faster.",
        link="https://www.postgresql.org/docs/current/runtime-config-vacuum.html#RUNTIME-CONFIG-AUTOVACUUM",
        query="tables",
        unit="tables for each worker",
        limits=Limits(QUEUE_PER_WORKER),
    ),
    Check(
        "vacuum.disabled_table",
        "autovacuum is on for every table",
        (Status.WARNING,),
        disabled_table,
        "A table without autovacuum grows, and its statistics go stale. Only the vacuum against wraparound still comes,"
        " and then all at once.",
        remedy="alter table … reset (autovacuum_enabled), or (toast.autovacuum_enabled): SHARE UPDATE EXCLUSIVE for a"
        " moment. If it was switched off because it was in the way, give the table a lower scale factor instead, so"
        " that it comes more often and does less.",
        link="https://www.postgresql.org/docs/current/sql-createtable.html#RELOPTION-AUTOVACUUM-ENABLED",
        query="tables",
    ),
    Check(
        "settings.autovacuum_unthrottled",
        "autovacuum is throttled",
        (Status.WARNING,),
        unthrottled,
        "A cost delay of 0 lets a vacuum use the whole disk. Such a table's worker is left out of the balance too.",
        remedy="alter table … reset (autovacuum_vacuum_cost_delay), and raise autovacuum_vacuum_cost_limit where vacuum"
        " is too slow: that is shared among the workers, so it has an upper bound.",
        link="https://www.postgresql.org/docs/current/runtime-config-vacuum.html#GUC-AUTOVACUUM-VACUUM-COST-DELAY",
        query="tables",
    ),
)

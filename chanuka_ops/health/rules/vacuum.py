"""Vacuum and statistics: dead rows, frozen rows, and what the planner knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chanuka_ops.health.model import Case, Check, Facts, Finding, Limits, Need, Row, Rows, Status

# Autovacuum starts at 100 % of the trigger and may queue for a while: half as much again is more than queueing.
DEAD_TRIGGER_PERCENT = 150.0
# Under ten thousand rows nobody feels them, whatever the share.
DEAD_FLOOR_ROWS = 10_000
# Statistics are refreshed at 100 % of their own trigger; twice that means that nobody refreshes them.
STALE_TRIGGER_PERCENT = 200.0
STALE_FLOOR_ROWS = 10_000
# ANALYZE estimates the rows of a large table from a sample.
COUNTING_TOLERANCE = 0.05
# The planner's guesses for an unknown table start to hurt where a wrong join order costs more than the query itself.
MISSING_FLOOR_ROWS = 10_000
LOW_HOT_PERCENT = 10.0
LOW_HOT_FLOOR_UPDATES = 10_000

_OFF = frozenset({"false", "off", "no", "n", "f", "0", "fal", "fals", "of"})  # what parse_bool() takes for false


def _option(row: Row, name: str, default: float, *, toast: bool = False) -> float:
    """Return a table's own setting; a TOAST table without one follows its owner, as autovacuum does."""
    own: Mapping[str, Any] = row["options"]
    toasts: Mapping[str, Any] = row["toast_options"]
    value = toasts.get(name, own.get(name)) if toast else own.get(name)
    return default if value is None else float(value)


def vacuum_trigger(row: Row, facts: Facts, *, toast: bool = False) -> float:
    """Return the dead rows at which autovacuum comes to this table, by its own settings.

    https://www.postgresql.org/docs/current/routine-vacuuming.html#AUTOVACUUM
    """
    tuples = float(row["toast_reltuples"] or 0 if toast else row["reltuples"])
    if tuples < 0:  # -1: never vacuumed or analysed
        tuples = 0.0 if toast else float(row["live"])
    base = _option(row, "autovacuum_vacuum_threshold", facts.number("autovacuum_vacuum_threshold", 50), toast=toast)
    scale = _option(
        row, "autovacuum_vacuum_scale_factor", facts.number("autovacuum_vacuum_scale_factor", 0.2), toast=toast
    )
    # from 18 on; -1 switches the ceiling off, and older servers have none
    ceiling = _option(
        row, "autovacuum_vacuum_max_threshold", facts.number("autovacuum_vacuum_max_threshold", -1), toast=toast
    )
    trigger = base + scale * tuples
    return min(trigger, ceiling) if ceiling >= 0 else trigger


def analyze_trigger(row: Row, facts: Facts) -> float:
    """Return the changed rows at which autovacuum analyses this table."""
    tuples = float(row["reltuples"] if row["reltuples"] >= 0 else row["live"])
    base = _option(row, "autovacuum_analyze_threshold", facts.number("autovacuum_analyze_threshold", 50))
    scale = _option(row, "autovacuum_analyze_scale_factor", facts.number("autovacuum_analyze_scale_factor", 0.1))
    return base + scale * tuples


def dead_tuples(rows: Rows, case: Case) -> Iterator[Finding]:
    """Dead rows well past the table's own trigger, and no vacuum at work on it."""
    for row in rows:
        for toast, dead in ((False, row["dead"]), (True, row["toast_dead"] or 0)):
            if dead < DEAD_FLOOR_ROWS:
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


def disabled_table(rows: Rows, case: Case) -> Iterator[Finding]:
    """Autovacuum switched off for one table, or for its TOAST table only."""
    for row in rows:
        name = row["name"]
        for options, part in ((row["options"], ""), (row["toast_options"], "toast.")):
            if str(options.get("autovacuum_enabled", "true")).lower() in _OFF:
                yield case.finding(
                    name,
                    f"autovacuum is off for {'the TOAST table of ' if part else ''}{name}",
                    f"alter table {name} reset ({part}autovacuum_enabled)",
                )
                break


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


def _counted_late(row: Row) -> bool:
    """Tell whether the changes were made before ANALYZE and counted after it.

    A session hands in its counts up to seconds late, so a load that analyses at once looks wholly changed. Then the
    counts make up exactly the rows that ANALYZE saw.
    """
    changes = row["inserted"] + row["updated"] + row["deleted"]
    counted = row["inserted"] - row["deleted"]
    seen = max(row["reltuples"], 1.0)
    return bool(row["modified"] == changes and abs(counted - seen) <= COUNTING_TOLERANCE * seen)


def statistics_stale(rows: Rows, case: Case) -> Iterator[Finding]:
    """Changed far past the table's own trigger for analyse. Never analysed at all is stats.missing."""
    for row in rows:
        if not row["analyzed"] or row["modified"] < STALE_FLOOR_ROWS or _counted_late(row):
            continue
        trigger = analyze_trigger(row, case.facts)
        yield case.finding(
            row["name"],
            f"{row['modified']} rows of {row['name']} changed since its statistics were taken; autovacuum was to take"
            f" them anew at {trigger:.0f}",
            f"analyze {row['name']}",
            value=100.0 * row["modified"] / max(trigger, 1.0),
        )


def statistics_missing(rows: Rows, case: Case) -> Iterator[Finding]:
    """Filled and never analysed; a partitioned table is one finding."""
    bare: dict[str, float] = {}
    hidden: dict[str, float] = {}
    for row in rows:
        size = max(row["reltuples"], row["live"])
        if size < MISSING_FLOOR_ROWS:
            continue
        if row["has_statistics"] is False:
            group = bare if row["readable"] else hidden
            group[row["root"]] = group.get(row["root"], 0) + size
    for name, size in bare.items():
        yield case.finding(
            name, f"the planner knows nothing of {name} (about {size:.0f} rows)", f"analyze {name}", value=size
        )
    if hidden:
        yield case.unknown(
            None,
            f"the statistics of {len(hidden)} tables are hidden from this role, {next(iter(hidden))} for one",
            "grant pg_read_all_data to the role, or SELECT on the tables",
            value=len(hidden),
        )


def low_hot(rows: Rows, case: Case) -> Iterator[Finding]:
    """Updates that have to touch every index."""
    for row in rows:
        if row["updated"] < LOW_HOT_FLOOR_UPDATES:
            continue
        percent = 100.0 * row["hot_updated"] / row["updated"]
        if percent < (LOW_HOT_PERCENT if case.limits.first is None else case.limits.first):
            yield case.finding(
                row["name"],
                f"only {percent:.1f} % of the {row['updated']} updates of {row['name']} spared its indexes",
                f"look for an index on a column that often changes; or alter table {row['name']} set (fillfactor = 90)",
                value=percent,
                status=Status.INFO,
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
        query="tables",
        unit="% of the trigger",
        limits=Limits(DEAD_TRIGGER_PERCENT),
    ),
    Check(
        "vacuum.disabled_table",
        "autovacuum is on for every table",
        (Status.WARNING,),
        disabled_table,
        "A table without autovacuum grows, and its statistics go stale. Only the vacuum against wraparound still comes,"
        " and then all at once.",
        query="tables",
    ),
    Check(
        "settings.autovacuum_unthrottled",
        "autovacuum is throttled",
        (Status.WARNING,),
        unthrottled,
        "A cost delay of 0 lets a vacuum use the whole disk. Rather raise the cost limit.",
        query="tables",
    ),
    Check(
        "stats.stale",
        "statistics are current",
        (Status.WARNING,),
        statistics_stale,
        "Rows changed since the last ANALYZE, against the point at which autovacuum would take it anew. With old"
        " statistics the planner joins in the wrong order.",
        query="tables",
        unit="% of the trigger",
        limits=Limits(STALE_TRIGGER_PERCENT),
    ),
    Check(
        "stats.missing",
        "tables have statistics",
        (Status.WARNING,),
        statistics_missing,
        "A filled table that was never analysed, after a load or an upgrade perhaps: the planner guesses. Tables under"
        f" {MISSING_FLOOR_ROWS} rows are left out. A role that may not read a table doesn't see its statistics either.",
        query="statistics",
        unit="rows",
        limits=Limits(MISSING_FLOOR_ROWS),
        needs=(Need.TABLES,),
    ),
    Check(
        "table.low_hot",
        "updates spare the indexes",
        (Status.INFO,),
        low_hot,
        "An update that changes no indexed column and finds room on its page touches no index (HOT). Where hardly any"
        " does, an index on a busy column or full pages cost on every write.",
        query="tables",
        unit="%",
        limits=Limits(LOW_HOT_PERCENT),
    ),
)

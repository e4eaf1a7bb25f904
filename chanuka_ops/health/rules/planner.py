"""What the planner knows of tables: statistics that are missing, and such as describe another table."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Facts, Finding, Limits, Need, Row, Rows, Status
from chanuka_ops.health.rules.triggers import option

# Statistics are refreshed at 100 % of their own trigger; half as much again means that nobody refreshes them.
STALE_TRIGGER_PERCENT = 150.0
STALE_FLOOR_ROWS = 10_000
# ANALYZE estimates the rows of a large table from a sample.
COUNTING_TOLERANCE = 0.05
# The planner's guesses for an unknown table start to hurt where a wrong join order costs more than the query itself.
MISSING_FLOOR_ROWS = 10_000


def analyze_trigger(row: Row, facts: Facts) -> float:
    """Return the changed rows at which autovacuum analyses this table."""
    tuples = float(row["reltuples"] if row["reltuples"] >= 0 else row["live"])
    base = option(row, "autovacuum_analyze_threshold", facts.number("autovacuum_analyze_threshold", 50))
    scale = option(row, "autovacuum_analyze_scale_factor", facts.number("autovacuum_analyze_scale_factor", 0.1))
    return base + scale * tuples


def counted_late(row: Row, tuples: float) -> bool:
    """Tell whether the changes were made before ANALYZE and counted after it.

    A session hands in its counts up to seconds late, so a load that analyses at once looks wholly changed. Then the
    counts make up exactly the rows that ANALYZE saw.
    """
    changes = row["inserted"] + row["updated"] + row["deleted"]
    counted = row["inserted"] - row["deleted"]
    seen = max(tuples, 1.0)
    return bool(row["modified"] == changes and abs(counted - seen) <= COUNTING_TOLERANCE * seen)


def statistics_stale(rows: Rows, case: Case) -> Iterator[Finding]:
    """Changed far past the table's own trigger for analyse. Never analysed at all is stats.missing."""
    for row in rows:
        if not row["analyzed"] or row["modified"] < STALE_FLOOR_ROWS or counted_late(row, row["reltuples"]):
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


CHECKS = (
    Check(
        "stats.stale",
        "statistics are current",
        (Status.WARNING,),
        statistics_stale,
        "Rows changed since the last ANALYZE, against the point at which autovacuum would take it anew. With old"
        " statistics the planner joins in the wrong order. A table that was loaded and analysed in one go is left out"
        " while its counts arrive late.",
        remedy="ANALYZE the table: it reads a sample and locks nobody out (SHARE UPDATE EXCLUSIVE). Where it happens"
        " again: alter table … set (autovacuum_analyze_scale_factor = 0.02), or analyse at the end of the job that"
        " changes so much.",
        link="https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-STATISTICS",
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
        remedy="ANALYZE the table, after an upgrade the whole database: vacuumdb --all --analyze-in-stages. A"
        " partitioned table itself is never analysed by autovacuum: ANALYZE it when its partitions change a lot.",
        link="https://www.postgresql.org/docs/current/planner-stats.html",
        query="statistics",
        unit="rows",
        limits=Limits(MISSING_FLOOR_ROWS),
        needs=(Need.TABLES,),
    ),
)

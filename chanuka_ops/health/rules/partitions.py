"""Partitions: is the next one there, and is the default one empty."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Status

# Of one partition's width: with half of the newest still ahead there is time, and who makes the next one days before
# it is needed isn't told off for weeks.
AHEAD_PARTITIONS = 0.5
# A table whose newest partition ended three of its widths ago takes no rows of today: an archive, not an outage.
ARCHIVED_PARTITIONS = 3.0


def missing_future(rows: Rows, case: Case) -> Iterator[Finding]:
    """Rows of tomorrow, or keys soon to come, have no partition to go to.

    Each row is a range-partitioned table without a default partition: the newest partition's bounds, and how far the
    rows have come (the time for one by time, the largest key for one by number).
    """
    least = AHEAD_PARTITIONS if case.limits.first is None else case.limits.first
    for row in rows:
        ahead = partitions_ahead(row, case.facts.now.timestamp())
        if ahead is None or ahead >= least or ahead <= -ARCHIVED_PARTITIONS:
            continue
        unit = "" if row["by_number"] else " (UTC)"
        state = "has no partition for rows of now" if ahead <= 0 else f"has {ahead:.2f} partitions left"
        yield case.finding(
            row["name"],
            f"{row['name']} {state}: its newest, {row['newest']}, ends at {row['upper_text']}{unit}, and there is no"
            " default partition: inserts past it fail",
            f"create table … partition of {row['name']} for values from ({row['upper_literal']}) to (…)",
            value=ahead,
            status=Status.WARNING,
        )


def partitions_ahead(row: Row, now: float) -> float | None:
    """Return how many partitions, each as wide as the newest, lie between the rows and the end; None: can't be told."""
    lower, upper = row["lower"], row["upper"]
    reached = row["probed"] if row["by_number"] else now
    if lower is None or upper is None or upper <= lower or reached is None:
        return None
    return float((upper - reached) / (upper - lower))


def default_rows(rows: Rows, case: Case) -> Iterator[Finding]:
    """Rows for which no partition was made."""
    for row in rows:
        name = row["name"]
        if row["probe"] is None:
            yield case.unknown(name, f"the role may not read default partition {name}", f"grant select on {name}")
        elif row["probed"]:
            yield case.finding(
                name,
                f"default partition {name} of {row['parent']} holds rows (about {max(row['live'], 1)}): a partition is"
                " missing, and adding it later scans and locks the default one",
                "make the missing partition and move the rows into it",
                value=max(row["live"], 1),
            )


CHECKS = (
    Check(
        "partition.missing_future",
        "the next partition is there",
        (Status.WARNING,),
        missing_future,
        "When the newest range is passed, every insert fails at once: at midnight, or at the first of the month. Judged"
        " by the width of the newest partition. Left out: tables with a default partition or an open upper end, list"
        " and hash partitions, parts of a range that is partitioned again, and archives whose newest range is long"
        " past.",
        remedy="CREATE TABLE … PARTITION OF … takes ACCESS EXCLUSIVE on the parent for a moment: with a lock_timeout;"
        " or CREATE TABLE … (LIKE …) and ALTER TABLE … ATTACH PARTITION, which takes SHARE UPDATE EXCLUSIVE. Have a"
        " nightly job make several ahead.",
        link="https://www.postgresql.org/docs/current/ddl-partitioning.html#DDL-PARTITIONING-DECLARATIVE-MAINTENANCE",
        query="range_partitions",
        unit="partitions left",
        limits=Limits(AHEAD_PARTITIONS),
        probes=True,
    ),
    Check(
        "partition.default_rows",
        "default partitions are empty",
        (Status.WARNING,),
        default_rows,
        "Rows in the default partition mean that a partition is missing. Making it later must prove that the default"
        " partition holds none of its rows: a scan under an exclusive lock.",
        remedy="Make the missing partition beside the table (CREATE TABLE … LIKE), move the rows into it in one"
        " transaction, and ATTACH it. With a CHECK constraint on the default partition that rules its range out, the"
        " attach needs no scan under ACCESS EXCLUSIVE.",
        link="https://www.postgresql.org/docs/current/ddl-partitioning.html#DDL-PARTITIONING-DECLARATIVE-MAINTENANCE",
        query="default_partitions",
        unit="rows",
        needs=(Need.TABLES,),
        probes=True,
    ),
)

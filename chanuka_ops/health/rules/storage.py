"""Storage: how fast a database grows, and when the disk is full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from chanuka_ops.health.model import Case, Check, Finding, Limits, Rates, Rows, Scope, Status, Window

DAY_S = 24 * 3600.0
# A tenth in a day doubles it within the week; under a gigabyte a day nobody's disk is in danger.
GROWTH_PERCENT_A_DAY = 10.0
GROWTH_FLOOR_BYTES_A_DAY = 1024.0**3
# An hour at least: a bulk load of two minutes is not what a day will bring.
GROWTH_WINDOW = Window(least_s=3600.0, most_s=8 * DAY_S)
# From here on file systems slow down, and a night's load may be the end.
FULL_PERCENT = 90.0
# A tenth of a huge disk is room for weeks: how fast it fills says more.
ROOMY_BYTES = 100 * 1024.0**3
DAYS_TO_FULL = 3.0
DAYS_FLOOR_PERCENT = 70.0
_GB = 1024.0**3


def growth(rows: Rows, case: Case) -> Iterator[Finding]:
    """How much a database grows in a day."""
    for row in rows:
        if row["was"] is None or case.elapsed_s is None or not row["was"]["bytes"]:
            continue
        a_day = (row["bytes"] - row["was"]["bytes"]) * DAY_S / case.elapsed_s
        found = case.finding(
            None,
            f"the database grows by {a_day / _GB:.1f} GB a day; it has {row['bytes'] / _GB:.1f} GB",
            "select oid::regclass, pg_total_relation_size(oid) from pg_class order by 2 desc limit 10 shows where",
            value=100.0 * a_day / row["was"]["bytes"],
        )
        yield found if a_day >= GROWTH_FLOOR_BYTES_A_DAY else replace(found, status=Status.OK)


def disk_space(rows: Rows, case: Case) -> Iterator[Finding]:
    """How full the disk of the data directory is, and in how many days it will be."""
    for row in rows:
        if row["total"] is None:
            yield case.unknown(
                None,
                f"the disk can't be seen: {row['why']}",
                "watch the server's disk by other means, and list storage.disk_space under"
                " operations.monitoring.disabled",
            )
            continue
        if not row["total"]:
            continue
        used = 100.0 * (row["total"] - row["free"]) / row["total"]
        days = _days_to_full(row["free"], (row["was"] or {}).get("free"), case.elapsed_s)
        forecast = "" if days is None else f"; at the pace of late it is full in {days:.1f} days"
        found = case.finding(
            row["directory"],
            f"the disk of {row['directory']} is {used:.1f} % full, {row['free'] / _GB:.1f} GB are free{forecast}",
            "make room or enlarge it now: a server that can't write WAL stops. Look at pg_wal (replication slots,"
            " archiver), logs and temporary files first",
            value=used,
        )
        soon = days is not None and days < DAYS_TO_FULL and used >= DAYS_FLOOR_PERCENT
        default = case.limits_for(row["directory"]) == Limits(FULL_PERCENT)
        if soon:
            yield replace(found, status=Status.CRITICAL)
        elif default and row["free"] >= ROOMY_BYTES:
            yield replace(found, status=Status.OK)
        else:
            yield found


def _days_to_full(free: float, free_before: float | None, elapsed_s: float | None) -> float | None:
    if free_before is None or elapsed_s is None or free_before <= free:
        return None
    return float(free / (free_before - free) * elapsed_s / DAY_S)


CHECKS = (
    Check(
        "storage.growth",
        "the database grows slowly",
        (Status.INFO,),
        growth,
        "Measured from look to look over an hour at least. A load of data is a growth too, and no fault.",
        remedy="See which relations grow: pg_total_relation_size over pg_class, today and tomorrow. Old rows can go by"
        " partitions (alter table … detach partition concurrently: SHARE UPDATE EXCLUSIVE), bloat by table.bloat's"
        " remedy.",
        link="https://www.postgresql.org/docs/current/disk-usage.html",
        query="database_size",
        unit="% a day",
        limits=Limits(GROWTH_PERCENT_A_DAY),
        rates=Rates((), GROWTH_WINDOW),
    ),
    Check(
        "storage.disk_space",
        "the disk has room",
        (Status.CRITICAL,),
        disk_space,
        "A server that can't write WAL stops. SQL tells nothing of the disk: it's looked at where the server is proved"
        " to be on this host (a socket, and the postmaster.pid of that very start), and is unknown elsewhere.",
        remedy="Enlarge the disk, or make room: replication slots and a failing archiver keep WAL, then logs, then"
        " temporary files of queries. Never remove files of pg_wal by hand. For a server elsewhere, watch its disk"
        " there and disable this check.",
        link="https://www.postgresql.org/docs/current/disk-full.html",
        query="data_directory",
        scope=Scope.CLUSTER,
        unit="% used",
        limits=Limits(FULL_PERCENT),
        looks_at_disks=True,
        rates=Rates((), GROWTH_WINDOW),
    ),
)

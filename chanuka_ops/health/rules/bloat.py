"""How much of a table or index is air: estimated from statistics, and withheld where those are not sound.

Rows that are as wide as the planner's statistics say, packed as the server packs them, would take so many pages; the
rest is air. Good to some three points with fresh statistics, and off by tens of points without (measured against
pgstattuple), so a table that changed much since ANALYZE is not judged at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Status
from chanuka_ops.health.rules.planner import COUNTING_TOLERANCE

# A B-tree filled at random settles at 30 % air by itself, a table under steady updates at 20 to 40 %. Half of a table
# deleted is estimated at 50 % give or take three, and must not come and go.
AIR_PERCENT = 45.0
# What is to be won must be worth a rebuild.
_MB = 1024 * 1024
TABLE_AIR_FLOOR_BYTES = 3 * _MB
INDEX_AIR_FLOOR_BYTES = 4 * _MB
# The share of changed rows past which statistics describe another table: the default of autovacuum's own trigger.
CHANGED_SHARE = 0.1

_ALIGN = {"c": 1, "s": 2, "i": 4, "d": 8}
_MAXALIGN = 8
_SHORT_VARLENA = 127  # shorter ones carry one byte of header and are not aligned
_HEAP_HEADER = 23
_INDEX_HEADER = 8
_INDEX_HEADER_WITH_NULLS = 16
_LINE_POINTER = 4
_PAGE_HEADER = 24
_BTREE_SPECIAL = 16
_BTREE_UPPER = 1.01  # inner pages and the meta page


def _up(size: float, to: int) -> float:
    return math.ceil(size / to) * to


def data_width(columns: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean width of a row's values with the padding between them, in bytes."""
    offset = 0.0
    for column in columns:
        there = 1.0 - column["nulls"]
        width = column["width"] if column["length"] < 0 else column["length"]
        aligned = column["length"] > 0 or width >= _SHORT_VARLENA
        pad = _up(offset, _ALIGN[column["align"]]) - offset if aligned else 0.0
        offset += there * (pad + width)
    return offset


def table_air(row: Row) -> float:
    """Return the bytes of a table that its rows don't account for."""
    columns = row["columns"]
    bitmap = math.ceil(len(columns) / 8) if any(column["nulls"] > 0 for column in columns) else 0
    tuple_bytes = _up(_HEAP_HEADER + bitmap, _MAXALIGN) + _up(data_width(columns), _MAXALIGN) + _LINE_POINTER
    usable = (row["block"] - _PAGE_HEADER) * row["fillfactor"] / 100
    # a row isn't split over pages: of wide ones few fit, and what is left of the page is nobody's
    pages = math.ceil(row["tuples"] / max(1, math.floor(usable / tuple_bytes)))
    return max(0.0, float(row["bytes"] - pages * row["block"]))


def index_air(row: Row) -> float:
    """Return the bytes of a B-tree that its entries don't account for; repeated keys take less than reckoned here."""
    columns = row["columns"]
    with_nulls = max(column["nulls"] for column in columns)
    header = _INDEX_HEADER * (1 - with_nulls) + _INDEX_HEADER_WITH_NULLS * with_nulls
    tuple_bytes = _up(header + data_width(columns), _MAXALIGN) + _LINE_POINTER
    usable = (row["block"] - _PAGE_HEADER - _BTREE_SPECIAL) * row["fillfactor"] / 100
    pages = math.ceil(_BTREE_UPPER * row["tuples"] * tuple_bytes / usable) + 1
    return max(0.0, float(row["bytes"] - pages * row["block"]))


def _sound(row: Row) -> bool:
    columns = row["columns"]
    if not columns or row["tuples"] <= 0 or any(column["width"] is None for column in columns):
        return False
    if _seen_before_it_was_counted(row):
        return True
    return bool(row["modified"] <= CHANGED_SHARE * max(row["live"], row["tuples"]))


def _seen_before_it_was_counted(row: Row) -> bool:
    """Tell whether a load or a purge was vacuumed and analysed at once, and its counts came in after that.

    Then the row count of that time is today's. Updates may have widened the rows since, so with any it isn't told.
    """
    counted = row["inserted"] - row["deleted"]
    at_once = row["modified"] in {row["inserted"], row["deleted"], row["inserted"] + row["deleted"]}
    return bool(
        at_once and not row["updated"] and abs(counted - row["tuples"]) <= COUNTING_TOLERANCE * max(row["tuples"], 1.0)
    )


def _sift(rows: Rows, case: Case, what: str) -> Iterator[Row | Finding]:
    """Yield the rows that can be judged, and what there is to say of the others."""
    hidden = [row["name"] for row in rows if not row["readable"]]
    unsound = [row["name"] for row in rows if row["readable"] and not _sound(row)]
    yield from (row for row in rows if row["readable"] and _sound(row))
    if unsound:
        yield case.note(
            f"{len(unsound)} {what} not judged, {unsound[0]} for one: no statistics, or too many changes since;"
            " analyze first"
        )
    if hidden:
        yield case.unknown(
            None,
            f"{len(hidden)} {what} can't be judged, {hidden[0]} for one: their statistics are hidden from this role",
            "grant pg_read_all_data to the role, or SELECT on the tables",
            value=len(hidden),
        )


def table_bloat(rows: Rows, case: Case) -> Iterator[Finding]:
    """Air in tables."""
    for row in _sift(rows, case, "tables"):
        if isinstance(row, Finding):
            yield row
        elif (air := table_air(row)) >= TABLE_AIR_FLOOR_BYTES:
            remedy = f"vacuum (full) {row['name']} locks it out; pg_repack or REPACK don't"
            yield from _judged(case, row, air, remedy, by_design=100.0 - row["fillfactor"])


def index_bloat(rows: Rows, case: Case) -> Iterator[Finding]:
    """Air in B-trees."""
    for row in _sift(rows, case, "indexes"):
        if isinstance(row, Finding):
            yield row
        elif (air := index_air(row)) >= INDEX_AIR_FLOOR_BYTES:
            yield from _judged(case, row, air, f"reindex index concurrently {row['name']}")


def _judged(case: Case, row: Row, air: float, remedy: str, *, by_design: float = 0.0) -> Iterator[Finding]:
    """Judge the estimate, and what pgstattuple counted in its place, less what the fill factor leaves free."""
    percent, how = 100.0 * air / row["bytes"], "about "
    if row["probed"] is not None:
        percent, how = max(float(row["probed"]) - by_design, 0.0), "as pgstattuple counts, "
    found = case.finding(
        row["name"],
        f"{how}{percent:.0f} % of {row['name']} is air: {percent * row['bytes'] / 100 / _MB:.1f} of"
        f" {row['bytes'] / _MB:.1f} MB",
        remedy,
        value=percent,
    )
    if found.status is not Status.OK:
        yield found


_NEEDS = (Need.TABLES,)

CHECKS = (
    Check(
        "table.bloat",
        "tables are compact",
        (Status.WARNING,),
        table_bloat,
        "Air in a table is read by every scan and kept in memory. Estimated from column statistics with the server's"
        " own packing, and counted where the extension pgstattuple is there; a fill factor is no air, and a table whose"
        " statistics are old or hidden is not judged.",
        remedy="Confirm first: select * from pgstattuple_approx('…') reads the table once and locks nobody out."
        " Then pg_repack, or REPACK (CONCURRENTLY) from 19 on; VACUUM (FULL) does the same under ACCESS EXCLUSIVE, for"
        " as long as it takes to write the table anew, and both need the room for a second copy.",
        link="https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY",
        query="table_widths",
        unit="%",
        limits=Limits(AIR_PERCENT),
        needs=_NEEDS,
        probes=True,
    ),
    Check(
        "index.bloat",
        "indexes are compact",
        (Status.WARNING,),
        index_bloat,
        "Emptied pages of a B-tree come back only for keys of the same range. Estimated for plain B-trees from column"
        " statistics, and counted where the extension pgstattuple is there; repeated keys hide air from the estimate,"
        " so it errs on the quiet side.",
        remedy="REINDEX INDEX CONCURRENTLY takes SHARE UPDATE EXCLUSIVE, so reads and writes go on; it needs the room"
        " for a second copy. If it fails it leaves an invalid index whose name ends in _ccnew: drop that one.",
        link="https://www.postgresql.org/docs/current/routine-reindex.html",
        query="index_widths",
        unit="%",
        limits=Limits(AIR_PERCENT),
        needs=_NEEDS,
        probes=True,
    ),
)

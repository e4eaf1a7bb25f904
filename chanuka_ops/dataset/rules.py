"""What is missing of the data set: pure arithmetic over row counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from chanuka_ops.dataset.model import Load, Table

# One unit of scale, in the order that foreign keys ask for. The numbers follow from queries.sql; a test counts them.
TABLES = (
    Table("users", keys=10_000, rows=10_000, batch=5_000),
    Table("user_profiles", keys=10_000, rows=8_000, batch=5_000),
    Table("sponsors", keys=400, rows=400, batch=400),
    Table("bills", keys=600, rows=600, batch=600),
    Table("bill_versions", keys=600, rows=1_500, batch=50),
    Table("sponsorships", keys=600, rows=2_100, batch=600),
    Table("bill_status_changes", keys=600, rows=2_700, batch=600),
    Table("comments", keys=20_000, rows=20_000, batch=5_000),
    Table("comment_votes", keys=20_000, rows=26_649, batch=5_000),
    Table("bill_follows", keys=600, rows=30_104, batch=100),
    Table("engagement_events", keys=60_000, rows=60_000, batch=10_000),
)
ROLL_UP = Table("bill_daily_engagement", keys=600, rows=0, batch=100)  # its rows are counted from the events
USERS_A_UNIT = 10_000


def plan(have: Mapping[str, int], scale: int) -> tuple[Load, ...]:
    """Say which keys to fill so that every table has its rows. Rows of a larger scale stay."""
    loads = []
    for table in TABLES:
        rows = have[table.name]
        missing = table.rows * scale - rows
        if missing > 0:
            whole_units = rows // table.rows if rows % table.rows == 0 else 0  # else: fill the gaps, from the start
            loads.append(Load(table, whole_units * table.keys + 1, table.keys * scale, missing))
    return tuple(loads)


def roll_up(have: Mapping[str, int]) -> tuple[Load, ...]:
    """Say which bills' roll-ups to fill, from what events there are."""
    missing = have["days_with_events"] - have[ROLL_UP.name]
    if missing <= 0:
        return ()
    return (Load(ROLL_UP, 1, ROLL_UP.keys * units(have), missing),)


def units(have: Mapping[str, int]) -> int:
    """Return how many units of scale were loaded, or begun."""
    return math.ceil(have["users"] / USERS_A_UNIT)


def surplus(have: Mapping[str, int]) -> dict[str, int]:
    """Return the rows that are too many for the units there are, by table: somebody else's."""
    most = units(have)
    over = {table.name: have[table.name] - table.rows * most for table in TABLES}
    return {name: rows for name, rows in over.items() if rows > 0}


def batches(load: Load) -> list[tuple[int, int]]:
    """Cut the keys of a load into ranges, both ends included."""
    starts = range(load.first, load.last + 1, load.table.batch)
    return [(start, min(start + load.table.batch - 1, load.last)) for start in starts]

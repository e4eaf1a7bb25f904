"""Integer keys and the sequences that fill them: how much is left."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Status

# Widening a key of a large table takes weeks to plan and run: hence three quarters, and critical at nine tenths.
USED_WARNING_PERCENT = 75.0
USED_CRITICAL_PERCENT = 90.0
_FAR_ON = 0.6  # of the range: a start at zero, with as much below it as above, is half-way
_LARGEST = {2: 2**15 - 1, 4: 2**31 - 1, 8: 2**63 - 1}


def used_percent(row: Row) -> float:
    """Return how much of its range a sequence has given away, by the narrower of its own end and its column's.

    A descending sequence counts towards its minimum. One that begins on the far side of zero has that way to go too.
    """
    last = row["last_value"]
    if last is None:
        return 0.0
    end, start, descending = row["maximum"], row["minimum"], row["increment"] < 0
    if descending:
        end, start = row["minimum"], row["maximum"]
    if row["width"] is not None:
        widest = _LARGEST[row["width"]]
        end = max(end, -widest - 1) if descending else min(end, widest)
    origin = row["start"]
    # a start outside what is left of the range tells nothing, and one near the end hides how little is left
    if (origin - start) * (origin - end) > 0 or abs(origin - start) > _FAR_ON * abs(end - start):
        origin = start
    span = abs(end - origin)
    done = (origin - last) if descending else (last - origin)
    return 100.0 if span == 0 else max(0.0, 100.0 * done / span)


def exhaustion(rows: Rows, case: Case) -> Iterator[Finding]:
    """Few values left. A sequence that cycles within its column never runs out."""
    hidden = 0
    for row in rows:
        if not row["readable"]:
            hidden += 1
            continue
        if row["cycles"] and not _column_is_narrower(row):
            continue
        where = f" for {row['column_name']}" if row["column_name"] else ""
        found = case.finding(
            row["name"],
            f"sequence {row['name']}{where} has used {used_percent(row):.1f} % of its range (last {row['last_value']})",
            "widen the column and the sequence to bigint before it is full: then every insert fails",
            value=used_percent(row),
        )
        yield found
    if hidden:
        yield case.unknown(
            None,
            f"{hidden} sequences can't be read by this role",
            "grant pg_read_all_data, or SELECT on them",
            value=None,
        )


def _column_is_narrower(row: Row) -> bool:
    if row["width"] is None:
        return False
    widest = _LARGEST[row["width"]]
    return bool(row["minimum"] < -widest - 1 if row["increment"] < 0 else row["maximum"] > widest)


def int_key_overflow(rows: Rows, case: Case) -> Iterator[Finding]:
    """A narrow key that the application fills itself."""
    hidden = 0
    for row in rows:
        if row["probe"] is None:
            hidden += 1
            continue
        if row["probed"] is None:
            continue
        percent = 100.0 * row["probed"] / _LARGEST[row["width"]]
        yield case.finding(
            row["name"],
            f"the largest value of {row['name']} is {row['probed']}: {percent:.1f} % of what its type can hold",
            "widen the column to bigint, and the columns that refer to it",
            value=max(percent, 0.0),
        )
    if hidden:
        yield case.unknown(
            None, f"{hidden} key columns can't be read by this role", "grant pg_read_all_data, or SELECT on the tables"
        )


CHECKS = (
    Check(
        "sequence.exhaustion",
        "sequences have values left",
        (Status.WARNING, Status.CRITICAL),
        exhaustion,
        "When a sequence, or the integer column it fills, reaches its end, every insert fails at once. Judged by the"
        " narrower of the two, also where the sequence is not owned by the column, and downwards where it descends.",
        remedy="Widen the column to bigint, and the sequence: ALTER SEQUENCE … AS bigint is a moment, ALTER COLUMN"
        " TYPE rewrites the table under ACCESS EXCLUSIVE; a large one wants a second column that is filled in"
        " slices. To win time, let an int key go on from its negative end: ALTER SEQUENCE … MINVALUE -2147483648"
        " RESTART WITH -2147483648.",
        link="https://www.postgresql.org/docs/current/datatype-numeric.html#DATATYPE-SERIAL",
        query="sequences",
        unit="%",
        limits=Limits(USED_WARNING_PERCENT, USED_CRITICAL_PERCENT),
        needs=(Need.SEQUENCES,),
    ),
    Check(
        "schema.int_key_overflow",
        "integer keys have room",
        (Status.WARNING, Status.CRITICAL),
        int_key_overflow,
        "An int or smallint key that the application fills itself runs out as a sequence does, and none shows it."
        " The largest value is read through the key's index.",
        remedy="Widen the column to bigint, and the columns that refer to it: ALTER COLUMN TYPE rewrites the table"
        " and its indexes under ACCESS EXCLUSIVE; a large one wants a second column that is filled in slices, and a"
        " swap.",
        link="https://www.postgresql.org/docs/current/datatype-numeric.html#DATATYPE-INT",
        query="integer_keys",
        unit="%",
        limits=Limits(USED_WARNING_PERCENT, USED_CRITICAL_PERCENT),
        needs=(Need.TABLES,),
        probes=True,
    ),
)

"""Large objects that nothing refers to any more."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Rows, Status

# One is enough to know that something forgets to unlink; how many it is, is the number to plot.
ORPHANS = 1


def orphan_large_objects(rows: Rows, case: Case) -> Iterator[Finding]:
    """In pg_largeobject, and in no column of type oid or lo."""
    for row in rows:
        if not row["objects"]:
            continue
        if row["hidden"]:
            yield case.unknown(
                None,
                f"{row['objects']} large objects can't be judged: this role may not read {row['hidden']} columns that"
                f" may name them, one of them in {row['example']}",
                "grant pg_read_all_data to the role, or SELECT on the tables",
                value=row["hidden"],
            )
        elif row["probe"] is None:
            yield case.note(
                f"{row['objects']} large objects are not looked for in {row['bytes'] / 1024 / 1024:.0f} MB of tables:"
                " vacuumlo --dry-run does that"
            )
        else:
            yield case.finding(
                "pg_largeobject",
                f"{row['probed']} of {row['objects']} large objects are named by no column of type oid or lo",
                "vacuumlo --dry-run lists them, vacuumlo removes them; unless another kind of column keeps their"
                " number",
                value=row["probed"],
            )


CHECKS = (
    Check(
        "storage.orphan_large_objects",
        "large objects are referred to",
        (Status.INFO,),
        orphan_large_objects,
        "Deleting a row doesn't delete the large object that it names: that stays, is dumped with every backup, and"
        " nobody finds it again. Looked for in all columns of type oid or lo, as vacuumlo does; numbers kept as text or"
        " bigint are not seen.",
        remedy="vacuumlo --dry-run first, then vacuumlo. So that it doesn't come again: the trigger lo_manage of the"
        " extension lo unlinks the object with its row; or keep the bytes in a column of type bytea.",
        link="https://www.postgresql.org/docs/current/vacuumlo.html",
        query="large_objects",
        unit="objects",
        limits=Limits(ORPHANS),
        needs=(Need.TABLES,),
        probes=True,
    ),
)

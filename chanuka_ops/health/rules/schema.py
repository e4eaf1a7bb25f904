"""The schema's own promises: keys, constraints, triggers, partitions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Status

# A foreign key without an index hurts where the child is large and the parent's rows are deleted or re-keyed:
# each such change reads the whole child while it holds the parent's row lock.
LARGE_CHILD_ROWS = 100_000
_NOT_NULL_TERM = re.compile(r'^\(*(?P<column>"(?:[^"]|"")+"|[\w$]+) IS NOT NULL\)*$')
# Kept as the same bytes and compared by the same operators: an index on one serves the other.
_ALIKE = {"character varying": "text"}


def _serves(index: Row, columns: list[int], names: list[str]) -> bool:
    """Tell whether an index finds the rows of one key value: its first columns are the key's, in any order.

    A predicate narrows it to some rows; only `column IS NOT NULL` of the key's own columns leaves out none that count,
    because a null never matches a parent.
    """
    head = index["columns"][: len(columns)]
    if sorted(head) != sorted(columns):
        return False
    if index["method"] != "btree" and not (index["method"] == "hash" and len(columns) == 1):
        return False
    predicate = index["predicate"]
    if predicate is None:
        return True
    terms = [_NOT_NULL_TERM.match(term) for term in predicate.split(" AND ")]
    return all(term is not None and term["column"] in names for term in terms)


def fk_unindexed(rows: Rows, case: Case) -> Iterator[Finding]:
    """No usable index finds the child rows of a parent row."""
    for row in rows:
        columns, names = list(row["columns"]), list(row["column_names"])
        if any(_serves(index, columns, names) for index in row["indexes"]):
            continue
        listed = ", ".join(names)
        size = float(row["rows"] or 0)
        large = case.limits.first is not None and size >= case.limits.first and row["parent_changes"] > 0
        build = f"create index concurrently on {row['table']} ({listed})"
        if row["kind"] == "p":
            build = f"create index on {row['table']} ({listed}), or one by one on its partitions and attach them"
        yield case.finding(
            f"{row['table']}({listed})",
            f"no index serves the foreign key {row['name']}: a delete in {row['parent']} reads all of {row['table']}"
            f" (about {size:.0f} rows)",
            build,
            value=size,
            status=Status.WARNING if large else Status.INFO,
        )


def fk_type_mismatch(rows: Rows, case: Case) -> Iterator[Finding]:
    """The child's column is of another type than the parent's."""
    for row in rows:
        mine = [_ALIKE.get(name, name) for name in row["types"]]
        theirs = [_ALIKE.get(name, name) for name in row["parent_types"]]
        if mine != theirs:
            listed = ", ".join(row["column_names"])
            yield case.finding(
                f"{row['table']}({listed})",
                f"foreign key {row['name']}: {', '.join(row['types'])} refers to {', '.join(row['parent_types'])}"
                f" of {row['parent']}",
                "give the column the parent's type; a narrower one overflows first, and comparing types costs casts",
            )


def constraint_not_valid(rows: Rows, case: Case) -> Iterator[Finding]:
    """NOT VALID and never validated."""
    for row in rows:
        yield case.finding(
            row["name"],
            f"constraint {row['constraint_name']} of {row['table']} holds for new rows only: {row['definition']}",
            f"alter table {row['table']} validate constraint {row['constraint_name']} (a scan; blocks no writer)",
        )


def no_primary_key(rows: Rows, case: Case) -> Iterator[Finding]:
    """Nothing tells two rows apart."""
    for row in rows:
        name = row["name"]
        yield case.finding(
            name,
            f"table {name} has no primary key",
            f"alter table {name} add primary key (…); logical replication of its updates and deletes needs one too",
        )


def matview_unpopulated(rows: Rows, case: Case) -> Iterator[Finding]:
    """Created WITH NO DATA and never refreshed."""
    for row in rows:
        name = row["name"]
        yield case.finding(
            name,
            f"materialised view {name} holds no data: every query on it fails",
            f"refresh materialized view {name}",
        )


def trigger_disabled(rows: Rows, case: Case) -> Iterator[Finding]:
    """Somebody switched it off, for a load perhaps, and not on again."""
    for row in rows:
        if row["is_internal"]:
            what = f"constraint {row['constraint_name'] or row['trigger_name']} of {row['table']} is not enforced"
            remedy = f"alter table {row['table']} enable trigger all, then look for rows that break the constraint"
        else:
            what = f"trigger {row['trigger_name']} of {row['table']} is disabled"
            remedy = f"alter table {row['table']} enable trigger {row['trigger_name']}, or drop it"
        yield case.finding(row["name"], what, remedy)


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


def unlogged(rows: Rows, case: Case) -> Iterator[Finding]:
    """Emptied by a crash, absent from standbys."""
    for row in rows:
        if row["persistence"] == "u":
            name = row["name"]
            yield case.finding(
                name,
                f"table {name} is unlogged: a crash empties it, and no standby or base backup has its rows",
                f"if its rows matter: alter table {name} set logged (rewrites the table under an exclusive lock)",
            )


CHECKS = (
    Check(
        "schema.fk_unindexed",
        "foreign keys have an index",
        (Status.INFO,),
        fk_unindexed,
        "Deleting or re-keying a parent row must find its children. Without an index that begins with the key's"
        " columns, in any order, each such change reads the whole child. An invalid index or one with a predicate"
        " doesn't serve (but `column IS NOT NULL` does). It is a warning where the child is large and the"
        " parent's rows change.",
        query="foreign_keys",
        unit="rows",
        limits=Limits(LARGE_CHILD_ROWS),
    ),
    Check(
        "schema.fk_type_mismatch",
        "foreign keys have their parent's type",
        (Status.WARNING,),
        fk_type_mismatch,
        "An int column that refers to a bigint key overflows first, and joins of unlike types may not use an index.",
        query="foreign_keys",
    ),
    Check(
        "schema.constraint_not_valid",
        "constraints are validated",
        (Status.INFO,),
        constraint_not_valid,
        "NOT VALID is the first half of a careful migration. Until VALIDATE CONSTRAINT, old rows may break the rule and"
        " the planner can't rely on it.",
        query="constraints_not_valid",
    ),
    Check(
        "schema.no_primary_key",
        "tables have a primary key",
        (Status.INFO,),
        no_primary_key,
        "Without one a row can't be named, duplicates can't be told apart, and logical replication can't send updates.",
        query="no_primary_key",
    ),
    Check(
        "schema.matview_unpopulated",
        "materialised views hold data",
        (Status.INFO,),
        matview_unpopulated,
        "A materialised view made WITH NO DATA raises an error at each query until it is refreshed.",
        query="unpopulated_matviews",
    ),
    Check(
        "schema.trigger_disabled",
        "triggers are enabled",
        (Status.WARNING,),
        trigger_disabled,
        "A disabled trigger is usually a load that forgot to switch it on again. DISABLE TRIGGER ALL also switches off"
        " foreign keys: rows that break them come in unseen, and validation doesn't look again.",
        query="disabled_triggers",
    ),
    Check(
        "partition.default_rows",
        "default partitions are empty",
        (Status.WARNING,),
        default_rows,
        "Rows in the default partition mean that a partition is missing. Making it later must prove that the default"
        " partition holds none of its rows: a scan under an exclusive lock.",
        query="default_partitions",
        unit="rows",
        needs=(Need.TABLES,),
        probes=True,
    ),
    Check(
        "table.unlogged",
        "tables survive a crash",
        (Status.INFO,),
        unlogged,
        "Unlogged tables are fast because nothing brings them back after a crash.",
        query="tables",
    ),
)

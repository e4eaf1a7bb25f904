"""The schema's own promises: keys, constraints, triggers, partitions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Row, Rows, Status

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


def fk_duplicate(rows: Rows, case: Case) -> Iterator[Finding]:
    """The same columns refer to the same parent's columns twice."""
    first: dict[tuple[object, ...], str] = {}
    for row in rows:
        pairs = frozenset(zip(row["columns"], row["parent_columns"], strict=True))
        kept = first.setdefault((row["table"], row["parent"], pairs), row["name"])
        if kept != row["name"]:
            yield case.finding(
                f"{row['table']}.{row['name']}",
                f"foreign key {row['name']} of {row['table']} says the same as {kept}: every write is checked twice",
                f"alter table {row['table']} drop constraint {row['name']}, the one whose ON DELETE isn't wanted",
            )


def constraint_not_valid(rows: Rows, case: Case) -> Iterator[Finding]:
    """NOT VALID and never validated."""
    for row in rows:
        yield case.finding(
            row["name"],
            f"constraint {row['constraint_name']} of {row['table']} holds for new rows only: {row['definition']}",
            f"alter {row['kind']} {row['table']} validate constraint {row['constraint_name']} (a scan; blocks no"
            " writer)",
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
        if row["is_event"]:
            what = f"event trigger {row['trigger_name']} is disabled"
            remedy = f"alter event trigger {row['trigger_name']} enable, or drop it"
        elif row["is_internal"]:
            what = f"constraint {row['constraint_name'] or row['trigger_name']} of {row['table']} is not enforced"
            remedy = f"alter table {row['table']} enable trigger all, then look for rows that break the constraint"
        else:
            what = f"trigger {row['trigger_name']} of {row['table']} is disabled"
            remedy = f"alter table {row['table']} enable trigger {row['trigger_name']}, or drop it"
        yield case.finding(row["name"], what, remedy)


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
        remedy="CREATE INDEX CONCURRENTLY on the child's columns (SHARE UPDATE EXCLUSIVE; reads and writes go on)."
        " It isn't needed where parents are never deleted and their keys never change.",
        link="https://www.postgresql.org/docs/current/ddl-constraints.html#DDL-CONSTRAINTS-FK",
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
        remedy="Give the child's column the parent's type. ALTER COLUMN TYPE rewrites the table under ACCESS"
        " EXCLUSIVE; a large one wants a new column, a trigger that fills it, a backfill in slices, and a swap.",
        link="https://www.postgresql.org/docs/current/ddl-constraints.html#DDL-CONSTRAINTS-FK",
        query="foreign_keys",
    ),
    Check(
        "schema.fk_duplicate",
        "no foreign key stands twice",
        (Status.INFO,),
        fk_duplicate,
        "Two foreign keys over the same columns check every insert and every delete twice; where their ON DELETE"
        " differs, which of the two acts is not obvious to anybody.",
        remedy="ALTER TABLE … DROP CONSTRAINT …: ACCESS EXCLUSIVE on the child and the parent, for a moment.",
        link="https://www.postgresql.org/docs/current/ddl-constraints.html#DDL-CONSTRAINTS-FK",
        query="foreign_keys",
    ),
    Check(
        "schema.constraint_not_valid",
        "constraints are validated",
        (Status.INFO,),
        constraint_not_valid,
        "NOT VALID is the first half of a careful migration. Until VALIDATE CONSTRAINT, old rows may break the rule and"
        " the planner can't rely on it.",
        remedy="ALTER TABLE … VALIDATE CONSTRAINT …: a scan under SHARE UPDATE EXCLUSIVE, so reads and writes go on."
        " If it fails, its message names the first row that breaks the rule. A domain's: ALTER DOMAIN … VALIDATE"
        " CONSTRAINT ….",
        link="https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DESC-VALIDATE-CONSTRAINT",
        query="constraints_not_valid",
    ),
    Check(
        "schema.no_primary_key",
        "tables have a primary key",
        (Status.INFO,),
        no_primary_key,
        "Without one a row can't be named, duplicates can't be told apart, and logical replication can't send updates.",
        remedy="CREATE UNIQUE INDEX CONCURRENTLY on columns that are NOT NULL, then ALTER TABLE … ADD PRIMARY KEY"
        " USING INDEX …, ACCESS EXCLUSIVE for a moment. Where nothing identifies a row: add id bigint generated"
        " always as identity, which rewrites the table.",
        link="https://www.postgresql.org/docs/current/ddl-constraints.html#DDL-CONSTRAINTS-PRIMARY-KEYS",
        query="no_primary_key",
    ),
    Check(
        "schema.matview_unpopulated",
        "materialised views hold data",
        (Status.INFO,),
        matview_unpopulated,
        "A materialised view made WITH NO DATA raises an error at each query until it is refreshed.",
        remedy="REFRESH MATERIALIZED VIEW …, under ACCESS EXCLUSIVE the first time; with a unique index, later ones"
        " may be CONCURRENTLY. Drop it if nobody asks it.",
        link="https://www.postgresql.org/docs/current/sql-refreshmaterializedview.html",
        query="unpopulated_matviews",
    ),
    Check(
        "schema.trigger_disabled",
        "triggers are enabled",
        (Status.WARNING,),
        trigger_disabled,
        "A disabled trigger is usually a load that forgot to switch it on again; event triggers count too. DISABLE"
        " TRIGGER ALL also switches off foreign keys: rows that break them come in unseen, and validation doesn't look"
        " again.",
        remedy="ALTER TABLE … ENABLE TRIGGER … (SHARE ROW EXCLUSIVE), or drop it; ALTER EVENT TRIGGER … ENABLE."
        " After a foreign key was off, look for orphans, then drop the constraint, add it NOT VALID and validate it:"
        " enabling alone doesn't look at what came in.",
        link="https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DESC-DISABLE-ENABLE-TRIGGER",
        query="disabled_triggers",
    ),
    Check(
        "table.unlogged",
        "tables survive a crash",
        (Status.INFO,),
        unlogged,
        "Unlogged tables are fast because nothing brings them back after a crash.",
        remedy="If its rows matter: ALTER TABLE … SET LOGGED, which rewrites it under ACCESS EXCLUSIVE. If they"
        " don't, list the object as expected by raising nothing: it is advice.",
        link="https://www.postgresql.org/docs/current/sql-createtable.html#SQL-CREATETABLE-UNLOGGED",
        query="tables",
    ),
)

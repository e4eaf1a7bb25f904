"""Indexes: valid, needed, and needed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Row, Rows, Status

# Below this an unused index costs too little to talk about; the tools that look at it start at 1 to 10 MB.
UNUSED_BYTES = 10 * 1024 * 1024
# Monthly jobs are rarer than a week, but a month of statistics is seldom to be had; the finding is advice only.
UNUSED_STATISTICS_DAYS = 7.0
# Half the entries are nulls, which few queries look for by index.
MOSTLY_NULL_PERCENT = 50.0


def invalid(rows: Rows, case: Case) -> Iterator[Finding]:
    """A failed CREATE INDEX CONCURRENTLY leaves an index that is written to by every change and read by no query."""
    for row in rows:
        name = row["name"]
        leftover = "_ccnew" in name or "_ccold" in name
        if leftover:
            remedy = f"a leftover of REINDEX CONCURRENTLY: drop index concurrently {name}"
        elif row["constraint_name"]:
            remedy = f"it backs the constraint {row['constraint_name']}: reindex index concurrently {name}"
        elif row["kind"] == "I":
            remedy = "build the missing index on each partition and attach it: alter index … attach partition …"
        elif row["is_unique"]:
            remedy = (
                f"it was to keep rows unique: remove the duplicates, drop index concurrently {name}, build it again:"
                f" {row['definition']}"
            )
        else:
            remedy = f"drop index concurrently {name}, then build it again: {row['definition']}"
        yield case.finding(name, f"index {name} on {row['table']} is not valid: no query uses it", remedy)


def _by_table(rows: Rows) -> Iterator[list[Row]]:
    tables: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        tables[row["table_oid"]].append(row)
    yield from tables.values()


def _keep_first(row: Row) -> tuple[bool, ...]:
    """Order of who stays: what a table can't be without first; of equals the older one."""
    needed = (
        row["is_partition"],
        row["is_primary"],
        row["backs_constraint"] or row["is_exclusion"],
        row["is_referenced"],
        row["is_identity"],
        row["is_unique"],
    )
    return (*(not part for part in needed), row["oid"])


def _stands_in(kept: Row, other: Row) -> bool:
    """Tell whether `kept` does all that `other` does, given the same columns."""
    if other["is_partition"] or other["is_exclusion"] or other["is_identity"]:
        return False  # dropped with its parent's; enforces something of its own; identifies rows to replication
    if not other["is_unique"]:
        return True
    if not kept["is_unique"] or kept["nulls_not_distinct"] != other["nulls_not_distinct"]:
        return False
    # a deferrable constraint can't be the target of a foreign key or of ON CONFLICT
    return bool(kept["is_immediate"] == other["is_immediate"])


def _duplicates(rows: Rows) -> Iterator[tuple[Row, Row]]:
    for table in _by_table(rows):
        alike: dict[tuple[object, ...], list[Row]] = defaultdict(list)
        for row in table:
            alike[row["method"], tuple(row["keys"]), tuple(row["included"]), row["predicate"]].append(row)
        for group in alike.values():
            kept, *others = sorted(group, key=_keep_first)
            yield from ((other, kept) for other in others if _stands_in(kept, other))


def duplicate(rows: Rows, case: Case) -> Iterator[Finding]:
    """Same method, columns, operator classes, collations, directions, INCLUDE and predicate as an index that stays."""
    for other, kept in _duplicates(rows):
        name = other["name"]
        how = f"drop index concurrently {name}"
        if other["backs_constraint"]:
            how = f"it backs a constraint of its own: alter table {other['table']} drop constraint …"
        yield case.finding(
            name,
            f"index {name} is the same as {kept['name']}: every write pays for both ({_mb(other['bytes'])})",
            how,
        )


def redundant(rows: Rows, case: Case) -> Iterator[Finding]:
    """A B-tree whose columns another B-tree begins with; one that keeps rows unique is never redundant."""
    duplicates = {other["oid"] for other, _ in _duplicates(rows)}
    for table in _by_table(rows):
        trees = [row for row in table if row["method"] == "btree"]
        for row in trees:
            if row["oid"] in duplicates or row["is_unique"] or row["is_identity"] or row["is_partition"]:
                continue
            wider = next((other for other in trees if other["oid"] not in duplicates and _begins(row, other)), None)
            if wider is not None:
                yield case.finding(
                    row["name"],
                    f"index {row['name']} is contained in {wider['name']}, which begins with the same columns"
                    f" ({_mb(row['bytes'])})",
                    f"if no query needs the narrower one for speed: drop index concurrently {row['name']}",
                )


def _begins(narrow: Row, wide: Row) -> bool:
    keys, longer = list(narrow["keys"]), list(wide["keys"])
    if narrow["oid"] == wide["oid"] or narrow["predicate"] != wide["predicate"]:
        return False
    if longer[: len(keys)] != keys:
        return False
    covered = set(wide["included"]) | set(wide["key_columns"])
    more = len(longer) > len(keys) or set(wide["included"]) > set(narrow["included"])
    return more and set(narrow["included"]) <= covered


def unused(rows: Rows, case: Case) -> Iterator[Finding]:
    """No scan since statistics began, and they began long enough ago. Standbys count for themselves."""
    for row in rows:
        days = row["statistics_days"]
        if days is None or days < UNUSED_STATISTICS_DAYS:
            continue  # young statistics prove nothing
        found = case.finding(
            row["name"],
            f"index {row['name']} on {row['table']} was not used in the {days:.0f} days that statistics cover at least"
            f" ({_mb(row['bytes'])})",
            f"look on the standbys too; then: drop index concurrently {row['name']} (to undo: {row['definition']})",
            value=row["bytes"],
        )
        if found.status is not Status.OK:
            yield found


def mostly_null(rows: Rows, case: Case) -> Iterator[Finding]:
    """A partial index would be a fraction of the size, and serve a foreign key as well."""
    hidden = [row["name"] for row in rows if not row["readable"]]
    for row in rows:
        if not row["readable"] or row["nulls"] is None:
            continue
        column, percent = row["column_name"], 100.0 * row["nulls"]
        yield case.finding(
            row["name"],
            f"{percent:.0f} % of what index {row['name']} holds are nulls ({_mb(row['bytes'])})",
            f"unless queries look for nulls: create index concurrently on {row['table']} ({column})"
            f" where {column} is not null, then drop index concurrently {row['name']}",
            value=percent,
        )
    if hidden:
        yield case.unknown(
            None,
            f"{len(hidden)} indexes can't be judged, {hidden[0]} for one: their statistics are hidden from this role",
            "grant pg_read_all_data to the role, or SELECT on the tables",
            value=len(hidden),
        )


def _mb(size: float) -> str:
    return f"{size / 1024 / 1024:.1f} MB"


CHECKS = (
    Check(
        "index.invalid",
        "indexes are valid",
        (Status.WARNING,),
        invalid,
        "An index that is not valid is kept up to date by every write and used by no query; one that was to keep"
        " rows unique may not do so. CREATE INDEX CONCURRENTLY leaves it behind when it fails. An index that is"
        " being built just now is left out.",
        remedy="DROP INDEX CONCURRENTLY it and build it again, or REINDEX INDEX CONCURRENTLY; both take SHARE UPDATE"
        " EXCLUSIVE. If it was to keep rows unique, remove the duplicates first: select … group by … having count(*)"
        " > 1.",
        link="https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY",
        query="invalid_indexes",
    ),
    Check(
        "index.duplicate",
        "no index stands twice",
        (Status.WARNING,),
        duplicate,
        "Two indexes alike in method, columns, operator classes, collations, directions, INCLUDE and predicate cost"
        " twice and serve once. The one that backs no constraint is named, of equals the later one.",
        remedy="DROP INDEX CONCURRENTLY the one named (SHARE UPDATE EXCLUSIVE); keep its CREATE INDEX, to undo. A"
        " constraint's index goes with its constraint: ALTER TABLE … DROP CONSTRAINT, ACCESS EXCLUSIVE for a moment.",
        link="https://www.postgresql.org/docs/current/indexes.html",
        query="indexes",
    ),
    Check(
        "index.redundant",
        "no index is contained in another",
        (Status.INFO,),
        redundant,
        "A B-tree on (a) is rarely needed beside one on (a, b). It is smaller, so look at the queries before dropping.",
        remedy="Look whether queries use it for being smaller (pg_stat_user_indexes.idx_scan), then DROP INDEX"
        " CONCURRENTLY, and keep its CREATE INDEX, to undo.",
        link="https://www.postgresql.org/docs/current/indexes-multicolumn.html",
        query="indexes",
    ),
    Check(
        "index.unused",
        "indexes are used",
        (Status.INFO,),
        unused,
        "Each write pays for an index that no query reads. Indexes that keep rows unique, back a constraint, identify"
        " rows to replication or serve a foreign key are left out, and nothing is said before the statistics cover"
        " a week. A standby's queries are counted on the standby only.",
        remedy="Look at idx_scan on the standbys too, and wait for a month's end. Then DROP INDEX CONCURRENTLY"
        " (SHARE UPDATE EXCLUSIVE), and keep its CREATE INDEX, to undo. hypopg_hide_index() shows beforehand which"
        " plans would miss it.",
        link="https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ALL-INDEXES-VIEW",
        query="index_use",
        unit="bytes",
        limits=Limits(UNUSED_BYTES),
    ),
    Check(
        "index.mostly_null",
        "indexes hold values",
        (Status.INFO,),
        mostly_null,
        "An index on a column that is mostly null is mostly nulls. With `where column is not null` it is a fraction of"
        " the size, and still serves a foreign key.",
        remedy="CREATE INDEX CONCURRENTLY … WHERE column IS NOT NULL, then DROP INDEX CONCURRENTLY the old one. A"
        " query that looks for nulls by index needs the old one.",
        link="https://www.postgresql.org/docs/current/indexes-partial.html",
        query="null_shares",
        unit="%",
        limits=Limits(MOSTLY_NULL_PERCENT),
        needs=(Need.TABLES,),
    ),
)

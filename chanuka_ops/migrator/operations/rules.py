"""Decisions of the operations, and their SQL. Pure: the time and what the server says are arguments."""

from __future__ import annotations

import hashlib

from chanuka_ops.migrator.operations.model import Index, Key, Limits, Load, Walk

NAME_BYTES = 63  # NAMEDATALEN - 1: the server cuts what is longer, and two names could become one
DIGEST_CHARACTERS = 8
SMALLEST_BATCH = 10
LARGEST_BATCH = 50_000
MOST_GROWTH = 2.0  # per batch: one fast batch is little evidence


def fitted(name: str) -> str:
    """Return the name, cut to what the server keeps, still its own: with a digest of the whole.

    >>> fitted("bills_title_idx"), len(fitted("x" * 80)), fitted("x" * 80) == fitted("x" * 81)
    ('bills_title_idx', 63, False)
    """
    if len(name.encode()) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_CHARACTERS]
    return name.encode()[: NAME_BYTES - DIGEST_CHARACTERS - 1].decode(errors="ignore") + "_" + digest


def create_index(index: Index, table: str, name: str, *, how: str = "") -> str:
    """Return the statement. `table` and `name` are SQL; `how` is "concurrently", "only" (without partitions) or "".

    >>> create_index(Index("i", ('"a"',), where="a > 0"), '"t"', '"i"', how="concurrently")
    'create index concurrently "i" on "t" using btree ("a") where (a > 0)'
    """
    words = ["create unique index" if index.unique else "create index"]
    words += ["concurrently"] if how == "concurrently" else []
    words += [name, "on only" if how == "only" else "on", table, "using", index.using, f"({', '.join(index.terms)})"]
    words += [f"include ({', '.join(index.include)})"] if index.include else []
    words += [f"where ({index.where})"] if index.where else []
    return " ".join(words)


def batch_sql(walk: Walk, *, first: bool, size: int) -> str:
    """Return the statement of a batch: it changes a page of rows and moves the cursor, both or neither.

    The page is of rows *looked at*, in the key's order, so that a batch takes about as long where few of them are to be
    changed. The bounds are read from the cursor's row, so no batch can be run from where another stood.
    """
    key = walk.key
    columns = ", ".join(f"{walk.table}.{column}" for column in key.columns)
    aliased = ", ".join(f"{walk.table}.{column} as chanuka_key_{n}" for n, column in enumerate(key.columns, 1))
    page = ", ".join(f"page.chanuka_key_{n}" for n in range(1, len(key.columns) + 1))
    newest = ", ".join(f"page.chanuka_key_{n} desc" for n in range(1, len(key.columns) + 1))
    texts = ", ".join(f"page.chanuka_key_{n}::text" for n in range(1, len(key.columns) + 1))
    bounds = [f"({columns}) <= ({_bound(walk, 'upto')})"]
    bounds += [] if first else [f"({columns}) > ({_bound(walk, 'last_key')})"]
    condition = f" and ({walk.where}\n)" if walk.where else ""  # a line of its own: the author's may end in a comment
    return f"""
with page as materialized (
    select {aliased} from {walk.table} where {" and ".join(bounds)} order by {columns} limit {size}
), touched as (
    update {walk.table} set {walk.assignments}
    from page where ({columns}) = ({page}){condition} returning 1
), counted as (
    select (select count(*) from page) as seen, (select count(*) from touched) as changed
)
update {walk.cursors} as b set
    last_key = coalesce((select array[{texts}] from page order by {newest} limit 1), b.last_key),
    rows_seen = b.rows_seen + counted.seen,
    rows_changed = b.rows_changed + counted.changed,
    updated_at = clock_timestamp(),
    finished_at = case when counted.seen < {size} then clock_timestamp() end
from counted where b.id = {walk.progress_id}
returning b.rows_seen, b.rows_changed, b.finished_at is not null as finished
"""  # noqa: S608 - names are quoted, the rest is the author's


def shown_sql(table: str, assignments: str, where: str | None, size: int) -> str:
    """Return a batch for a person to read, who knows the table's key."""
    condition = f" where ({where}\n)" if where else ""
    return (
        f"-- A batch of a backfill: by the table's key, from where the last one ended, until there is none left\n"  # noqa: S608 - the author's
        f"update {table} set {assignments} from"
        f" (select ctid as row from {table}{condition} order by ctid limit {size}) as page"
        f" where {table}.ctid = page.row"
    )


def _bound(walk: Walk, column: str) -> str:
    return ", ".join(
        f"(select ({column})[{n}]::{kind} from {walk.cursors} where id = {walk.progress_id})"  # noqa: S608
        for n, kind in enumerate(walk.key.types, 1)
    )


def cursors_table(schema: str) -> list[str]:
    """Return the statements that make the table of the cursors."""
    return [
        f"create schema if not exists {schema}",
        f"""
create table if not exists {schema}.backfills (
    id bigint generated always as identity primary key,
    fingerprint text not null unique,
    relation text not null,
    upto text[] not null,
    last_key text[],
    rows_seen bigint not null default 0,
    rows_changed bigint not null default 0,
    started_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz
)""",
    ]


def begin_sql(cursors: str, table: str, relation_oid: int, key: Key, name: str) -> str:
    """Return the statement that makes the cursor, its end the largest key there is; no row for an empty table."""
    texts = ", ".join(f"{column}::text" for column in key.columns)
    newest = ", ".join(f"{column} desc" for column in key.columns)
    return (
        f"insert into {cursors} (fingerprint, relation, upto)"  # noqa: S608 - names are quoted
        f" select '{name}', {relation_oid}::oid::regclass::text, array[{texts}] from {table} order by {newest} limit 1"
        " returning id, false as begun, false as finished"
    )


def found_sql(cursors: str, name: str) -> str:
    """Return the query of the cursor that a broken-off run left."""
    return (
        "select id, last_key is not null as begun, finished_at is not null as finished"  # noqa: S608 - a digest
        f" from {cursors} where fingerprint = '{name}'"
    )


def fingerprint(relation_oid: int, key: Key, assignments: str, where: str | None) -> str:
    """Name a backfill by what it does: only the very same is gone on with."""
    parts = [str(relation_oid), *key.columns, assignments, where or ""]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def next_size(size: int, took_s: float, target_s: float) -> int:
    """Return the next batch's size, so that it takes about `target_s`.

    >>> next_size(1000, 1.0, 0.5), next_size(1000, 0.01, 0.5), next_size(20, 9.0, 0.5)
    (500, 2000, 10)
    """
    factor = min(MOST_GROWTH, target_s / took_s) if took_s > 0 else MOST_GROWTH
    return max(SMALLEST_BATCH, min(LARGEST_BATCH, round(size * factor)))


def brake(load: Load, limits: Limits) -> str | None:
    """Return why the next batch has to wait, or None.

    >>> brake(Load(0, 10, 0, False), Limits(0.5, 9, None))
    'a standby is 10 bytes of WAL behind, over 9'
    """
    if load.wraparound:
        return "an autovacuum to prevent wraparound is at work on the table"
    if limits.lag_bytes is not None and load.lag_bytes > limits.lag_bytes:
        return f"a standby is {load.lag_bytes} bytes of WAL behind, over {limits.lag_bytes}"
    return None


def rest_s(wal_bytes: int, took_s: float, limits: Limits) -> float:
    """Return how long to rest after so much WAL in so long, to stay under the limit on average.

    >>> rest_s(100, 1.0, Limits(0.5, None, 50)), rest_s(100, 3.0, Limits(0.5, None, 50))
    (1.0, 0.0)
    """
    if limits.wal_bytes_per_s is None:
        return 0.0
    return max(0.0, wal_bytes / limits.wal_bytes_per_s - took_s)

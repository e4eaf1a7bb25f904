"""Reads what a database holds, in one snapshot: rows and content of each table, sequences, schema, extensions.

A table's content is the sum of a hash of each row, which no order of rows changes. The server writes the expression
that hashes a row (the block `tables`), from the hash functions that PostgreSQL's own hash partitions rely on over dump
and restore; nothing in it depends on an OID. What it costs and what it notices is in docs/decisions/0007.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.backup import rules
from chanuka_ops.backup.model import (
    MIXED_COLUMNS,
    ROW_TEXT,
    Fingerprint,
    HashAlgorithm,
    Part,
    SequenceState,
    Source,
    TableContent,
)
from chanuka_ops.backup.taking.selection import EVERYTHING, Selection
from chanuka_ops.db import engines
from chanuka_ops.sql.catalog import load

# ONLY leaves inheritance children to their own turn
_WHOLE = "select count(*), coalesce(sum({hash}), 0)::text from only {table} t"
_PARTS = "select {part} as part, count(*), sum({hash})::text from only {table} t group by 1"
_ONE_PART = (  # the filter comes first: of the other rows only the key is hashed
    "select count(*), count(*) filter (where {part} = {number}),"
    " coalesce(sum({hash}) filter (where {part} = {number}), 0)::text from only {table} t"
)
_PART = "pg_catalog.abs(({key}) % {parts})"
_ROW_TEXT = 'pg_catalog.hashtextextended({row}::text collate "C", 0)'
_STATE = "select last_value, is_called from {}"
_VERBATIM = {"no_parameters": True}  # a name may hold a percent sign
_LONGEST_MS = 2**31 - 1  # what statement_timeout can hold
_CHUNK_BYTES = 16 * 2**20  # of a large object are in memory at once
_FIRST_CHUNK_BYTES = 2**30 - 5  # with the first algorithm: the whole, and none could be larger
_UNREAD = TableContent(rows=None, hash=None)
_EMPTY = TableContent(rows=0, hash="0")


@dataclass(frozen=True, slots=True)
class Sample:
    """From which size on a table is fingerprinted in so many parts, so that a drill can compare one of them."""

    above_bytes: int
    parts: int


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    estimated_rows: int
    row_text: str
    row_hash: str
    key: str | None


_Read = Callable[[_Table], TableContent]


def fix_settings(connection: Connection, *, deadline_s: float) -> None:
    """Fix, for this transaction, all that changes how values look as text; and make row security an error.

    No statement may run longer than `deadline_s`, and none uses more than one of the server's cores.
    """
    deadline_ms = min(round(deadline_s * 1000), _LONGEST_MS)
    connection.execute(text(load("chanuka_ops.backup").sql("settings")), {"deadline_ms": str(deadline_ms)})


def source(connection: Connection) -> Source:
    """Read the facts of the source for the manifest."""
    catalog = load("chanuka_ops.backup")
    row = connection.execute(text(catalog.sql("source"))).mappings().one()
    versions = connection.execute(text(catalog.sql("schema_revision_table"))).scalar_one_or_none()
    revisions = _rows(connection, f"select version_num from {versions} order by 1") if versions else []  # noqa: S608 - quoted by the server
    return Source(**row, schema_revision=",".join(revision for (revision,) in revisions) or None)


def take(
    connection: Connection,
    *,
    label: str,
    selection: Selection = EVERYTHING,
    content: bool = True,
    sample: Sample | None = None,
    still_worthwhile: Callable[[], None] = lambda: None,
) -> Fingerprint:
    """Fingerprint the database as this transaction sees it; call `fix_settings` first.

    Only what is selected; without `content` no rows are read. `still_worthwhile` is called between tables and may raise
    to stop early. Sequences keep to no snapshot: the source's are read around the dump, see `with_sequences`.
    Errors: `PermissionDenied` naming the table that the role can't read, `LockTimeout` naming the one that is locked.
    """

    def read(table: _Table) -> TableContent:
        if not content:
            return _UNREAD
        if not selection.has_rows(table.name):
            return _EMPTY  # the dump has the table without its rows
        if (
            sample is not None
            and sample.parts > 1
            and table.key is not None
            and _size(connection, table.name) > sample.above_bytes
        ):
            return _in_parts(connection, table, table.key, sample.parts)
        return _whole(connection, table, table.row_hash)

    selected = [table for table in _tables(connection) if selection.has_object(None, table.name)]
    tables = _contents(selected, read, label=label, still_worthwhile=still_worthwhile)
    large = _UNREAD if not content else _EMPTY if not selection.outside else _large_objects(connection, _CHUNK_BYTES)
    return _with_structure(connection, selection, tables, large, algorithm=MIXED_COLUMNS)


def retake(connection: Connection, original: Fingerprint, *, label: str, part: int | None = None) -> Fingerprint:
    """Fingerprint a copy the way its original was: by its algorithm, and of tables in parts that part alone.

    Call `fix_settings` first. Errors: `DatabaseError`.
    """
    first = original.algorithm == ROW_TEXT

    def read(table: _Table) -> TableContent:
        there = original.tables.get(table.name)
        if not original.has_content or (there is not None and there.rows is None):
            return _UNREAD
        if there is not None and there.parts and part is not None and table.key == there.key:
            return _one_part(connection, table, len(there.parts), part)
        return _whole(connection, table, _ROW_TEXT.format(row=table.row_text) if first else table.row_hash)

    tables = _contents(_tables(connection), read, label=label)
    chunk_bytes = _FIRST_CHUNK_BYTES if first else _CHUNK_BYTES
    large = _large_objects(connection, chunk_bytes) if original.has_content else _UNREAD
    return _with_structure(connection, EVERYTHING, tables, large, algorithm=original.algorithm)


def with_sequences(
    fingerprint: Fingerprint, before: dict[str, SequenceState], after: dict[str, SequenceState]
) -> Fingerprint:
    """State its sequences as they were before the dump began and after it ended: what it wrote lies in between."""
    spans = {}
    for name, between in fingerprint.sequences.items():
        first, last = before.get(name, between), after.get(name, between)
        spans[name] = first.model_copy(update={"after": last.before, "called_after": last.called_before})
    return fingerprint.model_copy(update={"sequences": spans})


def sequences(connection: Connection, selection: Selection = EVERYTHING) -> dict[str, SequenceState]:
    """Read every selected sequence as it is at this moment, whatever the transaction's snapshot.

    Errors: `PermissionDenied` naming the sequence that the role can't read.
    """
    found = {}
    for name, increment, cycle in connection.execute(text(load("chanuka_ops.backup").sql("sequences"))).all():
        if not selection.has_object(None, str(name)):
            continue
        (value, called), *_rest = _readable(connection, name, _STATE.format(name))
        found[str(name)] = SequenceState(
            before=value, after=value, called_before=called, called_after=called, increment=increment, cycle=cycle
        )
    return found


def _tables(connection: Connection) -> list[_Table]:
    return [_Table(**row) for row in connection.execute(text(load("chanuka_ops.backup").sql("tables"))).mappings()]


def _contents(
    tables: Iterable[_Table], read: _Read, *, label: str, still_worthwhile: Callable[[], None] = lambda: None
) -> dict[str, TableContent]:
    named = list(tables)
    total = sum(table.estimated_rows for table in named)
    contents: dict[str, TableContent] = {}
    done = 0
    context.progress(label, 0, total, "rows")
    for table in named:
        still_worthwhile()
        contents[table.name] = read(table)
        done += contents[table.name].rows or 0
        context.progress(label, done, max(total, done), "rows")
    return dict(sorted(contents.items()))


def _whole(connection: Connection, table: _Table, row_hash: str) -> TableContent:
    statement = _WHOLE.format(table=table.name, hash=row_hash)
    (rows, digest), *_rest = _readable(connection, table.name, statement)
    return TableContent(rows=rows, hash=digest)


def _in_parts(connection: Connection, table: _Table, key: str, parts: int) -> TableContent:
    part = _PART.format(key=key, parts=parts)
    statement = _PARTS.format(part=part, hash=table.row_hash, table=table.name)
    found = {
        number: Part(rows=rows, hash=digest) for number, rows, digest in _readable(connection, table.name, statement)
    }
    each = tuple(found.get(number, Part(rows=0, hash="0")) for number in range(parts))
    whole = sum(int(part.hash) for part in each)
    return TableContent(rows=sum(part.rows for part in each), hash=str(whole), key=key, parts=each)


def _one_part(connection: Connection, table: _Table, parts: int, number: int) -> TableContent:
    part = _PART.format(key=table.key, parts=parts)
    statement = _ONE_PART.format(part=part, number=number, hash=table.row_hash, table=table.name)
    (rows, part_rows, digest), *_rest = _readable(connection, table.name, statement)
    return TableContent(rows=rows, hash=None, key=table.key, parts=(Part(rows=part_rows, hash=digest),))


def _size(connection: Connection, name: str) -> int:
    with _naming(name):
        return int(connection.execute(text(load("chanuka_ops.backup").sql("table_size")), {"name": name}).scalar_one())


def _large_objects(connection: Connection, chunk_bytes: int) -> TableContent:
    row = connection.execute(text(load("chanuka_ops.backup").sql("large_objects")), {"chunk_bytes": chunk_bytes}).one()
    return TableContent(rows=row.rows, hash=row.hash)


def _with_structure(
    connection: Connection,
    selection: Selection,
    tables: dict[str, TableContent],
    large_objects: TableContent,
    *,
    algorithm: HashAlgorithm,
) -> Fingerprint:
    """Complete the contents to a fingerprint by all else."""
    catalog = load("chanuka_ops.backup")
    versions = text(catalog.sql("collations", engines.server_major(connection)))
    objects = {
        f"{found.kind} {found.object}": _object_hash(found.definition, found.rights)
        for found in connection.execute(text(catalog.sql("objects")))
        if selection.has_object(found.schema, found.relation)
    }
    extensions = {
        str(found.name): str(found.version)
        for found in connection.execute(text(catalog.sql("extensions")))
        # what CREATE DATABASE brings, and what serves the whole of it, is in the catalog's own schema
        if selection.has_object(None if found.schema == "pg_catalog" else found.schema, None)
    }
    return Fingerprint(
        algorithm=algorithm,
        tables=tables,
        large_objects=large_objects,
        sequences=sequences(connection, selection),
        extensions=extensions,
        collations={str(name): str(version) for name, version in connection.execute(versions)},
        objects=objects,
        schema_hash=rules.schema_hash(objects),
    )


def _object_hash(definition: str | None, rights: str | None) -> str:
    hashed = hashlib.sha256((definition or "").encode()).hexdigest()[:16]
    return hashed if rights is None else f"{hashed}:{hashlib.sha256(rights.encode()).hexdigest()[:8]}"


@contextmanager
def _naming(relation: str) -> Iterator[None]:
    """Let no error out of the block that doesn't name the relation."""
    try:
        with engines.translated():
            yield
    except errors.LockTimeout as locked:
        raise errors.LockTimeout(
            f"{relation} is locked by another session ({locked}): try again later, or raise timeouts.lock",
            sqlstate=locked.sqlstate,
        ) from None
    except errors.PermissionDenied as denied:
        raise errors.PermissionDenied(
            f"{relation} can't be read by this role ({denied}): grant it SELECT, or membership of pg_read_all_data",
            sqlstate=denied.sqlstate,
        ) from None


def _readable(connection: Connection, name: str, statement: str) -> list[Any]:
    with _naming(name):
        return _rows(connection, statement)


def _rows(connection: Connection, statement: str) -> list[Any]:
    return list(connection.exec_driver_sql(statement, execution_options=_VERBATIM))

"""Reads what a database holds, in one snapshot: rows and content of each table, sequences, schema, extensions.

A table's hash is the sum of `hashtextextended` over the text form of each whole row, under settings that fix how a
value looks. The sum doesn't depend on the order of rows; the text form doesn't depend on OIDs, as an enum's binary
form does; and the hash is the one PostgreSQL's own hash partitions rely on over dump and restore.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.backup import rules
from chanuka_ops.backup.model import Fingerprint, SequenceState, Source, TableContent
from chanuka_ops.db.engines import translated
from chanuka_ops.sql.catalog import load

# ONLY leaves inheritance children to their own turn
_CONTENT = (
    'select count(*), coalesce(sum(pg_catalog.hashtextextended({row}::text collate "C", 0)), 0)::text'
    " from only {table} t"
)
_STATE = "select last_value, is_called from {}"
_VERBATIM = {"no_parameters": True}  # a name may hold a percent sign
_LONGEST_MS = 2**31 - 1  # what statement_timeout can hold


def fix_settings(connection: Connection, *, deadline_s: float) -> None:
    """Fix, for this transaction, all that changes how values look as text; and make row security an error.

    No statement may run longer than `deadline_s`.
    """
    deadline_ms = min(round(deadline_s * 1000), _LONGEST_MS)
    connection.execute(text(load(__package__).sql("settings")), {"deadline_ms": str(deadline_ms)})


def source(connection: Connection) -> Source:
    """Read the facts of the source for the manifest."""
    catalog = load(__package__)
    row = connection.execute(text(catalog.sql("source"))).mappings().one()
    versions = connection.execute(text(catalog.sql("schema_revision_table"))).scalar_one_or_none()
    revisions = _rows(connection, f"select version_num from {versions} order by 1") if versions else []  # noqa: S608 - quoted by the server
    return Source(**row, schema_revision=",".join(revision for (revision,) in revisions) or None)


def take(connection: Connection, *, label: str, still_worthwhile: Callable[[], None] = lambda: None) -> Fingerprint:
    """Fingerprint the database as this transaction sees it; call `fix_settings` first.

    `still_worthwhile` is called between tables and may raise to stop early. Sequences keep to no snapshot: the source's
    are read around the dump, see `with_sequences`.
    Errors: `PermissionDenied` naming the table that the role can't read, `LockTimeout` naming the one that is locked.
    """
    catalog = load(__package__)
    named = [(str(name), int(rows), str(row)) for name, rows, row in connection.execute(text(catalog.sql("tables")))]
    total = sum(rows for _, rows, _ in named)
    tables: dict[str, TableContent] = {}
    done = 0
    context.progress(label, 0, total, "rows")
    for name, _, row in named:
        still_worthwhile()
        (count, digest), *_rest = _readable(connection, name, _CONTENT.format(table=name, row=row))
        tables[name] = TableContent(rows=count, hash=digest)
        done += count
        context.progress(label, done, max(total, done), "rows")
    large = connection.execute(text(catalog.sql("large_objects"))).one()
    objects = {
        f"{found.kind} {found.object}": hashlib.sha256((found.definition or "").encode()).hexdigest()[:16]
        for found in connection.execute(text(catalog.sql("objects")))
    }
    return Fingerprint(
        tables=dict(sorted(tables.items())),
        large_objects=TableContent(rows=large.rows, hash=large.hash),
        sequences=sequences(connection),
        extensions={str(name): str(version) for name, version in connection.execute(text(catalog.sql("extensions")))},
        objects=objects,
        schema_hash=rules.schema_hash(objects),
    )


def with_sequences(
    fingerprint: Fingerprint, before: dict[str, SequenceState], after: dict[str, SequenceState]
) -> Fingerprint:
    """State the sequences as they were before the dump began and after it ended: what it wrote lies in between."""
    merged = {
        name: state.model_copy(update={"after": after[name].before, "called_after": after[name].called_before})
        for name, state in before.items()
        if name in after
    }
    return fingerprint.model_copy(update={"sequences": {**before, **merged}})


def sequences(connection: Connection) -> dict[str, SequenceState]:
    """Read every sequence as it is at this moment, whatever the transaction's snapshot.

    Errors: `PermissionDenied` naming the sequence that the role can't read.
    """
    found = {}
    for name, increment, cycle in connection.execute(text(load(__package__).sql("sequences"))).all():
        (value, called), *_rest = _readable(connection, name, _STATE.format(name))
        found[str(name)] = SequenceState(
            before=value, after=value, called_before=called, called_after=called, increment=increment, cycle=cycle
        )
    return found


def _readable(connection: Connection, name: str, statement: str) -> list[Any]:
    try:
        with translated():
            return _rows(connection, statement)
    except errors.LockTimeout as locked:
        raise errors.LockTimeout(
            f"{name} is locked by another session ({locked}): try again later, or raise timeouts.lock",
            sqlstate=locked.sqlstate,
        ) from None
    except errors.PermissionDenied as denied:
        raise errors.PermissionDenied(
            f"{name} can't be read by this role ({denied}): grant it SELECT, or membership of pg_read_all_data",
            sqlstate=denied.sqlstate,
        ) from None


def _rows(connection: Connection, statement: str) -> list[Any]:
    return list(connection.exec_driver_sql(statement, execution_options=_VERBATIM))

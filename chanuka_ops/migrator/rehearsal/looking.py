"""Looking at the copy between statements, on the very connection that runs them: exact, and within its transaction."""

from __future__ import annotations

from typing import Any, Protocol

from chanuka_ops.migrator.rehearsal.model import Look, Relation
from chanuka_ops.sql import catalog

PACKAGE = "chanuka_ops.migrator"


class Raw(Protocol):
    """As much of the driver's connection as is needed."""

    def execute(self, query: Any, params: Any = None, /) -> Any:
        """Run a statement."""


def rows_of(raw: Raw, name: str, major: int, **values: Any) -> list[tuple[Any, ...]]:
    """Run a named block on the driver's connection."""
    sql = catalog.load(PACKAGE).sql(name, major)
    for key in values:
        sql = sql.replace(f":{key}", f"%({key})s")
    found: list[tuple[Any, ...]] = raw.execute(sql, values or None).fetchall()
    return found


def look(raw: Raw, major: int, own_schema: str) -> Look:
    """Look at the copy. Errors: the driver's, where the transaction has failed."""
    [(wal_bytes, size_bytes)] = rows_of(raw, "trace_written", major)
    return Look(relations(raw, major, own_schema), dict(rows_of(raw, "trace_rows", major)), wal_bytes, size_bytes)


def relations(raw: Raw, major: int, own_schema: str) -> dict[int, Relation]:
    """Return the application's relations by oid."""
    found = rows_of(raw, "trace_relations", major, own_schema=own_schema)
    return {row[0]: Relation(*row) for row in found}


def held(raw: Raw, major: int, pid: int) -> list[tuple[int, str]]:
    """Return the locks that a session holds: (oid, mode)."""
    return [(oid, mode) for oid, mode in rows_of(raw, "trace_locks", major, pid=pid)]

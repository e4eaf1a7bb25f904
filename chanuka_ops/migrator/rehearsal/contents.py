"""What the copy's tables hold, a count and a sum of hashes each: whether what isn't touched stays as it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops.migrator.rehearsal.looking import PACKAGE
from chanuka_ops.migrator.rehearsal.model import TableSize
from chanuka_ops.sql import catalog

_VERBATIM = {"no_parameters": True}


@dataclass(frozen=True, slots=True)
class Content:
    """A table's rows: how many, and the sum of their hashes, whatever their order."""

    name: str
    rows: int
    digest: str


def take(connection: Connection, own_schema: str, only: Collection[int] | None = None) -> dict[int, Content]:
    """Read every table of the application (or `only` those), by oid.

    Errors: `DatabaseError`.
    """
    listed = connection.execute(text(catalog.load(PACKAGE).sql("trace_content")), {"own_schema": own_schema})
    found: dict[int, Content] = {}
    for oid, name, query in listed.all():
        if only is None or oid in only:
            rows, digest = connection.exec_driver_sql(query, execution_options=_VERBATIM).one()
            found[oid] = Content(name, rows, digest)
    return found


def sizes(connection: Connection, own_schema: str) -> dict[str, TableSize]:
    """Return the size of every table, by name. Errors: `DatabaseError`."""
    listed = connection.execute(text(catalog.load(PACKAGE).sql("trace_sizes")), {"own_schema": own_schema})
    return {name: TableSize(heap_bytes, index_bytes) for name, heap_bytes, index_bytes in listed.all()}

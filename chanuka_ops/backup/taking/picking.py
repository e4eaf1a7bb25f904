"""Reads off a server what a backup may pick from: the names that filters are matched against, and the databases."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops.backup.taking import selection
from chanuka_ops.backup.taking.selection import ALL, Names, Relation, Resolved
from chanuka_ops.config.backup import FilterSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.sql.catalog import load


def resolved(connection: Connection, filters: FilterSettings) -> Resolved:
    """Resolve the filters as this transaction sees the catalog.

    Errors: `RefusedError` for a pattern that matches nothing, or where nothing is left.
    """
    if filters.keeps_all:
        return ALL
    catalog = load("chanuka_ops.backup")
    return selection.resolve(
        filters,
        Names(
            schemas={str(row.name): str(row.quoted) for row in connection.execute(text(catalog.sql("schemas")))},
            relations=[Relation(**row) for row in connection.execute(text(catalog.sql("relations"))).mappings()],
            extensions={
                str(row.name): str(row.schema) for row in connection.execute(text(catalog.sql("extension_schemas")))
            },
        ),
    )


def siblings(manager: ConnectionManager, patterns: tuple[str, ...]) -> list[str]:
    """Return the other databases of the manager's server that the patterns choose.

    Errors: `RefusedError` for a pattern that matches none, not even its own; `DatabaseError`.
    """
    with manager.read() as connection:
        there = connection.execute(text(load("chanuka_ops.backup").sql("sibling_databases"))).all()
    own = {str(row.name) for row in there if row.own}
    return [name for name in selection.databases(patterns, [str(row.name) for row in there]) if name not in own]

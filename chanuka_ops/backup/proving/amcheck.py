"""Checks the indexes and tables of a restored copy with PostgreSQL's own amcheck, where the server has it.

A B-tree is in order and holds an entry for each row of its table (heapallindexed); a GIN index is in order, from
PostgreSQL 18 on; a table's pages and rows are well formed. https://www.postgresql.org/docs/current/amcheck.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.backup.answers import Mismatch
from chanuka_ops.db import engines
from chanuka_ops.sql.catalog import load

log = logging.getLogger(__name__)

NAME = "amcheck"
_CHECKS = {
    "btree": "select {schema}.bt_index_check(index => {oid}, heapallindexed => true)",
    "gin": "select {schema}.gin_index_check({oid})",
    "heap": "select msg from {schema}.verify_heapam(relation => {oid}) limit 1",
}
_GIN_SINCE = 18
_CORRUPTED = "XX"  # the class of internal errors, to which data and index corruption belong


def check(connection: Connection, *, go_on: Callable[[], None] = lambda: None) -> tuple[Mismatch, ...] | None:
    """Check every index and table; return what is wrong with which, or None where amcheck can't be had there.

    The transaction must be allowed to write: amcheck is created in it where it's missing, and everything is undone.
    `go_on` is called between two checks and may raise.
    Errors: `DatabaseError`, where a check couldn't be made.
    """
    catalog = load("chanuka_ops.backup")
    with _undone(connection):
        schema = _home(connection)
        if schema is None:
            return None
        gin = engines.server_major(connection) >= _GIN_SINCE
        there = [row for row in connection.execute(text(catalog.sql("checkable"))) if gin or row.method != "gin"]
        problems = []
        for number, row in enumerate(there):
            go_on()
            context.progress(NAME, number, len(there), "relations")
            said = _said(connection, _CHECKS[row.method].format(schema=schema, oid=row.oid))
            if said is not None:
                kind = "table" if row.method == "heap" else "index"
                problems.append(Mismatch(object=f"{kind} {row.name}", source="sound", restored=said))
        return tuple(problems)


def _home(connection: Connection) -> str | None:
    """Return the schema of amcheck's functions, made now where it wasn't there; None where it can't be had."""
    found = connection.execute(text(load("chanuka_ops.backup").sql("amcheck_home"))).one()
    if found.schema is not None:
        return str(found.schema)
    if not found.available:
        return None
    try:
        with _undone(connection, only_on_error=True), engines.translated():
            # the copy's own event triggers are not to see it; in a schema of its own it would be one object too many
            connection.exec_driver_sql("set local session_replication_role to replica")
            connection.exec_driver_sql("create extension amcheck schema pg_catalog")
    except errors.PermissionDenied as denied:
        log.info("amcheck can't be created: %s", denied, extra={"event": "amcheck.missing"})
        return None
    return "pg_catalog"


def _said(connection: Connection, statement: str) -> str | None:
    """Make one check and return what it complains of."""
    try:
        with _undone(connection, only_on_error=True), engines.translated():
            found: Any = connection.exec_driver_sql(statement).scalar()
    except errors.DatabaseError as error:
        if not (error.sqlstate or "").startswith(_CORRUPTED):
            raise
        return str(error)
    return found or None


@contextmanager
def _undone(connection: Connection, *, only_on_error: bool = False) -> Iterator[None]:
    """Take back what the block did in this transaction."""
    with engines.translated():
        nested = connection.begin_nested()
    try:
        yield
    except BaseException:
        if nested.is_active and not connection.invalidated:
            with engines.translated():
                nested.rollback()
        raise
    with engines.translated():
        if only_on_error:
            nested.commit()
        else:
            nested.rollback()

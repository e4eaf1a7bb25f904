"""What a script really does, found out by running it: locks, rewrites, and rows read while others wait."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator.lint import script
from chanuka_ops.migrator.lint.model import Statement
from chanuka_ops_tests.plugins.postgres import connect

MANY_ROWS = 500
BLOCKING = {"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}
BY_ITSELF = re.compile(r"\bconcurrently\b|^\s*vacuum\b|^\s*(create|drop)\s+database\b", re.IGNORECASE)
RELATIONS = """
    select c.oid, c.relname, coalesce(c.relfilenode, 0), c.reltablespace from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'public' and c.relkind in ('r', 'p', 'i', 'I', 'm', 'v')
"""
ROWS = """
    select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) from pg_stat_xact_all_tables
    where relid = any(%s)
"""
LOCKS = """
    select relation, mode from pg_locks
    where pid = pg_backend_pid() and locktype = 'relation' and granted and relation = any(%s)
"""


@dataclass
class Measured:
    """What was seen. `error` is the server's word."""

    error: str = ""
    rewritten: set[str] = field(default_factory=set)
    rows: int = 0
    locks: dict[str, str] = field(default_factory=dict)

    @property
    def blocks(self) -> bool:
        return bool(self.error or self.rewritten or self.rows >= MANY_ROWS)


def measure(database: DatabaseSettings, sql: str, *, keep: bool) -> Measured:
    """Run a script, section by section, and look after each statement. `keep`: each section is committed."""
    measured = Measured()
    with connect(database, Profile.MAINTENANCE) as connection:
        connection.autocommit = True
        sections: dict[int, list[Statement]] = {}
        for statement in script.read(sql, name="case").statements:
            sections.setdefault(statement.section, []).append(statement)
        try:
            for statements in sections.values():
                if statements[0].managed:
                    _together(connection, statements, measured, keep=keep)
                else:
                    for statement in statements:
                        _alone(connection, statement, measured)
        except psycopg.Error as error:
            measured.error = str(error).splitlines()[0]
    return measured


def _alone(connection: psycopg.Connection[Any], statement: Statement, measured: Measured) -> None:
    if not BY_ITSELF.search(statement.sql):
        _together(connection, [statement], measured, keep=True)
        return
    before = _relations(connection)
    connection.execute(statement.sql.encode())
    if "full" in statement.sql.lower():
        measured.rewritten |= _rewritten(before, _relations(connection))


def _together(
    connection: psycopg.Connection[Any], statements: list[Statement], measured: Measured, *, keep: bool
) -> None:
    before = _relations(connection)
    oids = list(before)
    with _transaction(connection, keep=keep):
        seen = _rows(connection, oids)
        for statement in statements:
            connection.execute(statement.sql.encode())
            found = connection.execute(LOCKS, [oids]).fetchall()
            blocking = {before[oid][0]: mode for oid, mode in found if mode in BLOCKING}
            measured.locks |= blocking
            now = _rows(connection, oids)
            if blocking:
                measured.rows += now - seen
            seen = now
        changed = _rewritten(before, _relations(connection))
        if measured.locks:
            measured.rewritten |= changed


@contextmanager
def _transaction(connection: psycopg.Connection[Any], *, keep: bool) -> Iterator[None]:
    connection.execute("begin")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit" if keep else "rollback")


def _relations(connection: psycopg.Connection[Any]) -> dict[int, tuple[str, int, int]]:
    return {oid: (name, node, space) for oid, name, node, space in connection.execute(RELATIONS).fetchall()}


def _rewritten(before: dict[int, tuple[str, int, int]], after: dict[int, tuple[str, int, int]]) -> set[str]:
    return {before[oid][0] for oid in before if oid in after and after[oid][1:] != before[oid][1:]}


def _rows(connection: psycopg.Connection[Any], oids: list[int]) -> int:
    row = connection.execute(ROWS, [oids]).fetchone()
    return int(row[0]) if row else 0

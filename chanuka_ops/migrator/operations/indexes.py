"""Indexes that are built while readers and writers go on.

CREATE INDEX CONCURRENTLY that is broken off leaves an INVALID index, which every write maintains (a unique one even
enforces) and no query uses; and it can't be used on a partitioned table. Here the leftover is dropped, and a
partitioned table is worked through: the index on the parent alone, each partition's concurrently, each attached.
https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Row

from chanuka_ops import errors
from chanuka_ops.migrator.operations import rules
from chanuka_ops.migrator.operations.model import Index, Relation
from chanuka_ops.migrator.operations.session import Column, Session, outside_transaction

log = logging.getLogger(__name__)

ATTEMPTS = 3
PATIENCE_S = 300.0
PASSES = 5  # over the partitions: those that come meanwhile have the index from their first moment
_TRIED_AGAIN = {"55P03", "40P01"}


def concurrent_index(
    name: str,
    table: str,
    columns: Sequence[Column],
    *,
    schema: str | None = None,
    unique: bool = False,
    where: str | None = None,
    using: str = "btree",
    include: Sequence[str] = (),
    attempts: int = ATTEMPTS,
    patience_s: float = PATIENCE_S,
) -> None:
    """Make an index without blocking writers; done already where a valid one of the same definition is there.

    `columns` are names, or `text("lower(title) desc")`. `patience_s` is how long the build may wait for a lock or for
    an older transaction to end, which holds up nobody; `attempts` is how often it is built at most.

    Errors: `MigrationFailed` where something else has that name, or a valid index of another definition;
    `LockTimeout`; `DatabaseError` (rows that aren't unique: then no invalid index is left).
    """
    with outside_transaction() as session:
        index = Index(name, session.terms(columns), unique, using, session.terms(include), where)
        _Builder(session, attempts, patience_s).make(index, session.relation(table, schema))


def drop_concurrent_index(name: str, table: str, *, schema: str | None = None, patience_s: float = PATIENCE_S) -> None:
    """Drop an index of the table without blocking readers or writers; done already where there is none.

    That of a partitioned table can't be dropped concurrently: it's dropped at once, with a short wait for its lock.

    Errors: `MigrationFailed` where the name is another table's; `LockTimeout`.
    """
    with outside_transaction() as session:
        _Builder(session, 1, patience_s).drop(name, session.relation(table, schema))


class _Builder:
    """Builds and drops, in one session."""

    def __init__(self, session: Session, attempts: int, patience_s: float) -> None:
        self._session = session
        self._attempts = attempts
        self._patience_s = patience_s

    def make(self, index: Index, relation: Relation) -> None:
        if relation.partitioned:
            self._expand(index, relation)
        elif relation.foreign:
            raise errors.MigrationFailed(
                f"{self._session.of(relation)} is a foreign table: it can have no index. Detach it, or index its source"
            )
        else:
            self._build(index, relation)

    def drop(self, name: str, relation: Relation) -> None:
        found = self._found(name, relation)
        qualified = self._session.qualified(name, relation.schema or None)
        if not relation.partitioned:
            if found is not None or self._session.shown:
                self._session.patiently(f"drop index concurrently if exists {qualified}", self._patience_s)
            return
        if found is not None:
            for child in self._without(relation, found.oid):  # built, and not attached yet
                self.drop(rules.fitted(f"{child.name}_{name}"), child)
            self._session.retried(f"drop index if exists {qualified}")

    def _build(self, index: Index, relation: Relation) -> None:
        sql = rules.create_index(
            index, self._session.of(relation), self._session.quoted(index.name), how="concurrently"
        )
        if self._session.shown:
            self._drop_one(index.name, relation)
        for attempt in range(1, self._attempts + 1):
            try:
                if self._stands(index, relation):
                    return
                self._session.patiently(sql, self._patience_s)
            except errors.ConnectionLost:
                raise
            except errors.DatabaseError as error:
                if error.sqlstate in _TRIED_AGAIN and attempt < self._attempts:
                    log.warning("index %s: %s; built anew", index.name, error, extra={"event": "migrate.index"})
                    continue
                self._clear(index.name, relation)
                raise
            break
        if not self._session.shown and not self._stands(index, relation):
            raise errors.MigrationFailed(f"index {index.name} was built and isn't valid: see the server's log")

    def _stands(self, index: Index, relation: Relation) -> bool:
        """Tell whether the index is there, as it's wanted; an invalid leftover is dropped."""
        found = self._found(index.name, relation)
        if found is None:
            return False
        if not found.valid:
            log.info("index %s is an invalid leftover: dropped", index.name, extra={"event": "migrate.leftover"})
            self._drop_one(index.name, relation)
            return False
        self._same(index, relation, found)
        return True

    def _clear(self, name: str, relation: Relation) -> None:
        """Leave no invalid index behind a build that won't be tried again."""
        try:
            found = self._found(name, relation)
            if found is not None and not found.valid:
                self._drop_one(name, relation)
        except errors.DatabaseError as error:
            log.warning("index %s is left invalid: %s", name, error, extra={"event": "migrate.leftover"})

    def _drop_one(self, name: str, relation: Relation) -> None:
        qualified = self._session.qualified(name, relation.schema or None)
        self._session.patiently(f"drop index concurrently if exists {qualified}", self._patience_s)

    def _found(self, name: str, relation: Relation) -> Row[Any] | None:
        """Return what has that name. Errors: `MigrationFailed` where it's no index of the table."""
        found = self._session.row("index_named", schema=relation.schema, name=name)
        if found is not None and found.table_oid != relation.oid:
            what = f"an index of table {found.table_name}" if found.table_name else "no index"
            raise errors.MigrationFailed(
                f"{relation.schema}.{name} is there already, and is {what}: choose another name for the index"
            )
        return found

    def _same(self, index: Index, relation: Relation, found: Row[Any]) -> None:
        """Have the server write down the wanted index, and compare: `a` and `(a)` are one.

        Errors: `MigrationFailed` where they differ.
        """
        session = self._session
        wanted = probed_index(session, index, relation)
        if wanted != found.shape:
            raise errors.MigrationFailed(
                f"index {index.name} of {session.of(relation)} is there already with another definition:"
                f" {found.definition}. Drop it, or give the new one another name"
            )

    def _expand(self, index: Index, parent: Relation) -> None:
        session = self._session
        found = self._found(index.name, parent)
        if found is None:
            session.retried(rules.create_index(index, session.of(parent), session.quoted(index.name), how="only"))
            found = self._found(index.name, parent)
        if found is None:
            raise errors.MigrationFailed(f"index {index.name} was made on {session.of(parent)} and isn't there")
        self._same(index, parent, found)
        qualified = session.qualified(index.name, parent.schema)
        for _ in range(PASSES):
            missing = self._without(parent, found.oid)
            if not missing:
                break
            for child in missing:
                part = replace(index, name=rules.fitted(f"{child.name}_{index.name}"))
                self.make(part, child)
                session.retried(
                    f"alter index {qualified} attach partition {session.qualified(part.name, child.schema)}"
                )
        now = self._found(index.name, parent)
        if now is None or not now.valid:
            raise errors.MigrationFailed(
                f"index {index.name} of {session.of(parent)} isn't valid: some partition has none yet. Run it again"
            )

    def _without(self, parent: Relation, index_oid: int) -> list[Relation]:
        rows = self._session.rows("partitions_without_index", table_oid=parent.oid, index_oid=index_oid)
        return [Relation(row.oid, row.schema, row.name, row.kind, None) for row in rows]


def probed_index(session: Session, index: Index, relation: Relation) -> str:
    """Return the shape that the index would have, made on an empty temporary copy of the table."""
    probe = f"pg_temp.{session.quoted(relation.name)}"  # the table's own name: a condition may say it
    session.run(f"drop table if exists {probe}")
    session.run(f"create temporary table {session.quoted(relation.name)} (like {session.of(relation)})")
    try:
        session.run(rules.create_index(index, probe, session.quoted(index.name)))
        found = session.row("index_shape", index=f"pg_temp.{session.quoted(index.name)}")
    finally:
        session.run(f"drop table if exists {probe}")
    return str(found.shape) if found is not None else ""

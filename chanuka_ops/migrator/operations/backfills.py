"""Filling in what rows should hold, batch by batch, each committed by itself.

A batch is one statement that changes rows and moves the cursor (a row of the journal's table `backfills`), so each row
is changed once, however often the process is killed. The cursor is dropped in the transaction that records the
revision: until then a rerun finds it, afterwards the same backfill may be run anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy.engine import Row

from chanuka_ops import context, errors
from chanuka_ops.migrator.operations import rules
from chanuka_ops.migrator.operations.model import Cursor, Key, Limits, Load, Relation, Walk
from chanuka_ops.migrator.operations.session import Session, outside_transaction

log = logging.getLogger(__name__)

BATCH = 1000
BATCH_S = 0.5
LAG_BYTES = 64 * 2**20
WAL_BYTES_PER_S = 64 * 2**20
BRAKE_DEADLINE_S = 600.0
LOOK_S = 0.5  # at most so often is the server asked what it bears
POLL_S = 0.2


def backfill(
    table: str,
    set_: Mapping[str, str] | str,
    *,
    where: str | None = None,
    key: Sequence[str] | None = None,
    schema: str | None = None,
    batch: int = BATCH,
    batch_s: float = BATCH_S,
    max_lag_bytes: int | None = LAG_BYTES,
    max_wal_bytes_per_s: int | None = WAL_BYTES_PER_S,
    brake_deadline_s: float = BRAKE_DEADLINE_S,
) -> None:
    """Update every row that the condition holds for, in batches by the primary key (or `key`, unique and not null).

    `set_` maps columns to SQL expressions, or is the SET clause itself. A batch begins with `batch` rows, and is made
    larger or smaller so that it takes about `batch_s`. Between two it rests: while a standby is more than
    `max_lag_bytes` behind, while an autovacuum to prevent wraparound works on the table, and so long that the server
    writes at most `max_wal_bytes_per_s` of WAL; None is no limit.

    The end is the largest key at the start, so it ends though rows come in: what is written later is the business of
    the new code, a trigger or a default. Keys must not change meanwhile.

    Errors: `MigrationFailed` without a fitting key, or when it had to rest for `brake_deadline_s` at a stretch;
    `LockTimeout` when a batch didn't get its rows within the retry deadline. The rerun goes on where it stopped.
    """
    with outside_transaction() as session:
        relation = session.relation(table, schema)
        assignments = set_ if isinstance(set_, str) else _assignments(session, set_)
        if session.shown:
            session.run(rules.shown_sql(session.of(relation), assignments, where, batch))
            return
        walked = _key(session, relation, key)
        cursors = f"{session.journal_schema}.backfills"
        cursor = _cursor(session, relation, walked, rules.fingerprint(relation.oid, walked, assignments, where))
        if cursor is None:
            return  # the table is empty
        walk = Walk(cursors, session.of(relation), walked, assignments, where, cursor.progress_id)
        brakes = _Brakes(session, relation, Limits(batch_s, max_lag_bytes, max_wal_bytes_per_s), brake_deadline_s)
        _Walker(session, relation, walk, brakes, batch).walk(cursor)
        session.with_version(f"delete from {cursors} where id = {cursor.progress_id}")  # noqa: S608 - a number


def _assignments(session: Session, columns: Mapping[str, str]) -> str:
    return ", ".join(f"{session.quoted(column)} = ({expression}\n)" for column, expression in columns.items())


def _key(session: Session, relation: Relation, columns: Sequence[str] | None) -> Key:
    """Return the key to walk by. Errors: `MigrationFailed` where there is none, or the stated one doesn't do."""
    rows = session.rows("walkable_keys", table_oid=relation.oid)
    for row in rows:
        if row.is_primary if columns is None else row.columns == list(columns):
            return Key(session.terms(row.columns), tuple(row.types))
    there = "; ".join(", ".join(row.columns) for row in rows) or "none"
    wanted = "no primary key" if columns is None else f"no unique index of exactly ({', '.join(columns)}), none null"
    raise errors.MigrationFailed(
        f"{session.of(relation)} has {wanted}, so its rows can't be walked in batches. Keys that do: {there}"
    )


def _cursor(session: Session, relation: Relation, key: Key, name: str) -> Cursor | None:
    """Return the cursor that a broken-off run left, or a new one; None for an empty table."""
    schema = session.journal_schema
    cursors = f"{schema}.backfills"
    if session.row("relation", name=cursors) is None:
        make_schema, make_table = rules.cursors_table(schema)
        if session.row("schema_named", name=schema) is None:  # who may not make one may use it
            session.run(make_schema)
        session.run(make_table)
    row = session.run(rules.found_sql(cursors, name))
    if row is not None:
        log.info("backfill of %s goes on where it stopped", session.of(relation), extra={"event": "migrate.backfill"})
    else:
        row = session.run(rules.begin_sql(cursors, session.of(relation), relation.oid, key, name))
    return Cursor(row.id, row.begun, row.finished) if row is not None else None


@dataclass
class _Walker:
    """Walks to the end."""

    session: Session
    relation: Relation
    work: Walk
    brakes: _Brakes
    size: int

    def walk(self, cursor: Cursor) -> None:
        first, finished = not cursor.begun, cursor.finished
        while not finished:
            self.brakes.wait()
            started = time.monotonic()
            row = self.session.again(partial(self._batch, first=first), failed=self._smaller)
            self.size = rules.next_size(self.size, time.monotonic() - started, self.brakes.limits.batch_s)
            if row is None:
                raise errors.MigrationFailed(f"the cursor of the backfill of {self.work.table} was removed meanwhile")
            first, finished = False, row.finished
            total = None if self.relation.rows is None else max(self.relation.rows, row.rows_seen)
            context.progress(f"backfill of {self.work.table}", row.rows_seen, total, "rows")
            log.debug("backfill of %s: %d rows seen, %d changed", self.work.table, row.rows_seen, row.rows_changed)

    def _batch(self, *, first: bool) -> Row[Any] | None:
        return self.session.run(rules.batch_sql(self.work, first=first, size=self.size))

    def _smaller(self) -> None:
        """A row of the batch was locked: a smaller batch meets fewer."""
        self.size = max(rules.SMALLEST_BATCH, self.size // 2)


@dataclass
class _Brakes:
    """Holds the next batch back while the server has enough to bear."""

    session: Session
    relation: Relation
    limits: Limits
    deadline_s: float
    _looked_s: float = field(default=0.0, init=False)
    _wal_bytes: int = field(default=0, init=False)
    _told: set[str] = field(default_factory=set, init=False)

    def wait(self) -> None:
        """Return when the next batch may begin. Errors: `MigrationFailed` after the deadline."""
        if self._looked_s and time.monotonic() - self._looked_s < LOOK_S:
            return
        load = self._load()
        if self._looked_s:
            time.sleep(rules.rest_s(load.wal_bytes - self._wal_bytes, time.monotonic() - self._looked_s, self.limits))
        begun = time.monotonic()
        while (reason := rules.brake(load, self.limits)) is not None:
            if time.monotonic() - begun > self.deadline_s:
                raise errors.MigrationFailed(
                    f"the backfill of {self.session.of(self.relation)} rested for {self.deadline_s:g} s: {reason}. What"
                    " it did stays; run the migration again when that is over, and it goes on from there"
                )
            self._tell(f"rests: {reason.partition(' is ')[0]}", f"rests: {reason}")
            time.sleep(POLL_S)
            load = self._load()
        self._looked_s, self._wal_bytes = time.monotonic(), load.wal_bytes

    def _load(self) -> Load:
        row = self.session.row("backfill_load", table_oid=self.relation.oid)
        if row is None:
            raise errors.MigrationFailed("the server doesn't say what it bears")
        if row.hidden:
            self._tell("hidden", f"can't see how far {row.hidden} standbys are behind: the role needs pg_monitor")
        return Load(int(row.wal_bytes), int(row.lag_bytes), row.hidden, row.wraparound)

    def _tell(self, once: str, words: str) -> None:
        if once not in self._told:
            self._told.add(once)
            name = self.session.of(self.relation)
            log.warning("the backfill of %s %s", name, words, extra={"event": "migrate.backfill"})

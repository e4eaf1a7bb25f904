"""The step journal: what is written down of each revision, outside its transaction, in a schema of its own.

It has its own connection, without synchronous commit, and loses nothing by that: what is written before a migration's
COMMIT stands before it in the write-ahead log, so whatever survives a crash finds its journal too.
https://www.postgresql.org/docs/current/wal-async-commit.html
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection, CursorResult, Row

from chanuka_ops import context, errors, logs
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator.model import Direction, Script
from chanuka_ops.migrator.running.resuming import Past, Written, reckon
from chanuka_ops.sql import catalog

MESSAGE_MAX = 500
_Answer = TypeVar("_Answer")
_TABLES = (
    "journal_schema", "journal_entries_table", "journal_steps_table", "journal_steps_index", "journal_schemas_table",
    "journal_acts_table",
)  # fmt: skip
_WITHIN_A_RUN = {"journal_steps", "journal_step_ended", "journal_end"}


@dataclass(frozen=True, slots=True)
class Broken:
    """A revision's run that was broken off with something of it committed. `sha256` is of the file it ran."""

    entry: int
    revision: str
    direction: Direction
    sha256: str


def block(name: str, schema: str) -> TextClause:
    """Return a named statement on the journal in that schema (a plain name, which needs no quotes)."""
    sql = catalog.load("chanuka_ops.migrator").sql(name)
    return text(sql.replace("chanuka_ops.", f"{schema}.").replace("exists chanuka_ops", f"exists {schema}"))


class Journal:
    """One database's journal. Opened at the first use; a broken connection is opened anew at the next."""

    def __init__(self, manager: ConnectionManager, settings: MigrationSettings) -> None:
        self._manager = manager
        self._schema = settings.journal_schema
        self._opened: ExitStack | None = None
        self._connection: Connection | None = None
        self._blocks: dict[str, TextClause] = {}
        self._texts: dict[str, str] = {}
        self._ended: dict[str, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        opened, self._opened, self._connection = self._opened, None, None
        if opened is not None:
            opened.close()

    def prepare(self) -> None:
        """Make the tables where they aren't there yet.

        Errors: `PermissionDenied` where the role may not make the schema.
        """
        if self._do("journal_ready").scalar_one():
            return
        try:
            for name in _TABLES:
                self._do(name)
        except errors.PermissionDenied as denied:
            raise errors.PermissionDenied(
                f"the journal of migrations can't be made: {denied}. Let the role create the schema {self._schema}, or"
                " name one that it owns in operations.migration.journal_schema. Nothing was changed.",
                sqlstate=denied.sqlstate,
            ) from None

    def exists(self) -> bool:
        """Tell whether there is a journal. Errors: `DatabaseError`."""
        return bool(self._do("journal_ready").scalar_one())

    def begin(self, script: Script, direction: Direction, pid: int) -> int:
        """Write that a revision's run begins; return the entry's number."""
        who = context.current()
        ended, self._ended = self._ended, None
        [(entry,)] = self._at_once(
            "journal_begin" if ended is None else "journal_next",
            **(ended or {}),
            run_id=who.run_id, actor=who.actor, host=platform.node(), revision=script.revision,
            direction=direction, sha256=script.sha256, pid=pid, application_name=who.application_name(),
        )  # fmt: skip
        return int(entry)

    def again(self, entry: int, attempt: int, pid: int) -> None:
        """Write that another attempt begins."""
        self._do("journal_again", entry=entry, attempt=attempt, pid=pid)

    def write(self, entry: int, attempt: int, rows: Sequence[dict[str, Any]]) -> list[int]:
        """Write steps down, as `recording.as_row` makes them; return their numbers."""
        if not rows:
            return []
        return list(self._do("journal_steps", entry=entry, attempt=attempt, rows=json.dumps(rows)).scalars())

    def sent(self, entry: int, attempt: int, pid: int, rows: Sequence[dict[str, Any]]) -> bool:
        """Write down what a session has sent in its open transaction, and that one's number, which is looked up here.

        False where nothing was written: the transaction has no number (it wrote nothing), or it can't be seen.
        """
        return bool(self._at_once("journal_sent", entry=entry, attempt=attempt, pid=pid, rows=json.dumps(rows)))

    def step_ended(self, step: int, outcome: str, rows: int = -1) -> None:
        """Write how a step ended."""
        self._do("journal_step_ended", id=step, outcome=outcome, row_count=rows)

    def done(self, entry: int, attempts: int) -> None:
        """Write that a revision's run is done: together with the next one's beginning, or whatever is asked next.

        A crash before that loses nothing: the version table says it too, and the next run looks.
        """
        self._ended = {"ended": entry, "attempts": attempts}

    def end(self, entry: int, outcome: str, attempts: int = 1, message: str = "") -> None:
        """Write how a revision's run ended."""
        said = logs.redact(message)[:MESSAGE_MAX]
        self._do("journal_end", entry=entry, outcome=outcome, attempts=attempts, message=said)

    def unsettled(self) -> Sequence[Row[Any]]:
        """Return the runs whose end was never written."""
        return self._do("journal_unsettled").all()

    def broken(self) -> dict[str, Broken]:
        """Return the revisions that were broken off part-way, by name."""
        return {
            row.revision: Broken(row.id, row.revision, row.direction, row.sha256) for row in self._do("journal_partial")
        }

    def past(self, entry: int) -> list[Past]:
        """Return what remains of a run."""
        steps = [Written(*tuple(row)) for row in self._do("journal_steps_of", entry=entry).all()]
        statuses = {row.xid: row.status for row in self._do("journal_statuses", entry=entry)}
        return reckon(steps, statuses)

    def resolve(self, step: int, resolution: str) -> None:
        """Write a person's word on a step."""
        self._do("journal_resolve", id=step, resolution=resolution)

    def accept(self, entry: int, sha256: str) -> None:
        """Write a person's word that the file may have changed."""
        self._do("journal_accept", entry=entry, sha256=sha256)

    def forget(self, revision: str, message: str) -> None:
        """Write a person's word that nothing is left of a revision's runs."""
        self._do("journal_forget", revision=revision, message=message)

    def applied(self) -> dict[str, str]:
        """Return the SHA-256 that each applied revision's file had, by revision; none where there is no journal."""
        if not self.exists():
            return {}
        return {row.revision: row.sha256 for row in self._do("journal_applied") if row.direction == "up"}

    def accept_edit(self, revision: str, sha256: str, message: str) -> None:
        """Write a person's word that an applied revision's file may be as it is now."""
        who = context.current()
        host = platform.node()
        self._do("journal_accepted", run_id=who.run_id, actor=who.actor, host=host, revision=revision, sha256=sha256,
                 message=message)  # fmt: skip

    def record_schema(self, revision: str | None, tool_major: int, fingerprint: dict[str, Any]) -> None:
        """Write what the schema is after a run, as `SchemaFingerprint.to_json` says it."""
        run_id, said = context.current().run_id, json.dumps(fingerprint)
        self._do("journal_schema_record", run_id=run_id, revision=revision, tool_major=tool_major, fingerprint=said)

    def newest_schema(self) -> Row[Any] | None:
        """Return what the schema was after the newest run, or None."""
        return self._do("journal_schema_newest").first() if self.exists() else None

    def history(self, most: int) -> Sequence[Row[Any]]:
        """Return the newest runs; none where there is no journal."""
        return self._do("journal_history", most=most).all() if self.exists() else []

    def _flush(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self.end(ended["ended"], "done", ended["attempts"])

    def _do(self, name: str, **values: Any) -> CursorResult[Any]:
        if name not in _WITHIN_A_RUN:
            self._flush()
        if name not in self._blocks:
            self._blocks[name] = block(name, self._schema)
        return self._answered(lambda connection: connection.execute(self._blocks[name], values))

    def _at_once(self, name: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run what is run for each revision, by the driver itself: that is twice as fast."""

        def ask(connection: Connection) -> list[tuple[Any, ...]]:
            if name not in self._texts:
                self._texts[name] = str(block(name, self._schema).compile(dialect=connection.dialect))
            return list(engines.driver_connection(connection).execute(self._texts[name], values))

        return self._answered(ask)

    def _answered(self, ask: Callable[[Connection], _Answer]) -> _Answer:
        connection = self._connection or self._open()
        try:
            return ask(connection)
        except BaseException as error:
            opened, self._opened, self._connection = self._opened, None, None
            # the session's own end translates the driver's error
            if opened is None or not opened.__exit__(type(error), error, error.__traceback__):
                raise
            raise AssertionError("a session swallows no error") from error  # pragma: no cover

    def _open(self) -> Connection:
        opened = ExitStack()
        connection = opened.enter_context(self._manager.autocommit(profile=Profile.QUERY))
        self._opened, self._connection = opened, connection
        connection.exec_driver_sql("set synchronous_commit = off")
        return connection

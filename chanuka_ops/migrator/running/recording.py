"""Writes a revision's statements down as they are sent, and leaves out what an earlier run of it has committed.

In an autocommit block a statement that can be part of a transaction gets one of its own: it commits at once as before,
and its transaction's number is known before it does, so a crash leaves no doubt. What can't be part of one (CREATE
INDEX CONCURRENTLY …) is written down before it is sent.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.db import engines
from chanuka_ops.migrator.running import boundaries, repeating, resuming, statement
from chanuka_ops.migrator.running.journal import Journal
from chanuka_ops.migrator.running.resuming import Past, Player
from chanuka_ops.migrator.running.statement import Statement
from chanuka_ops.migrator.running.statements import Sent
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

NOTHING = "do 'begin end'"
_IN_TRANSACTION = 2  # libpq's PQTRANS_INTRANS
_TOUCHING = re.compile(r"\bset_config\b|\bpg_(?:try_)?advisory_lock|^\s*(?:do|select|with|values)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_XID = "select pg_current_xact_id_if_assigned()::text"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a revision: its entry in the journal, its number from 1."""

    entry: int
    number: int
    revision: str


class Recorder:
    """Observes one attempt of one revision."""

    def __init__(
        self,
        journal: Journal,
        connection: Connection,
        attempt: Attempt,
        past: Sequence[Past] = (),
        *,
        watch_reads: bool = False,
    ) -> None:
        self._journal = journal
        self._raw = engines.driver_connection(connection)
        self._pid = engines.backend_pid(connection)
        self._entry, self._attempt, self._revision = attempt.entry, attempt.number, attempt.revision
        self._player = Player(past)
        self._watch_reads = watch_reads
        self._rows: list[dict[str, Any]] = []  # of the open transaction, not written yet
        self._step = 0
        self._now: Statement | None = None
        self._apart: int | None = None  # the journal's number of a statement under way outside any transaction
        self._wrapped = False
        self._writes_before: int | None = None
        self._temporary: frozenset[str] = frozenset()
        self._repeated = ""
        self.touched_session = False

    def before(self, sent: Sent) -> str | None:
        """Say what is to be sent instead, where it was committed already; write down what can't be known later."""
        self._step = sent.step
        self._now, self._apart, self._wrapped, self._writes_before = None, None, False, None
        found = statement.read(sent.sql, sent.parameters, self._temporary)
        helped = sent.helper
        repeatable = helped or repeating.is_repeatable()
        instead = None if repeatable else self._instead(found, sent)
        if instead is not None:
            return instead
        self._now = found
        if found.kind in {"always", "control", "opaque"} or _TOUCHING.search(sent.sql):
            self.touched_session = True
        if found.temporary:
            self._temporary |= {found.temporary}
        if found.kind == "control":
            self.committing()
        elif sent.autocommit and not helped and found.kind in {"change", "read"}:
            self._raw.execute("begin")
            self._wrapped = True
        if found.kind == "read" and self._watch_reads:
            self._writes_before = self._writes()
        row = as_row(sent, found)
        if sent.autocommit and (found.alone or helped):
            if found.kind not in {"read", "always"} and not self._told(row, repeatable=repeatable):
                row["outcome"] = "repeatable" if repeatable else "running"
                [self._apart] = self._journal.write(self._entry, self._attempt, [row])
        else:
            self._rows.append({**row, "outcome": "repeatable"} if repeatable else row)
        boundaries.reached(f"before:{sent.step}")
        return None

    def after(self, sent: Sent, rows: int) -> None:
        """Write down that it succeeded, and commit it where it is a transaction of its own."""
        if self._now is None:
            return
        boundaries.reached(f"after:{sent.step}")
        if self._apart is not None:
            self._journal.step_ended(self._apart, "repeatable" if self._repeated else "done", rows)
        if not self._rows or self._rows[-1]["step"] != sent.step:
            return
        row = self._rows[-1]
        row.update(row_count=rows, ended_at=_now())
        if self._writes_before is not None and self._writes() > self._writes_before:
            row["answers"] = True  # a query that writes
        if self._now.kind == "control":
            self._rows.clear()
        if self._wrapped:
            self._flush()
            boundaries.reached(f"commit:{sent.step}")
            self._raw.execute("commit")
            boundaries.reached(f"committed:{sent.step}")

    def failed(self, sent: Sent, error: BaseException) -> None:
        """Write down which one failed, and end its transaction where it has its own."""
        if self._now is None or self._raw.closed:
            return
        if self._wrapped:
            self._raw.execute("rollback")
        if self._apart is not None:
            self._journal.step_ended(self._apart, "repeatable" if self._repeated else "failed")
        elif self._rows and self._rows[-1]["step"] == sent.step:
            undone = [{**row, "outcome": "rolled_back"} for row in self._rows[:-1]]
            last = {**self._rows[-1], "outcome": "failed", "ended_at": _now()}
            self._journal.write(self._entry, self._attempt, self._fresh([*undone, last]))
        self._rows.clear()
        log.debug("step %d of %s failed: %s", sent.step, self._revision, type(error).__name__)

    def committing(self) -> None:
        """Write down what the transaction did, and its number, while it can still be rolled back."""
        if self._raw.info.transaction_status == _IN_TRANSACTION:
            self._flush()
            boundaries.reached(f"commit:{self._step}")

    def committed(self) -> None:
        """Let the boundary be seen; that it was committed, its number tells."""
        boundaries.reached(f"committed:{self._step}")

    def rolled_back(self) -> None:
        """Forget what was undone."""
        self._rows.clear()

    def finish(self) -> None:
        """Look whether anything of the earlier run was not come to.

        Errors: `RefusedError` naming the step.
        """
        left = [past for past in self._player.left if past.state == "unknown"]
        if left:
            raise errors.RefusedError(
                resuming.how_to_resolve(self._revision, left[0], "the revision ended without coming to it")
            )

    def _instead(self, found: Statement, sent: Sent) -> str | None:
        verdict = self._player.next(found)
        past = verdict.past
        if verdict.act == "run" or past is None:
            return None
        if verdict.act == "ask":
            raise errors.RefusedError(resuming.how_to_resolve(self._revision, past, verdict.why))
        if verdict.act == "look":
            return self._looked(found, past)
        log.info("step %d of revision %s was committed earlier", sent.step, self._revision,
                 extra={"event": "migrate.skipped"})  # fmt: skip
        rows = past.written.rows
        # A loop that goes on for as long as rows were changed has to see how many there were.
        return f"select from generate_series(1, {rows})" if found.kind == "change" and rows > 0 else NOTHING

    def _looked(self, found: Statement, past: Past) -> str | None:
        act = resuming.after_look(found.kind, self._seen(found))
        self._journal.step_ended(past.written.id, "done" if act == "skip" else "redone")
        if act == "skip":
            return NOTHING
        if act == "finalize":
            return f"alter table {found.table} detach partition {found.object} finalize"
        if act == "drop_first":
            log.warning("the invalid index %s of a build that was broken off is dropped", found.object,
                        extra={"event": "migrate.leftover"})  # fmt: skip
            self._raw.execute(f"drop index concurrently if exists {found.object}")
        return None

    def _seen(self, found: Statement) -> str:
        blocks = catalog.load("chanuka_ops.migrator")
        if found.kind == "detach":
            sql, values = blocks.sql("partition_state"), {"partition": found.object, "parent": found.table}
        else:
            sql, values = blocks.sql("index_state"), {"name": found.object}
        for name in values:
            sql = sql.replace(f":{name}", f"%({name})s")
        [(seen,)] = self._raw.execute(sql, values).fetchall()
        return str(seen)

    def _writes(self) -> int:
        sql = catalog.load("chanuka_ops.migrator").sql("session_writes")
        [(count,)] = self._raw.execute(sql).fetchall()
        return int(count)

    def _flush(self) -> None:
        rows = self._fresh(self._rows)
        self._rows = []
        if not rows or self._journal.sent(self._entry, self._attempt, self._pid, rows):
            return
        [(xid,)] = self._raw.execute(_XID).fetchall()  # the session itself knows for sure
        if xid is not None:
            self._journal.write(self._entry, self._attempt, [{**row, "xid": xid} for row in rows])
        else:  # a transaction that wrote nothing leaves nothing
            self._repeated = ""

    def _fresh(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if not self._told(row, repeatable=row["outcome"] == "repeatable")]

    def _told(self, row: dict[str, Any], *, repeatable: bool) -> bool:
        """Tell whether it's the batch that was written last, but for its numbers: or the journal grows as the table."""
        shape = _NUMBER.sub("?", row["statement"]) if repeatable else ""
        told = bool(shape) and shape == self._repeated
        self._repeated = shape
        return told


def as_row(sent: Sent, found: Statement) -> dict[str, Any]:
    """Return a step as the journal takes it."""
    return {
        "step": sent.step,
        "kind": found.kind,
        "fingerprint": found.fingerprint,
        "statement": found.shown,
        "autocommit": sent.autocommit,
        "answers": found.answers,
        "row_count": -1,
        "xid": None,
        "outcome": "sent",
        "resolution": "",
        "started_at": _now(),
        "ended_at": None,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()


def as_written(step: resuming.Written) -> dict[str, Any]:
    """Return a step of an earlier run as the journal takes it."""
    return {
        "step": step.step,
        "kind": step.kind,
        "fingerprint": step.fingerprint,
        "statement": step.statement,
        "autocommit": step.autocommit,
        "answers": step.answers,
        "row_count": step.rows,
        "xid": step.xid,
        "outcome": step.outcome,
        "resolution": step.resolution,
        "started_at": None,
        "ended_at": None,
    }

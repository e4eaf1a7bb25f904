"""Minds the statement under way: ends it past the abort line, and tells how far it is.

An observer, told in the migration's thread; and a look, taken by the thread and on the connection of `BlockerWatch`.
One mutex is between them: while a statement is being ended none begins, so what is cancelled is the one that was meant.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, Row

from chanuka_ops import context, errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.migrator.model import Script
from chanuka_ops.migrator.running import bounds as lines
from chanuka_ops.migrator.running import progressing, statement
from chanuka_ops.migrator.running.bounds import Bound, Bounds, Crossed, Line
from chanuka_ops.migrator.running.progressing import Reported
from chanuka_ops.migrator.running.statements import Sent
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

IDLE_S = 0.5  # how long a transaction lies idle, others blocked by it, until its session is ended
FIRST_S = 0.05  # a statement younger than that may not have reached the server yet
TELL_EVERY_S = 0.5
Tell = Callable[[context.Progress], None]


@dataclass(slots=True)
class _Now:
    """The statement under way. Times by the monotonic clock."""

    shown: str
    helper: bool
    bound: Bound | None
    began: float
    waited_s: float = 0.0
    looked: float | None = None
    told: float = 0.0


class Minder:
    """Minds one migration's statements. What crossed the line stays in `crossed`: it's never tried again."""

    def __init__(self, settings: MigrationSettings, bounds: Bounds) -> None:
        self._line = Line(settings.abort_factor, settings.max_blocked_sessions)
        self._bounds = bounds
        blocks = catalog.load("chanuka_ops.migrator")
        self._state, self._progress = text(blocks.sql("abort_state")), text(blocks.sql("statement_progress"))
        self._cancel, self._end = text(blocks.sql("abort_statement")), text(blocks.sql("abort_idle"))
        self._tell: Tell = context.current().on_progress  # context variables don't reach the watching thread
        self._mutex = threading.Lock()
        self._now: _Now | None = None
        self._between_since: float | None = None  # in a transaction, between two statements
        self._revision = ""
        self._transactional = True
        self.crossed: Crossed | None = None

    def begin(self, script: Script, *, transactional: bool) -> None:
        """Mind the statements of that revision from now on."""
        with self._mutex:
            self._now, self._between_since = None, None
            self._revision, self._transactional = script.revision, transactional

    def failure(self) -> errors.MigrationAborted | None:
        """Return the error that the crossing of the line is, or None."""
        if self.crossed is None:
            return None
        remains = lines.remains(transactional=self._transactional)
        return errors.MigrationAborted(f"revision {self._revision}: {self.crossed.words()}. {remains}")

    def before(self, sent: Sent) -> str | None:
        """Take note that a statement begins. Errors: `MigrationAborted` where the line was crossed before."""
        failure = self.failure()
        if failure is not None:  # the revision's own code has swallowed the first one
            raise failure
        found = statement.read(sent.sql)
        bound = self._bounds.get((self._revision, found.fingerprint))
        with self._mutex:
            self._now = _Now(found.shown, sent.helper, bound, time.monotonic())
            self._between_since = None
        return None

    def after(self, sent: Sent, rows: int) -> None:  # noqa: ARG002 - an Observer's
        """Take note that it succeeded: what was to be cancelled came to its end before."""
        with self._mutex:
            self._now, self._between_since, self.crossed = None, time.monotonic(), None

    def failed(self, sent: Sent, error: BaseException) -> None:  # noqa: ARG002 - an Observer's
        """Take note that it failed."""
        with self._mutex:
            self._now, self._between_since = None, None

    def committing(self) -> None:
        """Take note that the transaction ends: nothing is to be ended any more."""
        with self._mutex:
            self._now, self._between_since = None, None

    def committed(self) -> None:
        """Nothing is open."""

    def rolled_back(self) -> None:
        """Take note that nothing is open."""
        self.committing()

    def look(self, connection: Connection, pid: int) -> None:
        """Look at the session, on a connection of the watching thread's own. Errors: `DatabaseError`."""
        state = connection.execute(self._state, {"pid": pid, "count": self._line.most_blocked is not None}).one()
        with self._mutex:
            now = self._now
            if now is not None:
                self._mind(connection, pid, now, state)
            elif self._between_since is not None:
                self._mind_idle(connection, pid, self._between_since, state.blocked)
        if now is not None and self.crossed is None:
            self._tell_of(connection, pid, now)

    def _mind(self, connection: Connection, pid: int, now: _Now, state: Row[Any]) -> None:
        clock = time.monotonic()
        elapsed_s = clock - now.began
        if state.waits:
            now.waited_s += clock - (now.looked or now.began)
        now.looked = clock
        if elapsed_s < FIRST_S:
            return
        found = lines.crossed(self._line, now.bound, shown=now.shown, elapsed_s=elapsed_s, waited_s=now.waited_s,
                               blocked=state.blocked)  # fmt: skip
        if found is None:
            return
        if self.crossed is None:
            log.warning("revision %s: %s", self._revision, found.words(), extra={"event": "migrate.aborted"})
            self.crossed = found
        connection.execute(self._cancel, {"pid": pid})  # at each look, until it has ended

    def _tell_of(self, connection: Connection, pid: int, now: _Now) -> None:
        clock = time.monotonic()
        elapsed_s = clock - now.began
        if elapsed_s < progressing.AFTER_S or clock - now.told < TELL_EVERY_S:
            return
        now.told = clock
        rows = [Reported(*row) for row in connection.execute(self._progress, {"pid": pid})]
        if now.helper and not rows:
            return  # the operations tell of their batches themselves
        rehearsed_s = now.bound.rehearsed_s if now.bound is not None else None
        reported = rows[0] if rows else None
        self._tell(progressing.of_statement(self._revision, now.shown, elapsed_s, reported, rehearsed_s))

    def _mind_idle(self, connection: Connection, pid: int, since: float, blocked: int) -> None:
        idle_s = time.monotonic() - since
        if idle_s < IDLE_S or self.crossed is not None:
            return
        found = lines.crossed(self._line, None, shown="", elapsed_s=idle_s, waited_s=0.0, blocked=blocked)
        if found is not None and connection.execute(self._end, {"pid": pid, "idle_s": IDLE_S / 2}).first():
            self.crossed = found
            log.warning("revision %s: %s", self._revision, found.words(), extra={"event": "migrate.aborted"})

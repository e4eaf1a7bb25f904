"""Traces statements: an observer of a revision's, and of a script's.

Within a transaction it looks on the same connection right after the statement: every lock is still held, so nothing is
missed. What commits by itself is sampled by a second session, and looked at afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from chanuka_ops.db import engines
from chanuka_ops.migrator.rehearsal import looking, rules
from chanuka_ops.migrator.rehearsal.model import Look, Relation, Traced
from chanuka_ops.migrator.rehearsal.sampling import Sampler
from chanuka_ops.migrator.running import statement as reading
from chanuka_ops.migrator.running.statement import Statement
from chanuka_ops.migrator.running.statements import Sent

_IDLE, _IN_TRANSACTION = 0, 2  # libpq's PQTRANS_*
_LOCKABLE = frozenset("rp")


@dataclass(frozen=True, slots=True)
class Place:
    """What statements are traced for: a revision one way, or a script."""

    revision: str | None = None
    direction: str = "up"


class Tracer:
    """Observes the statements of one connection. `existing` are the relations before the rehearsal began."""

    def __init__(
        self,
        connection: Connection,
        sampler: Sampler,
        existing: Mapping[int, Relation],
        emit: Callable[[Traced], None],
        *,
        own_schema: str,
        place: Place,
    ) -> None:
        self._raw = engines.driver_connection(connection)
        self._pid = engines.backend_pid(connection)
        self._major = engines.server_major(connection)
        self._sampler = sampler
        self._existing = existing
        self._emit = emit
        self._own_schema = own_schema
        self._place = place
        self._before: Look | None = None
        self._held: dict[int, str] = {}
        self._started = 0.0
        self._wrapped = False
        self._own = False  # whether the transaction under way was begun here
        self._touched: tuple[str, ...] = ()
        self._shares: dict[tuple[int, str], float] | None = None
        self.line: int | None = None

    def before(self, statement: Sent) -> str | None:
        """Look before it is sent."""
        self._before = looking.look(self._raw, self._major, self._own_schema)
        self._wrapped = statement.autocommit
        if statement.autocommit:
            self._held = {}
            if self._raw.info.transaction_status == _IDLE:
                self._see_through(statement, self._before)
        self._started = time.perf_counter()
        return None

    def _see_through(self, statement: Sent, now: Look) -> None:
        """See to it that the locks of what commits by itself can be seen: by a transaction around it, or a sampler."""
        found = reading.read(statement.sql)
        if statement.helper and found.kind == "change":  # others are given one where they are written down
            self._raw.execute("begin")
            self._own = True
        else:
            self._sampler.start(self._pid, self._gates(found, now))

    def after(self, statement: Sent, rows: int) -> None:
        """Look after it succeeded."""
        seconds = time.perf_counter() - self._started
        seen = self._sampler.stop()
        exact = self._raw.info.transaction_status == _IN_TRANSACTION
        locks = looking.held(self._raw, self._major, self._pid) if exact else []
        now = looking.look(self._raw, self._major, self._own_schema)
        all_locks = rules.strongest([*seen, *locks])
        self._held = self._of_application(all_locks)
        if not exact:
            self._held = rules.of_sampled(self._held, self._existing, now)
        self._touched = tuple(
            sorted(self._existing[oid].name for oid in rules.to_write(all_locks) if oid in self._existing)
        )
        self._shares = None if exact else seen
        self._end("commit")
        self._tell(statement, seconds, now, sampled=not exact, rows=rows)

    def failed(self, statement: Sent, error: BaseException) -> None:
        """Tell that it failed. What it had locked is gone, or can't be asked for any more."""
        seconds = time.perf_counter() - self._started
        seen = self._sampler.stop()
        self._end("rollback")
        self._held = {**self._held, **self._of_application(rules.strongest(seen))}
        driver = engines.driver_error(error)
        sqlstate = driver.sqlstate if driver is not None else getattr(error, "sqlstate", None)
        message = driver.diag.message_primary if driver is not None else None
        words = str(message or error).strip() or type(error).__name__
        self._tell(statement, seconds, self._before, sampled=False, rows=-1, error=words, sqlstate=sqlstate)

    def refused(self, statement: Sent, error: BaseException) -> None:
        """Tell that a BEGIN, a COMMIT … failed, which isn't looked at otherwise."""
        self._before, self._started = Look({}, {}, 0, 0), time.perf_counter()
        self.failed(statement, error)

    def forget(self) -> None:
        """Tell nothing of the statement under way: it's sent once more, another way."""
        self._sampler.stop()
        self._before, self._held = None, {}

    def committing(self) -> None:
        """Nothing to look at: what counts was seen after each statement."""

    def committed(self) -> None:
        """Forget the transaction's locks."""
        self._held = {}

    def rolled_back(self) -> None:
        """Forget the transaction's locks."""
        self._held = {}

    def _end(self, how: str) -> None:
        """End the transaction that was begun here, where the connection is still there."""
        own, self._own = self._own, False
        if own and not self._raw.closed:
            self._raw.execute(how)

    def _gates(self, statement: Statement, now: Look) -> list[list[int]]:
        """Say what is to be held up so that its locks are seen: all tables, then a partition that is detached.

        Of that, ALTER TABLE … DETACH PARTITION … CONCURRENTLY takes its strong lock when it has waited for the others.
        """
        if not statement.alone:
            return [[]]
        tables = [oid for oid in self._existing if oid in now.relations and now.relations[oid].kind in _LOCKABLE]
        if statement.kind != "detach":
            return [tables]
        found = looking.rows_of(self._raw, "trace_named", self._major, relation=statement.object)
        return [tables, [oid for (oid,) in found if oid in tables]]

    def _of_application(self, locks: Mapping[int, str]) -> dict[int, str]:
        return {oid: mode for oid, mode in rules.above_ordinary(locks).items() if oid in self._existing}

    def _tell(
        self,
        statement: Sent,
        seconds: float,
        now: Look | None,
        *,
        sampled: bool,
        rows: int,
        error: str | None = None,
        sqlstate: str | None = None,
    ) -> None:
        before, self._before = self._before, None
        if before is None or now is None:
            return
        held = rules.blocks(self._held.values())
        rewritten = rules.rewritten(before, now, self._existing)
        scanned = rules.rows_read(before, now)
        hinders = rules.hinders(self._held, self._existing, autocommit=self._wrapped, shares=self._shares)
        hindering = scanned if hinders else 0
        names = {self._existing[oid].name: mode for oid, mode in self._held.items()}
        self._emit(
            Traced(
                sql=statement.sql.strip(),
                step=statement.step,
                seconds=round(seconds, 6),
                locks=dict(sorted(names.items())),
                blocks=held,
                rewritten=rewritten,
                scanned=scanned,
                scanned_rows_while_blocking=hindering,
                wal_bytes=now.wal_bytes - before.wal_bytes,
                size_change_bytes=now.size_bytes - before.size_bytes,
                rows=rows,
                impact=rules.impact(error=error, held=held, rewrote=bool(rewritten), scanned=hindering),
                sampled=sampled,
                error=error,
                sqlstate=sqlstate,
                line=self.line,
                revision=self._place.revision,
                direction=self._place.direction,
                touched=self._touched,
            )
        )

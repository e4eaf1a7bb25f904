"""The optimiser's verbs: `plan` looks, `apply` carries out what needs no approval, and measures it."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.config import OptimisationSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.logs import timed
from chanuka_ops.optimisation import rules
from chanuka_ops.optimisation.model import (
    Advice,
    Applied,
    Evidence,
    Index,
    OutcomeWord,
    Plan,
    Subject,
    Table,
    Unresolved,
)
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

_INDEX_KINDS = frozenset({"i", "I"})
# Up to 14 the counters travel through a collector process that writes twice a second; since 15 they are there at once.
_COUNTERS_DEADLINE_S = 1.5
_COUNTERS_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class _Measure:
    bytes: int | None
    dead_tuples: int
    vacuums: int
    analyses: int
    counted: bool


@dataclass(frozen=True, slots=True)
class _Done:
    seconds: float
    warnings: str | None


class Optimiser:
    """Advice on one database, and the harmless part of it carried out."""

    def __init__(self, manager: ConnectionManager, settings: OptimisationSettings) -> None:
        self._manager = manager
        self._settings = settings
        self._catalog = catalog.load(__package__ or "chanuka_ops.optimisation")

    def plan(self, evidence: Iterable[Evidence]) -> Plan:
        """Turn findings into advice; the objects are looked up anew, nothing is changed.

        Errors: `DatabaseError`; an object that can't be looked up is withheld with its reason instead.
        """
        found = rules.relevant(evidence)
        names = sorted({item.object for item in found if item.object is not None})
        subjects: dict[str, Subject] = {}
        with self._manager.autocommit(
            profile=Profile.QUERY, lock_timeout_s=self._settings.lock_timeout_s
        ) as connection:
            for done, name in enumerate(names, start=1):
                subjects[name] = self._look_up(connection, name)
                context.progress("optimise", done, len(names), "tables")
        return rules.plan(self._manager.name, found, subjects)

    def apply(self, plan: Plan, *, only: Collection[str] | None = None, dry_run: bool = False) -> list[Applied]:
        """Carry out what needs no approval: VACUUM and ANALYZE. Every chosen piece of advice gets an outcome.

        `only` chooses by advice id. A table that can't be had within the lock timeout is passed over, the rest done.

        Errors: `RefusedError` for a plan of another database, `ConfigurationError` for an id the plan doesn't hold.
        """
        chosen = self._choose(plan, only)
        applied: list[Applied] = []
        unreachable: errors.ConnectError | None = None
        context.progress("optimise", 0, len(chosen), "tables")
        for done, advice in enumerate(chosen, start=1):
            if unreachable is None:
                try:
                    result = self._apply_one(advice, dry_run=dry_run)
                except errors.ConnectError as error:
                    unreachable = error
            if unreachable is not None:
                result = _result(advice, "failed", f"not tried: {unreachable}")
            _tell(result)
            applied.append(result)
            context.progress("optimise", done, len(chosen), "tables")
        return applied

    def _choose(self, plan: Plan, only: Collection[str] | None) -> list[Advice]:
        if plan.database != self._manager.name:
            raise errors.RefusedError(
                f"the plan is for database {plan.database!r}, this is {self._manager.name!r}. Nothing was changed."
            )
        if only is None:
            return list(plan.advice)
        unknown = sorted(set(only) - {advice.id for advice in plan.advice})
        if unknown:
            raise errors.ConfigurationError(f"the plan holds no advice {', '.join(unknown)}: see `optimise plan`")
        return [advice for advice in plan.advice if advice.id in only]

    def _apply_one(self, advice: Advice, *, dry_run: bool) -> Applied:
        if advice.kind not in rules.APPLICABLE:
            return _result(advice, "refused", "it needs a person's approval, and this version only advises it")
        with self._manager.autocommit(
            profile=Profile.MAINTENANCE, lock_timeout_s=self._settings.lock_timeout_s
        ) as connection:
            try:
                with engines.translated():
                    return self._on(connection, advice, dry_run=dry_run)
            except errors.ConnectionLost as error:
                reason = f"the connection broke, so whether it was finished isn't known: {error}. Repeating it is safe."
                return _result(advice, "failed", reason)
            except errors.DatabaseError as error:
                return _result(advice, "failed", str(error))

    def _on(self, connection: Connection, advice: Advice, *, dry_run: bool) -> Applied:
        milliseconds = str(round(self._settings.statement_timeout_s * 1000))
        connection.execute(text(self._sql(connection, "limit_statement")), {"milliseconds": milliseconds})
        row = connection.execute(text(self._sql(connection, "resolve")), {"name": advice.object}).first()
        if row is None or row.kind in _INDEX_KINDS:
            return _result(advice, "gone", "it was dropped or renamed since the plan was made")
        oid = int(row.oid)
        try:
            with engines.translated():
                return self._checked_and_done(connection, advice, oid, dry_run=dry_run)
        except errors.LockTimeout:
            waited = f"waited {self._settings.lock_timeout_s:g} s for a lock"
            return _result(advice, "lock_timeout", f"{waited}: {self._blockers(connection, oid)}")

    def _checked_and_done(self, connection: Connection, advice: Advice, oid: int, *, dry_run: bool) -> Applied:
        table = self._table(connection, oid)
        if table is None:
            return _result(advice, "gone", "it was dropped since the plan was made")
        if rules.statement(advice.kind, table.identifier, table.kind) != advice.sql:
            return _result(advice, "refused", f"the plan's statement no longer fits {table.identifier}: plan again")
        against = rules.refusal(self._conditions(connection, oid), table.identifier)
        if against is not None:
            return _result(advice, "refused", against)
        before = self._measure(connection, oid)
        if dry_run:
            return replace(_result(advice, "dry_run"), dead_tuples_before=before.dead_tuples)
        done = _execute(connection, advice.sql)
        after = self._measure_once_counted(connection, oid, advice, before)
        return _judge(advice, before, after, done)

    def _measure_once_counted(self, connection: Connection, oid: int, advice: Advice, before: _Measure) -> _Measure:
        """Measure again, giving the counters the time they need to arrive."""
        deadline = time.monotonic() + _COUNTERS_DEADLINE_S
        while True:
            after = self._measure(connection, oid)
            if _was_counted(advice, before, after) or not after.counted or time.monotonic() >= deadline:
                return after
            time.sleep(_COUNTERS_POLL_S)

    def _look_up(self, connection: Connection, name: str) -> Subject:
        try:
            with engines.translated():
                row = connection.execute(text(self._sql(connection, "resolve")), {"name": name}).first()
                subject: Subject | None = None
                if row is not None:
                    fetch = self._index if row.kind in _INDEX_KINDS else self._table
                    subject = fetch(connection, row.oid)
        except errors.ConnectionLost:
            raise
        except errors.LockTimeout:
            return Unresolved("it is locked exclusively by another session: plan again when that is done")
        except errors.DatabaseError as error:
            return Unresolved(f"it can't be looked up: {error}")
        return subject if subject is not None else Unresolved("it doesn't exist any more")

    def _table(self, connection: Connection, oid: int) -> Table | None:
        row = self._row(connection, "table", oid)
        return None if row is None else Table(**row)

    def _index(self, connection: Connection, oid: int) -> Index | None:
        row = self._row(connection, "index", oid)
        return None if row is None else Index(**{**row, "twins": tuple(row["twins"])})

    def _conditions(self, connection: Connection, oid: int) -> rules.Conditions:
        row = self._row(connection, "conditions", oid) or {}
        permitted = self._row(connection, "permitted", oid) or {"permitted": False}
        return rules.Conditions(**row, **permitted)

    def _measure(self, connection: Connection, oid: int) -> _Measure:
        return _Measure(**(self._row(connection, "measure", oid) or {}))

    def _blockers(self, connection: Connection, oid: int) -> str:
        rows = connection.execute(text(self._sql(connection, "blockers")), {"oid": oid}).all()
        held = [
            f"{row.application_name or 'a session'} (pid {row.pid}, role {row.role}) "
            f"{'holds' if row.granted else 'waits ahead for'} {row.mode}"
            + (f", in a transaction since {row.xact_start:%F %T%z}" if row.xact_start else "")
            if row.pid is not None
            else f"a prepared transaction holds {row.mode} (see pg_prepared_xacts)"
            for row in rows
        ]
        return "; ".join(held) or "whoever held it has let go since"

    def _row(self, connection: Connection, name: str, oid: int) -> dict[str, Any] | None:
        row = connection.execute(text(self._sql(connection, name)), {"oid": oid}).mappings().first()
        return None if row is None else dict(row)

    def _sql(self, connection: Connection, name: str) -> str:
        return self._catalog.sql(name, engines.server_major(connection))


def _execute(connection: Connection, statement: str) -> _Done:
    """Run a statement exactly as it stands: a `:` or `%` in a table's name is no placeholder."""
    with timed(log, "optimise.statement", statement) as watch:
        warnings = engines.execute_verbatim(connection, statement)
    return _Done(watch.seconds, "; ".join(warnings) or None)


def _was_counted(advice: Advice, before: _Measure, after: _Measure) -> bool:
    if advice.kind == "vacuum":
        return after.vacuums > before.vacuums
    return after.analyses > before.analyses


def _judge(advice: Advice, before: _Measure, after: _Measure, done: _Done) -> Applied:
    """Say what came of a statement that the server reported done.

    VACUUM reports success also for a table it skipped, with no more than a warning: the server's own counters decide.
    """
    if before.bytes is None or after.bytes is None:
        return _result(advice, "gone", "it was dropped by another session meanwhile")
    skipped = after.counted and not _was_counted(advice, before, after)
    why = done.warnings or ("the server reported success but didn't count it" if skipped else None)
    outcome: OutcomeWord = "failed" if skipped else "applied"
    return replace(
        _result(advice, outcome, why),
        gained_bytes=None if skipped else before.bytes - after.bytes,
        seconds=done.seconds,
        dead_tuples_before=before.dead_tuples,
        dead_tuples_after=after.dead_tuples,
    )


def _result(advice: Advice, outcome: OutcomeWord, reason: str | None = None) -> Applied:
    return Applied(advice.id, outcome, None, 0.0, advice.object, advice.sql, reason)


def _tell(result: Applied) -> None:
    level = logging.INFO if result.outcome in {"applied", "dry_run"} else logging.WARNING
    message = "%s: %s%s"
    extra = {"event": f"optimise.{result.outcome}", "object": result.object, "advice": result.id}
    log.log(level, message, result.sql, result.outcome, f" ({result.reason})" if result.reason else "", extra=extra)

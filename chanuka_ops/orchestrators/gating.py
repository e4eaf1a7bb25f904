"""What is known before a migration, put together: the plan, backups, rehearsals, lint, a person's word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.backup import rules as backup_rules
from chanuka_ops.migrator import approvals, gate
from chanuka_ops.migrator.gate import Approval, Backup, Facts, GatePolicy, Rehearsal, Verdict
from chanuka_ops.migrator.model import Direction, Plan, Revision
from chanuka_ops.migrator.rehearsal import prediction
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.sql import catalog

APPROVALS = "approvals"
_SHORTEST = 12  # of a hash that a person types


@dataclass(frozen=True, slots=True)
class Seen:
    """What is to run, whether it may, and the documents of the rehearsal and of lint that the verdict rests on.

    `bounds` is how long each statement may take by its rehearsal, where there is one.
    """

    plan: Plan
    steps: tuple[Revision, ...]
    verdict: Verdict
    rehearsal: Mapping[str, Any] | None
    lint: Mapping[str, Any] | None
    bounds: tuple[Bound, ...] = ()

    @property
    def expected(self) -> dict[str, str]:
        """The files that the verdict is on: SHA-256 by revision."""
        return {step.revision: step.sha256 for step in self.steps}


class Gate:
    """The gate before one database's migrations."""

    def __init__(self, database: DatabaseOrchestrator) -> None:
        self._database = database
        self._settings = database.settings
        self._policy = GatePolicy.of(self._settings.operations.migration, self._settings.environment)

    @property
    def asks_nothing(self) -> bool:
        """Whether the policy lets everything through, so that nothing need be looked at."""
        policy = self._policy
        return not policy.approval and {policy.require_proven_backup, policy.require_rehearsal} == {"never"}

    def look(self, direction: Direction, to: str) -> Seen:
        """Say what would run, and whether it may. Errors: those of `DatabaseOrchestrator.foresee`; `StoreError`."""
        with context.scope(operation="gate"):
            plan, steps = self._database.foresee(direction, to)
            move_hash = gate.move_hash(plan, direction, to)
            fresh = bool(steps) and not self._holds_tables()
            asks = bool(steps) and not fresh
            document = self._rehearsal(plan, steps) if asks and direction == "up" else None
            linted = (
                self._lint() if asks and direction == "up" else None
            )  # also where it decides nothing: it's reported
            facts = Facts(
                direction=direction,
                move_hash=move_hash,
                revisions=tuple(step.revision for step in steps),
                destructive=tuple(step.revision for step in steps if step.destructive),
                fresh=fresh,
                backup=self._backup() if asks and self._policy.require_proven_backup != "never" else Backup(None),
                rehearsal=None if document is None else _rehearsed(document, datetime.now(UTC)),
                dangers=_dangers(linted, steps),
                approval=approvals.find(self._directory, move_hash),
            )
        return Seen(
            plan, steps, gate.decide(self._policy, facts), document, linted, self._bounds(direction, steps, document)
        )

    def approve(self, plan_hash: str, reason: str, *, down_to: str | None = None) -> Approval:
        """Take down a person's approval of what is planned now.

        Errors: `RefusedError` where that isn't what the hash is of: what was approved isn't what would run.
        """
        direction: Direction = "up" if down_to is None else "down"
        with context.scope(operation="approve"):
            plan, _ = self._database.foresee(direction, down_to or "head")
            now_planned = gate.move_hash(plan, direction, down_to or "head")
            if len(plan_hash) < _SHORTEST or not now_planned.startswith(plan_hash):
                raise errors.RefusedError(
                    f"plan {plan_hash[:12]} isn't what would run now, which is {now_planned[:12]}: look at it again"
                    " (`chanuka-ops migrate plan`) before it's approved. Nothing was approved."
                )
            return approvals.give(self._directory, now_planned, reason, datetime.now(UTC))

    @property
    def _directory(self) -> Path:
        return self._settings.state_dir / APPROVALS / self._database.name

    def _holds_tables(self) -> bool:
        sql = text(catalog.load("chanuka_ops.migrator").sql("user_tables"))
        schema = self._settings.operations.migration.journal_schema
        with self._database.manager.transaction(read_only=True) as connection:
            return bool(connection.execute(sql, {"journal_schema": schema}).scalar_one())

    def _backup(self) -> Backup:
        within = timedelta(seconds=self._policy.max_backup_age_s)
        found = self._database.backups.look(self._database.name)
        fresh = backup_rules.freshness(found, within, datetime.now(UTC))
        return Backup(fresh.age_seconds, None if fresh.passed else fresh.verdict)

    def _rehearsal(self, plan: Plan, steps: Sequence[Revision]) -> dict[str, Any] | None:
        """Return the newest rehearsal of the plan that went through all that is to run now."""
        # what a gate that asks for no rehearsal needn't wait for
        from chanuka_ops.orchestrators.migration import MigrationOrchestrator  # noqa: PLC0415 - as said

        document = MigrationOrchestrator(self._database).newest(plan.plan_hash)
        if document is None:
            return None
        went = next((set(leg["revisions"]) for leg in document["legs"] if leg["name"] == "up"), set())
        # one that failed is told of, however far it came
        return document if not document["passed"] or went >= {step.revision for step in steps} else None

    def _bounds(
        self, direction: Direction, steps: Sequence[Revision], document: Mapping[str, Any] | None
    ) -> tuple[Bound, ...]:
        if direction == "up":
            return () if document is None else tuple(prediction.bounds(document))
        if not steps:
            return ()
        from chanuka_ops.orchestrators.migration import MigrationOrchestrator  # noqa: PLC0415 - as above

        since = datetime.now(UTC) - timedelta(seconds=self._policy.max_rehearsal_age_s)
        files = {step.revision: step.sha256 for step in steps}
        return tuple(MigrationOrchestrator(self._database).bounds_of_the_way_back(files, since))

    def _lint(self) -> dict[str, Any] | None:
        from chanuka_ops.orchestrators.linting import Wanted, lint  # noqa: PLC0415 - most gates don't lint

        try:
            return lint(self._settings, self._database.name, Wanted()).to_json()
        except errors.ChanukaError:  # what can't be looked at may well be a danger: the verdict says that it's unknown
            return None


def _rehearsed(document: Mapping[str, Any], now: datetime) -> Rehearsal:
    """Return what the gate needs of a rehearsal's document: the longest that a revision blocks, by its own statements.

    A lock lasts to the transaction's end: what runs under one counts, by the upper bound where there is a prediction.
    """
    blocking: dict[str | None, float] = {}
    for item in document["statements"]:
        if item["direction"] == "up" and item["blocks"]:
            predicted = item.get("prediction")
            seconds = predicted["high_s"] if predicted else item["seconds"]
            blocking[item["revision"]] = blocking.get(item["revision"], 0.0) + float(seconds)
    worst = max(blocking, key=lambda revision: blocking[revision], default=None)
    age_s = (now - datetime.fromisoformat(document["at"])).total_seconds()
    problem = None if document["passed"] else str(document["problem"] or "it did not pass")
    return Rehearsal(document["rehearsal_id"], age_s, problem, blocking.get(worst, 0.0), worst)


def _dangers(linted: Mapping[str, Any] | None, steps: Sequence[Revision]) -> tuple[str, ...] | None:
    if linted is None:
        return None
    names = {step.revision for step in steps}
    found = [
        f"{item['revision']}: {item['rule']}"
        for item in linted["findings"]
        if item["severity"] == "danger" and item["waived_until"] is None and item["revision"] in names
    ]
    return tuple(dict.fromkeys(found))

"""Migrations beside backups: a rehearsal on a copy restored from a backup, which the same restore proves.

The capabilities don't know each other; here they meet.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from chanuka_ops import context, durable, errors
from chanuka_ops.backup.answers import Drilled
from chanuka_ops.backup.model import Manifest
from chanuka_ops.backup.proving.drill import RestoredCopy
from chanuka_ops.migrator import rules as migration_rules
from chanuka_ops.migrator.model import Plan
from chanuka_ops.migrator.rehearsal import prediction, rules, source
from chanuka_ops.migrator.rehearsal.model import Ran, Traced
from chanuka_ops.migrator.rehearsal.prediction import Basis
from chanuka_ops.migrator.rehearsal.service import DOWN, UP, UP_AGAIN, Rehearsal, Scripts
from chanuka_ops.migrator.rehearsal.source import Facts
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.postgres import binaries

log = logging.getLogger(__name__)

REHEARSALS = "rehearsals"


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A rehearsal and what is known of it. `plan_hash` names what was pending at the source, or the script."""

    ran: Ran
    basis: Basis
    rehearsal_id: str
    database: str
    plan_hash: str
    backup_id: str
    backup_at: datetime
    tier: str
    at: datetime
    pending: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    same_major: bool = True

    @property
    def passed(self) -> bool:
        """Whether it may be done."""
        return self.ran.passed

    def to_json(self) -> dict[str, Any]:
        """Return the document of `migrate rehearse`."""
        ran = self.ran
        ahead = [item for item in ran.statements if item.direction == "up"]  # what production is to meet
        unchanged = None if ran.changed_tables is None else not ran.changed_tables
        return {
            "rehearsal_id": self.rehearsal_id,
            "database": self.database,
            "at": self.at.isoformat(),
            "passed": ran.passed,
            "problem": ran.problem(),
            "up": ran.leg(UP),
            "down": ran.leg(DOWN),
            "up_again": ran.leg(UP_AGAIN),
            "schema_restored": ran.schema_restored,
            "schema_differences": [dict(item) for item in ran.schema_differences or ()],
            "untouched_tables_unchanged": unchanged,
            "untouched_tables": ran.untouched_tables,
            "changed_tables": list(ran.changed_tables or ()),
            "impact": "error" if ran.leg(UP) is False else rules.worst(ahead),
            "locks": rules.all_locks(ahead),
            "blocks": max((item.blocks for item in ahead), key=len, default=""),
            "rewritten": sorted({name for item in ahead for name in item.rewritten}),
            "scanned_rows_while_blocking": sum(item.scanned_rows_while_blocking for item in ahead),
            "error": next((item.error for item in ran.statements if item.error), None) or ran.problem(),
            "skipped": ran.skipped,
            "legs": [leg.to_json() for leg in ran.legs],
            "statements": [self._statement(item) for item in ran.statements],
            "plan_hash": self.plan_hash,
            "pending": [{"revision": revision, "sha256": sha256} for revision, sha256 in self.pending],
            "backup_id": self.backup_id,
            "backup_at": self.backup_at.isoformat(),
            "tier": self.tier,
            "server_version": ran.server_version,
            "same_major": self.same_major,
            "warnings": list(self.warnings),
        }

    def _statement(self, item: Traced) -> dict[str, Any]:
        predicted = prediction.of_statement(item, self.basis)
        return {**item.to_json(), **predicted, "delayed": prediction.impact(item, self.basis)}


@dataclass
class _Meanwhile:
    """What is done with the restored copy, once it's proven; what came of it is told after the drill is recorded."""

    orchestrator: MigrationOrchestrator
    manifest: Manifest
    script: Scripts | None
    to: str
    here: Facts
    ran: Ran | None = None
    basis: Basis = field(default_factory=Basis)
    same_major: bool = True
    warnings: tuple[str, ...] = ()
    failure: errors.ChanukaError | None = None

    @property
    def wal_level(self) -> str:
        """The source's."""
        return self.here.wal_level

    def __call__(self, drilled: Drilled, copy: RestoredCopy, /) -> None:
        """Rehearse; an error of the rehearsal is none of the drill."""
        if not drilled.proven:
            return
        self.same_major = copy.same_major
        try:
            self._rehearse(copy)
        except errors.ChanukaError as failure:
            self.failure = failure

    def _rehearse(self, copy: RestoredCopy) -> None:
        settings = self.orchestrator.database.settings
        left = source.make_tablespaces(copy.manager, self.here.tablespaces)
        self.warnings = tuple(f"tablespace {name} couldn't be made on the copy" for name in left)
        programs = (*binaries.CLIENT,)
        major = copy.manager.probe().major
        tools = binaries.find(configured=settings.postgres.bin_dir, server_major=major, programs=programs)
        migration = settings.operations.migration
        there = source.facts(copy.manager, migration.journal_schema)
        self.basis = _basis(self.manifest, self.here, there)
        with Rehearsal(copy.manager, migration, tools) as rehearsal:
            self.ran = rehearsal.revisions(self.to) if self.script is None else rehearsal.script(self.script)


class MigrationOrchestrator:
    """What is done with a database's migrations that needs its backups too."""

    def __init__(self, database: DatabaseOrchestrator) -> None:
        self.database = database

    def rehearse(
        self,
        *,
        to: str = migration_rules.HEAD,
        script: Scripts | None = None,
        backup_id: str | None = None,
        fresh_backup: bool = False,
    ) -> Rehearsed:
        """Restore a backup, by default the newest, prove it, and rehearse on the copy; write down what came of it.

        What fails in the rehearsal is in the answer. Errors: `RefusedError` where there is no backup, or it isn't
        proven by its restore; those of `BackupService.drill`; `ConfigurationError` for what can't be run at all.
        """
        name = self.database.name
        with context.scope(operation="rehearse", database=name):
            plan = None if script is not None else self._planned(to)
            chosen = self._backup(backup_id, fresh=fresh_backup)
            manifest, _ = self.database.backups.show(chosen)
            here = source.facts(self.database.manager, self.database.settings.operations.migration.journal_schema)
            work = _Meanwhile(self, manifest, script, to, here)
            drilled = self.database.drill_with(chosen, work)
            rehearsed = self._rehearsed(work, drilled, plan, manifest)
            self._write(rehearsed)
        log.info("rehearsed %s on %s: %s", rehearsed.plan_hash[:12], chosen, rehearsed.ran.problem() or "passed",
                 extra={"event": "migrate.rehearsed"})  # fmt: skip
        return rehearsed

    def newest(self, plan_hash: str) -> dict[str, Any] | None:
        """Return the newest record of a rehearsal of that plan, or None."""
        found = [document for document in self._documents() if document["plan_hash"] == plan_hash]
        return max(found, key=lambda document: str(document["at"]), default=None)

    def bounds_of_the_way_back(self, files: Mapping[str, str], since: datetime) -> list[Bound]:
        """Return what rehearsals since then predict of the way back of revisions, by the SHA-256 of their files.

        The plan of then isn't the plan of now, where what is to be taken back has been applied: so it's the files that
        say which rehearsal was of the same. Of several the newest counts.
        """
        found: dict[str, list[Bound]] = {}
        for document in sorted(self._documents(), key=lambda document: str(document["at"]), reverse=True):
            if datetime.fromisoformat(document["at"]) < since:
                break
            same = {item["revision"] for item in document["pending"] if files.get(item["revision"]) == item["sha256"]}
            back = prediction.bounds(document, "down")
            for revision in same - found.keys():
                bounds = [bound for bound in back if bound.revision == revision]
                if bounds:
                    found[revision] = bounds
        return [bound for bounds in found.values() for bound in bounds]

    def _documents(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in self._directory.glob("*.json")]

    @property
    def _directory(self) -> Path:
        return self.database.settings.state_dir / REHEARSALS / self.database.name

    def _planned(self, to: str) -> Plan:
        plan = self.database.migration_plan()
        refused = migration_rules.refusal(migration_rules.meant(plan, "up", to))
        if refused is not None:
            raise refused
        return plan

    def _backup(self, backup_id: str | None, *, fresh: bool) -> str:
        if backup_id is not None:
            return backup_id
        if fresh:
            return self.database.backup().backup_id
        try:
            return self.database.backups.newest(self.database.name)
        except errors.BackupNotFound as missing:
            raise errors.RefusedError(
                f"{missing}, so there is nothing to rehearse on: `chanuka-ops backup create` takes one, or rehearse"
                " with --fresh-backup. Nothing was run."
            ) from None

    def _rehearsed(self, work: _Meanwhile, drilled: Drilled, plan: Plan | None, manifest: Manifest) -> Rehearsed:
        if work.failure is not None:
            raise work.failure
        if work.ran is None:
            raise errors.RefusedError(
                f"backup {drilled.backup_id} isn't proven by its restore, so nothing was rehearsed on it:"
                f" {drilled.failure()}. Take another, or name an older one with --backup."
            )
        at = datetime.now(UTC)
        script = work.script
        return Rehearsed(
            ran=work.ran,
            basis=work.basis,
            rehearsal_id=f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z",
            database=self.database.name,
            plan_hash=plan.plan_hash if plan is not None else _script_hash(script),
            backup_id=drilled.backup_id,
            backup_at=manifest.source.snapshot_at,
            tier=str(drilled.tier.value),
            at=at,
            pending=tuple((step.revision, step.sha256) for step in plan.pending) if plan is not None else (),
            warnings=work.warnings,
            same_major=work.same_major,
        )

    def _write(self, rehearsed: Rehearsed) -> None:
        durable.make(self._directory)
        content = json.dumps(rehearsed.to_json(), indent=1, default=str).encode()
        durable.replace(self._directory / f"{rehearsed.rehearsal_id}.json", content)

    @classmethod
    def of(cls, database: DatabaseOrchestrator) -> Self:
        """Return the orchestrator of an opened database."""
        return cls(database)


def _script_hash(script: Scripts | None) -> str:
    text = "" if script is None else "\n".join([script.up, script.down or ""])
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def _basis(manifest: Manifest, here: Facts, there: Facts) -> Basis:
    """Say what predictions rest on; a copy that isn't whole gives none."""
    if manifest.filters is not None:
        return Basis(reason="the backup leaves tables or rows out, so the copy isn't of full size")
    missing = sorted(_named(here.sizes) - _named(there.sizes))
    if missing:
        return Basis(reason=f"the copy lacks tables that the source has now: {', '.join(missing[:5])}")
    speed = None
    if here.seconds_per_page and there.seconds_per_page:
        speed = here.seconds_per_page / there.seconds_per_page
    return Basis(None, there.sizes, here.sizes, speed, here.calls_per_second)


def _named(sizes: Mapping[str, object]) -> set[str]:
    return set(sizes)

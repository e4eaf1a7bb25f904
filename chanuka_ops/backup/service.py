"""The verbs of backups: create, list, show, verify, drill."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from chanuka_ops import context, errors
from chanuka_ops.backup import drill as drills
from chanuka_ops.backup import dump, files, rules
from chanuka_ops.backup.answers import Comparison, Created, Drilled, Listed, Problem, Verified
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.local import LocalStore
from chanuka_ops.backup.model import Evidence, File, Manifest, Status, Tier
from chanuka_ops.config import Settings
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.binaries import Binaries

log = logging.getLogger(__name__)

RUNGS = ("manifest", "restores", "structure", "content")


class BackupService:
    """Backups of one store. Only `create` needs the source database; all else works from the store alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.operations.backup
        self._bin_dir = settings.postgres.bin_dir
        self._state_dir = settings.state_dir
        first, *_ = settings.backup_stores.values()
        self.store = LocalStore(first.path)

    def create(self, manager: ConnectionManager) -> Created:
        """Take a backup and fingerprint its source in the same snapshot; the tier is `taken`.

        Errors: `ConnectError`, `LockHeld`, `ToolMissing`, `ToolTooOld`, `PermissionDenied` naming the table,
        `ToolFailed`, `StoreError`. After any of them nothing new is listed.
        """
        watch = Stopwatch()
        created_at = datetime.now(UTC)
        backup_id = rules.new_id(manager.name, created_at, secrets.token_hex(3))
        tools = binaries.find(configured=self._bin_dir, server_major=manager.probe().major)
        with self.store.writing(manager.name, backup_id) as writer:
            partial = writer.staging
            with operation_lock(manager):  # what follows needs the database no more, and a lost lock must list nothing
                dumped = dump.dump(manager, tools, self._settings, partial)
            try:
                found = files.inventory(partial, label="hash and fsync", fsync=True)
            except OSError as error:
                raise errors.StoreError(f"{partial} can't be read back: {error.strerror}") from None
            manifest = self._manifest(
                database=manager.name,
                backup_id=backup_id,
                created_at=created_at,
                tools=tools,
                dumped=dumped,
                found=found,
            )
            writer.publish(manifest)
        log.info("backup %s taken", backup_id, extra={"event": "backup.taken", "backup_id": backup_id})
        return Created(
            backup_id=backup_id,
            kind=manifest.kind,
            tier=Tier.TAKEN,
            bytes=manifest.bytes,
            source_bytes=manifest.source.source_bytes,
            seconds=watch.seconds,
            store=str(self.store.root),
            tables=len(manifest.fingerprint.tables),
            rows=manifest.fingerprint.rows,
        )

    def catalogue(self, database: str | None = None) -> list[Listed]:
        """List backups, the newest first. Errors: `StoreError`."""
        return self.store.list(database)

    def show(self, backup_id: str) -> tuple[Manifest, Status]:
        """Return a backup's manifest and status. Errors: `BackupNotFound`, `BackupDamaged`, `StoreError`."""
        return self.store.manifest(backup_id), self.store.status(backup_id)

    def verify(self, backup_id: str) -> Verified:
        """Read every byte of a backup against its manifest, and record the outcome.

        A damaged backup is an answer (`problems`), not an error. Errors: `BackupNotFound`, `StoreError`.
        """
        watch = Stopwatch()
        problems: list[Problem] = []
        self._look_at_status(backup_id, problems)
        found = self.store.files(backup_id)
        stated_bytes = 0
        try:
            manifest = self.store.manifest(backup_id)
        except errors.BackupDamaged as damage:
            log.warning("%s", damage, extra={"event": "backup.damaged"})
            problems.insert(0, Problem(file=MANIFEST, kind="manifest"))
        else:
            problems += rules.file_problems(manifest.files, found)
            stated_bytes = manifest.bytes
        figures: dict[str, Any] = {"files": len(found), "bytes": stated_bytes, "seconds": watch.seconds}
        figures["problems"] = [problem.model_dump() for problem in problems]
        look = Evidence(at=datetime.now(UTC), step="verify", passed=not problems, figures=figures)
        status = self._record(backup_id, look)
        return Verified(
            backup_id=backup_id,
            tier=status.tier,
            files=len(found),
            bytes=stated_bytes,
            seconds=watch.seconds,
            problems=tuple(problems),
        )

    def drill(self, backup_id: str) -> Drilled:
        """Verify, restore into a scratch server, compare; lift the tier to `proven` or take it back.

        A copy that differs is an answer (`mismatches`, `structure_problems`), not an error.
        Errors: `BackupNotFound`, `BackupDamaged` (no manifest to compare with), `ToolMissing`, `ToolTooOld`,
        `ToolFailed` (pg_restore's words), `ServerError`, `StoreError`. A failure to restore is recorded first.
        """
        watch = Stopwatch()
        verified = self.verify(backup_id)
        if any(problem.kind == "manifest" for problem in verified.problems):
            raise errors.BackupDamaged(
                f"{backup_id}: its manifest is damaged, so there is nothing to compare a copy with"
            )
        manifest = self.store.manifest(backup_id)
        if verified.problems:
            return self._drilled(manifest, watch, None, None, verified.problems)
        try:
            with self.restored_copy(manifest) as copy:
                comparison = drills.compare(manifest, copy, deadline_s=self._settings.deadline_s)
                watch.stop()
        except (errors.ToolFailed, errors.DatabaseError) as failure:
            self._record_drill(manifest, {"error": str(failure)}, passed=False)
            raise
        return self._drilled(manifest, watch, copy, comparison, ())

    @contextmanager
    def restored_copy(self, manifest: Manifest) -> Iterator[drills.RestoredCopy]:
        """Restore a backup into a scratch server for the block. Errors: as `drill`."""
        programs = (*binaries.SERVER, *binaries.CLIENT)
        # the archive's format is that of the pg_dump that wrote it, so that major version restores it
        found = binaries.find(configured=self._bin_dir, server_major=manifest.tool_major, programs=programs)
        directory = self.store.directory(manifest.backup_id)
        with drills.restored_copy(directory, manifest, found, self._settings, self._state_dir) as copy:
            yield copy

    def _manifest(
        self,
        *,
        database: str,
        backup_id: str,
        created_at: datetime,
        tools: Binaries,
        dumped: dump.Dumped,
        found: dict[str, File | None],
    ) -> Manifest:
        who = context.current()
        return Manifest(
            backup_id=backup_id,
            database=database,
            created_at=created_at,
            seconds=round((datetime.now(UTC) - created_at).total_seconds(), 3),
            actor=who.actor,
            run_id=who.run_id,
            tool_version=tools.version,
            tool_major=tools.major,
            compression_level=self._settings.compression_level,
            jobs=self._settings.jobs,
            source=dumped.source,
            files=tuple(file for _, file in sorted(found.items()) if file is not None),
            fingerprint=dumped.fingerprint,
        )

    def newest(self, database: str) -> str:
        """Return the id of a database's newest whole backup. Errors: `BackupNotFound`, `StoreError`."""
        for listed in self.catalogue(database):
            if listed.problem is None:
                return listed.backup_id
        raise errors.BackupNotFound(f"database {database!r} has no backup in {self.store.root}")

    def _drilled(
        self,
        manifest: Manifest,
        watch: Stopwatch,
        copy: drills.RestoredCopy | None,
        comparison: Comparison | None,
        problems: tuple[Problem, ...],
    ) -> Drilled:
        ladder: dict[str, bool | None] = dict.fromkeys(RUNGS)
        ladder["manifest"] = not problems
        if comparison is not None:
            ladder |= {"restores": True, "structure": not comparison.structure_problems}
            ladder["content"] = not comparison.mismatches
        answer = Drilled(
            backup_id=manifest.backup_id,
            tier=Tier.TAKEN,
            restore_seconds=copy.restore_seconds if copy else None,
            tables_compared=comparison.tables_compared if comparison else 0,
            rows_compared=comparison.rows_compared if comparison else 0,
            coverage=comparison.coverage if comparison else 0.0,
            mismatches=comparison.mismatches if comparison else (),
            structure_problems=comparison.structure_problems if comparison else (),
            rto_seconds=watch.seconds if comparison else None,
            rpo_seconds=round((datetime.now(UTC) - manifest.source.snapshot_at).total_seconds(), 3),
            ladder=ladder,
            warnings=comparison.warnings if comparison else (),
            scratch_version=copy.server_version if copy else None,
            problems=problems,
            tables=comparison.tables if comparison else {},
        )
        figures = answer.model_dump(mode="json", exclude={"tables", "tier", "backup_id"})
        status = self._record_drill(manifest, figures, passed=answer.proven)
        return answer.model_copy(update={"tier": status.tier})

    def _record_drill(self, manifest: Manifest, figures: dict[str, object], *, passed: bool) -> Status:
        look = Evidence(at=datetime.now(UTC), step="drill", passed=passed, figures=figures)
        return self._record(manifest.backup_id, look)

    def _record(self, backup_id: str, look: Evidence) -> Status:
        return self.store.change_status(backup_id, lambda before: rules.after_look(before, look))

    def _look_at_status(self, backup_id: str, problems: list[Problem]) -> None:
        try:
            self.store.status(backup_id)
        except errors.BackupDamaged as damage:  # what it said of the tier can't be believed any more
            log.warning("%s", damage, extra={"event": "backup.damaged"})
            problems.append(Problem(file=STATUS, kind="checksum"))

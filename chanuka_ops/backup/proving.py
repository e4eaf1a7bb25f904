"""Proves backups: verify rereads each byte; a drill restores a copy and compares it with the source."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from chanuka_ops import errors
from chanuka_ops.backup import drill as drills
from chanuka_ops.backup import encryption, fetching, rules
from chanuka_ops.backup.answers import Comparison, Drilled, Problem, Verified
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.fetching import Fetched
from chanuka_ops.backup.model import Evidence, Manifest, Status, Tier
from chanuka_ops.backup.store import Store
from chanuka_ops.config import Settings
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres import binaries

log = logging.getLogger(__name__)

RUNGS = ("manifest", "restores", "structure", "content")


def verify(store: Store, backup_id: str) -> Verified:
    """Read every byte of one store's copy against its manifest, and record the outcome.

    Errors: `BackupNotFound`, `StoreError`.
    """
    watch = Stopwatch()
    with store.reading(backup_id):
        problems = _status_problems(store, backup_id)
        found = store.files(backup_id)
        stated_bytes = 0
        try:
            manifest = store.manifest(backup_id)
        except errors.BackupDamaged as damage:
            log.warning("%s", damage, extra={"event": "backup.damaged"})
            problems.insert(0, Problem(file=MANIFEST, kind="manifest"))
        else:
            problems += rules.file_problems(manifest.files, found)
            stated_bytes = manifest.bytes
        named = _of(store, problems)
        status = _record_verified(store, backup_id, len(found), stated_bytes, watch, named)
    return Verified(
        backup_id=backup_id,
        tier=status.tier,
        files=len(found),
        bytes=stated_bytes,
        seconds=watch.seconds,
        problems=named,
    )


def together(copies: Sequence[Verified]) -> Verified:
    """Say of several copies what is said of one: all their bytes, all their problems, the best tier."""
    return Verified(
        backup_id=copies[0].backup_id,
        tier=max((copy.tier for copy in copies), key=lambda tier: tier.rank),
        files=sum(copy.files for copy in copies),
        bytes=sum(copy.bytes for copy in copies),
        seconds=round(sum(copy.seconds for copy in copies), 3),
        problems=tuple(problem for copy in copies for problem in copy.problems),
    )


def drill(holders: Sequence[Store], manifest: Manifest, settings: Settings) -> Drilled:
    """Prove the first holder's copy; the others' whose bytes were verified to be the same are proven with it.

    Errors: see `BackupService.drill`.
    """
    store, *others = holders
    answer, status = _drill(store, manifest, settings)
    if answer.proven:
        for other in others:
            _prove_too(other, manifest, store)
    return answer.model_copy(update={"tier": status.tier})


@contextmanager
def fetched(store: Store, manifest: Manifest, settings: Settings, *, verify: bool = True) -> Iterator[Fetched]:
    """Give a copy's files as pg_restore wants them. Errors: as `BackupService.fetched`."""
    backup = settings.operations.backup
    identities = encryption.identities_of(backup.identity) if manifest.encryption is not None else None
    with fetching.fetched(
        store, manifest, identities=identities, into=settings.state_dir / "fetched", jobs=backup.jobs, verify=verify
    ) as got:
        yield got


@contextmanager
def restored(got: Fetched, manifest: Manifest, settings: Settings) -> Iterator[drills.RestoredCopy]:
    """Restore fetched files into a scratch server for the block. Errors: as `BackupService.drill`."""
    programs = (*binaries.SERVER, *binaries.CLIENT)
    # the archive's format is that of the pg_dump that wrote it, so that major version restores it
    found = binaries.find(configured=settings.postgres.bin_dir, server_major=manifest.tool_major, programs=programs)
    with drills.restored_copy(got.directory, manifest, found, settings.operations.backup, settings.state_dir) as copy:
        yield copy


def readable_manifest(store: Store, backup_id: str) -> Manifest:
    """Read a manifest. Errors: `BackupNotFound`, `StoreError`; `BackupDamaged`, which is recorded first."""
    try:
        return store.manifest(backup_id)
    except errors.BackupDamaged as damage:
        log.warning("%s", damage, extra={"event": "backup.damaged"})
        problem = (Problem(file=MANIFEST, kind="manifest", store=store.name),)
        _record_verified(store, backup_id, 0, 0, Stopwatch(), problem)
        raise errors.BackupDamaged(
            f"{backup_id}: its manifest is damaged, so there is nothing to compare a copy with"
        ) from None


def _drill(store: Store, manifest: Manifest, settings: Settings) -> tuple[Drilled, Status]:
    backup = settings.operations.backup
    watch = Stopwatch()
    copy: drills.RestoredCopy | None = None
    comparison: Comparison | None = None
    status_problems = _status_problems(store, manifest.backup_id)
    with fetched(store, manifest, settings) as got:
        problems = _of(store, (*status_problems, *got.problems))
        _record_verified(store, manifest.backup_id, len(manifest.files), manifest.bytes, watch, problems)
        reached("fetched")
        if not problems:
            try:
                with restored(got, manifest, settings) as copy:
                    reached("restored")
                    checking = Stopwatch()
                    comparison = drills.compare(manifest, copy, deadline_s=backup.deadline_s)
                    checking.stop()
                    watch.stop()
            except (errors.ToolFailed, errors.DatabaseError, errors.ServerError) as failure:
                _record_drill(store, manifest, {"error": str(failure)}, passed=False)
                raise
    answer = _answer(manifest, watch, got, copy, comparison, problems, _rpo_seconds(store, manifest))
    figures = answer.model_dump(mode="json", exclude={"tables", "tier", "backup_id"})
    return answer, _record_drill(store, manifest, figures, passed=answer.proven)


def _prove_too(other: Store, manifest: Manifest, store: Store) -> None:
    """Lift another store's copy with the same manifest, if each of its bytes was verified: it is the same backup."""
    try:
        if other.manifest(manifest.backup_id) != manifest:
            return
        look = Evidence(
            at=datetime.now(UTC), step="drill", passed=True, figures={"the_same_bytes_as_in_store": store.name}
        )
        other.change_status(
            manifest.backup_id,
            lambda before: rules.after_look(before, look) if before.tier is Tier.VERIFIED else before,
        )
    except (errors.BackupDamaged, errors.BackupNotFound, errors.StoreError) as error:
        log.warning("store %s: %s", other.name, error, extra={"event": "store.unread", "store": other.name})


def _answer(
    manifest: Manifest,
    watch: Stopwatch,
    got: Fetched,
    copy: drills.RestoredCopy | None,
    comparison: Comparison | None,
    problems: tuple[Problem, ...],
    rpo_seconds: float,
) -> Drilled:
    ladder: dict[str, bool | None] = dict.fromkeys(RUNGS)
    ladder["manifest"] = not problems
    phases = {"fetch": got.fetch_seconds, "decrypt": got.decrypt_seconds}
    if copy is not None and comparison is not None:
        ladder |= {"restores": True, "structure": not comparison.structure_problems}
        ladder["content"] = not comparison.mismatches
        phases |= {"restore": copy.restore_seconds}
    return Drilled(
        backup_id=manifest.backup_id,
        tier=Tier.TAKEN,
        restore_seconds=copy.restore_seconds if copy else None,
        tables_compared=comparison.tables_compared if comparison else 0,
        rows_compared=comparison.rows_compared if comparison else 0,
        coverage=comparison.coverage if comparison else 0.0,
        mismatches=comparison.mismatches if comparison else (),
        structure_problems=comparison.structure_problems if comparison else (),
        rto_seconds=watch.seconds if comparison else None,
        rpo_seconds=rpo_seconds,
        phases=phases,
        ladder=ladder,
        warnings=comparison.warnings if comparison else (),
        scratch_version=copy.server_version if copy else None,
        problems=problems,
        tables=comparison.tables if comparison else {},
    )


def _rpo_seconds(store: Store, manifest: Manifest) -> float:
    """Return the age of the newest data that is proven, or would be by this drill."""
    proven = [b.created_at for b in store.list(manifest.database) if b.tier == Tier.PROVEN and b.created_at]
    newest = max([manifest.source.snapshot_at, *proven])
    return round((datetime.now(UTC) - newest).total_seconds(), 3)


def _record_verified(
    store: Store, backup_id: str, count: int, size: int, watch: Stopwatch, problems: tuple[Problem, ...]
) -> Status:
    figures: dict[str, Any] = {"files": count, "bytes": size, "seconds": watch.seconds}
    figures["problems"] = [problem.model_dump() for problem in problems]
    look = Evidence(at=datetime.now(UTC), step="verify", passed=not problems, figures=figures)
    return store.change_status(backup_id, lambda before: rules.after_look(before, look))


def _record_drill(store: Store, manifest: Manifest, figures: dict[str, Any], *, passed: bool) -> Status:
    look = Evidence(at=datetime.now(UTC), step="drill", passed=passed, figures=figures)
    return store.change_status(manifest.backup_id, lambda before: rules.after_look(before, look))


def _status_problems(store: Store, backup_id: str) -> list[Problem]:
    try:
        store.status(backup_id)
    except errors.BackupDamaged as damage:  # what it said of the tier can't be believed any more
        log.warning("%s", damage, extra={"event": "backup.damaged"})
        return [Problem(file=STATUS, kind="checksum", store=store.name)]
    return []


def _of(store: Store, problems: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple(problem.model_copy(update={"store": store.name}) for problem in problems)

"""Proves backups: verify rereads each byte; a drill restores a copy and compares it with the source."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chanuka_ops import errors
from chanuka_ops.backup import encryption, rules
from chanuka_ops.backup.answers import RUNGS, Comparison, Drilled, Problem, Verified
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.model import Evidence, Manifest, Status, Tier
from chanuka_ops.backup.proving import comparing
from chanuka_ops.backup.proving import drill as drills
from chanuka_ops.backup.proving.drill import Meanwhile
from chanuka_ops.backup.storing import fetching, sweeping
from chanuka_ops.backup.storing.fetching import Fetched
from chanuka_ops.backup.storing.store import Store
from chanuka_ops.config import Settings
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres import binaries

log = logging.getLogger(__name__)

HISTORY = 3  # backups looked back at for each part: which of them was compared when


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
        status = _record_verified(
            store, backup_id, count=len(found), size=stated_bytes, seconds=watch.seconds, problems=named
        )
    return Verified(
        backup_id=backup_id,
        tier=status.tier,
        files=len(found),
        bytes=stated_bytes,
        seconds=watch.seconds,
        problems=named,
    )


def verify_each(stores: Sequence[Store], backup_id: str, unread: Mapping[str, str]) -> Verified:
    """Verify every store's copy; a store that fails meanwhile is `unread`, like those that couldn't be asked.

    Errors: `BackupNotFound`; `StoreError` where no copy could be read.
    """
    copies: list[Verified] = []
    proven: Store | None = None
    unread = dict(unread)
    for store in stores:
        try:
            copies.append(verify(store, backup_id))
            proven = store if copies[-1].tier is Tier.PROVEN else proven
        except errors.StoreError as error:
            log.warning("%s", error, extra={"event": "store.unread", "store": store.name})
            unread[store.name] = str(error)
            if store is stores[-1] and not copies:
                raise
    if proven is not None:
        manifest = proven.manifest(backup_id)
        for store in stores:
            _prove_too(store, manifest, proven)
    return _together(copies, unread)


def _together(copies: Sequence[Verified], unread: Mapping[str, str]) -> Verified:
    """Say of several copies what is said of one: all their bytes, all their problems, the best tier."""
    return Verified(
        backup_id=copies[0].backup_id,
        tier=max((copy.tier for copy in copies), key=lambda tier: tier.rank),
        files=sum(copy.files for copy in copies),
        bytes=sum(copy.bytes for copy in copies),
        seconds=round(sum(copy.seconds for copy in copies), 3),
        problems=tuple(problem for copy in copies for problem in copy.problems),
        unread=dict(unread),
    )


def drill(
    holders: Sequence[Store], manifest: Manifest, settings: Settings, meanwhile: Meanwhile | None = None
) -> Drilled:
    """Prove the first holder's copy; the others' whose bytes were verified to be the same are proven with it.

    `meanwhile` gets the restored copy when it was compared, with what came of that, before it is destroyed. What it
    raises is taken for a failure of the drill where it's an error of the server's.

    Errors: see `BackupService.drill`.
    """
    store, *others = holders
    with store.reading(manifest.backup_id):  # until its outcome is recorded: then a policy may well keep it
        answer, status = _drill(store, manifest, settings, meanwhile)
    if answer.proven:
        for other in others:
            _prove_too(other, manifest, store)
    return answer.model_copy(update={"tier": status.tier})


@contextmanager
def fetched(
    store: Store, manifest: Manifest, settings: Settings, *, only: Collection[str] | None = None, verify: bool = True
) -> Iterator[Fetched]:
    """Give a copy's files, or `only` those, as pg_restore wants them. Errors: as `BackupService.fetched`."""
    backup = settings.operations.backup
    identities = encryption.identities_of(backup.identity) if manifest.encryption is not None else None
    into = settings.state_dir / sweeping.FETCHED
    with fetching.fetched(
        store, manifest, identities=identities, into=into, jobs=backup.jobs, only=only, verify=verify
    ) as got:
        yield got


@contextmanager
def restored(
    got: Fetched, manifest: Manifest, settings: Settings, *, wal_level: str | None = None
) -> Iterator[drills.RestoredCopy]:
    """Restore fetched files into a scratch server for the block. Errors: as `BackupService.drill`."""
    programs = (*binaries.SERVER, *binaries.CLIENT)
    # the archive's format is that of the pg_dump that wrote it, so that major version restores it
    found = binaries.find(configured=settings.postgres.bin_dir, server_major=manifest.tool_major, programs=programs)
    with drills.restored_copy(
        got.directory,
        manifest,
        found,
        settings.operations.backup,
        settings.state_dir,
        wal_level=wal_level,
    ) as copy:
        yield copy


def readable_manifest(store: Store, backup_id: str) -> Manifest:
    """Read a manifest. Errors: `BackupNotFound`, `StoreError`; `BackupDamaged`, which is recorded first."""
    try:
        return store.manifest(backup_id)
    except errors.BackupDamaged as damage:
        log.warning("%s", damage, extra={"event": "backup.damaged"})
        problem = (Problem(file=MANIFEST, kind="manifest", store=store.name),)
        _record_verified(store, backup_id, count=0, size=0, seconds=0.0, problems=problem)
        raise errors.BackupDamaged(
            f"{backup_id}: its manifest is damaged, so there is nothing to compare a copy with"
        ) from None


def _drill(store: Store, manifest: Manifest, settings: Settings, meanwhile: Meanwhile | None) -> tuple[Drilled, Status]:
    done = _Drill(manifest, Stopwatch(), _rpo_seconds(store, manifest))
    status_problems = _status_problems(store, manifest.backup_id)
    try:
        with fetched(store, manifest, settings) as done.got:
            done.problems = _of(store, (*status_problems, *done.got.problems))
            _record_verified(
                store, manifest.backup_id, count=len(manifest.files), size=manifest.bytes,
                seconds=done.watch.seconds, problems=done.problems,
            )  # fmt: skip
            reached("fetched")
            if not done.problems:
                wal_level = meanwhile.wal_level if meanwhile is not None else None
                with restored(done.got, manifest, settings, wal_level=wal_level) as done.copy:
                    reached("restored")
                    done.compare(settings, part=_part(store, manifest))
                    done.watch.stop()
                    if meanwhile is not None:
                        meanwhile(done.answer(), done.copy)
    except (errors.ToolFailed, errors.DatabaseError, errors.ServerError, errors.DecryptionFailed) as failure:
        _record_drill(store, manifest, {"error": str(failure)}, passed=False)
        raise
    reached("compared")
    answer = done.answer()
    figures = answer.model_dump(mode="json", exclude={"tables", "tier", "backup_id"})
    return answer, _record_drill(store, manifest, figures, passed=answer.proven)


@dataclass
class _Drill:
    """A drill under way: what each step brought."""

    manifest: Manifest
    watch: Stopwatch
    rpo_seconds: float
    got: Fetched | None = None
    copy: drills.RestoredCopy | None = None
    comparison: Comparison | None = None
    check_seconds: float = 0.0
    problems: tuple[Problem, ...] = ()

    def compare(self, settings: Settings, *, part: int) -> None:
        """Compare the restored copy. Errors: `DatabaseError`."""
        if self.copy is None:
            raise ValueError("nothing was restored")
        backup = settings.operations.backup
        watch = Stopwatch()
        self.comparison = drills.compare(
            self.manifest, self.copy, deadline_s=backup.deadline_s, drill=backup.drill, part=part
        )
        self.check_seconds = watch.seconds

    def answer(self) -> Drilled:
        """Say how far it came; the tier is whoever's that records it."""
        found = self.comparison
        return Drilled(
            backup_id=self.manifest.backup_id,
            tier=Tier.TAKEN,
            restore_seconds=self.copy.restore_seconds if self.copy else None,
            tables_compared=found.tables_compared if found else 0,
            rows_compared=found.rows_compared if found else 0,
            coverage=found.coverage if found else 0.0,
            part=found.part if found else None,
            mismatches=found.mismatches if found else (),
            structure_problems=found.structure_problems if found else (),
            index_problems=found.index_problems if found else None,
            assertion_problems=found.assertion_problems if found else None,
            rto_seconds=self.watch.seconds if found else None,
            rpo_seconds=self.rpo_seconds,
            phases=self._phases(),
            ladder=self._ladder(),
            warnings=found.warnings if found else (),
            scratch_version=self.copy.server_version if self.copy else None,
            problems=self.problems,
            tables=found.tables if found else {},
        )

    def _phases(self) -> dict[str, float]:
        """Return what the seconds went to; what is missing to the whole went to the scratch server."""
        got, copy = self.got, self.copy
        fetching = {"fetch": got.fetch_seconds, "decrypt": got.decrypt_seconds} if got else {}
        return {**fetching, **({"restore": copy.restore_seconds, "check": self.check_seconds} if copy else {})}

    def _ladder(self) -> dict[str, bool | None]:
        ladder: dict[str, bool | None] = {**dict.fromkeys(RUNGS), "manifest": not self.problems}
        found = self.comparison
        if found is not None:
            ladder |= {
                "restores": True,
                "structure": not found.structure_problems,
                "content": not found.mismatches if found.has_content else None,
                "indexes": None if found.index_problems is None else not found.index_problems,
                "assertions": None if found.assertion_problems is None else not found.assertion_problems,
            }
        return ladder


def _part(store: Store, manifest: Manifest) -> int:
    """Return which part of the sampled tables is compared this time: the one that was compared longest ago."""
    parts = max((len(table.parts) for table in manifest.fingerprint.tables.values()), default=0)
    if not parts:
        return 0
    looks: list[Evidence] = []
    for listed in store.list(manifest.database)[: parts * HISTORY]:
        with suppress(errors.BackupNotFound, errors.BackupDamaged):  # expired meanwhile, or damaged before
            looks += [look for look in store.status(listed.backup_id).evidence if look.step == "drill"]
    seen = [look.figures.get("part") for look in sorted(looks, key=lambda look: look.at)]
    return comparing.next_part([part for part in seen if isinstance(part, int)], parts)


def _prove_too(other: Store, manifest: Manifest, store: Store) -> None:
    """Lift another store's copy with the same manifest, if each of its bytes was verified: it is the same backup."""
    try:
        if other.manifest(manifest.backup_id) != manifest:
            return
        other.change_status(manifest.backup_id, lambda before: rules.proven_beside(before, store.name))
    except (errors.BackupDamaged, errors.BackupNotFound, errors.StoreError) as error:
        log.warning("store %s: %s", other.name, error, extra={"event": "store.unread", "store": other.name})


def _rpo_seconds(store: Store, manifest: Manifest) -> float:
    """Return the age of the newest data that is proven, or would be by this drill; what is dated ahead has no age."""
    now = datetime.now(UTC)
    proven = [b.created_at for b in store.list(manifest.database) if b.tier == Tier.PROVEN and b.created_at]
    newest = max([manifest.source.snapshot_at, *(at for at in proven if at <= now)])
    return max(0.0, round((now - newest).total_seconds(), 3))


def _record_verified(
    store: Store, backup_id: str, *, count: int, size: int, seconds: float, problems: tuple[Problem, ...]
) -> Status:
    figures: dict[str, Any] = {"files": count, "bytes": size, "seconds": seconds}
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

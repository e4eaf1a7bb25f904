"""The whole cycle, as plain Python: health → backup → drill → expire → optimise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from chanuka_ops import errors
from chanuka_ops.backup.answers import Created, Drilled, Expiry, Verified
from chanuka_ops.backup.restoring.restored import Restored
from chanuka_ops.health.model import HealthReport
from chanuka_ops.optimisation.model import Applied, Plan
from chanuka_ops.orchestrators.backups import Failed, Taken
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.orchestrators.steps import Steps

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one cycle found, made and proved. `health` is None where health monitoring is switched off.

    The backup is the database's own; its siblings' are `beside` it.
    """

    health: HealthReport | None
    backup: Created
    verified: Verified
    drill: Drilled
    plan: Plan
    applied: tuple[Applied, ...]
    beside: tuple[Drilled, ...] = ()


def cycle(orchestrator: DatabaseOrchestrator, steps: Steps) -> Cycle:
    """Run the cycle.

    Errors: `BackupDamaged` where a new backup can't be read back, `DrillFailed` naming what differs, `DatabaseError`
    naming the advice that could not be carried out, and those of each step; at the end, that a sibling has no backup.
    """
    health = None
    if orchestrator.settings.features.health_monitoring:
        health = steps.run("health", orchestrator.health, health_said)
    taken = steps.run("backup", orchestrator.backup_all, taken_said)
    ids = [created.backup_id for created in taken.created]
    verified = steps.run("verify", lambda: [require_whole(orchestrator.verify(i)) for i in ids], _each(verify_said))
    drills = steps.run("drill", lambda: [require_proven(orchestrator.drill(i)) for i in ids], _each(drill_said))
    if not orchestrator.settings.operations.backup.keep.keeps_all:
        steps.run("expire", lambda: require_expired(orchestrator.expire()), expire_said)
    plan = steps.run("optimise plan", lambda: orchestrator.optimise_plan(health), lambda p: f"{len(p.advice)} advice")
    applied = steps.run("optimise apply", lambda: require_applied(orchestrator.optimise_apply(plan)), applied_said)
    if taken.failed:
        steps.run("siblings", lambda: require_all(taken.failed))
    return Cycle(health, taken.created[0], verified[0], drills[0], plan, tuple(applied), tuple(drills[1:]))


def require_all(failed: Sequence[Failed]) -> None:
    """Accept no sibling without a backup. Errors: `ChanukaError` naming each, and why."""
    if failed:
        raise errors.ChanukaError("; ".join(f"no backup of {one.database}: {one.message}" for one in failed))


def require_whole(verified: Verified) -> Verified:
    """Return what was verified. Errors: `BackupDamaged` naming each file that isn't as it was written."""
    if verified.problems:
        listing = ", ".join(f"{problem.file} ({problem.kind})" for problem in verified.problems)
        raise errors.BackupDamaged(f"backup {verified.backup_id} is damaged: {listing}")
    return verified


def require_proven(drill: Drilled) -> Drilled:
    """Return a drill that proved its backup. Errors: `DrillFailed` naming what differs."""
    if drill.proven:
        return drill
    raise errors.DrillFailed(f"backup {drill.backup_id} is not proven: {drill.failure()}")


def require_restored(restored: Restored) -> Restored:
    """Return a restore that was put in place. Errors: `DrillFailed` naming what differs."""
    if restored.restored:
        return restored
    listing = "; ".join(
        f"{item.object}: {item.source} by the manifest, {item.restored} restored" for item in restored.mismatches[:10]
    )
    raise errors.DrillFailed(f"backup {restored.backup_id} was restored, but not put in place: {listing}")


def require_expired(done: list[Expiry]) -> list[Expiry]:
    """Return what expired. Errors: `RefusedError` where a guard said no, `StoreError` where a store failed."""
    refused = [f"store {e.decided.store}: {e.decided.refused}" for e in done if e.decided.refused]
    failed = [f"store {e.decided.store}: {e.problem}" for e in done if e.problem and not e.decided.refused]
    if failed:
        raise errors.StoreError("; ".join(failed))
    if refused:
        raise errors.RefusedError("; ".join(refused))
    return done


def require_applied(applied: list[Applied]) -> list[Applied]:
    """Return what the optimiser did; a lock it didn't get in time is another night's work.

    Errors: `DatabaseError` naming each object on which the server said no.
    """
    failed = [f"{item.object}: {item.reason or 'it failed'}" for item in applied if item.outcome == "failed"]
    if failed:
        raise errors.DatabaseError(f"{len(failed)} of {len(applied)} not carried out: {'; '.join(failed[:10])}")
    return applied


def health_said(report: HealthReport) -> str:
    """Say a health report in a line."""
    counted = [finding for finding in report.findings if finding.status != "ok"]
    return f"{report.status}: {len(counted)} findings by {len(report.checks)} checks"


def taken_said(taken: Taken) -> str:
    """Say in a line which backups were taken, and which weren't."""
    failed = (f"no backup of {one.database}: {one.message}" for one in taken.failed)
    return "; ".join([*(backup_said(created) for created in taken.created), *failed])


def backup_said(created: Created) -> str:
    """Say a backup in a line."""
    missing = "".join(f"; not in store {placed.store}: {placed.problem}" for placed in created.missing)
    return (
        f"{created.backup_id}: {created.tables} tables, {created.rows:,} rows, "
        f"{sized(created.source_bytes)} in {sized(created.bytes)}{missing}"
    )


def verify_said(verified: Verified) -> str:
    """Say a verification in a line."""
    unread = "".join(f"; not in store {name}: {problem}" for name, problem in verified.unread.items())
    return f"{verified.files} files, {sized(verified.bytes)} reread: tier {verified.tier}{unread}"


def drill_said(drill: Drilled) -> str:
    """Say a drill in a line."""
    return (
        f"{drill.tables_compared} tables, {drill.rows_compared:,} rows compared, "
        f"{len(drill.mismatches) + len(drill.structure_problems)} differ: tier {drill.tier}"
    )


def expire_said(done: list[Expiry]) -> str:
    """Say in a line what expired."""
    return f"{sum(len(e.deleted) for e in done)} expired, {sum(len(e.decided.keep) for e in done)} stay"


def applied_said(applied: list[Applied]) -> str:
    """Say what the optimiser did in a line."""
    counts: dict[str, int] = {}
    for item in applied:
        counts[item.outcome] = counts.get(item.outcome, 0) + 1
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "nothing to do"


def _each(said: Callable[[_T], str]) -> Callable[[Sequence[_T]], str]:
    return lambda done: "; ".join(map(said, done))


def sized(size: int) -> str:
    """Write a size in the unit that fits.

    >>> sized(52_428_800), sized(89_892), sized(999), sized(3_000_000_000_000)
    ('52.4 MB', '89.9 kB', '999 B', '3.0 TB')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"

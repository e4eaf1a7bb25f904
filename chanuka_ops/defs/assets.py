"""External assets, one per database and subject: what the ops did lands on them, and the UI plots it.

Freshness is per asset in Dagster, so there is one for each database. An op reports a materialisation or a check; the
asset itself isn't executed.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg

from chanuka_ops import config
from chanuka_ops.backup import rules
from chanuka_ops.backup.answers import Catalogue
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.storing import stores
from chanuka_ops.defs import verdicts
from chanuka_ops.defs.resources import readable
from chanuka_ops.defs.verdicts import health_key
from chanuka_ops.orchestrators.database import DatabaseOrchestrator, known_names
from chanuka_ops.orchestrators.migration import MigrationOrchestrator

GROUP = "postgresql"
PROVEN = "newest_backup_is_proven"
IN_EVERY_STORE = "newest_backup_is_in_every_store"
REHEARSED = "rehearsed"


def backups_key(database: str) -> dg.AssetKey:
    """Return the key of a database's backups."""
    return dg.AssetKey(["backups", database])


def schema_key(database: str) -> dg.AssetKey:
    """Return the key of a database's schema."""
    return dg.AssetKey(["schema", database])


def specs(settings: config.Settings) -> list[dg.AssetSpec]:
    """Declare the assets."""
    found = []
    for name in known_names(settings):
        found.append(_spec(backups_key(name), f"Backups of {name}, as far as they are proven."))
        found.append(_spec(schema_key(name), f"The schema of {name}, as migrations left it."))
        if settings.features.health_monitoring:
            found.append(_spec(health_key(name), f"Findings on {name}."))
    return found


def checks(settings: config.Settings) -> Sequence[dg.AssetChecksDefinition]:
    """Declare the checks; each can also be run by itself."""
    names = known_names(settings)
    return [
        *(map(_healthy, names) if settings.features.health_monitoring else ()),
        *map(_newest_backup_is_proven, names),
        *map(_newest_backup_is_in_every_store, names),
        *map(_rehearsed, names),
    ]


def _spec(key: dg.AssetKey, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(key, description=description, group_name=GROUP, kinds={"postgres"})


def _healthy(name: str) -> dg.AssetChecksDefinition:
    """One look gives all subjects' verdicts; of a subset the others' are left out."""
    specs_ = [
        dg.AssetCheckSpec(subject, asset=health_key(name), description=f"The checks of subject {subject}.")
        for subject in verdicts.subjects()
    ]

    @dg.multi_asset_check(specs=specs_, name=f"health_of_{name.replace('-', '_')}", can_subset=True)
    def look(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        wanted = frozenset(key.name for key in context.selected_asset_check_keys)
        with readable(), DatabaseOrchestrator.open(config.load(), name) as opened:
            report = opened.health()
        for one in verdicts.evaluations(report, wanted):
            yield dg.AssetCheckResult(
                passed=one.passed,
                asset_key=one.asset_key,
                check_name=one.check_name,
                severity=one.severity,
                metadata=one.metadata,
            )

    return look


def _newest_backup_is_proven(name: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=backups_key(name), name=PROVEN, description="From the manifests alone.")
    def check() -> dg.AssetCheckResult:
        found = BackupService(config.load()).look(name)
        newest = rules.newest(found.backups, datetime.now(UTC))
        return dg.AssetCheckResult(
            passed=newest is not None and newest.tier == Tier.PROVEN and not found.problems,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={
                "backup_id": newest.backup_id if newest else "none",
                "tier": str(newest.tier) if newest else "none",
                "unknown": _unread(found),
            },
        )

    return check


def _newest_backup_is_in_every_store(name: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=backups_key(name), name=IN_EVERY_STORE, description="From the manifests alone.")
    def check() -> dg.AssetCheckResult:
        service = BackupService(config.load())
        found = service.look(name)
        newest = rules.newest(found.backups, datetime.now(UTC))
        missing = sorted(set(service.stores) - set(newest.stores if newest else ()) - set(found.problems))
        return dg.AssetCheckResult(
            passed=newest is not None and not missing and not found.problems,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "backup_id": newest.backup_id if newest else "none",
                "missing": ", ".join(missing) or "none",
                "unknown": _unread(found),
            },
        )

    return check


def _rehearsed(name: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=schema_key(name), name=REHEARSED, description="Whether what is pending was rehearsed.")
    def check() -> dg.AssetCheckResult:
        with readable(), DatabaseOrchestrator.open(config.load(), name) as opened:
            plan = opened.migration_plan()
            newest = MigrationOrchestrator(opened).newest(plan.plan_hash)
        return dg.AssetCheckResult(
            passed=not plan.pending or (newest is not None and bool(newest["passed"])),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "plan_hash": plan.plan_hash,
                "pending": len(plan.pending),
                "rehearsal": newest["rehearsal_id"] if newest else "none",
                "problem": (newest["problem"] if newest else None) or "none",
            },
        )

    return check


def _unread(found: Catalogue) -> str:
    """Say which stores couldn't be listed: there may be a newer backup, or a copy, that isn't seen."""
    return stores.unreadable(found.problems) or "nothing"

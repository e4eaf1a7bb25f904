"""Backups: take one, prove one, restore one, let the old ones go."""

from collections.abc import Iterator, Mapping
from enum import Enum

import dagster as dg
from pydantic import Field

from chanuka_ops import errors
from chanuka_ops.backup.answers import Created, Drilled, Verified
from chanuka_ops.backup.restoring.restored import Options
from chanuka_ops.defs.assets import IN_EVERY_STORE, PROVEN, backups_key
from chanuka_ops.defs.resources import DatabaseResource, readable
from chanuka_ops.defs.tables import markdown
from chanuka_ops.orchestrators.nightly import require_expired, require_proven, require_restored, require_whole

Event = dg.AssetCheckEvaluation | dg.AssetMaterialization | dg.AssetObservation | dg.Output[None]
TakenEvent = dg.AssetCheckEvaluation | dg.AssetMaterialization | dg.Output[list[str]]
Figures = dict[str, dg.MetadataValue]


class DrillConfig(dg.Config):
    """Which backup to prove."""

    backup_id: str = Field("", description="A backup's id; empty: the database's newest.")
    store: str = Field("", description="Which store's copy; empty: the first that has it.")


class ExpireConfig(dg.Config):
    """Whether to delete."""

    dry_run: bool = Field(default=False, description="Only say what would stay and go.")


class MissingRoles(Enum):
    """What becomes of owners that the target's server doesn't have."""

    REFUSE = "refuse"
    CREATE = "create"
    SKIP = "skip"


class RestoreConfig(dg.Config):
    """What is restored, and where to. A URL has no place here: Dagster would store it."""

    backup_id: str = Field("", description="A backup's id; empty: the database's newest.")
    into: str = Field(description="Name of the target in the settings (databases.<name>).")
    dbname: str = Field("", description="Another database of that server; empty: the one that the settings name.")
    replace: str = Field("", description="The name of the existing database that may be replaced, typed.")
    schemas: list[str] = Field([], description="Only these schemas.")
    tables: list[str] = Field([], description="Only these tables (schema.table).")
    roles: MissingRoles = MissingRoles.REFUSE
    store: str = Field("", description="Which store's copy; empty: the first that has it.")


@dg.op(
    ins={"after": dg.In(dg.Nothing)},
    tags={"kind": "backup"},
    out={"backup_ids": dg.Out(list[str]), "failed": dg.Out(list[str])},
)
def take_backup(db: DatabaseResource) -> Iterator[TakenEvent]:
    """Take a backup with a fingerprint of its source, into every store, and reread every byte of each copy.

    The database's own id comes first, then those of its server's other databases that the settings name; what failed
    of those is named, and keeps the others from nothing.
    """
    with db.working():
        taken = db.orchestrator.backup_all()
        verified = [require_whole(db.orchestrator.verify(created.backup_id)) for created in taken.created]
    own = taken.created[0]
    figures = _taken_figures(own, verified[0])
    stores = _stores(taken.created)
    key = backups_key(db.database)
    yield dg.AssetMaterialization(
        key, metadata={**figures, "dagster/size_bytes": dg.MetadataValue.int(own.bytes), "stores": stores}
    )
    lacking = sorted({placed.store for created in taken.created for placed in created.missing})
    yield dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=IN_EVERY_STORE,
        passed=not lacking,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"backup_id": own.backup_id, "missing": ", ".join(lacking) or "none", "stores": stores},
    )
    shown = {**figures, "stores": stores, **db.connection_metadata()}
    yield dg.Output([created.backup_id for created in taken.created], "backup_ids", metadata=shown)
    yield dg.Output([f"{one.database}: {one.message}" for one in taken.failed], "failed")


@dg.op(tags={"kind": "backup"})
def require_every_backup(failed: list[str]) -> None:
    """Fail the run where a database that the settings name has no backup; its own was taken, and is proved, first."""
    with readable():
        if failed:
            raise errors.ChanukaError(f"no backup of {'; of '.join(failed)}")


# These yield their events: what is logged with `context.log_event` is lost where the op then fails, and a backup that
# is not proven is just what the check is there to say.
@dg.op(tags={"kind": "drill"}, out=dg.Out(dg.Nothing))
def prove_backup(context: dg.OpExecutionContext, db: DatabaseResource, backup_ids: list[str]) -> Iterator[Event]:
    """Restore those backups into a scratch server, one by one, and compare each with its source."""
    own, *beside = backup_ids
    yield from _drill(db, own, None)
    with readable():
        for backup_id in beside:
            drill = require_proven(db.orchestrator.drill(backup_id))
            context.log.info("%s is %s: %d rows compared", backup_id, drill.tier, drill.rows_compared)


@dg.op(tags={"kind": "drill"}, out=dg.Out(dg.Nothing))
def prove_chosen_backup(db: DatabaseResource, config: DrillConfig) -> Iterator[Event]:
    """Restore a backup into a scratch server and compare it with its source."""
    yield from _drill(db, config.backup_id, config.store or None)


@dg.op(ins={"after": dg.In(dg.Nothing)}, tags={"kind": "backup"})
def expire_old_backups(context: dg.OpExecutionContext, db: DatabaseResource, config: ExpireConfig) -> None:
    """Delete the backups that the policy lets go; each that stays or goes has its reason."""
    with readable():
        done = [] if config.dry_run else db.orchestrator.expire()
        decided = db.orchestrator.retention() if config.dry_run else [expiry.decided for expiry in done]
    rows = [("goes", d.store, e.backup_id, e.reason) for d in decided for e in d.expire]
    rows += [("stays", d.store, k.backup_id, "; ".join(k.reasons)) for d in decided for k in d.keep]
    context.add_output_metadata(
        {
            "expired": dg.MetadataValue.int(sum(len(expiry.deleted) for expiry in done)),
            "in_use": dg.MetadataValue.int(sum(len(expiry.in_use) for expiry in done)),
            "due": dg.MetadataValue.int(sum(len(d.expire) for d in decided)),
            "kept": dg.MetadataValue.int(sum(len(d.keep) for d in decided)),
            "refused": dg.MetadataValue.text("; ".join(d.refused for d in decided if d.refused) or "no"),
            "why": markdown(("", "store", "backup", "why"), rows),
        }
    )
    with readable():
        require_expired(done)


@dg.op(tags={"kind": "restore"})
def restore_chosen_backup(context: dg.OpExecutionContext, db: DatabaseResource, config: RestoreConfig) -> None:
    """Restore a backup into another database of the settings, new or empty, or (by name) in the place of one."""
    store = config.store or None
    with readable():
        restored = db.orchestrator.restore(
            config.backup_id or db.orchestrator.backups.newest(db.database, store=store),
            into=config.into,
            dbname=config.dbname or None,
            options=Options(
                schemas=tuple(config.schemas), tables=tuple(config.tables), replace=config.replace or None,
                roles=config.roles.value,
            ),
            store=store,
        )  # fmt: skip
    context.add_output_metadata(
        {
            "backup_id": dg.MetadataValue.text(restored.backup_id),
            "database": dg.MetadataValue.text(restored.database),
            "old_database": dg.MetadataValue.text(restored.old_database or "none"),
            "tables": dg.MetadataValue.int(restored.tables),
            "rows": dg.MetadataValue.int(restored.rows),
            "restore_seconds": dg.MetadataValue.float(float(restored.seconds)),
            **_seconds("", restored.phases),
            "checks": markdown(("checked first", "outcome"), restored.checks.items()),
            "remarks": markdown(("remark",), [(line,) for line in (*restored.left_out, *restored.warnings)]),
        }
    )
    with readable():
        require_restored(restored)


def _drill(db: DatabaseResource, backup_id: str, store: str | None) -> Iterator[Event]:
    """Drill; say of the newest backup whether it is proven. An older one's drill says nothing of that."""
    key = backups_key(db.database)
    with readable():
        newest = db.orchestrator.backups.newest(db.database)
        chosen = backup_id or (db.orchestrator.backups.newest(db.database, store=store) if store else newest)
    try:
        with readable():
            drill = db.orchestrator.drill(chosen, store=store)
    except dg.Failure as failure:
        if chosen == newest and failure.metadata["exit_code"].value != errors.RefusedError.exit_code:
            yield _verdict(key, {"backup_id": dg.MetadataValue.text(newest), **failure.metadata}, passed=False)
        raise
    metadata = _drill_figures(drill)
    if chosen == newest:
        yield _verdict(key, metadata, passed=drill.proven)
    if chosen == newest and drill.proven:
        yield dg.AssetMaterialization(key, metadata=metadata)
    else:
        yield dg.AssetObservation(key, metadata=metadata)
    with readable():
        require_proven(drill)
    yield dg.Output(None, metadata=metadata)


def _verdict(key: dg.AssetKey, metadata: Mapping[str, dg.MetadataValue], *, passed: bool) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(asset_key=key, check_name=PROVEN, passed=passed, metadata=metadata)


def _stores(created: tuple[Created, ...]) -> dg.MarkdownMetadataValue:
    rows = [(one.backup_id, p.store, p.where, p.problem or "there") for one in created for p in one.stores]
    return markdown(("backup", "store", "where", ""), rows)


def _seconds(prefix: str, phases: Mapping[str, float]) -> Figures:
    return {f"{prefix}{name}_seconds": dg.MetadataValue.float(float(seconds)) for name, seconds in phases.items()}


def _taken_figures(created: Created, verified: Verified) -> Figures:
    return {
        "backup_id": dg.MetadataValue.text(created.backup_id),
        "tier": dg.MetadataValue.text(str(verified.tier)),
        "backup_bytes": dg.MetadataValue.int(created.bytes),
        "source_bytes": dg.MetadataValue.int(created.source_bytes),
        "backup_seconds": dg.MetadataValue.float(float(created.seconds)),
        "verify_seconds": dg.MetadataValue.float(float(verified.seconds)),
        "tables": dg.MetadataValue.int(created.tables),
        "rows": dg.MetadataValue.int(created.rows),
        "stores_missing": dg.MetadataValue.int(len(created.missing)),
    }


def _drill_figures(drill: Drilled) -> Figures:
    """Say in figures how a drill went; what it didn't come to has none, so that no plot shows a restore of 0 s."""
    restored = {} if drill.restore_seconds is None else {"restore_seconds": float(drill.restore_seconds)}
    measured = {} if drill.rto_seconds is None else {"rto_seconds": float(drill.rto_seconds)}
    rungs = [
        (rung, "not asked or reached" if held is None else "yes" if held else "NO")
        for rung, held in drill.ladder.items()
    ]
    return {
        "backup_id": dg.MetadataValue.text(drill.backup_id),
        "tier": dg.MetadataValue.text(str(drill.tier)),
        "tables_compared": dg.MetadataValue.int(drill.tables_compared),
        "rows_compared": dg.MetadataValue.int(drill.rows_compared),
        "coverage": dg.MetadataValue.float(float(drill.coverage)),
        "mismatches": dg.MetadataValue.int(len(drill.differing)),
        "rpo_seconds": dg.MetadataValue.float(float(drill.rpo_seconds)),
        **{name: dg.MetadataValue.float(seconds) for name, seconds in (restored | measured).items()},
        **_seconds("rto_", drill.phases),
        "ladder": markdown(("rung", "held"), rungs),
    }

"""Backups: take one, prove one, restore one, let the old ones go."""

from collections.abc import Iterator, Mapping
from enum import Enum

import dagster as dg
from pydantic import Field

from chanuka_ops.backup.answers import Created, Drilled
from chanuka_ops.backup.restored import Options
from chanuka_ops.defs.assets import IN_EVERY_STORE, PROVEN, backups_key
from chanuka_ops.defs.resources import DatabaseResource, readable
from chanuka_ops.defs.tables import markdown
from chanuka_ops.orchestrators.nightly import require_expired, require_proven, require_restored, require_whole

Event = dg.AssetCheckEvaluation | dg.AssetMaterialization | dg.AssetObservation | dg.Output[None]
Taken = dg.AssetCheckEvaluation | dg.AssetMaterialization | dg.Output[str]


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


@dg.op(ins={"after": dg.In(dg.Nothing)}, tags={"kind": "backup"}, out=dg.Out(str))
def take_backup(db: DatabaseResource) -> Iterator[Taken]:
    """Take a backup with a fingerprint of its source, into every store, and reread every byte of each copy."""
    with db.working():
        created, *others = db.orchestrator.backup_all()
        verified = [require_whole(db.orchestrator.verify(one.backup_id)) for one in (created, *others)]
    metadata: dict[str, dg.MetadataValue] = {
        "backup_id": dg.MetadataValue.text(created.backup_id),
        "tier": dg.MetadataValue.text(str(verified[0].tier)),
        "dagster/size_bytes": dg.MetadataValue.int(created.bytes),
        "backup_bytes": dg.MetadataValue.int(created.bytes),
        "source_bytes": dg.MetadataValue.int(created.source_bytes),
        "backup_seconds": dg.MetadataValue.float(created.seconds),
        "verify_seconds": dg.MetadataValue.float(verified[0].seconds),
        "tables": dg.MetadataValue.int(created.tables),
        "rows": dg.MetadataValue.int(created.rows),
        "stores": _stores((created, *others)),
    }
    key = backups_key(db.database)
    yield dg.AssetMaterialization(key, metadata=metadata)
    yield dg.AssetCheckEvaluation(
        asset_key=key, check_name=IN_EVERY_STORE, passed=not created.missing,
        metadata={"backup_id": metadata["backup_id"], "stores": metadata["stores"]},
    )  # fmt: skip
    shown = {k: v for k, v in metadata.items() if not k.startswith("dagster/")}
    yield dg.Output(created.backup_id, metadata={**shown, **db.connection_metadata()})


# These yield their events: what is logged with `context.log_event` is lost where the op then fails, and a backup that
# is not proven is just what the check is there to say.
@dg.op(tags={"kind": "drill"}, out=dg.Out(dg.Nothing))
def prove_backup(db: DatabaseResource, backup_id: str) -> Iterator[Event]:
    """Restore that backup into a scratch server and compare it with its source."""
    yield from _drill(db, backup_id, None)


@dg.op(tags={"kind": "drill"}, out=dg.Out(dg.Nothing))
def prove_chosen_backup(db: DatabaseResource, config: DrillConfig) -> Iterator[Event]:
    """Restore a backup into a scratch server and compare it with its source."""
    yield from _drill(db, config.backup_id, config.store or None)


@dg.op(ins={"after": dg.In(dg.Nothing)}, tags={"kind": "backup"})
def expire_old_backups(context: dg.OpExecutionContext, db: DatabaseResource, config: ExpireConfig) -> None:
    """Delete the backups that the policy lets go; each that stays or goes has its reason."""
    with readable():
        done = [] if config.dry_run else db.orchestrator.expire()
        decided = [expiry.decided for expiry in done] or db.orchestrator.retention()
    rows = [("goes", d.store, e.backup_id, e.reason) for d in decided for e in d.expire]
    rows += [("stays", d.store, k.backup_id, "; ".join(k.reasons)) for d in decided for k in d.keep]
    context.add_output_metadata(
        {
            "expired": dg.MetadataValue.int(sum(len(expiry.deleted) for expiry in done)),
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
    with readable():
        restored = db.orchestrator.restore(
            config.backup_id or db.orchestrator.backups.newest(db.database),
            into=config.into,
            dbname=config.dbname or None,
            options=Options(
                schemas=tuple(config.schemas), tables=tuple(config.tables), replace=config.replace or None,
                roles=config.roles.value,
            ),
            store=config.store or None,
        )  # fmt: skip
    context.add_output_metadata(
        {
            "backup_id": dg.MetadataValue.text(restored.backup_id),
            "database": dg.MetadataValue.text(restored.database),
            "old_database": dg.MetadataValue.text(restored.old_database or "none"),
            "tables": dg.MetadataValue.int(restored.tables),
            "rows": dg.MetadataValue.int(restored.rows),
            "restore_seconds": dg.MetadataValue.float(restored.seconds),
            **{f"{name}_seconds": dg.MetadataValue.float(seconds) for name, seconds in restored.phases.items()},
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
    try:
        with readable():
            drill = db.orchestrator.drill(backup_id or newest, store=store)
    except dg.Failure as failure:
        if backup_id in {"", newest}:
            yield _verdict(key, {"backup_id": dg.MetadataValue.text(newest), **failure.metadata}, passed=False)
        raise
    metadata = _figures(drill)
    if drill.backup_id == newest:
        yield _verdict(key, metadata, passed=drill.proven)
    if drill.backup_id == newest and drill.proven:
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


def _figures(drill: Drilled) -> dict[str, dg.MetadataValue]:
    return {
        "backup_id": dg.MetadataValue.text(drill.backup_id),
        "tier": dg.MetadataValue.text(str(drill.tier)),
        "tables_compared": dg.MetadataValue.int(drill.tables_compared),
        "rows_compared": dg.MetadataValue.int(drill.rows_compared),
        "coverage": dg.MetadataValue.float(drill.coverage),
        "mismatches": dg.MetadataValue.int(len(drill.mismatches) + len(drill.structure_problems)),
        "restore_seconds": dg.MetadataValue.float(drill.restore_seconds or 0.0),
        "rto_seconds": dg.MetadataValue.float(drill.rto_seconds or 0.0),
        **{f"rto_{name}_seconds": dg.MetadataValue.float(seconds) for name, seconds in drill.phases.items()},
        "rpo_seconds": dg.MetadataValue.float(drill.rpo_seconds),
        "ladder": markdown(
            ("rung", "held"),
            [(rung, "not reached" if held is None else "yes" if held else "NO") for rung, held in drill.ladder.items()],
        ),
    }

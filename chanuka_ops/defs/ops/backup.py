"""Backups: take one, prove one."""

from collections.abc import Iterator, Mapping

import dagster as dg
from pydantic import Field

from chanuka_ops.backup.answers import Drilled
from chanuka_ops.defs.assets import backups_key
from chanuka_ops.defs.resources import DatabaseResource, readable
from chanuka_ops.orchestrators.nightly import require_proven, require_whole

Event = dg.AssetCheckEvaluation | dg.AssetMaterialization | dg.AssetObservation | dg.Output[None]


class DrillConfig(dg.Config):
    """Which backup to prove."""

    backup_id: str = Field("", description="A backup's id; empty: the database's newest.")


@dg.op(ins={"after": dg.In(dg.Nothing)}, tags={"kind": "backup"})
def take_backup(context: dg.OpExecutionContext, db: DatabaseResource) -> str:
    """Take a backup with a fingerprint of its source, and reread every byte of it."""
    with db.working():
        created = db.orchestrator.backup()
        verified = require_whole(db.orchestrator.verify(created.backup_id))
    metadata: dict[str, dg.MetadataValue] = {
        "backup_id": dg.MetadataValue.text(created.backup_id),
        "tier": dg.MetadataValue.text(str(verified.tier)),
        "dagster/size_bytes": dg.MetadataValue.int(created.bytes),
        "backup_bytes": dg.MetadataValue.int(created.bytes),
        "source_bytes": dg.MetadataValue.int(created.source_bytes),
        "backup_seconds": dg.MetadataValue.float(created.seconds),
        "verify_seconds": dg.MetadataValue.float(verified.seconds),
        "tables": dg.MetadataValue.int(created.tables),
        "rows": dg.MetadataValue.int(created.rows),
    }
    context.log_event(dg.AssetMaterialization(backups_key(db.database), metadata=metadata))
    shown = {k: v for k, v in metadata.items() if not k.startswith("dagster/")}
    context.add_output_metadata({**shown, **db.connection_metadata()})
    return created.backup_id


# These yield their events: what is logged with `context.log_event` is lost where the op then fails, and a backup that
# is not proven is just what the check is there to say.
@dg.op(tags={"kind": "drill"}, out=dg.Out(dg.Nothing))
def prove_backup(db: DatabaseResource, backup_id: str) -> Iterator[Event]:
    """Restore that backup into a scratch server and compare it with its source."""
    yield from _drill(db, backup_id)


@dg.op(tags={"kind": "drill"}, out=dg.Out(dg.Nothing))
def prove_chosen_backup(db: DatabaseResource, config: DrillConfig) -> Iterator[Event]:
    """Restore a backup into a scratch server and compare it with its source."""
    yield from _drill(db, config.backup_id)


def _drill(db: DatabaseResource, backup_id: str) -> Iterator[Event]:
    """Drill; say of the newest backup whether it is proven. An older one's drill says nothing of that."""
    key = backups_key(db.database)
    with readable():
        newest = db.orchestrator.backups.newest(db.database)
    try:
        with readable():
            drill = db.orchestrator.drill(backup_id or newest)
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
    return dg.AssetCheckEvaluation(
        asset_key=key, check_name="newest_backup_is_proven", passed=passed, metadata=metadata
    )


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
        "rpo_seconds": dg.MetadataValue.float(drill.rpo_seconds),
    }

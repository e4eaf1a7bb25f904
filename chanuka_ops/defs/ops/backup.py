"""Backups: take one, prove one."""

import dagster as dg
from pydantic import Field

from chanuka_ops.defs.assets import backups_key
from chanuka_ops.defs.resources import DatabaseResource, readable
from chanuka_ops.orchestrators.nightly import require_proven, require_whole


class DrillConfig(dg.Config):
    """Which backup to prove."""

    backup_id: str = Field("", description="A backup's id; empty: the database's newest.")


@dg.op(ins={"after": dg.In(dg.Nothing)}, tags={"kind": "backup"})
def take_backup(context: dg.OpExecutionContext, db: DatabaseResource) -> str:
    """Take a backup with a fingerprint of its source, and reread every byte of it."""
    with readable():
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
    context.add_output_metadata({k: v for k, v in metadata.items() if not k.startswith("dagster/")})
    return created.backup_id


@dg.op(tags={"kind": "drill"})
def prove_backup(context: dg.OpExecutionContext, db: DatabaseResource, backup_id: str) -> None:
    """Restore that backup into a scratch server and compare it with its source."""
    _drill(context, db, backup_id)


@dg.op(tags={"kind": "drill"})
def prove_chosen_backup(context: dg.OpExecutionContext, db: DatabaseResource, config: DrillConfig) -> None:
    """Restore a backup into a scratch server and compare it with its source."""
    _drill(context, db, config.backup_id)


def _drill(context: dg.OpExecutionContext, db: DatabaseResource, backup_id: str) -> None:
    with readable():
        drill = db.orchestrator.drill(backup_id or None)
    metadata: dict[str, dg.MetadataValue] = {
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
    key = backups_key(db.database)
    verdict = dg.AssetCheckEvaluation(
        asset_key=key, check_name="newest_backup_is_proven", passed=drill.proven, metadata=metadata
    )
    context.log_event(verdict)  # type: ignore[arg-type]  # it's logged as its documentation says; the annotation lags
    context.log_event(dg.AssetObservation(key, metadata=metadata))
    context.add_output_metadata(metadata)
    with readable():
        require_proven(drill)

"""A rehearsal as an op: what it measured is metadata that plots, and a check on the schema's asset."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from chanuka_ops import errors
from chanuka_ops.defs.assets import REHEARSED, schema_key
from chanuka_ops.defs.resources import DatabaseResource, readable
from chanuka_ops.defs.tables import markdown
from chanuka_ops.orchestrators.migration import MigrationOrchestrator

Event = dg.AssetObservation | dg.AssetCheckEvaluation | dg.Output[None]

_HOLDS_UP = {"": "nobody", "w": "writers", "rw": "readers and writers"}
_COLUMNS = ("way", "revision", "statement", "holds up", "locks", "rows read meanwhile", "rewrites", "seconds", "error")


class RehearseConfig(dg.Config):
    """What to rehearse, and on which backup."""

    to: str = Field("head", description="The revision to go up to.")
    backup_id: str = Field("", description="The backup to restore; empty: the newest.")
    fresh_backup: bool = Field(default=False, description="Take a backup first.")


# It yields its events: what is logged with `context.log_event` is lost where the op then fails.
@dg.op(tags={"kind": "rehearsal"}, out=dg.Out(dg.Nothing))
def rehearse_pending(db: DatabaseResource, config: RehearseConfig) -> Iterator[Event]:
    """Restore a backup, prove it, and run the pending revisions on the copy: up, down, and up again."""
    with db.working():
        rehearsed = MigrationOrchestrator(db.orchestrator).rehearse(
            to=config.to, backup_id=config.backup_id or None, fresh_backup=config.fresh_backup
        )
    key, metadata = schema_key(db.database), rehearsal_metadata(rehearsed.to_json())
    yield dg.AssetObservation(key, metadata=metadata)
    yield dg.AssetCheckEvaluation(asset_key=key, check_name=REHEARSED, passed=rehearsed.passed, metadata=metadata)
    with readable():
        if not rehearsed.passed:
            raise errors.MigrationFailed(f"the rehearsal failed: {rehearsed.ran.problem()}")
    yield dg.Output(None, metadata={**metadata, **db.connection_metadata()})


def rehearsal_metadata(document: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Say in figures that plot what the way up did to others, and list every statement."""
    ahead = [item for item in document["statements"] if item["direction"] == "up"]
    blocking = [item["seconds"] for item in ahead if item["blocks"]]
    legs = {f"{leg['name']}_seconds": float(leg["seconds"]) for leg in document["legs"]}
    return {
        "plan_hash": dg.MetadataValue.text(document["plan_hash"]),
        "backup_id": dg.MetadataValue.text(document["backup_id"]),
        "impact": dg.MetadataValue.text(document["impact"]),
        "problem": dg.MetadataValue.text(document["problem"] or "none"),
        "statements": dg.MetadataValue.int(len(ahead)),
        "statement_seconds_max": dg.MetadataValue.float(max((float(item["seconds"]) for item in ahead), default=0.0)),
        "blocking_ms": dg.MetadataValue.float(round(1000.0 * sum(blocking), 3)),
        "rows_scanned_while_blocking": dg.MetadataValue.int(document["scanned_rows_while_blocking"]),
        "rewritten": dg.MetadataValue.int(len(document["rewritten"])),
        "wal_bytes": dg.MetadataValue.int(sum(item["wal_bytes"] for item in ahead)),
        **{name: dg.MetadataValue.float(seconds) for name, seconds in legs.items()},
        "what": markdown(_COLUMNS, map(_row, document["statements"])),
    }


def _row(item: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        item["direction"],
        item["revision"] or "",
        item["sql"],
        _HOLDS_UP[item["blocks"]],
        ", ".join(f"{name}: {mode}" for name, mode in item["locks"].items()),
        item["scanned_rows_while_blocking"],
        ", ".join(item["rewritten"]),
        item["seconds"],
        item["error"] or "",
    )

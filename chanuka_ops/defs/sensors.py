"""Sensors: what is told without a run."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg

from chanuka_ops import config, errors
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.service import BackupService
from chanuka_ops.defs.assets import backups_key
from chanuka_ops.orchestrators.database import known_names

PROVEN_WITHIN = timedelta(hours=26)  # a nightly backup, and two hours for a long night


@dg.sensor(name="backup_freshness_sensor", minimum_interval_seconds=300)
def backup_freshness_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Tell, on each change, whether a database's newest proven backup is young enough; read from the manifests."""
    settings = config.load()
    before: dict[str, str] = json.loads(context.cursor or "{}")
    now: dict[str, str] = {}
    events = []
    for name in known_names(settings):
        verdict, passed, age_s = _freshness(BackupService(settings), name)
        now[name] = verdict
        if before.get(name) == verdict:
            continue
        metadata: dict[str, dg.MetadataValue] = {"verdict": dg.MetadataValue.text(verdict)}
        if age_s is not None:
            metadata["proven_age_seconds"] = dg.MetadataValue.float(age_s)
        events.append(
            dg.AssetCheckEvaluation(
                asset_key=backups_key(name), check_name="newest_backup_is_proven", passed=passed, metadata=metadata
            )
        )
    if not events:
        return dg.SkipReason("nothing changed")
    return dg.SensorResult(asset_events=events, cursor=json.dumps(now))


def _freshness(service: BackupService, name: str) -> tuple[str, bool, float | None]:
    try:
        proven = [b.created_at for b in service.catalogue(name) if b.tier == Tier.PROVEN and b.created_at]
    except errors.StoreError as error:
        return f"unknown: {error}", False, None
    if not proven:
        return "no backup was ever proven", False, None
    age = datetime.now(UTC) - max(proven)
    if age > PROVEN_WITHIN:
        return "the newest proven backup is too old", False, age.total_seconds()
    return "proven in time", True, age.total_seconds()


SENSORS = [backup_freshness_sensor]

"""Sensors: what is told without a run."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg

from chanuka_ops import config, notify
from chanuka_ops.backup import rules
from chanuka_ops.backup.service import BackupService
from chanuka_ops.defs.assets import PROVEN, backups_key
from chanuka_ops.logs import redact
from chanuka_ops.notify import Notice
from chanuka_ops.orchestrators.database import known_names


@dg.sensor(name="backup_freshness_sensor", minimum_interval_seconds=300)
def backup_freshness_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Tell, on each change, whether a database's newest proven backup is young enough; read from the manifests."""
    settings = config.load()
    before: dict[str, str] = json.loads(context.cursor or "{}")
    now: dict[str, str] = {}
    events = []
    for name in known_names(settings):
        within = timedelta(hours=settings.operations.backup.proven_within_hours)
        fresh = rules.freshness(BackupService(settings).look(name), within, datetime.now(UTC))
        now[name] = fresh.verdict
        if before.get(name) == fresh.verdict:
            continue
        metadata: dict[str, dg.MetadataValue] = {"verdict": dg.MetadataValue.text(fresh.verdict)}
        if fresh.age_seconds is not None:
            metadata["proven_age_seconds"] = dg.MetadataValue.float(fresh.age_seconds)
        events.append(
            dg.AssetCheckEvaluation(
                asset_key=backups_key(name), check_name=PROVEN, passed=fresh.passed, metadata=metadata
            )
        )
    if not events:
        return dg.SkipReason("nothing changed")
    return dg.SensorResult(asset_events=events, cursor=json.dumps(now))


@dg.run_failure_sensor(name="run_failure_alert_sensor", minimum_interval_seconds=30)
def run_failure_alert_sensor(context: dg.RunFailureSensorContext) -> None:
    """Tell, by the routes of operations.notify, of every run that failed."""
    settings = config.load()
    run = context.dagster_run
    database = run.tags.get("chanuka/database", "main")
    stated = settings.databases.get(database)
    notice = Notice(
        event="run.failed",
        severity="critical",
        database=database,
        title=f"{run.job_name} of {database} failed",
        body=redact(context.failure_event.message or "the run failed"),
        facts={"job": run.job_name, "run_id": run.run_id},
    )
    for delivery in notify.send(notice, settings.operations.notify, tags=stated.tags if stated else {}):
        context.log.info("%s: %s", delivery.route, "delivered" if delivery.delivered else delivery.problem)


SENSORS = [backup_freshness_sensor, run_failure_alert_sensor]

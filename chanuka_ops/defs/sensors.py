"""Sensors: what is told without a run."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from chanuka_ops import config, errors, notify
from chanuka_ops.backup import rules
from chanuka_ops.backup.answers import Freshness
from chanuka_ops.backup.service import BackupService
from chanuka_ops.defs.assets import PROVEN, backups_key
from chanuka_ops.defs.schedules import request
from chanuka_ops.defs.verdicts import HEARTBEAT, evaluations, statuses
from chanuka_ops.health.model import Status
from chanuka_ops.logs import redact
from chanuka_ops.notify import Notice
from chanuka_ops.orchestrators import alerting, pending
from chanuka_ops.orchestrators.database import EMBEDDED_NAME, known_names

PENDING_BUDGET_S = 35.0  # the daemon gives a sensor a minute
ALERT_BUDGET_S = 30.0  # and what is found has to be told within it
BEATS = 8  # databases whose hour is over in one tick: each is some twenty events, of 10 to 15 ms


@dg.sensor(name="backup_freshness_sensor", minimum_interval_seconds=300)
def backup_freshness_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Tell, on each change, whether a database's newest proven backup is young enough; read from the manifests."""
    settings = config.load()
    within = timedelta(hours=settings.operations.backup.proven_within_hours)
    before: dict[str, str] = json.loads(context.cursor or "{}")
    now: dict[str, str] = {}
    events = []
    found = BackupService(settings).look()  # of all at once: a store that is down is waited for once
    for name in known_names(settings):
        own = tuple(backup for backup in found.backups if backup.database == name)
        fresh = rules.freshness(found.model_copy(update={"backups": own}), within, datetime.now(UTC))
        now[name] = _kind(fresh)
        if before.get(name) == now[name]:
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


def _kind(fresh: Freshness) -> str:
    """Return a verdict without its details: the words of a store that is down differ from tick to tick."""
    return fresh.verdict.partition(": ")[0]


@dg.run_failure_sensor(name="run_failure_alert_sensor", minimum_interval_seconds=30)
def run_failure_alert_sensor(context: dg.RunFailureSensorContext) -> None:
    """Tell, by the routes of operations.notify, of every run that failed.

    Errors: `ChanukaError` naming the routes that could not be told, so that the tick shows it.
    """
    settings = config.load()
    run = context.dagster_run
    database = _database_of(run)
    stated = settings.databases.get(database)
    notice = Notice(
        event="run.failed",
        severity="critical",
        database=database,
        title=f"{run.job_name} of {database} failed",
        body=redact(_why(context)),
        facts={"job": run.job_name, "run_id": run.run_id},
    )
    told = notify.send(notice, settings.operations.notify, tags=stated.tags if stated else {})
    undelivered = [f"{one.route}: {one.problem}" for one in told if not one.delivered]
    if undelivered:
        raise errors.ChanukaError(f"run {run.run_id} failed, and not everybody was told: {'; '.join(undelivered)}")


def _database_of(run: dg.DagsterRun) -> str:
    """Return the database that a run was about: who starts one by hand sets no tag."""
    stated: object = run.run_config
    for key in ("resources", "db", "config", "database"):
        stated = stated.get(key) if isinstance(stated, Mapping) else None
    return str(stated or run.tags.get("chanuka/database") or EMBEDDED_NAME)


def _why(context: dg.RunFailureSensorContext) -> str:
    """Return the words of the steps that failed: of the run itself it's only said which steps those are."""
    found = []
    for event in context.get_step_failure_events():
        stated, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
        said = stated.description if stated else None
        if said is None and error is not None:  # no failure that was worded: whatever was raised
            said = (error.cause or error).message.strip()
        found.append(f"{event.step_key}: {said or 'it failed'}")
    return "; ".join(found) or context.failure_event.message or "the run failed"


@dg.sensor(name="pending_migration_sensor", job_name="rehearse_migration", minimum_interval_seconds=60)
def pending_migration_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Have what is pending rehearsed, once for each plan. A database that is down is told, and asked again."""
    settings = config.load()
    seen: dict[str, str | None] = json.loads(context.cursor or "{}")
    due, words = [], []
    for found in pending.look(settings, known_names(settings), dict(seen), budget_s=PENDING_BUDGET_S):
        before = seen.pop(found.database, None)
        seen[found.database] = found.plan_hash or before  # at the end: asked last
        words.append(f"{found.database}: {found.words}")
        if found.due:
            run_key = f"rehearse-{found.database}-{found.plan_hash}"
            due.append(request("rehearse_migration", found.database, run_key=run_key))
    cursor = json.dumps(seen)
    if not due:
        return dg.SensorResult(skip_reason="; ".join(words), cursor=cursor)
    return dg.SensorResult(run_requests=due, cursor=cursor)


@dg.sensor(name="health_alert_sensor", minimum_interval_seconds=60)
def health_alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Look at every database, tell what is new by the routes of operations.notify, and note what has changed.

    Who wasn't looked at within the time is looked at first by the next tick.

    Errors: `ChanukaError` where the alerts can't be kept, or somebody can't be told: the tick shows it.
    """
    settings, now = config.load(), datetime.now(UTC)
    before: dict[str, dict[str, Any]] = json.loads(context.cursor or "{}")
    names = sorted(known_names(settings), key=lambda name: before.get(name, {}).get("at", ""))
    done = alerting.evaluate(settings, names, budget_s=ALERT_BUDGET_S)
    beating = _beating([one.database for one in done.seen], before, now)
    after = {name: before[name] for name in names if name in before}
    events: list[dg.AssetCheckEvaluation] = []
    for one in done.seen:
        known = before.get(one.database, {"told_at": None, "stands": {}})
        beats, stands = one.database in beating, statuses(one.report)
        changed = {
            subject for subject, status in stands.items() if beats or known["stands"].get(subject, Status.OK) != status
        }
        events += evaluations(one.report, frozenset(changed))
        after[one.database] = {
            "at": one.at.isoformat(),
            "told_at": now.isoformat() if beats else known["told_at"],
            "stands": {subject: str(status) for subject, status in stands.items() if status is not Status.OK},
        }
    cursor = json.dumps(after)
    if events:
        return dg.SensorResult(asset_events=events, cursor=cursor)
    left = f"; {len(done.left)} left for the next tick" if done.left else ""
    return dg.SensorResult(skip_reason=f"{len(done.seen)} databases as before{left}", cursor=cursor)


def _beating(names: Sequence[str], before: Mapping[str, Mapping[str, Any]], now: datetime) -> frozenset[str]:
    """Return whose hour is over, the longest first and no more than `BEATS`; who was never told of is among them."""

    def told_at(name: str) -> str:
        return before.get(name, {}).get("told_at") or ""

    def is_due(name: str) -> bool:
        return not told_at(name) or not timedelta() <= now - datetime.fromisoformat(told_at(name)) < HEARTBEAT

    return frozenset(sorted(filter(is_due, names), key=told_at)[:BEATS])


def sensors(settings: config.Settings) -> list[dg.SensorDefinition]:
    """Return the sensors; what a feature switches off is not among them."""
    always = [backup_freshness_sensor, run_failure_alert_sensor, pending_migration_sensor]
    return [*always, health_alert_sensor] if settings.features.health_monitoring else always

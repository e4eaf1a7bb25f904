"""Schedules. One run a database, but for looks at health; off until somebody turns them on in the UI."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from chanuka_ops import config
from chanuka_ops.orchestrators.database import known_names

# After an outage the daemon starts the newest missed tick however late it is: a backup meant for the night would run
# in the morning's rush. Freshness tells of the gap instead.
MAX_LATENESS = timedelta(hours=3)


def schedules(settings: config.Settings) -> list[dg.ScheduleDefinition]:
    """Build the schedules; what a feature switches off is not among them."""
    built = [
        _schedule("nightly_schedule", "nightly", "0 2 * * *", settings),
        _schedule("restore_drill_schedule", "restore_drill", "0 5 * * 0", settings),
    ]
    if settings.features.health_monitoring:
        built.append(_schedule("health_check_schedule", "health_check", "*/15 * * * *", settings, together=True))
    return built


def _schedule(
    name: str, job: str, cron: str, settings: config.Settings, *, together: bool = False
) -> dg.ScheduleDefinition:
    """Build a schedule of one run a database, or of one run for all `together`: a run costs 2 s of CPU."""

    @dg.schedule(name=name, job_name=job, cron_schedule=cron, execution_timezone="UTC")
    def tick(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        due = context.scheduled_execution_time
        late = datetime.now(UTC) - due
        if late > MAX_LATENESS:
            yield dg.SkipReason(f"{late} late: skipped, so that it doesn't run in the wrong part of the day")
            return
        names = known_names(settings)
        if together and len(names) > 1:
            yield dg.RunRequest(run_key=due.isoformat(), run_config=_of_every_database(names[0]))
            return
        for database in names:
            yield request(job, database, run_key=f"{due.isoformat()}-{database}")

    return tick


def _of_every_database(first: str) -> dict[str, object]:
    return {
        "resources": {"db": {"config": {"database": first}}},
        "ops": {"check_health": {"config": {"every_database": True}}},
    }


def request(job: str, database: str, *, run_key: str) -> dg.RunRequest:
    """Ask for a run on one database; the tag lets the queue run one at a time per database."""
    return dg.RunRequest(
        run_key=run_key,
        job_name=job,
        run_config={"resources": {"db": {"config": {"database": database}}}},
        tags={"chanuka/database": database},
    )

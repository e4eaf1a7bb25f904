"""The jobs. In-process: five ops take 2.4 s there, 13 s in a process each."""

import dagster as dg

from chanuka_ops import config
from chanuka_ops.defs.ops import backup, health, migration, optimisation

MAX_RUNTIME_S = 12 * 3600  # a run whose host died would else stay STARTED, and block its database's queue
HOUR_S = 3600


def jobs(settings: config.Settings) -> list[dg.JobDefinition]:
    """Build the jobs; what a feature switches off is not in them."""

    @dg.graph(description="Health, backup, drill, optimise: the whole cycle. Each step can be retried by itself.")
    def nightly() -> None:
        if settings.features.health_monitoring:
            backup_id = backup.take_backup(after=health.check_health())
        else:
            backup_id = backup.take_backup()
        optimisation.plan_and_apply(after=backup.prove_backup(backup_id))

    @dg.graph(name="migrate", description="Migrate up.")
    def migrate_graph() -> None:
        migration.apply_migrations()

    @dg.graph(name="backup", description="Take a backup.")
    def backup_graph() -> None:
        backup.take_backup()

    @dg.graph(name="restore_drill", description="Prove a backup: restore and compare.")
    def drill_graph() -> None:
        backup.prove_chosen_backup()

    @dg.graph(name="health_check", description="Check health.")
    def health_graph() -> None:
        health.check_health()

    @dg.graph(name="optimise", description="Plan; VACUUM and ANALYZE what needs it.")
    def optimise_graph() -> None:
        optimisation.plan_and_apply()

    @dg.graph(name="setup_database", description="Make the database and migrate it.")
    def setup_graph() -> None:
        migration.set_up_database()

    built = [
        _job(nightly, MAX_RUNTIME_S),
        _job(migrate_graph, 2 * HOUR_S),
        _job(backup_graph, MAX_RUNTIME_S),
        _job(drill_graph, MAX_RUNTIME_S),
        _job(optimise_graph, 2 * HOUR_S),
        _job(setup_graph, 2 * HOUR_S),
    ]
    if settings.features.health_monitoring:
        built.append(_job(health_graph, HOUR_S // 4))
    return built


def _job(graph: dg.GraphDefinition, max_runtime_s: int) -> dg.JobDefinition:
    # a migration or backup that failed is looked at before it's tried again: no run retries
    tags = {"dagster/max_runtime": str(max_runtime_s), "dagster/max_retries": "0"}
    return graph.to_job(executor_def=dg.in_process_executor, tags=tags)

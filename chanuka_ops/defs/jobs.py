"""The jobs. In-process: five ops take 2.4 s there, 13 s in a process each."""

import dagster as dg

from chanuka_ops import config
from chanuka_ops.defs.ops import backup, health, migration, optimisation, rehearsal

HOUR_S = 3600
MAX_RUNTIME_S = 12 * HOUR_S  # a run whose host died would else stay STARTED, and block its database's queue

# the jobs of one op: name, description, op, the longest it may run
SINGLES = (
    ("migrate", "Migrate up, if the gate lets it.", migration.apply_migrations, 2 * HOUR_S),
    ("rollback_migration", "Migrate down to a revision.", migration.roll_back_migrations, 2 * HOUR_S),
    ("rehearse_migration", "Run what is pending on a restored copy.", rehearsal.rehearse_pending, MAX_RUNTIME_S),
    ("restore_drill", "Prove a backup: restore and compare.", backup.prove_chosen_backup, MAX_RUNTIME_S),
    ("restore_backup", "Restore a backup into another database.", backup.restore_chosen_backup, MAX_RUNTIME_S),
    ("expire_backups", "Let old backups go, by the policy.", backup.expire_old_backups, 2 * HOUR_S),
    ("optimise", "Plan; VACUUM and ANALYZE what needs it.", optimisation.plan_and_apply, 2 * HOUR_S),
    ("setup_database", "Make the database and migrate it.", migration.set_up_database, 2 * HOUR_S),
    ("health_check", "Check health.", health.check_health, HOUR_S // 4),
)


def jobs(settings: config.Settings) -> list[dg.JobDefinition]:
    """Build the jobs; what a feature switches off is not in them."""

    @dg.graph(
        description="Health, backup, drill, expire, optimise: the whole cycle. Each step can be retried by itself."
    )
    def nightly() -> None:
        if settings.features.health_monitoring:
            backup_ids, failed = backup.take_backup(after=health.check_health())
        else:
            backup_ids, failed = backup.take_backup()
        proven = backup.prove_backup(backup_ids)
        if not settings.operations.backup.keep.keeps_all:
            proven = backup.expire_old_backups(after=proven)
        optimisation.plan_and_apply(after=proven)
        backup.require_every_backup(failed)

    @dg.graph(name="backup", description="Take a backup, also of the server's other databases that the settings name.")
    def backups() -> None:
        _, failed = backup.take_backup()
        backup.require_every_backup(failed)

    singles = [
        _job(dg.GraphDefinition(name=name, description=description, node_defs=[op]), max_runtime_s)
        for name, description, op, max_runtime_s in SINGLES
        if op is not health.check_health or settings.features.health_monitoring
    ]
    return [_job(nightly, MAX_RUNTIME_S), _job(backups, MAX_RUNTIME_S), *singles]


def _job(graph: dg.GraphDefinition, max_runtime_s: int) -> dg.JobDefinition:
    # a migration or backup that failed is looked at before it's tried again: no run retries
    tags = {"dagster/max_runtime": str(max_runtime_s), "dagster/max_retries": "0"}
    return graph.to_job(executor_def=dg.in_process_executor, tags=tags)

"""Backups, and the schema against its last migration. What no query of the database tells, an orchestrator hands in."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Rows, Scope, Status

# A backup a day, and two hours for it to be taken and proved.
PROVEN_WITHIN_HOURS = 26.0
# A backup that still runs at the end of the night meets the day's load, and holds back vacuum all the while.
RUNNING_HOURS = 6.0


def proven_age(rows: Rows, case: Case) -> Iterator[Finding]:
    """How old the newest proven backup is. Where none is configured nor was ever taken, that is said, as info."""
    for row in rows:
        if row["problem"] is not None:
            yield case.unknown(
                None, f"the backups can't be listed: {row['problem']}", "make the backup store reachable"
            )
        elif row["hours"] is not None:
            limit = case.limits.first
            within = row["within_hours"] if limit in {None, PROVEN_WITHIN_HOURS} else limit
            yield Finding(
                case.check.id,
                Status.CRITICAL if row["hours"] > within else Status.OK,
                row["backup_id"],
                round(row["hours"], 3),
                case.check.unit,
                within,
                f"the newest proven backup, {row['backup_id']}, is {row['hours']:.1f} hours old, of {within:g} allowed",
                "chanuka-ops backup create, then chanuka-ops backup drill",
            )
        elif row["backups"] or row["configured"]:
            yield case.finding(
                None,
                f"of {row['backups']} backups none is proven: no restored copy was ever compared with its source",
                "chanuka-ops backup drill" if row["backups"] else "chanuka-ops backup create; chanuka-ops backup drill",
                status=Status.CRITICAL,
            )
        else:
            yield case.finding(
                None,
                "there is no backup, and no store for one is configured",
                "set operations.backup.store, then chanuka-ops backup create; if others take care of it, list"
                " backup.proven_age under operations.monitoring.disabled",
                status=Status.INFO,
            )


def drill_failed(rows: Rows, case: Case) -> Iterator[Finding]:
    """Backups whose last look failed, as long as no newer one is proven."""
    for row in rows:
        yield case.finding(
            row["backup_id"],
            f"backup {row['backup_id']} failed its {row['step']}, and no newer one is proven",
            f"chanuka-ops backup drill {row['backup_id']} says what differs; then take another backup and drill that",
        )


def running_too_long(rows: Rows, case: Case) -> Iterator[Finding]:
    """Backups that don't come to their end."""
    for row in rows:
        yield case.finding(
            str(row["pid"]),
            f"{row['program']} has been taking a backup for {row['hours']:.1f} hours",
            f"see whether it moves (pg_stat_progress_basebackup, the size of its file); else select"
            f" pg_terminate_backend({row['pid']})",
            value=row["hours"],
        )


def drift(rows: Rows, case: Case) -> Iterator[Finding]:
    """What differs from the schema that the last migration left."""
    for row in rows:
        if row["note"] is not None:
            yield case.note(row["note"])
        elif row["unknown"] is not None:
            yield case.unknown(None, row["unknown"], "cure what the message says, then chanuka-ops migrate plan")
        elif row["differs"] is not None:
            yield case.finding(
                None,
                f"the schema is not as the last migration left it: {row['differs']}",
                "put the change into a migration, or take it back; chanuka-ops migrate plan shows the difference",
            )


CHECKS = (
    Check(
        "backup.proven_age",
        "a young backup is proven",
        (Status.CRITICAL,),
        proven_age,
        "A backup counts once a copy restored from it held what the source did. The age is that of the newest such"
        " backup, against operations.backup.proven_within.",
        remedy="chanuka-ops backup create, then chanuka-ops backup drill. If the schedule should have done it: look at"
        " the last runs of the backup and restore_drill jobs.",
        link="https://www.postgresql.org/docs/current/backup.html",
        scope=Scope.CLUSTER,
        unit="hours",
        limits=Limits(PROVEN_WITHIN_HOURS),
        handed=True,
    ),
    Check(
        "backup.drill_failed",
        "backups pass their drills",
        (Status.CRITICAL,),
        drill_failed,
        "A backup that failed its drill or its verification will not save anybody. It's no longer told once a newer one"
        " is proven.",
        remedy="chanuka-ops backup drill ID says which object differs, or what is damaged. Take a new backup and drill"
        " it; keep the failed one until the cause is known.",
        link="https://www.postgresql.org/docs/current/backup.html",
        scope=Scope.CLUSTER,
        handed=True,
    ),
    Check(
        "backup.running_too_long",
        "backups come to an end",
        (Status.WARNING,),
        running_too_long,
        "A backup that runs for many hours meets the day's load, holds back vacuum's horizon, and may hang.",
        remedy="See whether it still moves: pg_stat_progress_basebackup for a base backup, the growing file for a dump."
        " Else end it: select pg_terminate_backend(pid); and look for a slow disk or network.",
        link="https://www.postgresql.org/docs/current/progress-reporting.html#BASEBACKUP-PROGRESS-REPORTING",
        query="running_backups",
        scope=Scope.SESSION,
        unit="hours",
        limits=Limits(RUNNING_HOURS),
        needs=(Need.SESSIONS,),
    ),
    Check(
        "schema.drift",
        "the schema is as the last migration left it",
        (Status.WARNING,),
        drift,
        "Each migration records the schema's fingerprint. What was changed by hand since is in no migration: the next"
        " one may fail on it, and a new database won't have it. The comparison needs pg_dump, so it's made when the"
        " catalogue has changed since the last one, and once a day.",
        remedy="chanuka-ops migrate plan shows what differs. Put it into a migration (chanuka-ops migrate new) or take"
        " it back by hand.",
        link="https://www.postgresql.org/docs/current/ddl-alter.html",
        handed=True,
    ),
)

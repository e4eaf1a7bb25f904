"""Write-ahead log: is it archived, and is it only as much as it should be."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Rows, Scope, Status

# The directory may pass max_wal_size for a while under load; twice the allowance is something else's doing.
WAL_WARNING_PERCENT = 200.0


def archive_failing(rows: Rows, case: Case) -> Iterator[Finding]:
    """The last try failed. Old failures before a success don't count, and an idle server isn't stalled."""
    for row in rows:
        failed, succeeded = row["last_failed_time"], row["last_archived_time"]
        if row["archive_mode"] == "off" or failed is None or (succeeded is not None and succeeded >= failed):
            continue
        yield case.finding(
            row["last_failed_wal"],
            f"archiving fails: {row['last_failed_wal']} at {failed:%Y-%m-%d %H:%M:%S}, last success"
            f" {succeeded.strftime('%Y-%m-%d %H:%M:%S') if succeeded else 'never'}; WAL piles up, and backups can't be"
            " brought up to date",
            "run archive_command by hand as the server's account: its message is in the server's log",
            value=row["failed_count"],
        )


def wal_directory_size(rows: Rows, case: Case) -> Iterator[Finding]:
    """More WAL than the settings account for."""
    for row in rows:
        if row["bytes"] is None or not row["allowed"]:
            continue
        yield case.finding(
            None,
            f"the WAL directory holds {_mb(row['bytes'])}; max_wal_size and wal_keep_size allow for"
            f" {_mb(row['allowed'])}",
            "look at replication slots (replication.slot_inactive) and the archiver (archive.failing)",
            value=100.0 * row["bytes"] / row["allowed"],
        )


def _mb(size: float) -> str:
    return f"{size / 1024 / 1024:.1f} MB"


_C = Scope.CLUSTER

CHECKS = (
    Check(
        "archive.failing",
        "WAL is archived",
        (Status.CRITICAL,),
        archive_failing,
        "Failing means that the last failure is newer than the last success. Until it is cured, WAL piles up and no"
        " point in time after the last archived segment can be restored.",
        remedy="Run archive_command by hand as the server's account; its message is in the server's log too. The"
        " archiver tries again by itself. Never remove WAL by hand: what was not archived is still in pg_wal, and is"
        " needed.",
        link="https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-ARCHIVING-WAL",
        query="archiver",
        scope=_C,
        unit="failures",
    ),
    Check(
        "wal.directory_size",
        "the WAL directory has its usual size",
        (Status.WARNING,),
        wal_directory_size,
        "WAL far beyond max_wal_size is kept for somebody: a slot, a failing archiver, a checkpoint that can't end.",
        remedy="Find who keeps it: select slot_name, restart_lsn from pg_replication_slots; select * from"
        " pg_stat_archiver. Let the consumer catch up or drop its slot; max_slot_wal_keep_size sets an end to what"
        " slots may keep. Never remove files of pg_wal by hand.",
        link="https://www.postgresql.org/docs/current/wal-configuration.html",
        query="wal_directory",
        scope=_C,
        unit="%",
        limits=Limits(WAL_WARNING_PERCENT),
        needs=(Need.WAL_FILES,),
    ),
)

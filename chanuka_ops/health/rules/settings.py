"""How the server is set: what endangers the data, what is not in force, what can't be read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Need, Row, Rows, Scope, Status


def autovacuum_off(rows: Rows, case: Case) -> Iterator[Finding]:
    """Off for the whole server."""
    del rows
    if case.facts.settings.get("autovacuum") == "off":
        yield case.finding(
            "autovacuum",
            "autovacuum is off: dead rows stay, statistics go stale, and transaction ids run out",
            "alter system reset autovacuum; select pg_reload_conf()",
        )


def track_counts_off(rows: Rows, case: Case) -> Iterator[Finding]:
    """Autovacuum is blind without them."""
    del rows
    if case.facts.settings.get("track_counts") == "off":
        yield case.finding(
            "track_counts",
            "track_counts is off: autovacuum doesn't see what changed, and so does nothing",
            "alter system reset track_counts; look also at alter database … set and alter role … set",
        )


# What each costs when the power goes, and how bad that is.
_UNSAFE = (
    ("fsync", "off", Status.CRITICAL, "a crash of the machine destroys the whole cluster"),
    ("full_page_writes", "off", Status.CRITICAL, "a crash of the machine leaves half-written pages"),
    ("zero_damaged_pages", "on", Status.CRITICAL, "damaged pages are emptied in silence: their rows are gone"),
    ("ignore_checksum_failure", "on", Status.CRITICAL, "damaged pages are read as if they were whole"),
    ("synchronous_commit", "off", Status.WARNING, "a crash loses the transactions confirmed in its last moments"),
)


def unsafe_durability(rows: Rows, case: Case) -> Iterator[Finding]:
    """Speed bought with the data."""
    del rows
    for name, bad, status, cost in _UNSAFE:
        if case.facts.settings.get(name) == bad:
            yield case.finding(
                name,
                f"{name} is {bad}: {cost}",
                f"alter system reset {name}; select pg_reload_conf()",
                status=status,
            )


def pending_restart(rows: Rows, case: Case) -> Iterator[Finding]:
    """Changed in the file, not in force."""
    for row in rows:
        if row["pending_restart"]:
            yield case.finding(
                row["name"],
                f"{row['name']} was changed and waits for a restart; in force is {row['setting']}",
                "restart at the next window, so that a crash at night isn't the moment that it comes into force",
            )


_PLAIN_VALUE = re.compile(r"^-?\d+(\.\d+)?\s*(B|kB|MB|GB|TB|us|ms|s|min|h|d)?$")


def _only_waits_for_restart(row: Row) -> bool:
    """Tell whether a line is right and only can't be applied to a running server: the server words both alike."""
    if row["context"] != "postmaster":
        return False
    if row["pending_restart"] or row["vartype"] in {"string", "bool", "enum"}:
        return True
    return bool(_PLAIN_VALUE.match(row["setting"] or ""))


def config_error(rows: Rows, case: Case) -> Iterator[Finding]:
    """Lines that the server skips now, or that keep it from starting."""
    for row in rows:
        if _only_waits_for_restart(row):
            continue
        where = f"{row['file']}, line {row['line']}"
        yield case.finding(
            row["name"] or where,
            f"{where}: {row['name'] or 'a rule'} can't be used: {row['error']}",
            "correct the line and reload; as it stands, the next restart may fail",
        )


_C = Scope.CLUSTER
_CRITICAL = (Status.CRITICAL,)

CHECKS = (
    Check(
        "settings.autovacuum_off",
        "autovacuum is on",
        _CRITICAL,
        autovacuum_off,
        "Without autovacuum, tables grow and the server at last stops taking writes.",
        remedy="alter system reset autovacuum; select pg_reload_conf(). Then VACUUM (ANALYZE) what grew most:"
        " vacuum.dead_tuples names it. If it was in the way, autovacuum_vacuum_cost_limit and a table's own settings"
        " are the knobs.",
        link="https://www.postgresql.org/docs/current/runtime-config-vacuum.html#GUC-AUTOVACUUM",
        scope=_C,
    ),
    Check(
        "settings.track_counts_off",
        "activity is counted",
        _CRITICAL,
        track_counts_off,
        "Autovacuum decides by these counts. Without them it does nothing, although it is on.",
        remedy="alter system reset track_counts; select pg_reload_conf(). If it stays off, it is set for the"
        " database or the role: select * from pg_db_role_setting; alter database … reset track_counts.",
        link="https://www.postgresql.org/docs/current/runtime-config-statistics.html#GUC-TRACK-COUNTS",
        scope=_C,
    ),
    Check(
        "settings.unsafe_durability",
        "settings keep data safe",
        _CRITICAL,
        unsafe_durability,
        "fsync, full_page_writes, zero_damaged_pages and ignore_checksum_failure trade the data for speed or quiet;"
        " synchronous_commit = off trades the last moments only, and is a warning.",
        remedy="alter system reset …; select pg_reload_conf(). Then CHECKPOINT, and with fsync also a sync of the"
        " file systems. For a load that may be lost, set synchronous_commit = off in that session alone.",
        link="https://www.postgresql.org/docs/current/runtime-config-wal.html#RUNTIME-CONFIG-WAL-SETTINGS",
        scope=_C,
    ),
    Check(
        "settings.pending_restart",
        "settings are in force",
        (Status.INFO,),
        pending_restart,
        "A setting that waits for a restart comes into force at the next one, planned or not.",
        remedy="Restart at the next window; or alter system reset … and reload, if it is not meant. On a standby"
        " some of them must be raised first (max_connections, max_worker_processes …).",
        link="https://www.postgresql.org/docs/current/view-pg-settings.html",
        query="settings",
        scope=_C,
    ),
    Check(
        "settings.config_error",
        "configuration files are right",
        (Status.WARNING,),
        config_error,
        "A line that the server can't use is skipped at reload and may keep it from starting. What only waits for a"
        " restart is left out.",
        remedy="select * from pg_file_settings where error is not null; correct the line, then select"
        " pg_reload_conf() and look again. For pg_hba.conf: select * from pg_hba_file_rules where error is not null;"
        " the rules as they were last whole stay in force.",
        link="https://www.postgresql.org/docs/current/view-pg-file-settings.html",
        query="config_errors",
        scope=_C,
        needs=(Need.CONFIG_FILES,),
    ),
)

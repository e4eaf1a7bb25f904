"""Settings that contradict each other, or that nobody meant for a whole server.

Only what can be told from the settings themselves: whether 128 MB of shared buffers are right depends on the machine,
which a check over a connection can't see, and so nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Facts, Finding, Rows, Scope, Status

# work_mem is taken for each sort and hash of each session. Four times of what the planner is told that there is of
# memory leaves the settings without a relation to the machine, however much is lent out at once.
WORK_MEM_SHARE = 4.0
# The server is told to stop three million before two billion; the setting's own maximum is two billion.
FREEZE_MAX_AGE = 1_900_000_000
NAPTIME_S = 600
# From here on a table must change wholly before it is vacuumed.
SCALE_FACTOR = 1.0
_BLOCK_KB = 8
_OFF_BY_DEFAULT = frozenset({"enable_partitionwise_join", "enable_partitionwise_aggregate"})
Problem = tuple[str, str, str]


def sanity(rows: Rows, case: Case) -> Iterator[Finding]:
    """Each contradiction by the name of the setting to change."""
    del rows
    for name, problem, remedy in (*_memory(case.facts), *_costs(case.facts), *_vacuum(case.facts), *_wal(case.facts)):
        yield case.finding(name, f"{name}: {problem}", remedy)


def _memory(facts: Facts) -> Iterator[Problem]:
    cache_kb = facts.number("effective_cache_size", 524288) * _BLOCK_KB
    lent_kb = facts.number("work_mem", 4096) * facts.number("max_connections", 100)
    if lent_kb > WORK_MEM_SHARE * cache_kb:
        yield (
            "work_mem",
            f"{_gb(lent_kb)} if each session sorts once, and effective_cache_size speaks of {_gb(cache_kb)}",
            "set it low for all and high for the role that needs it: alter role … set work_mem = '64MB'",
        )
    if facts.number("shared_buffers", 16384) > facts.number("effective_cache_size", 524288):
        yield (
            "effective_cache_size",
            "less than shared_buffers, which are a part of it: the planner shuns indexes",
            "set it to the memory that shared buffers and the system's cache have together; a reload is enough",
        )
    if facts.number("maintenance_work_mem", 65536) < facts.number("work_mem", 4096):
        yield (
            "maintenance_work_mem",
            "less than work_mem: building an index gets less memory than sorting for a query",
            "raise it, or lower work_mem; a reload is enough",
        )


def _gb(size_kb: float) -> str:
    return f"{size_kb / 1024 / 1024:.1f} GB"


def _costs(facts: Facts) -> Iterator[Problem]:
    if facts.number("random_page_cost", 4) < facts.number("seq_page_cost", 1):
        yield (
            "random_page_cost",
            "below seq_page_cost: no disk reads pages at random faster than in a row",
            "1.1 is right for solid-state disks: alter system set random_page_cost = 1.1; select pg_reload_conf()",
        )
    for name, value in facts.settings.items():
        if name.startswith("enable_") and value == "off" and name not in _OFF_BY_DEFAULT:
            yield (
                name,
                "off for every query: a means to try a plan out in one session",
                f"alter system reset {name}; select pg_reload_conf(); look also at alter database … set",
            )
    if facts.number("max_parallel_workers", 8) > facts.number("max_worker_processes", 8):
        yield (
            "max_parallel_workers",
            "more than max_worker_processes, from which they are taken",
            "raise max_worker_processes (a restart), or lower this one",
        )


def _vacuum(facts: Facts) -> Iterator[Problem]:
    if facts.number("autovacuum_freeze_max_age", 2e8) >= FREEZE_MAX_AGE:
        yield (
            "autovacuum_freeze_max_age",
            "leaves hardly any room before the server stops taking writes",
            "a billion is much; 200 million is the default; it needs a restart",
        )
    if facts.number("autovacuum_vacuum_scale_factor", 0.2) >= SCALE_FACTOR:
        yield (
            "autovacuum_vacuum_scale_factor",
            "a table must change wholly before autovacuum comes to it",
            "0.2 is the default; a table may have its own: alter table … set (autovacuum_vacuum_scale_factor = …)",
        )
    if facts.number("autovacuum_naptime", 60) > NAPTIME_S:
        yield (
            "autovacuum_naptime",
            f"autovacuum looks at each database only every {facts.number('autovacuum_naptime') / 60:.0f} minutes",
            "one minute is the default, and looking costs little: alter system reset autovacuum_naptime; reload",
        )
    if facts.settings.get("track_activities") == "off":
        yield (
            "track_activities",
            "off: nobody sees what sessions do, these checks neither",
            "alter system reset track_activities; select pg_reload_conf()",
        )


def _wal(facts: Facts) -> Iterator[Problem]:
    if facts.number("min_wal_size", 80) > facts.number("max_wal_size", 1024):
        yield "max_wal_size", "below min_wal_size", "raise it: checkpoints come by it; a reload is enough"
    if facts.settings.get("archive_mode") in {"on", "always"} and not (
        facts.settings.get("archive_command", "").strip() or facts.settings.get("archive_library", "").strip()
    ):
        yield (
            "archive_command",
            "archive_mode is on and nothing archives: the server keeps all WAL for the day that something does",
            "set archive_command (or archive_library, 15+) and reload; or archive_mode = off, which needs a restart",
        )
    if facts.settings.get("synchronous_standby_names", "").strip() and facts.settings.get("synchronous_commit") in {
        "off",
        "local",
    }:
        yield (
            "synchronous_commit",
            "no commit waits for the standbys that synchronous_standby_names lists",
            "alter system reset synchronous_commit; or empty the list, which promises what isn't kept",
        )


CHECKS = (
    Check(
        "settings.sanity",
        "settings don't contradict each other",
        (Status.INFO,),
        sanity,
        "What can be told from the settings alone: pairs that contradict each other, planner switches left off for"
        " everybody, archiving into nothing. Whether memory fits the machine can't be seen from a connection, so"
        " nothing is said of it.",
        remedy="alter system set … or alter system reset …, then select pg_reload_conf(); pg_settings.context says"
        " which need a restart (postmaster). pg_settings.sourcefile says where a value comes from.",
        link="https://www.postgresql.org/docs/current/sql-altersystem.html",
        scope=Scope.CLUSTER,
    ),
)

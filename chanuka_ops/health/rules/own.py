"""The tool's own eyes: what this run could not see, what went wrong in it, what it cost."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import CURES, Case, Check, Finding, Limits, Need, Rows, Scope, Status

# A run of some fifty catalogue queries takes a tenth of a second on a small database and some seconds on a huge one.
COST_S = 30.0


def visibility(rows: Rows, case: Case) -> Iterator[Finding]:
    """What the role may not see, and the grant that would cure it."""
    role = case.facts.role
    if Need.SESSIONS in case.facts.missing:
        yield case.finding(
            "sessions", f"role {role} doesn't see what other sessions do", CURES[Need.SESSIONS], status=Status.UNKNOWN
        )
    for row in rows:
        if row["hidden"]:
            yield case.finding(
                "statistics",
                f"role {role} can't read {row['hidden']} of {row['tables']} tables, {row['example']} for one: the"
                " server hides their statistics (pg_stats) from it",
                f"grant pg_read_all_data to {role}, or SELECT on the tables (BYPASSRLS where row security hides rows)",
                value=row["hidden"],
                status=Status.UNKNOWN,
            )


def check_errors(rows: Rows, case: Case) -> Iterator[Finding]:
    """Checks that failed, and settings that name no check: the run itself gives the rows."""
    for row in rows:
        yield case.finding(row["check"], row["message"], row["remedy"], status=row.get("status"))


def cost(rows: Rows, case: Case) -> Iterator[Finding]:
    """The run itself gives its seconds."""
    for row in rows:
        yield case.finding(
            None,
            f"this run took {row['seconds']:.1f} s, {row['slowest']} the longest",
            "list the slow check under operations.monitoring.disabled, or run it less often",
            value=row["seconds"],
        )


CHECKS = (
    Check(
        "self.visibility",
        "the role sees what the checks need",
        (Status.UNKNOWN,),
        visibility,
        "The server hides sessions from a role without pg_read_all_stats, and a table's statistics from a role that may"
        " not read the table. What can't be seen is unknown, never healthy.",
        remedy="grant pg_monitor to the role: it then sees sessions and statistics views. grant pg_read_all_data"
        " (14+), or SELECT on the tables, and it sees pg_stats; BYPASSRLS where row security hides rows. It still"
        " changes nothing: the checks' session is read only.",
        link="https://www.postgresql.org/docs/current/predefined-roles.html",
        query="visibility",
        unit="tables",
    ),
    Check(
        "self.check_errors",
        "checks run without errors",
        (Status.WARNING,),
        check_errors,
        "A check that failed with an error looked at nothing. Its own status is unknown; this says why.",
        remedy="The finding has the server's message. A lock timeout: somebody holds the table, look again. A"
        " permission: grant what it names. To live without the check: operations.monitoring.disabled.",
        link="https://www.postgresql.org/docs/current/monitoring-stats.html",
        scope=Scope.CLUSTER,
    ),
    Check(
        "self.cost",
        "the checks are cheap",
        (Status.INFO,),
        cost,
        "A check must not be the load that it warns of.",
        remedy="See which check took longest (`health check --json`, seconds), disable it or run it less often; a"
        " bloated pg_class or pg_attribute makes all of them slow: VACUUM those.",
        link="https://www.postgresql.org/docs/current/catalogs.html",
        scope=Scope.CLUSTER,
        unit="s",
        limits=Limits(COST_S),
    ),
)

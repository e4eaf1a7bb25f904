"""Run the checks: one connection, read only, each query by itself; whatever fails is said and stops nothing else.

Each statement is its own transaction, so that a check which fails takes no other along and none holds back vacuum.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import MonitoringSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.health import registry
from chanuka_ops.health.model import (
    CURES,
    Case,
    Check,
    CheckResult,
    Facts,
    HealthReport,
    Limits,
    Need,
    Row,
    Rows,
    Status,
    worst,
)
from chanuka_ops.logs import Stopwatch
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

PACKAGE = "chanuka_ops.health"
# A table under an exclusive lock must not hold up the whole run: the probe of it is then unknown.
PROBE_LOCK_TIMEOUT_S = 1.0
REACHABLE, ERRORS, COST = "server.reachable", "self.check_errors", "self.cost"
_OF_THE_RUN = (REACHABLE, ERRORS, COST)
_GRANTS = {
    "sees_sessions": Need.SESSIONS,
    "sees_wal_files": Need.WAL_FILES,
    "sees_config_files": Need.CONFIG_FILES,
    "sees_passwords": Need.PASSWORDS,
}
# jit would compile catalogue queries for longer than they run; everything must be named in full but pg_catalog
_SESSION = (
    "set default_transaction_read_only = on",
    "set search_path = pg_catalog, pg_temp",
    "set jit = off",
)


def check(
    manager: ConnectionManager,
    monitoring: MonitoringSettings,
    *,
    only: Collection[str] | None = None,
    extra: Sequence[CheckResult] = (),
) -> HealthReport:
    """Look at one database.

    `only` names the checks to run, also such as are disabled in the settings; `extra` are results found elsewhere, of
    backups for one, which become part of the report. What could not look is unknown; nothing is raised for that.

    Errors: `ConfigurationError` for an id in `only` that no check has.
    """
    watch = Stopwatch()
    others = {result.check for result in extra}
    registry.check_known(only or (), others)
    chosen = [one for one in registry.CHECKS if _is_chosen(one.id, monitoring, only)]
    run = _Run(monitoring, chosen, replicas=len(manager.settings.replicas))
    try:
        with _session(manager) as connection:
            run.look(connection)
    except errors.DatabaseError as error:
        run.broke(error)
    results = run.results()
    results += [result for result in extra if _is_chosen(result.check, monitoring, only)]
    report = _report(manager.name, run.version, results, watch)
    log.info(
        "%s is %s: %d findings of %d checks in %.3f s",
        report.database,
        report.status,
        len(report.findings),
        len(report.checks),
        report.seconds,
        extra={"event": "health.checked", "status": str(report.status)},
    )
    return report


def _report(database: str, version: str | None, results: list[CheckResult], watch: Stopwatch) -> HealthReport:
    """Put the results together, the worst findings first."""
    findings = [finding for result in results for finding in result.findings]
    findings.sort(key=lambda finding: -finding.status.rank)
    status = worst(result.status for result in results)
    return HealthReport(database, status, version, watch.seconds, tuple(findings), tuple(results))


def _is_chosen(check_id: str, monitoring: MonitoringSettings, only: Collection[str] | None) -> bool:
    return check_id in only if only is not None else check_id not in monitoring.disabled


@contextmanager
def _session(manager: ConnectionManager) -> Iterator[Connection]:
    with manager.autocommit(profile=Profile.PROBE, lock_timeout_s=PROBE_LOCK_TIMEOUT_S) as connection:
        for statement in _SESSION:
            connection.execute(text(statement))
        yield connection


def limits_of(one: Check, monitoring: MonitoringSettings) -> Limits:
    """Return a check's limits as the settings have them; one that is critical at once has one limit, either key's."""
    stated = monitoring.thresholds.get(one.id)
    if stated is None or one.limits == Limits():
        return one.limits
    if one.statuses[0] is Status.CRITICAL:
        return one.limits.overlaid(stated.warning if stated.critical is None else stated.critical, None)
    return one.limits.overlaid(stated.warning, stated.critical)


@dataclass(slots=True)
class _Run:
    """One look at one database. Rows are read once for all checks that share a query."""

    monitoring: MonitoringSettings
    checks: list[Check]
    facts: Facts | None = None
    replicas: int = 0
    _rows: dict[str, Rows | errors.DatabaseError] = field(default_factory=dict)
    _done: dict[str, CheckResult] = field(default_factory=dict)
    _failed: list[Row] = field(default_factory=list)
    _lost: errors.DatabaseError | None = None

    @property
    def version(self) -> str | None:
        """The server's version as text, 18.6."""
        if self.facts is None:
            return None
        return f"{self.facts.major}.{self.facts.server_version % 10000}"

    def look(self, connection: Connection) -> None:
        """Run every check that has a query, or needs none but the facts."""
        self.facts = replace(_read_facts(connection), replicas=self.replicas)
        for one in self.checks:
            if one.id in _OF_THE_RUN or one.min_version > self.facts.major:
                continue  # what this server can't have is not reported: neither ok nor unknown would be true
            self._done[one.id] = self._judge(one, self.facts, connection)

    def broke(self, error: errors.DatabaseError) -> None:
        """Remember why there is no connection, or no longer one."""
        self._lost = error

    def results(self) -> list[CheckResult]:
        """Return every result in the registry's order; those that the run itself gives are judged last."""
        lost = str(self._lost) if self._lost is not None else None
        for one in self.checks:
            applies = self.facts is None or one.min_version <= self.facts.major
            if one.id not in self._done and one.id not in _OF_THE_RUN and applies:
                self._done[one.id] = CheckResult(
                    one.id, Status.UNKNOWN, 0.0, reason=f"the server can't be asked: {lost}"
                )
        self._judge_run()
        return [self._done[one.id] for one in self.checks if one.id in self._done]

    def _judge(self, one: Check, facts: Facts, connection: Connection) -> CheckResult:
        start = time.perf_counter()
        if missing := [need for need in one.needs if need in facts.missing]:
            cure = "; ".join(CURES[need] for need in missing)
            return CheckResult(one.id, Status.UNKNOWN, 0.0, reason=f"role {facts.role} may not look: {cure}")
        try:
            rows = self._read(one, facts.major, connection)
            return result_of(one, self._case(one, facts), rows, start)
        except errors.ConnectionLost:
            raise
        except errors.DatabaseError as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:
            # a defect of one rule must not blind all the others; it shows as unknown, and in self.check_errors
            log.exception("check %s failed", one.id, extra={"event": "health.check_failed", "check": one.id})
            reason = f"{type(error).__name__}: {error}"
        self._failed.append({"check": one.id, "message": f"{one.id} failed: {reason}", "remedy": _cure(one)})
        return CheckResult(one.id, Status.UNKNOWN, _since(start), reason=reason)

    def _read(self, one: Check, major: int, connection: Connection) -> Rows:
        if one.query is None:
            return ()
        if one.query not in self._rows:
            try:
                sql = catalog.load(PACKAGE).sql(one.query, major)
                rows = _rows(connection, sql)
                self._rows[one.query] = [_probed(connection, row) for row in rows] if one.probes else rows
            except errors.ConnectionLost:
                raise
            except errors.DatabaseError as error:
                self._rows[one.query] = error
        found = self._rows[one.query]
        if isinstance(found, errors.DatabaseError):
            raise found
        return found

    def _case(self, one: Check, facts: Facts) -> Case:
        return Case(one, limits_of(one, self.monitoring), facts)

    def _judge_run(self) -> None:
        facts = self.facts or Facts(now=datetime.now(UTC), server_version=0, database="")
        unknown = [
            {
                "check": name,
                "message": f"operations.monitoring names a check {name!r} that there is not{registry.suggestion(name)}",
                "remedy": "correct the id; until then the setting does nothing",
                "status": Status.INFO,
            }
            for name in sorted({*self.monitoring.thresholds, *self.monitoring.disabled} - set(registry.ids()))
            if not name.startswith("backup.")  # an orchestrator's, with settings of its own
        ]
        slowest = max(self._done.values(), key=lambda result: result.seconds, default=None)
        rows: dict[str, Rows] = {
            REACHABLE: [] if self._lost is None else [{"error": self._lost}],
            ERRORS: [*self._failed, *unknown],
            COST: [
                {
                    "seconds": sum(result.seconds for result in self._done.values()),
                    "slowest": slowest.check if slowest else "none",
                }
            ],
        }
        for one in self.checks:
            if one.id in rows:
                self._done[one.id] = result_of(one, self._case(one, facts), rows[one.id], time.perf_counter())


def result_of(one: Check, case: Case, rows: Rows, start: float) -> CheckResult:
    """Let a check's rule judge its rows."""
    all_found = list(one.rule(rows, case))
    findings = tuple(found for found in all_found if found.status is not Status.OK)
    notes = [found.summary for found in all_found if found.status is Status.OK and found.value is None]
    notes += [found.summary for found in findings if found.status is Status.UNKNOWN]
    values = [found.value for found in all_found if found.value is not None and found.status is not Status.UNKNOWN]
    status = worst([found.status for found in findings] + ([Status.INFO] if notes else []))
    return CheckResult(
        one.id,
        status,
        _since(start),
        findings,
        reason="; ".join(notes) or None,
        value=max(values, default=None),
        unit=one.unit,
    )


def _read_facts(connection: Connection) -> Facts:
    (row,) = _rows(connection, catalog.load(PACKAGE).sql("facts"))
    settings = _rows(connection, catalog.load(PACKAGE).sql("settings", row["server_version"] // 10000))
    return Facts(
        now=row["now"],
        server_version=row["server_version"],
        database=row["database"],
        role=row["role"],
        standby=row["standby"],
        missing=frozenset(need for column, need in _GRANTS.items() if not row[column]),
        settings={setting["name"]: setting["setting"] or "" for setting in settings},
    )


def _rows(connection: Connection, sql: str) -> list[Row]:
    with engines.translated():
        return [dict(row) for row in connection.execute(text(sql)).mappings()]


def _probed(connection: Connection, row: Row) -> Row:
    """Run a row's own statement, which the server composed with its identifiers quoted."""
    if row["probe"] is None:
        return row
    with engines.translated():
        # the driver reads a % as the beginning of a placeholder, also in a quoted name
        return {**row, "probed": connection.exec_driver_sql(row["probe"].replace("%", "%%")).scalar_one()}


def _cure(one: Check) -> str:
    cures = [CURES[need] for need in one.needs]
    return "; ".join(cures) or f"look at the message; to live without it: operations.monitoring.disabled = [{one.id!r}]"


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 6)

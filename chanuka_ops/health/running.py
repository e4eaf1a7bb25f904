"""One look at one database: each check by itself, within its time; whatever fails is said and stops nothing else.

Each statement is its own transaction, so that a check which fails takes no other along and none holds back vacuum.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import MonitoringSettings
from chanuka_ops.db import engines
from chanuka_ops.db.parameters import PROBE_STATEMENT_S
from chanuka_ops.health import disks, registry
from chanuka_ops.health.judging import case_of, result_of, since
from chanuka_ops.health.model import CURES, Check, CheckResult, Facts, Need, Row, Rows, Status
from chanuka_ops.health.sampling.service import Sampler
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

PACKAGE, SAMPLING = "chanuka_ops.health", "chanuka_ops.health.sampling"
REACHABLE, ERRORS, COST = "server.reachable", "self.check_errors", "self.cost"
OF_THE_RUN = (REACHABLE, ERRORS, COST)
# Read last: they grow with the catalogue, and where the time runs out it's for these.
HEAVY = frozenset(
    {"index_widths", "table_widths", "null_shares", "integer_keys", "foreign_keys", "sequences", "database_size"}
)
_GRANTS = {
    "sees_sessions": Need.SESSIONS,
    "sees_wal_files": Need.WAL_FILES,
    "sees_config_files": Need.CONFIG_FILES,
    "sees_passwords": Need.PASSWORDS,
}
# A statement is begun only with so much time left: less would end nearly every one of them at once.
LEAST_STATEMENT_S = 0.02


def order(one: Check) -> tuple[bool, bool]:
    """Rank a check for the order of looking: cheap ones before heavy ones, what may be critical before the rest."""
    return one.query in HEAVY or one.probes, Status.CRITICAL not in one.statuses


@dataclass(slots=True)
class Run:
    """One look at one database. Rows are read once for all checks that share a query."""

    monitoring: MonitoringSettings
    checks: list[Check]
    sampler: Sampler
    unknown_ids: frozenset[str] = frozenset()
    facts: Facts | None = None
    replicas: int = 0
    local: bool = False
    handed: Mapping[str, Rows] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)
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

    @property
    def reached(self) -> bool:
        """Whether the server answered, to the end."""
        return self._lost is None

    def look(self, connection: Connection) -> None:
        """Run every check that has a query, or needs none but the facts."""
        self.facts = replace(_read_facts(connection), replicas=self.replicas)
        self.sampler.incarnation, self.sampler.now = _incarnation(connection), self.facts.now
        for one in sorted(self.checks, key=order):
            if one.id in OF_THE_RUN or one.handed or one.min_version > self.facts.major:
                continue  # what this server can't have is not reported: neither ok nor unknown would be true
            self._done[one.id] = self._judge(one, self.facts, connection)

    def broke(self, error: errors.DatabaseError) -> None:
        """Remember why there is no connection, or no longer one."""
        self._lost = error

    def results(self) -> list[CheckResult]:
        """Return every result in the registry's order; those that the run itself gives are judged last."""
        facts = self.facts or Facts(now=datetime.now(UTC), server_version=0, database="")
        lost = str(self._lost) if self._lost is not None else None
        for one in self.checks:
            applies = self.facts is None or one.min_version <= self.facts.major
            if one.handed:
                if one.id in self.handed:
                    case = case_of(one, self.monitoring, facts)
                    self._done[one.id] = result_of(one, case, self.handed[one.id], time.perf_counter())
            elif one.id not in self._done and one.id not in OF_THE_RUN and applies:
                self._done[one.id] = CheckResult(
                    one.id, Status.UNKNOWN, 0.0, reason=f"the server can't be asked: {lost}"
                )
        self._judge_run(facts)
        return [self._done[one.id] for one in self.checks if one.id in self._done]

    def _judge(self, one: Check, facts: Facts, connection: Connection) -> CheckResult:
        start = time.perf_counter()
        if missing := [need for need in one.needs if need in facts.missing]:
            cure = "; ".join(CURES[need] for need in missing)
            return CheckResult(one.id, Status.UNKNOWN, 0.0, reason=f"role {facts.role} may not look: {cure}")
        left_s = self._left_s()
        if one.query is not None and one.query not in self._rows and left_s < LEAST_STATEMENT_S:
            return CheckResult(one.id, Status.UNKNOWN, 0.0, reason=self._used_up())
        try:
            rows = self._read(one, facts.major, connection, left_s)
            return self._judged(one, facts, rows, start)
        except errors.ConnectionLost:
            raise
        except errors.DatabaseError as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:
            # a defect of one rule must not blind all the others; it shows as unknown, and in self.check_errors
            log.exception("check %s failed", one.id, extra={"event": "health.check_failed", "check": one.id})
            reason = f"{type(error).__name__}: {error}"
        self._failed.append({"check": one.id, "message": f"{one.id} failed: {reason}", "remedy": _cure(one)})
        return CheckResult(one.id, Status.UNKNOWN, since(start), reason=reason)

    def _judged(self, one: Check, facts: Facts, rows: Rows, start: float) -> CheckResult:
        if one.rates is None:
            return result_of(one, case_of(one, self.monitoring, facts), rows, start)
        compared, elapsed_s, reason = self.sampler.compared(one, rows)
        case = case_of(one, self.monitoring, facts, elapsed_s)
        is_a_chart = one.statuses == (Status.OK,)
        note = None if elapsed_s is not None or is_a_chart else f"no baseline yet: {reason}"
        return result_of(one, case, compared, start, note)

    def _read(self, one: Check, major: int, connection: Connection, left_s: float) -> Rows:
        if one.query is None:
            return ()
        if one.query not in self._rows:
            try:
                self._bound(connection, left_s)
                rows = _rows(connection, _sql(one.query, major))
                if one.probes:
                    rows = [made for row in rows for made in _spread(_probed(connection, row))]
                self._rows[one.query] = disks.looked_at(rows, local=self.local) if one.looks_at_disks else rows
            except errors.ConnectionLost:
                raise
            except errors.DatabaseError as error:
                self._rows[one.query] = error
        found = self._rows[one.query]
        if isinstance(found, errors.DatabaseError):
            raise found
        return found

    def _left_s(self) -> float:
        return self.monitoring.budget_s - (time.perf_counter() - self._began)

    def _bound(self, connection: Connection, left_s: float) -> None:
        """Let the next statement run no longer than what is left of the budget."""
        if left_s < PROBE_STATEMENT_S:
            connection.execute(text(f"set statement_timeout = {max(1, math.ceil(left_s * 1000)):d}"))

    def _used_up(self) -> str:
        dearest = sorted(self._done.values(), key=lambda result: -result.seconds)[:3]
        by = ", ".join(f"{result.check} ({result.seconds:.1f} s)" for result in dearest)
        return (
            f"the budget of {self.monitoring.budget_s:g} s was used up by {by or 'the connection'}: raise"
            " operations.monitoring.budget, or disable what is dear"
        )

    def _judge_run(self, facts: Facts) -> None:
        unknown = [
            {
                "check": name,
                "message": f"operations.monitoring names a check {name!r} that there is not{registry.suggestion(name)}",
                "remedy": "correct the id; until then the setting does nothing",
                "status": Status.INFO,
            }
            for name in sorted(self.unknown_ids)
        ]
        self.sampler.end(self._done.values())
        kept = [
            {
                "check": "health.sqlite",
                "message": problem,
                "remedy": "look at the file and the disk of the state directory; until then rates have no baseline",
            }
            for problem in self.sampler.problems
        ]
        slowest = max(self._done.values(), key=lambda result: result.seconds, default=None)
        rows: dict[str, Rows] = {
            REACHABLE: [] if self._lost is None else [{"error": self._lost}],
            ERRORS: [*self._failed, *unknown, *kept],
            COST: [
                {
                    "seconds": sum(result.seconds for result in self._done.values()),
                    "slowest": slowest.check if slowest else "none",
                }
            ],
        }
        for one in self.checks:
            if one.id in rows:
                case = case_of(one, self.monitoring, facts)
                self._done[one.id] = result_of(one, case, rows[one.id], time.perf_counter())


def _sql(query: str, major: int) -> str:
    sampling = catalog.load(SAMPLING)
    return (sampling if query in sampling.names() else catalog.load(PACKAGE)).sql(query, major)


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


def _incarnation(connection: Connection) -> str:
    try:
        (row,) = _rows(connection, catalog.load(SAMPLING).sql("incarnation"))
    except errors.PermissionDenied:  # some services keep the control file to themselves
        (row,) = _rows(connection, catalog.load(SAMPLING).sql("incarnation_without_control"))
    return str(row["incarnation"])


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


def _spread(row: Row) -> list[Row]:
    """Return a row, and the rows that its probe returned, if it returned a list of them."""
    if not isinstance(row.get("probed"), list):
        return [row]
    return [{name: value for name, value in row.items() if name != "probed"}, *row["probed"]]


def _cure(one: Check) -> str:
    cures = [CURES[need] for need in one.needs]
    return "; ".join(cures) or f"look at the message; to live without it: operations.monitoring.disabled = [{one.id!r}]"

"""Run the checks: one connection, read only; what can't look is unknown, and nothing is raised for that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import MonitoringSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.health import disks, registry
from chanuka_ops.health.judging import limits_of, result_of
from chanuka_ops.health.keeping import Keeper
from chanuka_ops.health.model import CheckResult, HealthReport, Rows, worst
from chanuka_ops.health.running import PACKAGE, SAMPLING, Run
from chanuka_ops.health.sampling.service import Sampler
from chanuka_ops.logs import Stopwatch
from chanuka_ops.sql import catalog

__all__ = ["PACKAGE", "check", "limits_of", "result_of", "schema_marker"]

log = logging.getLogger(__name__)

# A table under an exclusive lock must not hold up the whole run: the probe of it is then unknown.
PROBE_LOCK_TIMEOUT_S = 1.0
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
    handed: Callable[[bool], Mapping[str, Rows]] | None = None,
    keeper: Keeper | None = None,
) -> HealthReport:
    """Look at one database.

    `only` names the checks to run, also such as are disabled in the settings. `handed` gives the rows of checks that
    no query of this database can judge, of backups for one: it's called after the look, and told whether the server
    answered. `extra` are results found elsewhere. With a `keeper` counters
    are compared with the look before.

    Errors: `ConfigurationError` for an id in `only` that no check has.
    """
    watch = Stopwatch()
    others = {result.check for result in extra}
    registry.check_known(only or (), others)
    unknown_ids = monitoring.named() - set(registry.ids()) - others
    monitoring = monitoring.of(manager.name)
    run = Run(
        monitoring,
        [one for one in registry.CHECKS if _is_chosen(one.id, monitoring, only)],
        Sampler(keeper, manager.name),
        unknown_ids,
        replicas=len(manager.settings.replicas),
        local=disks.is_local(manager.settings.sqlalchemy_url),
    )
    run.sampler.begin()
    try:
        with _session(manager) as connection:
            run.look(connection)
    except errors.DatabaseError as error:
        run.broke(error)
    if handed is not None:
        run.handed = handed(run.reached)
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


def schema_marker(manager: ConnectionManager) -> str:
    """Return what changes whenever the catalogue's rows do: it says that a longer look is worth it.

    Errors: `DatabaseError`.
    """
    with _session(manager) as connection, engines.translated():
        return str(connection.execute(text(catalog.load(SAMPLING).sql("schema_marker"))).scalar_one())


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

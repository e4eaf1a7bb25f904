"""Each check has a defect that is planted for it, and a healthy twin or a look-alike that it must pass over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chanuka_ops.health import registry
from chanuka_ops_tests.integration import health_cases, health_cases_more
from chanuka_ops_tests.integration.health_incidents import INCIDENTS

PLANTED = (*health_cases.CASES, *health_cases_more.CASES, *health_cases_more.HEAVY)
TESTS = Path(__file__).parents[1]
# What can't be planted in a database or a session, or not within a minute; each is tested by hand, where it says.
ELSEWHERE = {
    "server.reachable": "integration/test_health_service.py",
    "server.version_eol": "unit/test_health_rules.py",
    "server.minor_behind": "unit/test_health_rules.py",
    "txn.wraparound": "unit/test_health_rules.py",  # billions of transactions
    "txn.multixact": "unit/test_health_rules.py",
    "index.unused": "unit/test_health_rules.py",  # a week of statistics
    "checksum.failures": "unit/test_health_rules.py",
    "checksum.off": "unit/test_health_catalogue.py",
    "collation.version_mismatch": "integration/test_health_service.py",
    "cache.hit_ratio": "integration/test_health_service.py",  # charts: never a defect
    "connections.idle_share": "unit/test_health_catalogue.py",
    "replication.lag": "integration/test_health_replication.py",  # with standbys
    "replication.sync_missing": "integration/test_health_replication.py",
    "replication.wal_receiver_down": "integration/test_health_replication.py",
    "security.tls_off": "unit/test_health_rules.py",  # needs a second machine
    **dict.fromkeys(
        (
            "lock.deadlocks",
            "txn.rollback_ratio",
            "wal.checkpoints_requested",
            "query.temp_files",
            "query.seq_scan_heavy",
        ),
        "integration/test_health_rates.py",
    ),
    "query.slow": "integration/test_health_statements.py",
    "query.regression": "integration/test_health_statements.py",
    "storage.growth": "unit/test_health_rates.py",  # an hour
    "storage.disk_space": "unit/test_health_rates.py",  # a full disk
    "backup.proven_age": "integration/test_health_handed.py",
    "backup.drill_failed": "integration/test_health_handed.py",
    "backup.running_too_long": "unit/test_health_handed.py",
    "schema.drift": "integration/test_health_handed.py",
    "self.visibility": "integration/test_health_service.py",
    "self.check_errors": "integration/test_health_service.py",
    "self.cost": "unit/test_health_catalogue.py",
    "self.undelivered": "integration/test_health_alerting.py",
}


def _defects() -> Iterator[str]:
    yield from (case.check for case in PLANTED if case.found is not None)
    yield from (incident.check for incident in INCIDENTS if incident.found is not None)


def _healthy() -> Iterator[str]:
    yield from (case.check for case in PLANTED if case.found is None or case.twin)
    yield from (incident.check for incident in INCIDENTS if incident.found is None or incident.twin is not None)


def test_each_check_is_planted_and_has_a_healthy_twin() -> None:
    planted = set(_defects()) & set(_healthy())
    assert not set(registry.ids()) - planted - set(ELSEWHERE)


def test_what_is_tested_elsewhere_is_tested_there() -> None:
    assert not [check for check, path in ELSEWHERE.items() if f'"{check}"' not in (TESTS / path).read_text("utf-8")]
    assert not set(ELSEWHERE) - set(registry.ids())


def test_names_are_given_once() -> None:
    names = [case.name for case in PLANTED]
    assert len({name[:58] for name in names}) == len(names)  # a schema's name is cut after that
    assert len({incident.name for incident in INCIDENTS}) == len(INCIDENTS)

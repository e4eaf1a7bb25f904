"""Every planted defect is found at its object and severity, once; every healthy twin and every trap stays silent.

All cases live in one database, each in a schema of its own, and one check looks at them all: so a case is also a trap
for every other one. Those that need many rows are in the slow lane.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chanuka_ops.health.model import HealthReport
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration import health_cases, health_cases_more
from chanuka_ops_tests.integration.health_cases import Planted
from chanuka_ops_tests.plugins.planting import expected, outcome, reported

pytestmark = pytest.mark.postgres
CASES = (*health_cases.CASES, *health_cases_more.CASES)
TWINS = [case for case in CASES if case.twin]


@pytest.fixture(scope="module")
def report(server: Server) -> Iterator[HealthReport]:
    with reported(server, CASES) as found:
        yield found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_planted_case(case: Planted, report: HealthReport, server: Server) -> None:
    if case.oldest > server.major:
        pytest.skip(f"PostgreSQL {server.major} can't hold it: needs {case.oldest}")
    assert outcome(report, case) == expected(case)


@pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)
def test_a_healthy_twin(case: Planted, report: HealthReport) -> None:
    assert outcome(report, case, twin=True) == []


def test_every_check_could_look(report: HealthReport) -> None:
    assert {result.check: result.reason for result in report.checks if result.status == "unknown"} == {}

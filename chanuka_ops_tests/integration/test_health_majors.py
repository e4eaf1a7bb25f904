"""The planted cases on every major version that binaries can be had of, and those that need many rows on this one."""

from __future__ import annotations

import pytest

from chanuka_ops.config import MonitoringSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health import registry, service
from chanuka_ops.health.model import Scope
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration import health_cases, health_cases_more
from chanuka_ops_tests.integration.health_cases import Planted
from chanuka_ops_tests.plugins.majors import VERSIONS, ServerOf
from chanuka_ops_tests.plugins.planting import Outcome, expected, outcome, reported

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
Wrong = dict[str, tuple[Outcome, Outcome]]


def _wrong(server: Server, cases: tuple[Planted, ...]) -> Wrong:
    """Return the cases of which the checks say something else than they should: by name, what they say and should."""
    wrong: Wrong = {}
    with reported(server, cases) as report:
        for case in cases:
            if case.oldest <= server.major and outcome(report, case) != expected(case):
                wrong[case.name] = outcome(report, case), expected(case)
            if case.twin and (said := outcome(report, case, twin=True)):
                wrong[f"twin of {case.name}"] = said, []
        unseen = {result.check: result.reason for result in report.checks if result.status == "unknown"}
    assert not unseen
    return wrong


def test_cases_of_many_rows(server: Server) -> None:
    assert _wrong(server, health_cases_more.HEAVY) == {}


@pytest.mark.parametrize("major", VERSIONS)
def test_planted_cases_on_another_major(major: int, server_of: ServerOf) -> None:
    with server_of(major) as server:
        cases = (*health_cases.CASES, *health_cases_more.CASES)
        assert server.major == major
        assert _wrong(server, cases) == {}
        with ConnectionManager("fresh", server.settings("template1")) as manager:
            found = service.check(manager, MonitoringSettings()).findings
    above = {one.check for one in found if one.status not in {"ok", "info"}}
    assert not {check for check in above if registry.find(check).scope is Scope.DATABASE}

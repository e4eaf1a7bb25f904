"""Every planted defect is found at its object and severity, once; every healthy twin and every trap stays silent.

All cases live in one database, each in a schema of its own, and one check looks at them all: so a case is also a trap
for every other one.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import TupleRow
from sqlalchemy import text

from chanuka_ops.config import MonitoringSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.health import service
from chanuka_ops.health.model import Finding, HealthReport
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration import health_cases, health_cases_more
from chanuka_ops_tests.integration.health_cases import Planted
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres
CASES = (*health_cases.CASES, *health_cases_more.CASES)
TWINS = [case for case in CASES if case.twin]


@pytest.fixture(scope="module")
def report(server: Server) -> Iterator[HealthReport]:
    name = f"planted_{uuid.uuid4().hex[:8]}"
    with ConnectionManager("admin", server.settings("postgres")) as admin, admin.autocommit() as connection:
        connection.execute(text(f"create database {name} template template0"))
        try:
            with ConnectionManager("planted", server.settings(name)) as manager:
                for case in CASES:
                    if case.oldest <= server.major:
                        _plant(manager, f"c_{case.name}"[:60], case.plant, case)
                for case in TWINS:
                    _plant(manager, f"t_{case.name}"[:60], case.twin, None)
                yield service.check(manager, MonitoringSettings())
        finally:
            connection.execute(text(f"drop database {name} with (force)"))


def _plant(manager: ConnectionManager, schema: str, statements: tuple[str, ...], case: Planted | None) -> None:
    with connect(manager.settings, Profile.MAINTENANCE) as session:
        session.autocommit = True
        for statement in (f"create schema {schema}", f"set search_path = {schema}", *statements):
            if case is not None and statement in case.fails:
                with pytest.raises(psycopg.Error):
                    _run(session, statement, schema)
            else:
                _run(session, statement, schema)


def _run(session: psycopg.Connection[TupleRow], statement: str, schema: str) -> None:
    session.execute(statement.replace("{s}", schema).encode())


def _of(report: HealthReport, check: str, schema: str) -> list[Finding]:
    within = re.compile(rf"(schema )?{schema}($|[.])")
    return [found for found in report.findings if found.check == check and within.match(found.object or "")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_planted_case(case: Planted, report: HealthReport, server: Server) -> None:
    if case.oldest > server.major:
        pytest.skip(f"PostgreSQL {server.major} can't hold it: needs {case.oldest}")
    schema = f"c_{case.name}"[:60]
    expected = [] if case.found is None else [(case.found.format(s=schema), case.status)]
    assert [(found.object, found.status) for found in _of(report, case.check, schema)] == expected


@pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)
def test_a_healthy_twin(case: Planted, report: HealthReport) -> None:
    assert _of(report, case.check, f"t_{case.name}"[:60]) == []


def test_every_check_could_look(report: HealthReport) -> None:
    assert {result.check: result.reason for result in report.checks if result.status == "unknown"} == {}

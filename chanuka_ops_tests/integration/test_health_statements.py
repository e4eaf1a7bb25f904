"""Statements of a real server: slow ones, one that has become slow, and what is said where they can't be seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops.config import MonitoringSettings, Threshold
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health import service
from chanuka_ops.health.keeping import Keeper
from chanuka_ops.health.model import CheckResult
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres
# what a test can wait for; the limits of a team are of the same kind
LIMITS = MonitoringSettings(thresholds={"query.slow": Threshold(warning=40)})


@pytest.fixture(scope="module")
def loaded(pg: Binaries, session_dir: Path) -> Iterator[Server]:
    """A server with the library of pg_stat_statements."""
    settings = {"shared_preload_libraries": "'pg_stat_statements'", "fsync": "off"}
    with scratch(session_dir, pg, superuser="postgres", settings=settings) as running:
        yield running


@pytest.fixture
def watched(loaded: Server) -> Iterator[ConnectionManager]:
    """A database of that server with the extension, in a schema of another name."""
    with ConnectionManager("main", loaded.settings("postgres")) as manager:
        with manager.autocommit() as connection:
            connection.execute(text('create schema "odd schema"'))
            connection.execute(text('create extension pg_stat_statements schema "odd schema"'))
            connection.execute(text('select "odd schema".pg_stat_statements_reset()'))
        yield manager
        with manager.autocommit() as connection:
            connection.execute(text('drop schema "odd schema" cascade'))


def look(manager: ConnectionManager, state_dir: Path, check: str) -> CheckResult:
    keeper = Keeper(state_dir)
    (found,) = [one for one in service.check(manager, LIMITS, only=[check], keeper=keeper).checks if one.check == check]
    return found


def call(manager: ConnectionManager, seconds: float, times: int) -> None:
    with connect(manager.settings) as session:
        for _ in range(times):
            session.execute("select pg_sleep(%s), 'a secret'", [seconds])


def test_a_slow_statement_is_advice(watched: ConnectionManager, state_dir: Path) -> None:
    call(watched, 0.05, 4)
    found = look(watched, state_dir, "query.slow")
    (finding,) = found.findings
    assert finding.status == "info"
    assert finding.value is not None
    assert finding.value >= 50
    assert "pg_sleep" in finding.summary
    assert "a secret" not in finding.summary


def test_a_statement_that_became_slow_is_found_and_stays_so_until_it_is_cured(
    watched: ConnectionManager, state_dir: Path
) -> None:
    statuses = []
    for seconds, times in ((0.0, 80), (0.0, 20), (0.03, 12), (0.03, 12), (0.0, 20)):
        call(watched, seconds, times)
        statuses.append(str(look(watched, state_dir, "query.regression").status))
        time.sleep(1.05)
    assert statuses == ["info", "ok", "warning", "warning", "ok"]  # the first look has no baseline


def test_a_statement_that_was_never_seen_is_no_regression(watched: ConnectionManager, state_dir: Path) -> None:
    look(watched, state_dir, "query.regression")
    time.sleep(1.05)
    call(watched, 0.03, 12)
    assert look(watched, state_dir, "query.regression").status == "ok"


def test_without_the_extension_it_is_said_how_to_have_it(loaded: Server, state_dir: Path) -> None:
    with ConnectionManager("main", loaded.settings("template1")) as manager:
        found = look(manager, state_dir, "query.slow")
    assert (found.status, found.findings) == ("info", ())
    assert "create extension pg_stat_statements" in (found.reason or "")


def test_without_its_library_too(server: Server, manager: ConnectionManager, state_dir: Path) -> None:
    del server
    with manager.autocommit() as connection:
        connection.execute(text("create extension pg_stat_statements"))
    found = look(manager, state_dir, "query.slow")
    assert (found.status, found.findings) == ("info", ())
    assert "shared_preload_libraries" in (found.reason or "")


def test_a_role_that_may_not_see_others_statements_is_told_which_grant_it_needs(
    watched: ConnectionManager, loaded: Server, state_dir: Path
) -> None:
    with watched.autocommit() as connection:
        connection.execute(text("create role nearly_blind login"))
    try:
        url = str(loaded.settings("postgres").sqlalchemy_url.set(username="nearly_blind"))
        settings = loaded.settings("postgres").model_validate({"url": url})
        with ConnectionManager("main", settings) as manager:
            found = look(manager, state_dir, "query.slow")
    finally:
        with watched.autocommit() as connection:
            connection.execute(text("drop role nearly_blind"))
    assert found.status == "unknown"
    assert "pg_monitor" in (found.reason or "")


def test_a_monitoring_role_sees_them(watched: ConnectionManager, loaded: Server, state_dir: Path) -> None:
    call(watched, 0.05, 4)
    with watched.autocommit() as connection:
        connection.execute(text("create role eyes login in role pg_monitor"))
        connection.execute(text('grant usage on schema "odd schema" to eyes'))
    try:
        url = str(loaded.settings("postgres").sqlalchemy_url.set(username="eyes"))
        with ConnectionManager("main", loaded.settings("postgres").model_validate({"url": url})) as manager:
            found = look(manager, state_dir, "query.slow")
    finally:
        with watched.autocommit() as connection:
            connection.execute(text("drop owned by eyes"))
            connection.execute(text("drop role eyes"))
    assert [one.status for one in found.findings] == ["info"]


def test_a_schema_that_the_role_may_not_use_is_unknown(
    watched: ConnectionManager, loaded: Server, state_dir: Path
) -> None:
    with watched.autocommit() as connection:
        connection.execute(text("create role shut_out login in role pg_monitor"))
    try:
        url = str(loaded.settings("postgres").sqlalchemy_url.set(username="shut_out"))
        with ConnectionManager("main", loaded.settings("postgres").model_validate({"url": url})) as manager:
            found = look(manager, state_dir, "query.slow")
    finally:
        with watched.autocommit() as connection:
            connection.execute(text("drop role shut_out"))
    assert found.status == "unknown"
    assert "odd schema" in (found.reason or "")

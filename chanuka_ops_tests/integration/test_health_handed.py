"""Backups and drift in a database's health, through the orchestrator that both faces call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.health.keeping import DAEMON
from chanuka_ops.health.model import CheckResult
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres
BACKUPS = ["backup.proven_age", "backup.drill_failed"]


@pytest.fixture
def orchestrator(database: DatabaseSettings, state_dir: Path) -> Iterator[DatabaseOrchestrator]:
    with DatabaseOrchestrator.open(Settings(databases={"main": database}, state_dir=state_dir)) as opened:
        yield opened


def look(orchestrator: DatabaseOrchestrator, check: str) -> CheckResult:
    (found,) = [one for one in orchestrator.health([check]).checks if one.check == check]
    return found


def test_a_whole_look_has_the_checks_of_backups_and_drift(orchestrator: DatabaseOrchestrator) -> None:
    report = orchestrator.health()
    statuses = {one.check: str(one.status) for one in report.checks}
    assert {check: statuses[check] for check in (*BACKUPS, "schema.drift")} == {
        "backup.proven_age": "info",
        "backup.drill_failed": "ok",
        "schema.drift": "info",  # nothing was recorded: no plain ok
    }


def test_a_backup_counts_when_it_is_proven(orchestrator: DatabaseOrchestrator) -> None:
    backup_id = orchestrator.backup().backup_id
    assert look(orchestrator, "backup.proven_age").status == "critical"
    orchestrator.drill(backup_id)
    assert look(orchestrator, "backup.proven_age").status == "ok"


def test_the_daemon_asks_the_stores_now_and_then_and_a_person_each_time(orchestrator: DatabaseOrchestrator) -> None:
    assert orchestrator.health(BACKUPS, reader=DAEMON).status == "info"
    orchestrator.backup()
    assert orchestrator.health(BACKUPS, reader=DAEMON).status == "info"  # seen some moments ago
    assert orchestrator.health(BACKUPS).status == "critical"


def test_a_server_that_is_down_is_asked_once(state_dir: Path) -> None:
    database = DatabaseSettings.model_validate({"url": "postgresql://nobody@127.0.0.1:9/none"})
    with DatabaseOrchestrator.open(Settings(databases={"main": database}, state_dir=state_dir)) as orchestrator:
        report = orchestrator.health()
    statuses = {one.check: str(one.status) for one in report.checks}
    assert statuses["server.reachable"] == "critical"
    assert statuses["schema.drift"] == "unknown"
    assert statuses["backup.proven_age"] == "info"  # the stores are elsewhere, and were asked


@pytest.mark.slow
def test_what_was_changed_by_hand_since_the_last_migration_is_drift(orchestrator: DatabaseOrchestrator) -> None:
    orchestrator.run_migrations("up", "heads")
    assert look(orchestrator, "schema.drift").status == "ok"
    assert look(orchestrator, "schema.drift").status == "ok"  # remembered: the catalogue is as it was
    with connect(orchestrator.manager.settings) as session:
        session.execute("create table by_hand(v int)")
        session.commit()
    found = look(orchestrator, "schema.drift")
    assert found.status == "warning"
    assert "by_hand" in found.findings[0].summary
    with orchestrator.manager.autocommit() as connection:
        connection.execute(text("drop table by_hand"))
    assert look(orchestrator, "schema.drift").status == "ok"

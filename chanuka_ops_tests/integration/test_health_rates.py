"""Counters of a real server: planted between two looks, reset, not yet compared; the budget of a look; what is kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from chanuka_ops.config import MonitoringSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.health import registry, service
from chanuka_ops.health.keeping import FILE, Keeper
from chanuka_ops.health.model import CheckResult, HealthReport
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres
DEFAULTS = MonitoringSettings()
COUNTED = ("lock.deadlocks", "txn.rollback_ratio", "query.temp_files", "query.seq_scan_heavy", "table.low_hot")
# Sessions hand in their counters at their end, before 15 to a process that writes them down now and then.
COUNTED_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[ConnectionManager]:
    """A database with a large table; each test counts from where the one before left it."""
    name = f"rates_{uuid.uuid4().hex[:8]}"
    with ConnectionManager("admin", server.settings("postgres")) as admin, admin.autocommit() as connection:
        connection.execute(text(f"create database {name} template template0"))
        with ConnectionManager("shop", server.settings(name)) as manager:
            run(manager, "create table bills(id int primary key, v int)", "create table two(id int primary key, v int)",
                "insert into bills select g, g from generate_series(1, 40000) g", "insert into two values (1), (2)",
                "create index bills_v on bills(v)", "analyze bills")  # fmt: skip
            yield manager
        connection.execute(text(f"drop database {name} with (force)"))


def run(manager: ConnectionManager, *statements: str) -> None:
    """Run statements in a session that ends: it hands in its counters then."""
    with connect(manager.settings, Profile.MAINTENANCE) as session:
        session.autocommit = True
        for statement in statements:
            session.execute(statement.encode())


def look(manager: ConnectionManager, state_dir: Path, only: Sequence[str] | None = None) -> HealthReport:
    return service.check(manager, DEFAULTS, only=only, keeper=Keeper(state_dir))


def result(report: HealthReport, check: str) -> CheckResult:
    (found,) = [one for one in report.checks if one.check == check]
    return found


def deadlock(manager: ConnectionManager) -> None:
    """Let two sessions take two rows in different orders."""
    with connect(manager.settings) as first, connect(manager.settings) as second, ThreadPoolExecutor(1) as pool:
        for session in (first, second):
            session.execute("set deadlock_timeout = '50ms'")
        first.execute("update two set v = 1 where id = 1")
        second.execute("update two set v = 1 where id = 2")
        waiting = pool.submit(first.execute, "update two set v = 1 where id = 2")
        with suppress(psycopg.errors.DeadlockDetected):
            second.execute("update two set v = 1 where id = 1")
        second.rollback()
        with suppress(psycopg.errors.DeadlockDetected):
            waiting.result(30)
        first.rollback()


def appears(manager: ConnectionManager, state_dir: Path, check: str) -> CheckResult:
    """Look until the server has counted."""
    deadline = time.monotonic() + COUNTED_WITHIN_S
    while True:
        found = result(look(manager, state_dir, [check]), check)
        if found.findings or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def begin(manager: ConnectionManager, state_dir: Path, checks: Sequence[str]) -> None:
    """Make the first look; the next one has a baseline a second later."""
    for check in checks:
        assert "no baseline yet" in (result(look(manager, state_dir, [check]), check).reason or "")
    time.sleep(1.05)


def test_a_first_look_says_that_it_has_nothing_to_compare_with(shop: ConnectionManager, state_dir: Path) -> None:
    report = look(shop, state_dir)
    for check in registry.CHECKS:
        if check.rates is not None and not check.probes and check.severity != "ok":  # a chart has no verdict
            found = result(report, check.id)
            assert "no baseline yet: this is the first look" in (found.reason or ""), check.id
            assert found.status != "ok"


def test_deadlocks_are_those_since_the_last_look(shop: ConnectionManager, state_dir: Path) -> None:
    begin(shop, state_dir, ["lock.deadlocks"])
    deadlock(shop)
    found = appears(shop, state_dir, "lock.deadlocks")
    assert (found.status, found.value) == ("warning", 1.0)
    time.sleep(1.05)
    assert result(look(shop, state_dir, ["lock.deadlocks"]), "lock.deadlocks").status == "ok"


def test_what_totals_prove_is_said_at_first_as_info(shop: ConnectionManager, state_dir: Path) -> None:
    deadlock(shop)
    found = appears(shop, state_dir, "lock.deadlocks")  # a state directory of its own: nothing was seen before
    assert found.status == "info"
    assert "since its statistics began" in found.findings[0].summary


def test_activity_between_two_looks_is_found_and_what_stands_still_is_not(
    shop: ConnectionManager, state_dir: Path
) -> None:
    begin(shop, state_dir, COUNTED)
    sort = "select count(*) from (select md5(g::text) from generate_series(1, 60000) g order by 1) s"
    run(shop, *["select sum(v) from bills where v % 7 = 0"] * 25, "update bills set v = v + 1", "set work_mem = '64kB'",
        sort, sort, sort)  # fmt: skip
    with connect(shop.settings) as session:
        for _ in range(120):
            session.execute("select 1")
            session.rollback()
    for check in COUNTED[1:]:
        found = appears(shop, state_dir, check)
        assert [one.status for one in found.findings] == ["info"], check
    time.sleep(1.05)
    again = look(shop, state_dir, COUNTED)
    assert [one.check for one in again.findings if one.check in COUNTED[1:]] == []


def test_statistics_that_were_reset_are_noticed(shop: ConnectionManager, state_dir: Path) -> None:
    run(shop, *["select sum(v) from bills where v % 7 = 0"] * 30)
    begin(shop, state_dir, ["query.seq_scan_heavy", "lock.deadlocks"])
    run(shop, "select pg_stat_reset()")
    time.sleep(1.5)
    report = look(shop, state_dir, ["query.seq_scan_heavy", "lock.deadlocks"])
    assert all(one.value is None or one.value >= 0 for one in report.checks)
    assert [one for one in report.findings if one.check == "query.seq_scan_heavy"] == []


def test_another_database_of_the_same_name_is_no_baseline(
    shop: ConnectionManager, manager: ConnectionManager, state_dir: Path
) -> None:
    look(shop, state_dir, ["lock.deadlocks"])
    with ConnectionManager(shop.name, manager.settings) as other:
        found = result(look(other, state_dir, ["lock.deadlocks"]), "lock.deadlocks")
    assert "started, restored or replaced" in (found.reason or "")


def test_a_role_that_may_not_read_the_control_file_has_its_baseline_all_the_same(
    shop: ConnectionManager, state_dir: Path
) -> None:
    run(shop, "create role kept_out login in role pg_monitor",
        "revoke execute on function pg_control_system() from public")  # fmt: skip
    try:
        url = str(shop.settings.sqlalchemy_url.set(username="kept_out"))
        with ConnectionManager("shop", shop.settings.model_validate({"url": url})) as seen:
            begin(seen, state_dir, ["lock.deadlocks"])
            assert result(look(seen, state_dir, ["lock.deadlocks"]), "lock.deadlocks").status == "ok"
    finally:
        run(shop, "grant execute on function pg_control_system() to public", "drop role kept_out")


def test_checkpoints_by_hand_are_nobody_s_fault(shop: ConnectionManager, state_dir: Path) -> None:
    begin(shop, state_dir, ["wal.checkpoints_requested"])
    run(shop, *["checkpoint"] * 5)
    time.sleep(1.0)
    assert result(look(shop, state_dir, ["wal.checkpoints_requested"]), "wal.checkpoints_requested").status == "ok"


def test_numbers_are_kept_for_the_plots(shop: ConnectionManager, state_dir: Path) -> None:
    report = look(shop, state_dir)
    kept = Keeper(state_dir).history("shop", report_day())
    assert {one.check for one in kept if one.object is None} == {
        one.check
        for one in report.checks
        if one.value is not None and one.check not in {"self.cost", "server.reachable"}
    }


def report_day() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)


def test_a_file_that_can_t_be_used_is_said_and_stops_nothing(shop: ConnectionManager, state_dir: Path) -> None:
    (state_dir / FILE).mkdir()
    report = look(shop, state_dir)
    (said,) = [one for one in report.findings if one.check == "self.check_errors"]
    assert FILE in said.summary
    assert result(report, "schema.no_primary_key").status != "unknown"


def test_a_damaged_file_is_said_for_a_day(shop: ConnectionManager, state_dir: Path) -> None:
    (state_dir / FILE).write_bytes(b"not a database" * 1000)
    for _ in range(2):
        (said,) = [one for one in look(shop, state_dir).findings if one.check == "self.check_errors"]
        assert "set aside" in said.summary


def test_what_doesn_t_fit_into_the_budget_is_unknown_and_says_what_took_it(shop: ConnectionManager) -> None:
    """A catalogue that somebody has locked is slow to whoever reads it."""
    with connect(shop.settings, Profile.MAINTENANCE) as holder:
        holder.execute("lock table pg_catalog.pg_trigger in access exclusive mode")
        began = time.monotonic()
        report = service.check(shop, DEFAULTS.model_copy(update={"budget_s": 0.8}))
        took_s = time.monotonic() - began
        holder.rollback()
    reasons = {one.check: one.reason or "" for one in report.checks if one.status == "unknown"}
    assert any(reason.startswith(("LockTimeout", "StatementTimeout")) for reason in reasons.values())
    late = [reason for reason in reasons.values() if reason.startswith("the budget of 0.8 s was used up by ")]
    assert late
    assert all("operations.monitoring.budget" in reason for reason in late)
    assert took_s < 6.0  # not a second for each of the checks
    assert {one.check for one in report.checks} == {one.id for one in registry.CHECKS if not one.handed}
    assert all(one.seconds >= 0 for one in report.checks)


def test_within_the_budget_nothing_is_left_out(shop: ConnectionManager) -> None:
    report = service.check(shop, DEFAULTS)
    assert [one.check for one in report.checks if one.status == "unknown"] == []

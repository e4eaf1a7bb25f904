"""The service: a fresh database is well, what can't look says so, and nothing that fails stops the rest."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings, MonitoringSettings, Threshold
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.errors import ConfigurationError
from chanuka_ops.health import registry, service
from chanuka_ops.health.model import CheckResult, Finding, HealthReport, Scope, Status
from chanuka_ops.postgres.server import Server
from chanuka_ops.sql import catalog
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres
DEFAULTS = MonitoringSettings()
CATALOG = catalog.load(service.PACKAGE)
REPORT_KEYS = {"database", "status", "server_version", "seconds", "findings", "checks"}
FINDING_KEYS = {"check", "status", "object", "value", "unit", "threshold", "summary", "remedy"}
# The test server runs without fsync, and Debian's is a release behind: true findings, and not the database's.
OF_THE_TEST_SERVER = {"settings.unsafe_durability", "server.minor_behind", "server.version_eol"}


def _statuses(report: HealthReport) -> dict[str, Status]:
    return {result.check: result.status for result in report.checks}


def _other(settings: DatabaseSettings, change: Callable[[str], str]) -> DatabaseSettings:
    return settings.model_copy(update={"url": SecretStr(change(settings.url.get_secret_value()))})


@contextmanager
def _role(manager: ConnectionManager, grants: str) -> Iterator[ConnectionManager]:
    """A login role with some grants, and a manager that uses it."""
    name = f"eyes_{manager.settings.sqlalchemy_url.database}"
    with manager.autocommit() as connection:
        connection.execute(text(f"create role {name} login"))
        connection.execute(text(grants.replace("{role}", name)))
        url = manager.settings.sqlalchemy_url.set(username=name).render_as_string(hide_password=False)
        with ConnectionManager("main", _other(manager.settings, lambda _: url)) as seen:
            yield seen
        connection.execute(text(f"drop owned by {name}"))
        connection.execute(text(f"drop role {name}"))


def _execute(manager: ConnectionManager, *statements: str) -> None:
    with manager.autocommit() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.fixture(scope="module")
def anywhere(server: Server) -> Iterator[ConnectionManager]:
    """A database that no test changes."""
    with ConnectionManager("anywhere", server.settings("postgres")) as manager:
        yield manager


@pytest.mark.parametrize("block", CATALOG.blocks, ids=lambda block: f"{block.name}_{block.since}")
def test_every_block_runs_read_only_on_this_server(
    block: catalog.Block, anywhere: ConnectionManager, server: Server
) -> None:
    if block.since > server.major:
        pytest.skip(f"for PostgreSQL {block.since} and later")
    with anywhere.read() as connection:
        connection.exec_driver_sql("set local search_path = pg_catalog, pg_temp")
        connection.execute(text(block.sql)).all()


def test_a_fresh_database_has_nothing_above_info(manager: ConnectionManager) -> None:
    report = service.check(manager, DEFAULTS)
    alarms = [found for found in report.findings if found.status not in {"ok", "info"}]
    assert {found.check for found in alarms} <= OF_THE_TEST_SERVER
    assert not any(registry.find(found.check).scope is Scope.DATABASE for found in alarms)
    assert set(_statuses(report)) == {one.id for one in registry.CHECKS if not one.handed}
    assert report.seconds < 20  # a bound that a loaded machine keeps; benchmarks/health.py has the figure


def test_the_report_is_the_contracts_document(manager: ConnectionManager, server: Server) -> None:
    _execute(manager, "create table t(v int)")
    document = json.loads(json.dumps(service.check(manager, DEFAULTS).to_json()))
    assert set(document) == REPORT_KEYS
    assert document["database"] == "main"
    assert document["server_version"].startswith(f"{server.major}.")
    assert all(set(found) == FINDING_KEYS for found in document["findings"])
    assert all({"check", "status", "seconds"} <= set(row) for row in document["checks"])
    (cache,) = [row for row in document["checks"] if row["check"] == "cache.hit_ratio"]
    assert cache["status"] == "ok"
    assert 0 < cache["value"] <= 100


def test_findings_come_worst_first(manager: ConnectionManager) -> None:
    _execute(manager, "create table t(v int)", "grant insert on t to public", "create sequence s as smallint",
             "select setval('s', 32767)")  # fmt: skip
    ranks = [found.status.rank for found in service.check(manager, DEFAULTS).findings]
    assert ranks == sorted(ranks, reverse=True)


def test_only_and_disabled_choose(manager: ConnectionManager) -> None:
    disabled = MonitoringSettings(disabled=frozenset({"index.unused", "cache.hit_ratio"}))
    assert not {"index.unused", "cache.hit_ratio"} & set(_statuses(service.check(manager, disabled)))
    asked = service.check(manager, disabled, only=["index.unused", "index.invalid"])
    assert set(_statuses(asked)) == {"index.unused", "index.invalid"}


def test_an_unknown_id_is_a_usage_error_that_names_close_ones(manager: ConnectionManager) -> None:
    with pytest.raises(ConfigurationError, match=r"'index\.invald' \(did you mean index\.invalid"):
        service.check(manager, DEFAULTS, only=["index.invald"])


def test_a_setting_for_no_check_is_told(manager: ConnectionManager) -> None:
    typo = MonitoringSettings(thresholds={"vacuum.dead_tuple": Threshold(warning=10)})
    (found,) = [one for one in service.check(manager, typo).findings if one.check == "self.check_errors"]
    assert found.status == "info"
    assert "did you mean vacuum.dead_tuples" in found.summary


def test_a_locked_table_blinds_its_own_check_only(manager: ConnectionManager) -> None:
    _execute(
        manager,
        "create table m(at date) partition by range (at)",
        "create table m_default partition of m default",
        "insert into m values ('2026-01-01')",
        "create table keyless(v int)",
    )
    with connect(manager.settings, Profile.MAINTENANCE) as holder:
        holder.execute("lock table m_default, keyless in access exclusive mode")
        report = service.check(manager, DEFAULTS)
    statuses = _statuses(report)
    assert statuses["partition.default_rows"] == "unknown"
    assert statuses["schema.no_primary_key"] == "info"
    assert statuses["self.check_errors"] == "warning"
    assert report.status in {Status.UNKNOWN, Status.CRITICAL}
    (row,) = [result for result in report.checks if result.check == "partition.default_rows"]
    assert row.reason is not None
    assert "LockTimeout" in row.reason
    assert [found.object for found in report.findings if found.check == "self.check_errors"] == [
        "partition.default_rows"
    ]


def test_a_role_that_only_monitors_is_blind_and_says_so(manager: ConnectionManager) -> None:
    _execute(
        manager,
        "create table vis(id int primary key, v text)",
        "insert into vis select g, repeat(md5(g::text), 8) from generate_series(1, 20000) g",
        "create sequence hidden",
    )
    with _role(manager, "grant pg_monitor to {role}") as blind:
        report = service.check(blind, DEFAULTS)
    statuses = _statuses(report)
    for check in ("self.visibility", "table.bloat", "index.bloat", "stats.missing", "sequence.exhaustion"):
        assert statuses[check] == "unknown", check
    for check in ("session.long_query", "lock.blocked", "connections.saturation", "schema.no_primary_key"):
        assert statuses[check] == "ok", check
    (finding,) = [found for found in report.findings if found.check == "self.visibility"]
    assert "grant pg_read_all_data" in finding.remedy
    assert not [found for found in report.findings if found.check.endswith("bloat") and found.status != "unknown"]
    assert statuses["self.check_errors"] == "ok"


def test_a_role_that_only_monitors_breaks_no_check(manager: ConnectionManager) -> None:
    _execute(
        manager,
        "create extension pgstattuple",
        "create table air(id int primary key, v text, big oid)",
        "insert into air select g, repeat('x', 300) from generate_series(1, 20000) g",
        "delete from air where id % 5 <> 0",
        "vacuum (analyze) air",
        "create table m(id bigint primary key) partition by range (id)",
        "create table m1 partition of m for values from (0) to (1000)",
        "insert into m values (990)",
        "select lo_from_bytea(0, 'x')",
        "create publication p for all tables",
    )
    with _role(manager, "grant pg_monitor to {role}") as blind:
        report = service.check(blind, DEFAULTS)
    assert [found.summary for found in report.findings if found.check == "self.check_errors"] == []
    unknown = {result.check: result.reason for result in report.checks if result.status == "unknown"}
    assert all(reason and ("grant" in reason or "role" in reason) for reason in unknown.values()), unknown
    assert "storage.orphan_large_objects" in unknown
    _execute(manager, "select lo_unlink(oid) from pg_largeobject_metadata")


def test_a_role_without_any_grant_sees_no_sessions(manager: ConnectionManager) -> None:
    with _role(manager, "select 1") as blind:
        report = service.check(blind, DEFAULTS)
    statuses = _statuses(report)
    for check in ("session.idle_in_transaction", "session.long_query", "lock.blocked", "txn.xmin_horizon"):
        assert statuses[check] == "unknown", check
    (finding,) = [found for found in report.findings if found.check == "self.visibility"]
    assert finding.object == "sessions"
    assert "pg_monitor" in finding.remedy


def test_the_grants_it_names_cure_what_it_names(manager: ConnectionManager) -> None:
    _execute(manager, "create table vis(id int primary key)", "insert into vis values (1)", "create sequence hidden")
    grants = (
        "grant pg_monitor, pg_read_all_data to {role}; grant select on pg_file_settings, pg_hba_file_rules to {role};"
        " grant execute on function pg_show_all_file_settings(), pg_hba_file_rules() to {role}"
    )
    with _role(manager, grants) as seeing:
        report = service.check(seeing, DEFAULTS)
    unknown = {result.check: result.reason for result in report.checks if result.status == "unknown"}
    assert unknown == {}


def test_the_session_can_write_nothing(manager: ConnectionManager) -> None:
    _execute(manager, "create table t(v int)")
    with (
        service._session(manager) as connection,
        pytest.raises(Exception, match="read-only transaction"),
    ):
        connection.exec_driver_sql("insert into public.t values (1)")


def test_a_connection_that_breaks_in_mid_run_leaves_a_report(manager: ConnectionManager) -> None:
    _execute(
        manager,
        "create table m(at date) partition by range (at)",
        "create table m_default partition of m default",
    )
    with (
        connect(manager.settings, Profile.MAINTENANCE) as holder,
        connect(manager.settings, Profile.MAINTENANCE) as watcher,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("lock table m_default in access exclusive mode")
        watcher.autocommit = True  # within a transaction pg_stat_activity stays as it was first seen
        look = pool.submit(service.check, manager, DEFAULTS)
        ended = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock' and datname = %s"
        while not look.done() and not watcher.execute(ended, [manager.settings.sqlalchemy_url.database]).fetchall():
            time.sleep(0.02)
        report = look.result(timeout=30)
    statuses = _statuses(report)
    (finding,) = [found for found in report.findings if found.check == "server.reachable"]
    assert finding.summary.startswith("connection lost: ")
    assert report.status == "critical"
    assert statuses["schema.no_primary_key"] == "info"  # looked at before it broke
    assert statuses["partition.default_rows"] == "unknown"
    assert statuses["storage.orphan_large_objects"] == "unknown"  # would have come after


def _closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_server_that_is_down_is_a_finding_and_no_exception() -> None:
    settings = DatabaseSettings(url=SecretStr(f"postgresql+psycopg://nobody@127.0.0.1:{_closed_port()}/none"))
    with ConnectionManager("main", settings) as down:
        report = service.check(down, DEFAULTS)
    (finding,) = report.findings
    assert (finding.check, finding.status) == ("server.reachable", "critical")
    assert finding.summary.startswith("unavailable: ")
    assert (report.status, report.server_version) == ("critical", None)
    own = {"server.reachable", "self.check_errors", "self.cost"}
    assert {status for check, status in _statuses(report).items() if check not in own} == {Status.UNKNOWN}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"database": "no_such_database"}, "database missing"),
        ({"username": "no_such_role"}, "authentication"),
    ],
)
def test_kinds_of_refusal_are_told_apart(manager: ConnectionManager, change: dict[str, str], kind: str) -> None:
    url = manager.settings.sqlalchemy_url.set(**change).render_as_string(hide_password=False)  # type: ignore[arg-type]  # its own keywords
    with ConnectionManager("main", _other(manager.settings, lambda _: url)) as refused:
        (finding,) = service.check(refused, DEFAULTS).findings
    assert finding.summary.startswith(f"{kind}: ")


def test_results_found_elsewhere_become_part_of_the_report(manager: ConnectionManager) -> None:
    old = Finding(
        "backup.proven_age", Status.CRITICAL, None, 90.0, "h", 26.0, "no proven backup for 90 h", "run a drill"
    )
    extra = [CheckResult("backup.proven_age", Status.CRITICAL, 0.1, (old,))]
    report = service.check(manager, DEFAULTS, extra=extra)
    assert report.status == "critical"
    assert report.findings[0] == old or report.findings[1] == old
    asked = service.check(manager, DEFAULTS, only=["backup.proven_age"], extra=extra)
    assert set(_statuses(asked)) == {"backup.proven_age"}


def test_names_that_need_quotes_stay_usable(manager: ConnectionManager) -> None:
    _execute(
        manager,
        'create schema "My Schema"',
        'create table "My Schema"."T ""x"" %"(id int primary key)',
        'insert into "My Schema"."T ""x"" %" values (2000000000)',
    )
    report = service.check(manager, DEFAULTS, only=["schema.int_key_overflow"])
    (finding,) = report.findings
    assert finding.object == '"My Schema"."T ""x"" %"(id)'


def test_a_collation_whose_library_changed(manager: ConnectionManager) -> None:
    _execute(
        manager,
        "create collation other (provider = libc, locale = 'en_US.utf8')"
        if _has_locale(manager)
        else "create collation other (provider = libc, locale = 'C')",
        "create table t(v text collate other)",
    )
    with manager.transaction() as connection:
        known = connection.exec_driver_sql(
            "update pg_collation set collversion = '0' where collname = 'other'"
            " and pg_collation_actual_version(oid) is not null"
        ).rowcount
    findings = service.check(manager, DEFAULTS, only=["collation.version_mismatch"]).findings
    assert [(found.object, found.status) for found in findings] == ([("public.other", "critical")] if known else [])


def _has_locale(manager: ConnectionManager) -> bool:
    with manager.read() as connection:
        return bool(
            connection.exec_driver_sql("select count(*) from pg_collation where collname = 'en_US.utf8'").scalar_one()
        )


def test_a_database_whose_collation_library_changed(manager: ConnectionManager, server: Server) -> None:
    if server.major < 15:
        pytest.skip("versions of databases are recorded from 15 on")
    with manager.transaction() as connection:
        connection.exec_driver_sql("update pg_database set datcollversion = '0' where datname = current_database()")
        actual = connection.exec_driver_sql(
            "select pg_database_collation_actual_version(oid) from pg_database where datname = current_database()"
        ).scalar_one()
    findings = service.check(manager, DEFAULTS, only=["collation.version_mismatch"]).findings
    name = manager.settings.sqlalchemy_url.database
    assert [found.object for found in findings] == ([f"database {name}"] if actual is not None else [])


def test_a_password_kept_as_md5_and_one_that_ends(manager: ConnectionManager) -> None:
    name = f"old_{manager.settings.sqlalchemy_url.database}"
    _execute(
        manager,
        f"create role {name} login password 'md5{'0' * 32}' valid until '{'2026-01-01'}'",
    )
    try:
        report = service.check(manager, DEFAULTS, only=["security.md5_password", "security.password_expiring"])
    finally:
        _execute(manager, f"drop role {name}")
    assert {(found.check, found.object) for found in report.findings} == {
        ("security.md5_password", name),
        ("security.password_expiring", name),
    }

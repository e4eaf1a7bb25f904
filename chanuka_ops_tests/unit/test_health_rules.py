"""Each rule by a table of cases: rows as read, facts and limits in; findings out. No server, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chanuka_ops import errors
from chanuka_ops.config import MonitoringSettings, Threshold
from chanuka_ops.health import registry
from chanuka_ops.health.model import Case, CheckResult, Facts, Limits, Need, Status, worst
from chanuka_ops.health.rules import bloat, indexes, keys, locks, replication, transactions, triggers
from chanuka_ops.health.service import limits_of, result_of

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FACTS = Facts(now=NOW, server_version=180006, database="shop")
Row = dict[str, Any]


def judge(check: str, *rows: Mapping[str, Any], facts: Facts = FACTS, limit: float | None = None) -> CheckResult:
    """Run one check's rule as the service does."""
    one = registry.find(check)
    monitoring = MonitoringSettings(thresholds={} if limit is None else {check: Threshold(warning=limit)})
    return result_of(one, Case(one, limits_of(one, monitoring), facts), rows, 0.0)


# ── statuses and limits ──────────────────────────────────────────────────────────────────────────────────────────────


def test_unknown_is_worse_than_warning_and_better_than_critical() -> None:
    assert [status.rank for status in (Status.OK, Status.INFO, Status.WARNING, Status.UNKNOWN, Status.CRITICAL)] == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip
    assert worst([]) is Status.OK
    assert worst([Status.WARNING, Status.UNKNOWN]) is Status.UNKNOWN
    assert worst([Status.CRITICAL, Status.UNKNOWN]) is Status.CRITICAL


@pytest.mark.parametrize(
    ("own", "first", "second", "expected"),
    [
        (Limits(80, 90), None, None, Limits(80, 90)),
        (Limits(80, 90), 50, None, Limits(50, 90)),
        (Limits(80, 90), 95, None, Limits(95, 95)),  # raised past critical: nothing below it may be critical
        (Limits(80, 90), None, 99, Limits(80, 99)),
        (Limits(80), None, 99, Limits(80, 99)),
    ],
)
def test_limits_are_overlaid(own: Limits, first: float | None, second: float | None, expected: Limits) -> None:
    assert own.overlaid(first, second) == expected


@pytest.mark.parametrize("stated", [Threshold(warning=7), Threshold(critical=7)])
def test_a_check_that_is_critical_at_once_has_one_limit(stated: Threshold) -> None:
    one = registry.find("txn.prepared_orphan")
    assert limits_of(one, MonitoringSettings(thresholds={one.id: stated})) == Limits(7)


def test_every_check_is_declared_whole() -> None:
    assert len({check.id for check in registry.CHECKS}) == len(registry.CHECKS)
    for check in registry.CHECKS:
        assert check.explanation.endswith("."), check.id
        assert not check.title.endswith("."), check.id
        assert set(check.to_json()) >= {"check", "title", "severity", "min_version", "needs"}
    assert registry.find("connections.saturation").severity == "warning → critical"


# ── server ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.TargetUnavailable("x"), "unavailable"),
        (errors.TargetStarting("x"), "starting"),
        (errors.TargetSaturated("x"), "saturated"),
        (errors.AuthenticationFailed("x"), "authentication"),
        (errors.DatabaseMissing("x"), "database missing"),
        (errors.ConnectionLost("x"), "connection lost"),
        (errors.ConnectError("x"), "refused"),
    ],
)
def test_failures_to_connect_are_told_apart(error: errors.DatabaseError, kind: str) -> None:
    (finding,) = judge("server.reachable", {"error": error}).findings
    assert (finding.status, finding.summary) == ("critical", f"{kind}: x")


@pytest.mark.parametrize(
    ("version", "status"),
    [(130023, "warning"), (140024, "warning"), (150019, "ok"), (180006, "ok"), (990000, "unknown")],
)
def test_the_end_of_support(version: int, status: str) -> None:
    assert judge("server.version_eol", facts=replace(FACTS, server_version=version)).status == status


def test_the_end_of_support_is_an_info_half_a_year_before() -> None:
    facts = replace(FACTS, server_version=150019, now=datetime(2027, 8, 1, tzinfo=UTC))
    assert judge("server.version_eol", facts=facts).status == "info"


@pytest.mark.parametrize(
    ("version", "days_after_release", "status"),
    [(170011, 100, "ok"), (170009, 100, "warning"), (170009, 5, "info"), (170012, 100, "ok"), (990000, 0, "ok")],
)
def test_a_minor_release_behind(version: int, days_after_release: int, status: str) -> None:
    now = datetime(2026, 8, 13, 12, tzinfo=UTC) + timedelta(days=days_after_release)
    assert judge("server.minor_behind", facts=replace(FACTS, server_version=version, now=now)).status == status


@pytest.mark.parametrize(
    ("check", "settings", "status"),
    [
        ("settings.autovacuum_off", {"autovacuum": "off"}, "critical"),
        ("settings.autovacuum_off", {"autovacuum": "on"}, "ok"),
        ("settings.track_counts_off", {"track_counts": "off"}, "critical"),
        ("settings.unsafe_durability", {"fsync": "off"}, "critical"),
        ("settings.unsafe_durability", {"full_page_writes": "off"}, "critical"),
        ("settings.unsafe_durability", {"zero_damaged_pages": "on"}, "critical"),
        ("settings.unsafe_durability", {"synchronous_commit": "off"}, "warning"),
        ("settings.unsafe_durability", {"fsync": "on", "synchronous_commit": "local"}, "ok"),
    ],
)
def test_dangerous_settings(check: str, settings: dict[str, str], status: str) -> None:
    assert judge(check, facts=replace(FACTS, settings=settings)).status == status


def _line(**changes: Any) -> Row:
    row = {"file": "postgresql.conf", "line": 3, "name": "work_mem", "setting": "lots", "error": "setting could not be"
           " applied", "context": "user", "vartype": "integer", "pending_restart": False}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_line(), "warning"),
        (_line(name=None, setting=None, context=None, error="syntax error"), "warning"),
        (_line(name="max_connections", context="postmaster", setting="200"), "ok"),  # waits for a restart, that's all
        (_line(name="max_connections", context="postmaster", setting="200", pending_restart=True), "ok"),
        (_line(name="max_connections", context="postmaster", setting="many"), "warning"),
    ],
)
def test_configuration_errors(row: Row, status: str) -> None:
    assert judge("settings.config_error", row).status == status


def test_the_hit_ratio_is_a_measurement_and_never_a_finding() -> None:
    result = judge("cache.hit_ratio", {"hit": 1, "read": 99})
    assert (result.status, result.findings, result.value, result.unit) == ("ok", (), 1.0, "%")
    assert judge("cache.hit_ratio", {"hit": 0, "read": 0}).value is None


# ── sessions and locks ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("used", "allowed", "status"), [(79, 100, "ok"), (80, 100, "warning"), (90, 100, "critical"), (5, 0, "ok")]
)
def test_saturation(used: int, allowed: int, status: str) -> None:
    row = {"kind": "server", "name": None, "used": used, "allowed": allowed, "idle": 0}
    assert judge("connections.saturation", row).status == status


def _session(**changes: Any) -> Row:
    row = {"pid": 7, "user": "app", "application": "web", "state": "idle in transaction", "state_s": 400.0,
           "query_s": 400.0, "holds_xid": False, "holds_xmin": False, "query": "select 1"}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    ("row", "limit", "status"),
    [
        (_session(), None, "warning"),
        (_session(state="idle in transaction (aborted)"), None, "warning"),
        (_session(state_s=299.0), None, "ok"),
        (_session(state_s=2.0), 1, "warning"),
        (_session(state="idle"), None, "ok"),
        (_session(state="active"), None, "ok"),
        (_session(application="pg_dump"), None, "ok"),
        (_session(application="chanuka/backup.create/1234"), None, "ok"),
        (_session(state_s=None), None, "ok"),
    ],
)
def test_idle_in_transaction(row: Row, limit: float | None, status: str) -> None:
    assert judge("session.idle_in_transaction", row, limit=limit).status == status


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_session(state="active"), "warning"),
        (_session(state="active", query_s=10.0), "ok"),
        (_session(state="active", application="pg_dump"), "ok"),
        (_session(state="idle in transaction"), "ok"),
    ],
)
def test_long_query(row: Row, status: str) -> None:
    assert judge("session.long_query", row).status == status


def _wait(pid: int, *blockers: int, **changes: Any) -> Row:
    row = {"pid": pid, "blockers": list(blockers), "user": "app", "application": "web", "state": "active", "query": "…",
           "mode": "ShareLock" if blockers else None, "locktype": "transactionid" if blockers else None,
           "relation": None, "waits_s": 3.0, "locked_out": None}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    ("rows", "roots"),
    [
        ([_wait(1), _wait(2, 1), _wait(3, 2)], ["pid 1"]),
        ([_wait(1), _wait(2, 1), _wait(3, 1, 2)], ["pid 1"]),
        ([_wait(1), _wait(9), _wait(2, 1), _wait(3, 9)], ["pid 1", "pid 9"]),
        ([_wait(2, 0)], ["pid 0"]),  # a prepared transaction has no session
        ([_wait(1, 2), _wait(2, 1)], ["pid 1"]),  # a ring, before the deadlock is broken
        ([_wait(1, 2), _wait(2, 1), _wait(3, 2)], ["pid 1"]),
        ([_wait(1), _wait(2, 1, waits_s=0.1)], []),
        ([], []),
    ],
)
def test_blocking_chains_name_their_root(rows: list[Row], roots: list[str]) -> None:
    assert [found.object for found in judge("lock.blocked", *rows).findings] == roots


def test_victims_are_counted_through_the_chain() -> None:
    by_pid: dict[int, Mapping[str, Any]] = {
        row["pid"]: row for row in (_wait(1), _wait(2, 1), _wait(3, 2), _wait(4, 3))
    }
    assert locks._victims(by_pid, 1) == {2, 3, 4}


def _ddl(pid: int, *blockers: int, mode: str = "AccessExclusiveLock") -> Row:
    return _wait(pid, *blockers, mode=mode, locktype="relation", relation="public.t")


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([_wait(1), _ddl(2, 1), _ddl(3, 2, mode="AccessShareLock")], "critical"),
        ([_wait(1), _ddl(2, 1)], "ok"),
        ([_wait(1), _wait(2, 1), _wait(3, 2)], "ok"),
        ([_wait(1), _ddl(2, 1, mode="RowExclusiveLock"), _ddl(3, 2, mode="AccessShareLock")], "ok"),
    ],
)
def test_queue_behind_ddl(rows: list[Row], status: str) -> None:
    assert judge("lock.ddl_queue", *rows).status == status


# ── transaction ids ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("age", "freeze_max", "status"),
    [
        (190_000_000, 200_000_000, "ok"),
        (250_000_000, 200_000_000, "ok"),  # autovacuum is at work on it
        (400_000_000, 200_000_000, "warning"),
        (1_200_000_000, 200_000_000, "critical"),
        (1_200_000_000, 1_500_000_000, "ok"),  # a high freeze age is no alarm
        (2_000_000_000, 1_500_000_000, "critical"),
    ],
)
def test_wraparound_is_relative_to_the_room_there_is(age: int, freeze_max: int, status: str) -> None:
    facts = replace(FACTS, settings={"autovacuum_freeze_max_age": str(freeze_max)})
    row = {"name": "shop", "here": True, "xid_age": age, "mxid_age": 0}
    assert judge("txn.wraparound", row, facts=facts).status == status


def test_multixacts_have_limits_of_their_own() -> None:
    facts = replace(FACTS, settings={"autovacuum_multixact_freeze_max_age": "400000000"})
    rows = [{"name": "shop", "here": True, "xid_age": 2_100_000_000, "mxid_age": age} for age in (0, 700_000_000)]
    assert [judge("txn.multixact", row, facts=facts).status for row in rows] == ["ok", "warning"]


def _aged(**changes: Any) -> Row:
    row = {"name": "public.t", "xid_age": 150, "toast_xid_age": None, "own_xid_limit": None, "toast_xid_limit": None,
           "mxid_age": 0, "toast_mxid_age": None, "own_mxid_limit": None, "toast_mxid_limit": None,
           "being_vacuumed": False}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_aged(), "ok"),
        (_aged(own_xid_limit=100), "warning"),
        (_aged(own_xid_limit=50), "critical"),
        (_aged(own_xid_limit=100, being_vacuumed=True), "ok"),
        (_aged(own_xid_limit=5000, xid_age=1500), "warning"),  # a table can't raise the server's limit
        (_aged(toast_xid_age=1500), "warning"),
        (_aged(toast_xid_age=150, toast_xid_limit=100), "warning"),
        (_aged(mxid_age=15_000, own_mxid_limit=10_000), "warning"),
        (_aged(toast_mxid_age=25_000, toast_mxid_limit=10_000), "critical"),
    ],
)
def test_freeze_age_by_the_tables_own_limit(row: Row, status: str) -> None:
    facts = replace(FACTS, settings={"autovacuum_freeze_max_age": "1000"})
    assert judge("vacuum.freeze_age", row, facts=facts).status == status


def test_only_the_oldest_holder_of_the_horizon_is_a_finding() -> None:
    rows = [
        {"kind": kind, "name": name, "xids": xids, "seconds": None, "detail": ""}
        for kind, name, xids in (("session", "5", 10), ("replication slot", "s", 20_000_000), ("standby", "b", None))
    ]
    (found,) = judge("txn.xmin_horizon", *rows).findings
    assert (found.object, found.status) == ("replication slot s", "warning")
    assert judge("txn.xmin_horizon").status == "ok"


# ── vacuum and statistics ────────────────────────────────────────────────────────────────────────────────────────────


def _table(**changes: Any) -> Row:
    row = {"name": "public.t", "root": "public.t", "persistence": "p", "reltuples": 100_000.0, "live": 100_000,
           "dead": 0, "modified": 0, "updated": 0, "hot_updated": 0, "inserted": 500_000, "deleted": 0,
           "analyzed": True,
           "toast_reltuples": None, "toast_dead": None, "options": {}, "toast_options": {},
           "being_vacuumed": False}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    ("row", "major", "trigger"),
    [
        (_table(), 18, 20_050),
        (_table(options={"autovacuum_vacuum_scale_factor": "0.01"}), 18, 1_050),
        (_table(options={"autovacuum_vacuum_threshold": "0"}), 18, 20_000),
        (_table(reltuples=-1.0, live=1_000), 18, 250),
        (_table(reltuples=1e10), 18, 100_000_000),  # the ceiling that came with 18
        (_table(reltuples=1e10), 15, 2_000_000_050),
        (_table(reltuples=1e10, options={"autovacuum_vacuum_max_threshold": "-1"}), 18, 2_000_000_050),
    ],
)
def test_the_vacuum_trigger_is_the_servers_own_formula(row: Row, major: int, trigger: float) -> None:
    settings = {"autovacuum_vacuum_max_threshold": "100000000"} if major >= 18 else {}
    assert triggers.vacuum_trigger(row, replace(FACTS, settings=settings)) == pytest.approx(trigger)


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_table(dead=20_000), "ok"),
        (_table(dead=24_000), "ok"),
        (_table(dead=25_000), "warning"),
        (_table(dead=31_000, being_vacuumed=True), "ok"),
        (_table(dead=31_000, options={"autovacuum_vacuum_scale_factor": "0.5"}), "ok"),
        (_table(dead=9_000, reltuples=100.0), "ok"),  # too few to feel
        (_table(dead=9_000, reltuples=100.0, options={"autovacuum_vacuum_threshold": "500"}), "warning"),  # it was said
        (_table(toast_dead=50_000, toast_reltuples=1000.0), "warning"),
    ],
)
def test_dead_tuples(row: Row, status: str) -> None:
    assert judge("vacuum.dead_tuples", row).status == status


@pytest.mark.parametrize("word", ["false", "off", "no", "0"])
def test_autovacuum_off_in_any_spelling(word: str) -> None:
    assert judge("vacuum.disabled_table", _table(options={"autovacuum_enabled": word})).status == "warning"
    assert judge("vacuum.disabled_table", _table(toast_options={"autovacuum_enabled": word})).status == "warning"


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_table(modified=10_000), "ok"),
        (_table(modified=21_000), "warning"),
        (_table(modified=21_000, analyzed=False), "ok"),  # that is stats.missing
        (_table(modified=9_000, reltuples=100.0), "ok"),
        (_table(modified=100_000, inserted=100_000), "ok"),  # counted after the ANALYZE that saw them
        (_table(modified=100_000, inserted=100_000, reltuples=0.0), "warning"),  # analysed while empty
    ],
)
def test_stale_statistics(row: Row, status: str) -> None:
    assert judge("stats.stale", row).status == status


def _statistics(**changes: Any) -> Row:
    row = {"root": "public.t", "reltuples": -1.0, "live": 20_000, "readable": True, "has_statistics": False}
    return {**row, **changes}


@pytest.mark.parametrize(
    ("rows", "status", "objects"),
    [
        ([_statistics()], "warning", ["public.t"]),
        ([_statistics(), _statistics()], "warning", ["public.t"]),  # two partitions of one table
        ([_statistics(live=100)], "ok", []),
        ([_statistics(has_statistics=True)], "ok", []),
        ([_statistics(readable=False)], "unknown", [None]),
    ],
)
def test_missing_statistics(rows: list[Row], status: str, objects: list[str | None]) -> None:
    result = judge("stats.missing", *rows)
    assert (result.status, [found.object for found in result.findings]) == (status, objects)


# ── bloat ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _column(length: int, align: str, width: int | None = None, nulls: float = 0.0) -> Row:
    return {"length": length, "align": align, "width": length if width is None else width, "nulls": nulls}


@pytest.mark.parametrize(
    ("columns", "width"),
    [
        ([_column(4, "i")], 4),
        ([_column(4, "i"), _column(8, "d"), _column(4, "i")], 20),  # 4, 4 of padding, 8, 4
        ([_column(-1, "i", 33)], 33),
        ([_column(1, "c"), _column(-1, "i", 200)], 204),  # a long one is aligned
        ([_column(8, "d", nulls=0.5)], 4),
    ],
)
def test_padding_is_counted_as_the_server_packs(columns: list[Row], width: float) -> None:
    assert bloat.data_width(columns) == width


def _sized(**changes: Any) -> Row:
    row = {"name": "public.t", "table": "public.t", "tuples": 100_000.0, "bytes": 100e6, "block": 8192,
           "fillfactor": 100, "live": 100_000, "modified": 0, "inserted": 0, "updated": 0, "deleted": 0,
           "readable": True, "probed": None,
           "columns": [_column(8, "d"), _column(-1, "i", 100)]}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize("check", ["table.bloat", "index.bloat"])
@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_sized(), "warning"),
        (_sized(bytes=14.0e6), "ok"),
        (_sized(bytes=3e6, tuples=100.0, live=100), "ok"),  # nothing to win
        (_sized(modified=50_000), "info"),  # not judged, and not a plain ok
        (_sized(tuples=-1.0), "info"),
        (_sized(columns=[{**_column(8, "d"), "width": None}]), "info"),
        (_sized(readable=False), "unknown"),
    ],
)
def test_air_is_judged_only_where_its_inputs_are_sound(check: str, row: Row, status: str) -> None:
    result = judge(check, row)
    assert result.status == status
    assert (result.reason is not None) == (status in {"info", "unknown"})


def test_a_fillfactor_is_no_air() -> None:
    full = bloat.table_air(_sized(bytes=14.0e6))
    assert full < 1e6
    assert bloat.table_air(_sized(bytes=28.0e6, fillfactor=50)) < 2e6


# ── indexes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _index(oid: int, **changes: Any) -> Row:
    row = {"oid": oid, "table_oid": 1, "name": f"public.i{oid}", "table": "public.t", "method": "btree", "keys": ["1"],
           "key_columns": [1], "included": [], "predicate": "", "is_unique": False, "is_immediate": True,
           "is_primary": False, "is_exclusion": False, "is_identity": False, "nulls_not_distinct": "false",
           "is_partition": False, "backs_constraint": False, "is_referenced": False, "bytes": 8192,
           "definition": "…"}  # fmt: skip
    return {**row, **changes}


_UNIQUE = {"is_unique": True}
_PRIMARY = {"is_unique": True, "is_primary": True, "backs_constraint": True}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([_index(1), _index(2)], ["public.i2"]),
        ([_index(1), _index(2), _index(3)], ["public.i2", "public.i3"]),
        ([_index(1), _index(2, **_PRIMARY)], ["public.i1"]),
        ([_index(1, **_UNIQUE), _index(2, **_PRIMARY)], ["public.i1"]),
        ([_index(1), _index(2, **_UNIQUE)], ["public.i1"]),
        ([_index(1), _index(2, table_oid=9)], []),
        ([_index(1), _index(2, method="hash")], []),
        ([_index(1), _index(2, predicate="(b > 0)")], []),
        ([_index(1), _index(2, included=[3])], []),
        ([_index(1, **_UNIQUE), _index(2, **_PRIMARY, is_immediate=False)], []),
        ([_index(1, **_UNIQUE), _index(2, **_UNIQUE, nulls_not_distinct="true")], []),
        ([_index(1), _index(2, is_exclusion=True)], ["public.i1"]),
        ([_index(1), _index(2, is_partition=True)], ["public.i1"]),  # the other goes with its parent's
        ([_index(1, is_partition=True), _index(2, is_partition=True)], []),
        ([_index(1), _index(2, is_identity=True)], ["public.i1"]),
    ],
)
def test_duplicates(rows: list[Row], found: list[str]) -> None:
    assert [finding.object for finding in judge("index.duplicate", *rows).findings] == found


@pytest.mark.parametrize(
    ("narrow", "wide", "redundant"),
    [
        ({}, {"keys": ["1", "2"]}, True),
        ({}, {"keys": ["2", "1"]}, False),
        ({}, {"included": [2]}, True),
        ({"included": [2]}, {"keys": ["1", "2"], "key_columns": [1, 2]}, True),
        ({"included": [3]}, {"keys": ["1", "2"], "key_columns": [1, 2]}, False),
        (_UNIQUE, {"keys": ["1", "2"]}, False),
        ({"predicate": "x"}, {"keys": ["1", "2"]}, False),
        ({"is_identity": True}, {"keys": ["1", "2"]}, False),
        ({"method": "hash"}, {"keys": ["1", "2"]}, False),
    ],
)
def test_redundant(narrow: Row, wide: Row, redundant: bool) -> None:  # noqa: FBT001 - a column of the table of cases
    found = judge("index.redundant", _index(1, **narrow), _index(2, **wide)).findings
    assert [finding.object for finding in found] == (["public.i1"] if redundant else [])


@pytest.mark.parametrize(
    ("days", "size", "status"), [(8.0, 20e6, "info"), (6.0, 20e6, "ok"), (8.0, 1e6, "ok"), (None, 20e6, "ok")]
)
def test_unused_only_with_old_statistics_and_size(days: float | None, size: float, status: str) -> None:
    row = {"name": "public.i", "table": "public.t", "bytes": size, "definition": "…", "statistics_days": days}
    assert judge("index.unused", row).status == status


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"name": "public.t_v_idx_ccnew1"}, "leftover of REINDEX CONCURRENTLY"),
        ({"constraint_name": "t_pkey"}, "reindex index concurrently"),
        ({"is_unique": True}, "remove the duplicates"),
        ({"kind": "I"}, "attach"),
        ({}, "then build it again"),
    ],
)
def test_the_cure_of_an_invalid_index_fits_how_it_came_about(changes: Row, advice: str) -> None:
    row = {"name": "public.i", "table": "public.t", "is_unique": False, "definition": "create …", "kind": "i",
           "constraint_name": None, "bytes": 0, **changes}  # fmt: skip
    (found,) = judge("index.invalid", row).findings
    assert advice in found.remedy


@pytest.mark.parametrize(
    ("nulls", "readable", "status"),
    [(0.9, True, "info"), (0.4, True, "ok"), (None, True, "ok"), (None, False, "unknown")],
)
def test_mostly_null(nulls: float | None, readable: bool, status: str) -> None:  # noqa: FBT001 - a table of cases
    row = {
        "name": "public.i",
        "table": "public.t",
        "column_name": "v",
        "bytes": 1,
        "readable": readable,
        "nulls": nulls,
    }
    assert judge("index.mostly_null", row).status == status


def test_the_index_that_stays_is_the_one_that_is_needed() -> None:
    rows = [_index(1), _index(2, **_UNIQUE), _index(3, **_PRIMARY)]
    assert min(rows, key=indexes._keep_first)["oid"] == 3


# ── schema ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fk(*served_by: Row, **changes: Any) -> Row:
    row = {"table": "public.c", "name": "c_fk", "parent": "public.p", "columns": [2, 3], "column_names": ["a", "b"],
           "kind": "r", "types": ["integer"], "parent_types": ["integer"], "rows": 10.0, "parent_changes": 0,
           "indexes": list(served_by)}  # fmt: skip
    return {**row, **changes}


def _serving(columns: list[int], predicate: str | None = None, method: str = "btree") -> Row:
    return {"columns": columns, "predicate": predicate, "method": method}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_fk(), "info"),
        (_fk(_serving([2, 3])), "ok"),
        (_fk(_serving([3, 2])), "ok"),
        (_fk(_serving([2, 3, 9])), "ok"),
        (_fk(_serving([9, 2, 3])), "info"),
        (_fk(_serving([2])), "info"),
        (_fk(_serving([2, 3], "(x > 0)")), "info"),
        (_fk(_serving([2, 3], "(a IS NOT NULL)")), "ok"),
        (_fk(_serving([2, 3], "((a IS NOT NULL) AND (b IS NOT NULL))")), "ok"),
        (_fk(_serving([2, 3], "(deleted_at IS NOT NULL)")), "info"),
        (_fk(_serving([2, 3], method="gist")), "info"),
        (_fk(rows=200_000.0, parent_changes=5), "warning"),
        (_fk(rows=200_000.0), "info"),
    ],
)
def test_foreign_keys_need_an_index_that_serves(row: Row, status: str) -> None:
    result = judge("schema.fk_unindexed", row)
    assert result.status == status
    assert [found.object for found in result.findings] == ([] if status == "ok" else ["public.c(a, b)"])


@pytest.mark.parametrize(
    ("mine", "theirs", "status"),
    [
        (["integer"], ["bigint"], "warning"),
        (["bigint"], ["bigint"], "ok"),
        (["character varying"], ["text"], "ok"),
        (["character"], ["text"], "warning"),
    ],
)
def test_foreign_key_types(mine: list[str], theirs: list[str], status: str) -> None:
    assert judge("schema.fk_type_mismatch", _fk(types=mine, parent_types=theirs)).status == status


def _sequence(**changes: Any) -> Row:
    row = {"name": "public.s", "start": 1, "minimum": 1, "maximum": 1000, "increment": 1, "cycles": False,
           "readable": True, "last_value": 100, "column_name": None, "width": None}  # fmt: skip
    return {**row, **changes}


_BIG = 2**63 - 1
_DOWN = {"increment": -1, "start": -1, "minimum": -1000, "maximum": -1}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_sequence(), "ok"),
        (_sequence(last_value=760), "warning"),
        (_sequence(last_value=950), "critical"),
        (_sequence(last_value=950, cycles=True), "ok"),
        (_sequence(last_value=None), "ok"),
        (_sequence(maximum=_BIG, last_value=2_000_000_000), "ok"),
        (_sequence(maximum=_BIG, last_value=2_000_000_000, width=4), "critical"),
        (_sequence(maximum=_BIG, last_value=2_000_000_000, width=4, cycles=True), "critical"),  # the column fails first
        (_sequence(**_DOWN, last_value=-950), "critical"),
        (_sequence(**_DOWN, last_value=-5), "ok"),
        (_sequence(minimum=-1000, start=-1000, last_value=0), "ok"),
        (_sequence(minimum=-1000, start=1, last_value=500), "ok"),
        (_sequence(start=950, last_value=951), "critical"),  # it began near its end
        (_sequence(readable=False, last_value=None), "unknown"),
    ],
)
def test_sequences(row: Row, status: str) -> None:
    assert judge("sequence.exhaustion", row).status == status


def test_a_sequence_of_one_value_is_used_up() -> None:
    assert keys.used_percent(_sequence(start=1, maximum=1, last_value=1)) == 100.0


# ── replication and archiving ────────────────────────────────────────────────────────────────────────────────────────


def _slot(**changes: Any) -> Row:
    row = {"name": "s", "kind": "logical", "active": False, "wal_status": "reserved", "retained_bytes": 50e6,
           "invalidation_reason": "", "synced": False}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    ("row", "inactive", "lost"),
    [
        (_slot(), "critical", "ok"),
        (_slot(active=True), "ok", "ok"),
        (_slot(retained_bytes=1e6), "ok", "ok"),
        (_slot(retained_bytes=None), "ok", "ok"),
        (_slot(synced=True), "ok", "ok"),
        (_slot(wal_status="lost", retained_bytes=None), "ok", "critical"),
        (_slot(wal_status="unreserved"), "critical", "warning"),
        (_slot(invalidation_reason="rows_removed"), "critical", "critical"),
    ],
)
def test_slots(row: Row, inactive: str, lost: str) -> None:
    assert judge("replication.slot_inactive", row).status == inactive
    assert judge("replication.slot_lost", row).status == lost


@pytest.mark.parametrize(
    ("failed", "succeeded", "mode", "status"),
    [
        (None, None, "on", "ok"),
        (NOW, None, "on", "critical"),
        (NOW, NOW - timedelta(minutes=5), "on", "critical"),
        (NOW - timedelta(minutes=5), NOW, "on", "ok"),
        (NOW, None, "off", "ok"),
    ],
)
def test_archiving(failed: datetime | None, succeeded: datetime | None, mode: str, status: str) -> None:
    row = {"last_failed_time": failed, "last_archived_time": succeeded, "last_failed_wal": "0001", "failed_count": 3,
           "archived_count": 1, "archive_mode": mode}  # fmt: skip
    assert judge("archive.failing", row).status == status


@pytest.mark.parametrize(
    ("names", "states", "status"),
    [
        ("", [], "ok"),
        ("a", [], "critical"),
        ("a", ["sync"], "ok"),
        ("ANY 2 (a, b, c)", ["quorum"], "critical"),
        ("ANY 2 (a, b, c)", ["quorum", "quorum", "async"], "ok"),
        ("FIRST 1 (a, b)", ["sync", "potential"], "ok"),
    ],
)
def test_synchronous_standbys(names: str, states: list[str], status: str) -> None:
    facts = replace(FACTS, settings={"synchronous_standby_names": names, "synchronous_commit": "on"})
    rows = [{"name": "x", "state": "streaming", "sync_state": state, "lag_bytes": 0.0} for state in states]
    assert judge("replication.sync_missing", *rows, facts=facts).status == status


@pytest.mark.parametrize(("lag", "status"), [(0.0, "ok"), (60e6, "warning"), (2e9, "critical"), (None, "ok")])
def test_lag_in_bytes(lag: float | None, status: str) -> None:
    row = {"name": "b", "state": "streaming", "sync_state": "async", "lag_bytes": lag}
    assert judge("replication.lag", row).status == status


@pytest.mark.parametrize(
    ("enabled", "works", "by_error", "status"),
    [
        (True, False, False, "critical"),
        (True, True, True, "ok"),
        (False, False, True, "critical"),
        (False, False, False, "info"),  # somebody meant it, perhaps
    ],
)
def test_subscriptions(enabled: bool, works: bool, by_error: bool, status: str) -> None:  # noqa: FBT001 - columns of the table of cases
    row = {"name": "s", "enabled": enabled, "works": works, "disable_on_error": by_error}
    assert judge("replication.subscription_down", row).status == status


def test_the_wal_directory_against_what_settings_allow() -> None:
    rows = [{"bytes": size, "allowed": 1e9} for size in (1.5e9, 2.5e9)]
    assert [judge("wal.directory_size", row).status for row in rows] == ["ok", "warning"]


@pytest.mark.parametrize(("days", "status"), [(30.0, "ok"), (5.0, "warning"), (-5.0, "warning")])
def test_passwords_that_end(days: float, status: str) -> None:
    assert judge("security.password_expiring", {"name": "app", "days": days}).status == status


def test_sessions_without_tls() -> None:
    assert judge("security.tls_off", {"user": "app", "sessions": 2, "address": "10.0.0.9"}).status == "warning"


def test_checksum_failures() -> None:
    (found,) = judge("checksum.failures", {"name": "shop", "failures": 2, "last_failure": NOW}).findings
    assert (found.object, found.status, found.value) == ("database shop", "critical", 2.0)


# ── the tool's own eyes ──────────────────────────────────────────────────────────────────────────────────────────────


def test_visibility_names_the_grant() -> None:
    blind = replace(FACTS, role="eyes", missing=frozenset({Need.SESSIONS}))
    result = judge("self.visibility", {"tables": 3, "hidden": 2, "example": "public.t"}, facts=blind)
    assert (result.status, [found.object for found in result.findings]) == ("unknown", ["sessions", "statistics"])
    assert "grant pg_read_all_data to eyes" in result.findings[1].remedy
    assert judge("self.visibility", {"tables": 3, "hidden": 0, "example": None}).status == "ok"


def test_the_room_is_a_hundred_percent_where_the_server_stops() -> None:
    assert transactions._room(transactions.STOP_AT, 200_000_000) == 100.0
    assert replication.required_standbys("first 3 (a,b,c)") == 3

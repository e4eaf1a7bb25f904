"""The catalogue: each check says why and what to do, docs/checks.md is the registry's; the newer rules by tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.config import MonitoringSettings
from chanuka_ops.health import handbook, registry
from chanuka_ops.health.model import Case, CheckResult, Facts, Limits, Need
from chanuka_ops.health.rules.partitions import partitions_ahead
from chanuka_ops.health.service import limits_of, result_of

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FACTS = Facts(now=NOW, server_version=180006, database="shop")
HANDBOOK = Path(__file__).parents[2] / "docs" / "checks.md"
DAY_S = 86400.0
Row = dict[str, Any]


def judge(check: str, *rows: Mapping[str, Any], facts: Facts = FACTS) -> CheckResult:
    one = registry.find(check)
    return result_of(one, Case(one, limits_of(one, MonitoringSettings()), facts), rows, 0.0)


def _facts(**settings: str) -> Facts:
    return replace(FACTS, settings=settings)


# ── the catalogue ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_handbook_is_that_of_the_registry() -> None:
    assert HANDBOOK.read_text(encoding="utf-8") == handbook.handbook(), (
        "python -m chanuka_ops.health.handbook > docs/checks.md"
    )


def test_the_handbook_lists_seventy_checks_and_more() -> None:
    assert len(re.findall(r"^### [a-z_]+\.[a-z_0-9]+$", handbook.handbook(), flags=re.MULTILINE)) >= 70


def test_each_limit_has_its_reason_in_the_handbook() -> None:
    limited = [check for check in registry.CHECKS if check.limits != Limits()]
    assert handbook.handbook().count("**From where on.**") == len(limited)


@pytest.mark.parametrize("check", registry.CHECKS, ids=lambda check: check.id)
def test_each_check_says_why_what_to_do_and_where_to_read_on(check: Any) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z][a-z0-9_]*", check.id)
    assert check.why.endswith(".")
    assert check.remedy.endswith(".")
    assert check.why != check.remedy
    assert re.fullmatch(r"https://www\.postgresql\.org/(docs/current/[a-z0-9-]+\.html|support/versioning/)(#\S+)?",
                        check.link)  # fmt: skip


# ── vacuum ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(**changes: Any) -> Row:
    row = {"name": "public.t", "reltuples": 1000.0, "live": 1000, "dead": 1000, "inserted_since_vacuum": 0,
           "options": {}, "toast_options": {}, "being_vacuumed": False}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([_table()] * 14, "ok"),  # three workers: fewer than five for each
        ([_table()] * 15, "warning"),
        ([_table(dead=400)] * 15, "ok"),  # past its trigger of 250, and not past twice that
        ([_table(dead=0, inserted_since_vacuum=2500)] * 15, "warning"),
        ([_table(dead=0, inserted_since_vacuum=2500, options={"autovacuum_vacuum_insert_threshold": "-1"})] * 15, "ok"),
        ([_table(being_vacuumed=True)] * 15, "ok"),
        ([_table(options={"autovacuum_enabled": "false"})] * 15, "ok"),  # vacuum.disabled_table says that
        ([], "ok"),
    ],
)
def test_a_queue_for_vacuum(rows: list[Row], status: str) -> None:
    assert judge("vacuum.stale", *rows).status == status


def test_more_workers_serve_a_longer_queue() -> None:
    assert judge("vacuum.stale", *[_table()] * 15, facts=_facts(autovacuum_max_workers="10")).status == "ok"


# ── partitions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _range(lower_days: float | None, upper_days: float, **changes: Any) -> Row:
    """The newest partition's bounds in days from now."""
    now = NOW.timestamp()
    row = {"name": "public.m", "newest": "public.m1", "by_number": False, "upper_text": "…", "upper_literal": "'…'",
           "lower": None if lower_days is None else now + lower_days * DAY_S, "upper": now + upper_days * DAY_S,
           "probe": None, "probed": None}  # fmt: skip
    return {**row, **changes}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (_range(30, 60), "ok"),
        (_range(-10, 20), "ok"),  # most of the month is left
        (_range(-20, 10), "warning"),
        (_range(-31, -1), "warning"),
        (_range(-119, -89), "warning"),
        (_range(-130, -100), "ok"),  # an archive
        (_range(None, -1), "ok"),  # open below: no width to go by
        (_range(0, 0, by_number=True, lower=0.0, upper=1000.0, probed=400.0), "ok"),
        (_range(0, 0, by_number=True, lower=0.0, upper=1000.0, probed=900.0), "warning"),
        (_range(0, 0, by_number=True, lower=0.0, upper=1000.0, probed=None), "ok"),  # empty
    ],
)
def test_the_next_partition(row: Row, status: str) -> None:
    assert judge("partition.missing_future", row).status == status


def test_partitions_ahead_in_widths_of_the_newest() -> None:
    assert partitions_ahead(_range(-15, 15), NOW.timestamp()) == pytest.approx(0.5)
    assert partitions_ahead(_range(-60, -30), NOW.timestamp()) == pytest.approx(-1.0)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, None),
        ({"work_mem": "1048576", "maintenance_work_mem": "1048576"}, "work_mem"),
        ({"shared_buffers": "2000000", "effective_cache_size": "1000000"}, "effective_cache_size"),
        ({"maintenance_work_mem": "1024"}, "maintenance_work_mem"),
        ({"random_page_cost": "0.5"}, "random_page_cost"),
        ({"enable_hashjoin": "off"}, "enable_hashjoin"),
        ({"enable_partitionwise_join": "off"}, None),
        ({"max_parallel_workers": "16"}, "max_parallel_workers"),
        ({"autovacuum_freeze_max_age": "2000000000"}, "autovacuum_freeze_max_age"),
        ({"autovacuum_freeze_max_age": "1500000000"}, None),  # as some clouds have it
        ({"autovacuum_vacuum_scale_factor": "1"}, "autovacuum_vacuum_scale_factor"),
        ({"autovacuum_naptime": "3600"}, "autovacuum_naptime"),
        ({"track_activities": "off"}, "track_activities"),
        ({"min_wal_size": "2048"}, "max_wal_size"),
        ({"archive_mode": "on", "archive_command": ""}, "archive_command"),
        ({"archive_mode": "on", "archive_command": "", "archive_library": "basic_archive"}, None),
        ({"archive_mode": "on", "archive_command": "cp %p /a"}, None),
        ({"synchronous_standby_names": "a", "synchronous_commit": "local"}, "synchronous_commit"),
        ({"synchronous_standby_names": "a", "synchronous_commit": "on"}, None),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, str], named: str | None) -> None:
    found = judge("settings.sanity", facts=_facts(**settings)).findings
    assert [finding.object for finding in found] == ([named] if named else [])
    assert {finding.status for finding in found} <= {"info"}


@pytest.mark.parametrize(("value", "status"), [("off", "info"), ("on", "ok"), (None, "ok")])
def test_checksums(value: str | None, status: str) -> None:
    assert judge("checksum.off", facts=_facts(**({"data_checksums": value} if value else {}))).status == status


# ── replication ──────────────────────────────────────────────────────────────────────────────────────────────────────

_STANDBY = {"kind": "standby", "name": "b"}
_SLOT = {"kind": "slot", "name": "b_slot"}


@pytest.mark.parametrize(
    ("rows", "declared", "statuses"),
    [
        ([], 0, []),  # nobody said that there should be one
        ([_STANDBY], 1, []),
        ([_STANDBY], 2, ["warning"]),
        ([], 2, ["critical"]),
        ([_SLOT], 0, ["warning"]),
        ([_STANDBY, _SLOT], 2, ["warning", "warning"]),
        ([_STANDBY, _STANDBY], 1, []),
    ],
)
def test_standbys_are_missed_where_they_were_declared(rows: list[Row], declared: int, statuses: list[str]) -> None:
    found = judge("replication.standby_missing", *rows, facts=replace(FACTS, replicas=declared)).findings
    assert [finding.status for finding in found] == statuses


def test_a_standby_misses_no_standbys() -> None:
    assert judge("replication.standby_missing", facts=replace(FACTS, replicas=2, standby=True)).status == "ok"


@pytest.mark.parametrize(
    ("standby", "conninfo", "receiver", "status"),
    [
        (True, "host=a", None, "critical"),
        (True, "host=a", "stopping", "critical"),
        (True, "host=a", "streaming", "ok"),
        (True, "", None, "ok"),  # fed from an archive only
        (False, "host=a", None, "ok"),
    ],
)
def test_a_standby_that_hears_nothing(standby: bool, conninfo: str, receiver: str | None, status: str) -> None:  # noqa: FBT001 - columns of the table of cases
    facts = replace(FACTS, standby=standby, settings={"primary_conninfo": conninfo})
    row = {"status": receiver, "replayed": None}
    assert judge("replication.wal_receiver_down", row, facts=facts).status == status


@pytest.mark.parametrize(("level", "status"), [("logical", "critical"), ("replica", "warning")])
def test_a_published_table_fails_only_where_wal_is_logical(level: str, status: str) -> None:
    row = {"name": "public.t", "publication": "p", "wal_level": level}
    assert judge("replication.no_replica_identity", row).status == status


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seconds", "owner_is_here", "status"),
    [(31, True, "critical"), (5, True, "ok"), (5, False, "critical"), (0.1, False, "ok")],
)
def test_a_prepared_transaction_without_its_owner(seconds: float, owner_is_here: bool, status: str) -> None:  # noqa: FBT001 - columns of the table of cases
    row = {"gid": "g", "owner": "app", "seconds": seconds, "owner_is_here": owner_is_here}
    assert judge("txn.prepared_orphan", row).status == status


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({"objects": 0, "bytes": 0.0, "hidden": 0, "example": None, "probe": None}, "ok"),
        ({"objects": 5, "bytes": 0.0, "hidden": 0, "example": None, "probe": "…", "probed": 0}, "ok"),
        ({"objects": 5, "bytes": 0.0, "hidden": 0, "example": None, "probe": "…", "probed": 2}, "info"),
        ({"objects": 5, "bytes": 1.0, "hidden": 1, "example": "public.t", "probe": None}, "unknown"),
        ({"objects": 5, "bytes": 1e9, "hidden": 0, "example": None, "probe": None}, "info"),  # a note: too much to read
    ],
)
def test_large_objects(row: Row, status: str) -> None:
    assert judge("storage.orphan_large_objects", row).status == status


def test_superusers_are_named_from_the_limit_on() -> None:
    rows = [
        {"name": "root", "is_superuser": True, "through": None},
        {"name": "near", "is_superuser": False, "through": "postgres"},
    ]
    assert [found.remedy.split(",")[0] for found in judge("security.superusers", *rows).findings] == [
        "alter role root nosuperuser", "revoke postgres from near",
    ]  # fmt: skip
    assert judge("security.superusers").status == "ok"


@pytest.mark.parametrize(
    ("major", "schema", "status"), [(14, "public", "info"), (15, "public", "warning"), (14, "app", "warning")]
)
def test_public_as_it_was_delivered_is_advice(major: int, schema: str, status: str) -> None:
    row = {"name": f"schema {schema}", "schema_name": schema}
    assert judge("security.public_create", row, facts=replace(FACTS, server_version=major * 10000)).status == status


def test_shares_are_charts_and_never_alarms() -> None:
    row = {"kind": "server", "name": None, "used": 50, "allowed": 97, "idle": 50}
    result = judge("connections.idle_share", row)
    assert (result.status, result.value, result.findings) == ("ok", 100.0, ())


@pytest.mark.parametrize(("seconds", "status"), [(0.4, "ok"), (31.0, "info")])
def test_a_run_that_is_a_load_itself(seconds: float, status: str) -> None:
    assert judge("self.cost", {"seconds": seconds, "slowest": "index.bloat"}).status == status


def _fk(name: str, columns: list[int], parent_columns: list[int], parent: str = "public.p") -> Row:
    return {"table": "public.c", "name": name, "parent": parent, "columns": columns, "parent_columns": parent_columns}


@pytest.mark.parametrize(
    ("second", "named"),
    [
        (_fk("b", [1, 2], [3, 4]), ["public.c.b"]),
        (_fk("b", [2, 1], [4, 3]), ["public.c.b"]),  # the same pairs
        (_fk("b", [1, 2], [4, 3]), []),
        (_fk("b", [1], [3]), []),
        (_fk("b", [1, 2], [3, 4], "public.q"), []),
    ],
)
def test_a_foreign_key_that_stands_twice(second: Row, named: list[str]) -> None:
    found = judge("schema.fk_duplicate", _fk("a", [1, 2], [3, 4]), second).findings
    assert [finding.object for finding in found] == named


def test_needs_that_are_missing_have_a_cure_in_the_handbook() -> None:
    assert all(str(need) in handbook.handbook() for need in Need)

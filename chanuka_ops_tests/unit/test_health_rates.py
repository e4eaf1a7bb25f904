"""Which sample is a baseline, what was added since, and what the rules make of it: by table and by Hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chanuka_ops.config import MonitoringSettings, ObjectThreshold, Threshold
from chanuka_ops.health import registry
from chanuka_ops.health.judging import case_of, result_of
from chanuka_ops.health.model import CheckResult, Facts, Limits, Status, Window
from chanuka_ops.health.sampling import rules
from chanuka_ops.health.sampling.model import Sample

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
FACTS = Facts(now=NOW, server_version=180006, database="shop")
WINDOW = Window(least_s=60.0, most_s=3600.0)
MB = 1024.0**2
GB = 1024.0**3
Row = dict[str, Any]


def at(seconds: float, incarnation: str = "here") -> Sample:
    return Sample(NOW + timedelta(seconds=seconds), incarnation, ({"key": "a", "n": 1},))


def judge(check: str, *rows: Row, elapsed_s: float | None = 3600.0, limit: float | None = None) -> CheckResult:
    one = registry.find(check)
    monitoring = MonitoringSettings(thresholds={} if limit is None else {check: Threshold(warning=limit)})
    return result_of(one, case_of(one, monitoring, FACTS, elapsed_s), rows, 0.0)


# ── which sample is a baseline ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("base", "following", "now", "elapsed_s", "said"),
    [
        (None, None, at(0), None, "first look"),
        (at(0), None, at(60), 60.0, ""),
        (at(0), at(60), at(120), 60.0, ""),  # the younger of two
        (at(0), at(60), at(100), 100.0, ""),  # too young still: the older one
        (at(0), None, at(59), None, "60 s are needed"),
        (at(0), None, at(3601), None, "hours ago"),
        (at(0), at(3500), at(3601), 101.0, ""),
        (at(0), None, at(-5), None, "put back by 5 s"),
        (at(0, "elsewhere"), None, at(60), None, "started, restored or replaced"),
        (at(0, "elsewhere"), at(60), at(120), 60.0, ""),
    ],
)
def test_a_baseline_is_of_a_certain_age(
    base: Sample | None, following: Sample | None, now: Sample, elapsed_s: float | None, said: str
) -> None:
    found = rules.turn(base, following, now, WINDOW)
    assert found.elapsed_s == elapsed_s
    assert said in found.reason
    assert (found.reason == "") == (elapsed_s is not None)


def test_a_young_baseline_stays_and_grows() -> None:
    base: Sample | None = None
    following: Sample | None = None
    ages = []
    for second in range(0, 300, 10):
        found = rules.turn(base, following, at(second), WINDOW)
        base, following = found.base, found.following
        ages.append(found.elapsed_s)
    assert ages[:6] == [None] * 6
    assert all(age is not None and 60.0 <= age < 130.0 for age in ages[6:])  # once there is one, there always is


@settings(max_examples=60, deadline=None)  # a loaded machine is no failure
@given(st.lists(st.tuples(st.integers(-100, 5000), st.sampled_from(["a", "b"])), max_size=30))
def test_what_is_compared_is_always_of_the_same_server_and_of_a_fit_age(looks: list[tuple[int, str]]) -> None:
    base: Sample | None = None
    following: Sample | None = None
    second = 0
    for step, incarnation in looks:
        second += step
        found = rules.turn(base, following, at(second, incarnation), WINDOW)
        if found.before is not None:
            assert found.before.incarnation == incarnation
            assert found.elapsed_s == (at(second).at - found.before.at).total_seconds()
            assert WINDOW.least_s <= found.elapsed_s <= WINDOW.most_s
        base, following = found.base, found.following


# ── what is new ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("was", "comparable"),
    [
        ({"key": "a", "reset": "x", "n": 3}, True),
        ({"key": "a", "reset": "y", "n": 3}, False),  # reset meanwhile
        ({"key": "a", "reset": "x", "n": 9}, False),  # it fell: reset, whatever is said
        ({"key": "b", "reset": "x", "n": 3}, False),
        ({"key": "a", "reset": "x"}, False),  # an older version of this program counted something else
    ],
)
def test_a_row_is_compared_with_its_own_past_only(was: Row, comparable: bool) -> None:  # noqa: FBT001 - a table's column
    (row,) = rules.paired([{"key": "a", "reset": "x", "n": 5}], Sample(NOW, "i", (was,)), ("n",))
    assert (row["was"] is not None) == comparable


@settings(max_examples=60, deadline=None)  # a loaded machine is no failure
@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_what_was_added_is_never_negative(before: int, now: int) -> None:
    (row,) = rules.paired([{"key": "a", "n": now}], Sample(NOW, "i", ({"key": "a", "n": before},)), ("n",))
    assert rules.added(row, "n") >= 0
    assert rules.added(row, "n") == (now - before if now >= before else now)


def test_a_row_is_of_the_types_that_are_kept() -> None:
    assert rules.plain({"at": NOW, "n": Decimal("1.5"), "name": "x"}) == {"at": NOW.isoformat(), "n": 1.5, "name": "x"}


def _looks(means_ms: list[float], *, hours: float = 1.0, calls: int = 2000) -> list[Row | None]:
    """What is usual before each of some looks at one statement."""
    known: dict[str, Row] = {}
    seen: list[Row | None] = []
    for number, mean_ms in enumerate(means_ms):
        seen.append(known.get("7"))
        row = {"key": "7", "calls": calls, "total_ms": calls * mean_ms, "was": {"calls": 0, "total_ms": 0.0}}
        known = {row["key"]: dict(row) for row in rules.usual([row], known, number * hours * 3600.0)}
    return seen


def test_what_is_slow_is_not_learnt_before_it_has_lasted() -> None:
    seen = [row["mean_ms"] if row else None for row in _looks([1.0] * 5 + [10.0] * 80)]
    assert seen[0] is None
    assert seen[5:75] == [1.0] * 70  # three days of hourly looks: it's still an alarm
    assert seen[-1] == pytest.approx(10.0)  # and then it's how it is


def test_what_gets_faster_is_learnt() -> None:
    last = _looks([10.0] * 3 + [1.0] * 12)[-1]
    assert last is not None
    assert last["mean_ms"] < 2.0


def test_one_slow_look_leaves_no_trace() -> None:
    last = _looks([1.0, 1.0, 50.0, 1.0, 1.0])[-1]
    assert last is not None
    assert (last["mean_ms"], last["slow_since"]) == (1.0, None)


# ── the rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def database(was: Row | None, **now: float) -> Row:
    counters = {"deadlocks": 0, "commits": 0, "rollbacks": 0, "temp_files": 0, "temp_bytes": 0.0}
    return {
        "key": "shop",
        "since": "2026-01-01",
        **counters,
        **now,
        "was": None if was is None else {**counters, **was},
    }


@pytest.mark.parametrize(
    ("check", "was", "now", "status"),
    [
        ("lock.deadlocks", {}, {"deadlocks": 1}, "warning"),
        ("lock.deadlocks", {"deadlocks": 99}, {"deadlocks": 99}, "ok"),  # a total never goes down again
        ("lock.deadlocks", None, {"deadlocks": 99}, "info"),
        ("lock.deadlocks", None, {}, "ok"),
        ("txn.rollback_ratio", {}, {"commits": 400, "rollbacks": 100}, "info"),
        ("txn.rollback_ratio", {}, {"commits": 9900, "rollbacks": 100}, "ok"),
        ("txn.rollback_ratio", {}, {"commits": 0, "rollbacks": 49}, "ok"),  # too few to say
        ("txn.rollback_ratio", {"rollbacks": 900}, {"rollbacks": 900, "commits": 5}, "ok"),
        ("query.temp_files", {}, {"temp_files": 9, "temp_bytes": 200 * MB}, "info"),
        ("query.temp_files", {}, {"temp_files": 9, "temp_bytes": 50 * MB}, "ok"),
        ("query.temp_files", None, {"temp_files": 9, "temp_bytes": 50 * MB}, "info"),
        ("query.temp_files", None, {"temp_files": 1, "temp_bytes": 10_000.0}, "ok"),
    ],
)
def test_database_counters(check: str, was: Row | None, now: Row, status: str) -> None:
    found = judge(check, database(was, **now), elapsed_s=None if was is None else 3600.0)
    assert found.status == status


@pytest.mark.parametrize(
    ("requested", "timed", "wal_mb", "status"),
    [
        (10, 2, 4000, "warning"),
        (10, 2, 10, "ok"),  # by hand: no WAL was written that would have asked for one
        (10, 30, 4000, "ok"),
        (2, 0, 4000, "ok"),
    ],
)
def test_checkpoints_that_were_asked_for_by_hand_are_left_out(
    requested: int, timed: int, wal_mb: int, status: str
) -> None:
    row: Row = {"key": "server", "requested": requested, "timed": timed, "wal_bytes": wal_mb * MB,
                "max_wal_bytes": 128 * MB, "completion_target": 0.9}  # fmt: skip
    was = {"requested": 0, "timed": 0, "wal_bytes": 0.0}
    assert judge("wal.checkpoints_requested", {**row, "was": was}).status == status
    first = judge("wal.checkpoints_requested", {**row, "was": None}, elapsed_s=None)
    assert first.status == ("info" if status == "warning" else status)


def table(was: Row | None, **now: float) -> Row:
    counters = {"seq_scans": 0, "seq_rows": 0, "updated": 0, "hot_updated": 0}
    return {"key": "1", "name": "public.t", **counters, **now, "was": None if was is None else {**counters, **was}}


@pytest.mark.parametrize(
    ("check", "was", "now", "status"),
    [
        ("query.seq_scan_heavy", {}, {"seq_scans": 50, "seq_rows": 5_000_000}, "info"),
        ("query.seq_scan_heavy", {}, {"seq_scans": 50, "seq_rows": 50_000}, "ok"),  # a small table, or a LIMIT
        ("query.seq_scan_heavy", {}, {"seq_scans": 5, "seq_rows": 5_000_000}, "ok"),
        ("query.seq_scan_heavy", None, {"seq_scans": 50, "seq_rows": 5_000_000}, "info"),
        ("query.seq_scan_heavy", {"seq_scans": 50, "seq_rows": 10}, {"seq_scans": 50, "seq_rows": 10}, "ok"),
        ("table.low_hot", {}, {"updated": 5000, "hot_updated": 100}, "info"),
        ("table.low_hot", {}, {"updated": 5000, "hot_updated": 4000}, "ok"),
        ("table.low_hot", None, {"updated": 5000, "hot_updated": 100}, "ok"),
        ("table.low_hot", None, {"updated": 50_000, "hot_updated": 100}, "info"),
        ("table.low_hot", {"updated": 50_000}, {"updated": 55_000, "hot_updated": 4000}, "ok"),  # it was cured
    ],
)
def test_table_counters(check: str, was: Row | None, now: Row, status: str) -> None:
    assert judge(check, table(was, **now), elapsed_s=None if was is None else 3600.0).status == status


def statement(was: Row | None, calls: int, mean_ms: float, usual: Row | None = None) -> Row:
    return {"key": "7", "query": "select 1", "calls": calls, "total_ms": calls * mean_ms, "was": was, "usual": usual}


ZERO: Row = {"calls": 0, "total_ms": 0.0}
USUAL: Row = {"calls": 500.0, "mean_ms": 2.0, "slow_since": None}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (statement(ZERO, 100, 20.0, USUAL), "warning"),
        (statement(ZERO, 100, 5.0, USUAL), "ok"),
        (statement(ZERO, 9, 20.0, USUAL), "ok"),  # a few calls say nothing
        (statement(ZERO, 100, 20.0), "ok"),  # never seen: nothing to compare with
        (statement(ZERO, 100, 20.0, {**USUAL, "calls": 10.0}), "ok"),
        (statement(ZERO, 100, 0.4, {**USUAL, "mean_ms": 0.01}), "ok"),  # forty times nothing
        (statement(None, 100, 20.0, USUAL), "ok"),  # the total of months is no rate
    ],
)
def test_regressions(row: Row, status: str) -> None:
    assert judge("query.regression", row).status == status


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (statement(ZERO, 3, 900.0), "info"),
        (statement(ZERO, 2, 900.0), "ok"),
        (statement(None, 3, 900.0), "info"),
        (statement(ZERO, 100, 20.0), "ok"),
    ],
)
def test_slow_statements(row: Row, status: str) -> None:
    assert judge("query.slow", row).status == status


def test_without_the_extension_statements_are_a_note_with_its_cure() -> None:
    for check in ("query.slow", "query.regression"):
        found = judge(check, {"key": "extension", "installed": False, "loaded": False, "was": None})
        assert (found.status, found.findings) == ("info", ())
        assert "create extension" in (found.reason or "")


@pytest.mark.parametrize(
    ("before_gb", "now_gb", "status"), [(100.0, 101.0, "info"), (100.0, 100.1, "ok"), (0.01, 0.02, "ok")]
)
def test_growth(before_gb: float, now_gb: float, status: str) -> None:
    row = {"key": "shop", "bytes": now_gb * GB, "was": {"bytes": before_gb * GB}}
    assert judge("storage.growth", row).status == status
    assert judge("storage.growth", {**row, "was": None}, elapsed_s=None).value is None


@pytest.mark.parametrize(
    ("total_gb", "free_gb", "free_before_gb", "status"),
    [
        (100.0, 50.0, None, "ok"),
        (100.0, 5.0, None, "critical"),
        (10_000.0, 900.0, None, "ok"),  # a tenth of a huge disk
        (100.0, 20.0, 20.5, "critical"),  # full in less than two days
        (100.0, 20.0, 20.01, "ok"),
        (100.0, 60.0, 65.0, "ok"),  # a load, on a disk that is half empty
        (100.0, 20.0, 15.0, "ok"),  # it was emptied
        (0.0, 0.0, None, "ok"),  # a file system that doesn't count
    ],
)
def test_disks(total_gb: float, free_gb: float, free_before_gb: float | None, status: str) -> None:
    was = None if free_before_gb is None else {"free": free_before_gb * GB}
    row = {"key": "disk", "directory": "/data", "total": total_gb * GB, "free": free_gb * GB, "why": None, "was": was}
    assert judge("storage.disk_space", row).status == status


def test_a_disk_that_can_t_be_seen_is_unknown() -> None:
    row = {"key": "disk", "directory": None, "total": None, "free": None, "why": "it is far away", "was": None}
    found = judge("storage.disk_space", row)
    assert found.status == "unknown"
    assert "far away" in (found.reason or "")


def test_a_chart_is_a_rate_too_and_never_more_than_ok() -> None:
    row = {"key": "shop", "hit": 1000, "read": 1000}
    assert judge("cache.hit_ratio", {**row, "was": {"hit": 910, "read": 990}}).value == 90.0
    first = judge("cache.hit_ratio", {**row, "was": None}, elapsed_s=None)
    assert (first.value, first.status) == (50.0, "ok")


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LIMITED = [check for check in registry.CHECKS if check.limits != Limits()]
NUMBERS = st.one_of(st.none(), st.floats(0, 1e6))
STATED = st.builds(
    Threshold,
    warning=NUMBERS,
    critical=NUMBERS,
    objects=st.dictionaries(
        st.sampled_from(["public.*", "public.events", "*", "archive.*"]),
        st.builds(ObjectThreshold, warning=NUMBERS, critical=NUMBERS),
        max_size=3,
    ),
)


@settings(max_examples=60, deadline=None)  # a loaded machine is no failure
@given(
    st.sampled_from(LIMITED),
    STATED,
    st.sampled_from([None, "public.events", "archive.old"]),
    st.lists(st.floats(0, 2e6), min_size=2, max_size=12),
)
def test_no_severity_falls_as_the_number_worsens(
    check: Any, stated: Threshold, object_: str | None, values: list[float]
) -> None:
    case = case_of(check, MonitoringSettings(thresholds={check.id: stated}), FACTS)
    ranks = [case.judge(value, object_)[0].rank for value in sorted(values)]
    assert ranks == sorted(ranks)
    assert {case.judge(value, object_)[0] for value in values} <= {Status.OK, Status.CRITICAL, *check.statuses}


@settings(max_examples=60, deadline=None)  # a loaded machine is no failure
@given(st.lists(st.floats(0, 1e5), min_size=2, max_size=8), STATED)
def test_nor_does_a_rule_s(amounts: list[float], stated: Threshold) -> None:
    makes: dict[str, Callable[[float], Row]] = {
        "lock.deadlocks": lambda amount: database({}, deadlocks=int(amount)),
        "query.temp_files": lambda amount: database({}, temp_bytes=amount * MB),
        "query.slow": lambda amount: statement(ZERO, 100, amount),
        "query.regression": lambda amount: statement(ZERO, 100, amount, USUAL),
    }
    for check, make in makes.items():
        one = registry.find(check)
        case = case_of(one, MonitoringSettings(thresholds={check: stated}), FACTS, 3600.0)
        ranks = [result_of(one, case, [make(amount)], 0.0).status.rank for amount in sorted(amounts)]
        assert ranks == sorted(ranks)


def test_the_most_specific_limit_wins() -> None:
    monitoring = MonitoringSettings.model_validate(
        {
            "thresholds": {
                "table.bloat": {"warning": 60, "objects": {"public.events": 80, "archive.*": {"warning": 90}, "*": 70}}
            },
            "databases": {
                "analytics*": {"thresholds": {"table.bloat": 75}, "disabled": ["index.unused"]},
                "analytics_eu": {"thresholds": {"table.bloat": {"objects": {"public.events": 85}}}},
            },
        }
    )
    one = registry.find("table.bloat")

    def limit(database_name: str, object_: str) -> float | None:
        return case_of(one, monitoring.of(database_name), FACTS).limits_for(object_).first

    assert limit("shop", "public.events") == 80
    assert limit("shop", "archive.y2020") == 90
    assert limit("shop", "public.users") == 70
    assert limit("analytics_us", "public.events") == 80
    assert limit("analytics_eu", "public.events") == 85
    assert monitoring.of("analytics_us").disabled == {"index.unused"}
    assert monitoring.of("shop").disabled == frozenset()


def test_a_limit_of_objects_only_leaves_the_check_s_own() -> None:
    stated = Threshold(objects={"public.events": ObjectThreshold(warning=99)})
    one = registry.find("table.bloat")
    case = case_of(one, MonitoringSettings(thresholds={one.id: stated}), FACTS)
    assert case.limits == one.limits
    assert replace(case, objects=()).limits_for("public.events") == one.limits

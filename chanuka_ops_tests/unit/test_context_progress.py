"""How long a step still takes, told its reports and the time."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import context
from chanuka_ops.backup.taking.watching import Rows
from chanuka_ops.context import PACE_EVIDENCE_S, PACE_WINDOW_S, Pace, Progress

REPORTS = st.lists(
    st.tuples(st.floats(0, 20), st.integers(0, 10**6), st.one_of(st.none(), st.integers(0, 10**9))), min_size=1
)


def test_the_examples_hold() -> None:
    assert doctest.testmod(context).failed == 0


def test_an_even_pace_is_told_exactly() -> None:
    pace = Pace()
    told = [pace.left_s("dump", "rows", 10 * second, 1000, now_s=float(second)) for second in range(41)]
    assert told[: int(PACE_EVIDENCE_S)] == [None, None]
    assert told[40] == 60.0


def test_a_change_of_pace_counts_fully_after_the_window() -> None:
    pace = Pace()
    for second in range(60):
        pace.left_s("dump", "rows", 1000 * second, 10**6, now_s=float(second))
    slow = [pace.left_s("dump", "rows", 59_000 + second, 10**6, now_s=59.0 + second) for second in range(1, 62)]
    assert slow[-1] is not None
    assert slow[-1] == 10**6 - 59_061


def test_a_step_that_stands_still_has_no_end() -> None:
    pace = Pace()
    for second in range(10):
        pace.left_s("dump", "rows", second, 100, now_s=float(second))
    assert pace.left_s("dump", "rows", 9, 100, now_s=9 + PACE_WINDOW_S + 1) is None


def test_rare_reports_are_evidence_too() -> None:
    pace = Pace()
    pace.left_s("dump", "rows", 0, 100, now_s=0.0)
    assert pace.left_s("dump", "rows", 50, 100, now_s=100.0) == 100.0


def test_another_step_begins_anew() -> None:
    pace = Pace()
    for second in range(10):
        pace.left_s("dump", "rows", second, 100, now_s=float(second))
    assert pace.left_s("hash", "bytes", 50, 100, now_s=10.0) is None
    assert pace.left_s("dump", "rows", 50, 100, now_s=20.0) is None
    assert pace.left_s("dump", "rows", 10, 100, now_s=30.0) is None, "a second run of the same step"


@given(REPORTS)
def test_it_is_never_negative_and_never_told_without_evidence(reports: list[tuple[float, int, int | None]]) -> None:
    pace, now_s, done = Pace(), 0.0, 0
    for took_s, more, total in reports:
        now_s, done = now_s + took_s, done + more
        left_s = pace.left_s("dump", "rows", done, total, now_s=now_s)
        assert left_s is None or left_s >= 0
        if total is None or now_s < PACE_EVIDENCE_S:
            assert left_s is None
        if left_s is not None and total is not None and done >= total:
            assert left_s == 0


@given(REPORTS)
def test_any_order_of_reports_is_borne(reports: list[tuple[float, int, int | None]]) -> None:
    pace = Pace()
    for now_s, done, total in reports:
        left_s = pace.left_s("dump", "rows", done, total, now_s=now_s)
        assert left_s is None or left_s >= 0


def test_whoever_watches_from_here_on_has_a_pace_of_their_own() -> None:
    told: list[Progress] = []
    with context.scope(on_progress=told.append) as outer:
        with context.scope(operation="x") as same:
            assert same.pace is outer.pace
        with context.scope(on_progress=told.append) as inner:
            assert inner.pace is not outer.pace
        context.progress("dump", 1, None, "rows", detail="2.0 MB written", not_before_s=3.0)
    assert told == [Progress("dump", 1, None, "rows", 3.0, "2.0 MB written")]


LOOKS = st.lists(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(0, 500)), max_size=4), max_size=30
)


@given(st.dictionaries(st.integers(1, 6), st.integers(0, 1000)), LOOKS)
def test_rows_only_ever_grow(expected: dict[int, int], looks: list[list[tuple[int, int, int]]]) -> None:
    rows = Rows(expected)
    assert (rows.done, rows.total) == (0, sum(expected.values()))
    before = (0, 0)
    for look in looks:
        rows.see(look)
        assert rows.done >= before[0]
        assert rows.total >= before[1]
        assert rows.done <= rows.total
        before = (rows.done, rows.total)


def test_a_table_that_is_over_counts_as_expected_or_as_seen() -> None:
    rows = Rows({1: 100, 2: 50})
    rows.see([(7, 1, 60), (8, 2, 55)])
    assert (rows.done, rows.total) == (115, 155)
    rows.see([(7, 3, 1)])
    assert (rows.done, rows.total) == (156, 156), "the last rows of 1 went by unseen; nobody had heard of 3"
    assert rows.unknown() == [3]
    rows.expect(3, 10)
    assert (rows.done, rows.total) == (156, 165)
    assert rows.unknown() == []

"""The breaker's state machine: pure, so that any clock and any bytes can be tried."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops.db import breaker
from chanuka_ops.db.breaker import OPEN, Policy, Record, State
from chanuka_ops.db.classify import FailureClass
from chanuka_ops.db.retry import Backoff

POLICY = Policy(3, 10.0, OPEN[FailureClass.AVAILABILITY])
CAP_S = POLICY.open_for.most_s
NOW = 1_700_000_000.0

ROLLS = st.floats(0, 1)
CLOCKS = st.floats(0, 4e9)
RAW = st.binary(min_size=Record.LAYOUT.size, max_size=Record.LAYOUT.size)
TIMES = st.one_of(st.just(0.0), CLOCKS)
COUNTS = st.integers(0, 1000)
RECORDS = st.builds(Record, TIMES, TIMES, TIMES, TIMES, COUNTS, COUNTS, st.integers(0, 2**22))
POLICIES = st.sampled_from([Policy(failures, 10.0, open_for) for failures in (1, 3) for open_for in OPEN.values()])


def fail(record: Record, now: float, *, roll: float = 0.5, policy: Policy = POLICY) -> Record:
    return breaker.failed(record, now, policy, roll=roll, pid=1)


def opened(now: float = NOW, *, roll: float = 0.5) -> Record:
    record = Record()
    for _ in range(POLICY.failures):
        record = fail(record, now, roll=roll)
    return record


def test_it_opens_at_the_threshold_and_not_before() -> None:
    record = Record()
    states = []
    for _ in range(POLICY.failures):
        record = fail(record, NOW)
        states.append(breaker.state(record, NOW, POLICY))
    assert states == [State.CLOSED, State.CLOSED, State.OPEN]


def test_failures_outside_the_window_do_not_add_up() -> None:
    apart, together = Record(), Record()
    for turn in range(10):
        apart = fail(apart, NOW + turn * (POLICY.window_s + 0.1))
        together = fail(together, NOW + turn * 0.01)
    assert breaker.state(apart, NOW, POLICY) is State.CLOSED
    assert apart.failures == 1
    assert together.trips == 1


def test_a_clock_set_back_begins_a_new_window() -> None:
    record = fail(fail(Record(), NOW), NOW)
    assert fail(record, NOW - 3600).failures == 1
    assert breaker.state(fail(record, NOW + 1), NOW + 1, POLICY) is State.OPEN


def test_an_open_record_is_not_extended_by_those_who_began_before() -> None:
    record = opened()
    assert fail(record, NOW + 0.2) == record
    assert fail(record, record.open_until + 0.01) != record, "the one who tried it does"


@given(st.lists(ROLLS, min_size=8, max_size=8))
def test_it_doubles_up_to_the_cap_with_a_tenth_of_jitter(rolls: list[float]) -> None:
    record, now = opened(roll=rolls[0]), NOW
    for trip, roll in enumerate(rolls[1:], start=2):
        now = record.open_until
        record = fail(record, now, roll=roll)
        nominal = min(CAP_S, POLICY.open_for.first_s * 2.0 ** (trip - 1))
        assert record.trips == trip
        assert nominal * 0.9 - 1e-5 <= record.open_until - now <= nominal * 1.1 + 1e-5


def test_half_open_comes_by_itself_when_nobody_renews() -> None:
    record = opened()
    assert breaker.state(record, record.open_until - 0.01, POLICY) is State.OPEN
    assert breaker.state(record, record.open_until, POLICY) is State.HALF_OPEN
    assert breaker.state(record, record.open_until + 1e9, POLICY) is State.HALF_OPEN


@given(RECORDS, CLOCKS)
def test_a_success_clears_everything(record: Record, now: float) -> None:
    after = breaker.succeeded(record, now, pid=7)
    assert not breaker.blemished(after)
    assert breaker.state(after, now, POLICY) is State.CLOSED
    assert (after.failures, after.trips, after.probe_until) == (0, 0, 0.0)


def test_only_a_clean_record_has_nothing_to_clear() -> None:
    assert not breaker.blemished(Record())
    assert breaker.succeeded(Record(), NOW, pid=1) == Record()
    assert breaker.blemished(fail(Record(), NOW))
    assert breaker.blemished(opened())


@given(RAW, st.floats(allow_nan=False), POLICIES)
def test_never_open_for_longer_than_the_cap_whatever_the_clock_or_the_bytes(
    raw: bytes, now: float, policy: Policy
) -> None:
    assert 0 <= breaker.retry_after_s(Record.unpacked(raw), now, policy) <= policy.open_for.most_s * 1.1


@given(RECORDS, CLOCKS, CLOCKS, ROLLS, POLICIES)
def test_after_any_failure_and_any_jump_of_the_clock_it_is_half_open_within_the_cap(
    record: Record, then: float, jumped: float, roll: float, policy: Policy
) -> None:
    after = fail(record, then, roll=roll, policy=policy)
    if breaker.state(after, jumped, policy) is State.OPEN:
        later = jumped + policy.open_for.most_s * 1.1 + 0.001
        assert breaker.state(after, later, policy) is State.HALF_OPEN


@given(RECORDS)
def test_a_record_survives_packing(record: Record) -> None:
    assert Record.unpacked(record.packed()) == record


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_a_time_that_makes_no_sense_is_a_closed_record(position: int, value: float) -> None:
    times = [NOW] * 4
    sound = Record.LAYOUT.pack(*times, 3, 1, 1)
    times[position] = value
    assert Record.unpacked(Record.LAYOUT.pack(*times, 3, 1, 1)) == Record()
    assert Record.unpacked(sound) != Record()


@given(RAW, CLOCKS, ROLLS)
def test_whatever_the_bytes_are_it_goes_on_from_them(raw: bytes, now: float, roll: float) -> None:
    record = Record.unpacked(raw)
    for after in (
        fail(record, now, roll=roll),
        breaker.succeeded(record, now, pid=1),
        breaker.probing(record, now, deadline_s=1.0, pid=1),
    ):
        assert Record.unpacked(after.packed()) == after


def test_counts_that_make_no_sense_are_a_closed_record_and_no_overflow() -> None:
    most = 2**32 - 1
    for failures, trips in ((most, 0), (0, most)):
        raw = struct.pack("<ddddIIQ", 0.0, NOW, 0.0, 0.0, failures, trips, 1)
        assert Record.unpacked(raw) == Record()
        assert fail(Record.unpacked(raw), NOW).packed()


def test_the_turn_of_a_frozen_prober_is_over_at_its_own_deadline() -> None:
    record = breaker.probing(opened(), NOW, deadline_s=2.0, pid=9)
    assert record.pid == 9
    assert not breaker.overdue(record, NOW + 1.9, longest_s=60)
    assert breaker.overdue(record, NOW + 2.1, longest_s=60)
    assert breaker.overdue(record, NOW - 3600, longest_s=60), "a clock set back doesn't make it last"
    assert not breaker.overdue(replace(record, probe_until=0.0), NOW + 100, longest_s=60), "nobody has it"


def test_a_policy_of_one_failure_opens_at_once() -> None:
    policy = Policy(1, 10.0, Backoff(1.0, 5.0))
    assert breaker.state(fail(Record(), NOW, policy=policy), NOW, policy) is State.OPEN

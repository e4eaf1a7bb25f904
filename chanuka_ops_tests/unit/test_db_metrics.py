"""One node's numbers: right to within a bucket, in constant memory."""

from __future__ import annotations

import threading
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops.db.metrics import BOUNDS_S, Histogram, Metrics

DURATIONS = st.lists(st.floats(0, 200), min_size=1, max_size=200)


def filled(seconds: list[float]) -> Histogram:
    histogram = Histogram()
    for one in seconds:
        histogram.add(one)
    return histogram


@given(DURATIONS, st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_right_within_its_bucket(seconds: list[float], share: float) -> None:
    told = filled(seconds).quantile_s(share)
    true = next(one for rank, one in enumerate(sorted(seconds), start=1) if rank >= share * len(seconds))
    below = max((bound for bound in BOUNDS_S if bound < true), default=0.0)
    above = min((bound for bound in BOUNDS_S if bound >= true), default=max(seconds))
    assert true <= told <= above or told == pytest.approx(max(seconds))
    assert told > below or told == max(seconds)


@given(DURATIONS)
def test_count_and_maximum_are_exact_and_quantiles_rise(seconds: list[float]) -> None:
    shown = filled(seconds).to_json()
    assert shown["count"] == len(seconds)
    assert shown["max_ms"] == round(max(seconds) * 1000, 3)
    assert shown["p50_ms"] <= shown["p95_ms"] <= shown["p99_ms"] <= shown["max_ms"]


def test_the_buckets_go_from_a_microsecond_to_100_s_in_even_steps() -> None:
    assert (BOUNDS_S[0], BOUNDS_S[-1]) == (1e-6, 100.0)
    assert all(1.5 < above / below < 1.7 for below, above in pairwise(BOUNDS_S))


def test_nothing_counted_is_zero_and_no_error() -> None:
    assert Histogram().quantile_s(0.5) == 0.0
    assert "times" not in Metrics(timed=False).to_json()
    assert Metrics(timed=True).to_json() == {"counts": {}, "times": {}}


def test_memory_stays_the_same_however_much_is_counted() -> None:
    metrics = Metrics(timed=True)

    def use(times: int) -> None:
        for number in range(times):
            metrics.used(number * 1e-6, number * 1e-5)
            metrics.count("retries.TargetUnavailable")

    use(1000)
    tracemalloc.start()
    try:
        use(1000)
        before = tracemalloc.get_traced_memory()[0]
        use(20_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 1000, "twenty thousand uses must leave nothing behind"


@pytest.mark.parametrize("timed", [True, False])
def test_without_performance_tracking_there_are_counts_and_no_times(*, timed: bool) -> None:
    metrics = Metrics(timed=timed)
    metrics.used(0.001, 0.002)
    metrics.connected(0.003)
    metrics.count("lost")
    shown = metrics.to_json()
    assert shown["counts"] == {"checkouts": 1, "connects": 1, "lost": 1}
    assert ("times" in shown) is timed
    if timed:
        assert {name: one["max_ms"] for name, one in shown["times"].items()} == {
            "connect": 3.0,
            "use": 2.0,
            "wait": 1.0,
        }


def test_threads_lose_no_count() -> None:
    metrics = Metrics(timed=True)

    def use() -> None:
        for _ in range(5000):
            metrics.used(0.001, 0.001)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = metrics.to_json()
    assert shown["counts"]["checkouts"] == shown["times"]["use"]["count"] == 20_000

"""Which node serves what: the router's decisions, over made up sights of the nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops.db import router
from chanuka_ops.db.router import ConsistencyToken, Lag, Observation, Policy, Role, View

SYSTEM = 7_400_000_000_000_000_001
POLICY = Policy(max_lag_bytes=1000, max_lag_s=30.0, primary_fallback=True)
NO_FALLBACK = replace(POLICY, primary_fallback=False)
NONE = Lag(0, 0.0)

lsns = st.integers(0, 2**64 - 1)
timelines = st.integers(1, 2**32 - 1)
systems = st.integers(1, 2**63 - 1)
seconds = st.floats(0, 1e6, allow_nan=False)
tokens = st.builds(ConsistencyToken, systems, timelines, lsns)
rolls = st.floats(0, 1, exclude_max=True)
lags = st.builds(Lag, st.integers(0, 10**7), seconds)


def seen(role: Role = "standby", lsn: int = 5000, timeline: int | None = 1, system_id: int = SYSTEM) -> Observation:
    return Observation(at_s=100.0, role=role, system_id=system_id, timeline=timeline, lsn=lsn)


def standby(name: str, weight: int = 1, lag: Lag | None = NONE, *, reachable: bool = True, lsn: int = 5000) -> View:
    return View(name, weight, reachable, seen(lsn=lsn), lag)


def primary(name: str = "p", timeline: int = 1, *, reachable: bool = True) -> View:
    return View(name, 0, reachable, seen("primary", timeline=timeline))


def first(views: list[View], roll: float, policy: Policy = POLICY) -> str:
    return router.readers(views, policy, roll=roll)[0]


@given(weights=st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any))
def test_each_replica_comes_first_as_often_as_its_weight_says(weights: list[int]) -> None:
    views = [primary(), *(standby(str(number), weight) for number, weight in enumerate(weights))]
    parts = sum(weights)
    # the middle of each part: no roll falls onto a border
    chosen = Counter(first(views, (part + 0.5) / parts) for part in range(parts))
    assert chosen == Counter({str(number): weight for number, weight in enumerate(weights) if weight})


@given(roll=rolls, weights=st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_a_replica_of_weight_0_gets_no_read_and_all_others_are_tried_before_the_primary(
    roll: float, weights: list[int]
) -> None:
    views = [primary(), *(standby(str(number), weight) for number, weight in enumerate(weights))]
    names = router.readers(views, POLICY, roll=roll)
    assert set(names[:-1]) == {str(number) for number, weight in enumerate(weights) if weight}
    assert names[-1] == "p"
    assert len(names) == len(set(names))


@given(behind_s=seconds, at_s=seconds, lsn=st.integers(0, 2**40), looks=st.integers(1, 5))
def test_an_idle_standby_that_has_everything_never_lags(behind_s: float, at_s: float, lsn: int, looks: int) -> None:
    standing = Observation(at_s, "standby", SYSTEM, 1, lsn, behind_s=behind_s)
    history = [(float(number), lsn) for number in range(looks)]
    assert router.lag_of(standing, history) == NONE


def test_a_standby_lags_since_the_first_position_it_has_not_reached() -> None:
    history = [(10.0, 100), (20.0, 200), (30.0, 300)]
    at_150 = Observation(31.0, "standby", SYSTEM, 1, 150, behind_s=2.0)
    assert router.lag_of(at_150, history) == Lag(150, 11.0)
    before_all = replace(at_150, lsn=50, behind_s=500.0)
    assert router.lag_of(before_all, history) == Lag(250, 500.0)
    assert router.lag_of(replace(before_all, behind_s=None), history) == Lag(250, 21.0)
    assert router.lag_of(at_150, []) is None


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (standby("a", lag=Lag(1001, 0.0)), "it lags by 1001 bytes, more than 1000"),
        (standby("a", lag=Lag(1, 30.1)), "it lags by 30.1 s, more than 30"),
        (standby("a", 0), "its weight is 0"),
        (standby("a", reachable=False), "it can't be reached"),
        (View("a", 1, reachable=True, observation=None), "it can't be reached"),
        (primary("a"), "it is the primary"),
        (
            View("a", 1, reachable=True, observation=seen(system_id=5), lag=NONE),
            f"it belongs to another cluster (system 5, not {SYSTEM})",
        ),
        (standby("a", lag=Lag(1000, 30.0)), None),
    ],
)
def test_what_is_not_fit_gets_no_read_and_is_told_why(view: View, reason: str | None) -> None:
    assert router.ejected(view, POLICY, SYSTEM) == reason
    assert ("a" in router.readers([primary(), view], POLICY, roll=0.0)) is (reason is None)


@given(lag=lags, more=st.integers(0, 10**6), longer=seconds, policy=st.builds(Policy, st.integers(0, 10**7), seconds))
def test_more_lag_never_brings_a_replica_back(lag: Lag, more: int, longer: float, policy: Policy) -> None:
    worse = Lag(lag.bytes + more, lag.seconds + longer)
    assert (
        router.ejected(standby("a", lag=lag), policy, SYSTEM) is None
        or router.ejected(standby("a", lag=worse), policy, SYSTEM) is not None
    )


@given(order=st.permutations([1, 3, 2]))
def test_of_two_that_claim_to_be_primary_the_newer_timeline_is_right(order: list[int]) -> None:
    views = [primary(str(timeline), timeline) for timeline in order]
    newest = router.primary_of(views)
    assert newest is not None
    assert newest.name == "3"
    assert router.primary_of([primary("gone", 9, reachable=False), *views]) == newest
    assert router.primary_of([standby("a"), View("b", 0, reachable=True, observation=None)]) is None


def of(system_id: int, name: str = "x", role: Role = "primary", timeline: int | None = 1) -> View:
    return View(name, 1, reachable=True, observation=seen(role, timeline=timeline, system_id=system_id))


@given(others=st.lists(st.integers(1, 3), max_size=5), first_id=st.integers(1, 3))
def test_the_first_server_says_which_cluster_is_meant(others: list[int], first_id: int) -> None:
    assert router.system_of([of(first_id), *map(of, others)]) == first_id


def test_most_servers_say_which_cluster_is_meant_where_the_first_was_never_seen() -> None:
    unseen = View("a", 0, reachable=False, observation=None)
    assert router.system_of([unseen, of(5), of(SYSTEM), of(SYSTEM)]) == SYSTEM
    assert router.system_of([unseen]) is None
    assert router.system_of([]) is None


def test_a_primary_of_another_cluster_is_none_however_new_its_timeline() -> None:
    views = [primary(timeline=1), of(5, "foreign", timeline=9), standby("a")]
    assert router.primary_of(views) == views[0]
    assert router.primary_of([primary(reachable=False), *views[1:]]) is None
    assert router.readers(views, POLICY, roll=0.0) == ["a", "p"]


@given(known=st.lists(st.tuples(st.sampled_from(["primary", "standby"]), st.none() | st.integers(1, 9)), min_size=1))
def test_no_primary_gets_the_writes_once_a_newer_timeline_was_begun(known: list[tuple[Role, int | None]]) -> None:
    views = [of(SYSTEM, role=role, timeline=timeline) for role, timeline in known]
    newest = max(timeline or 0 for _, timeline in known)
    for timeline in range(1, 11):
        refused = router.usurps(seen("primary", timeline=timeline), views)
        assert (refused is not None) is (timeline < newest)


def test_reads_fall_back_on_the_primary_only_where_that_is_allowed() -> None:
    late = standby("a", lag=Lag(5000, 0.0))
    assert router.readers([primary(), late], POLICY, roll=0.0) == ["p"]
    assert router.readers([primary(), late], NO_FALLBACK, roll=0.0) == []
    assert router.readers([primary(), standby("a")], NO_FALLBACK, roll=0.0) == ["a"]
    # without a replica that was ever meant to be read from, the primary is no fallback
    assert router.readers([primary(), standby("a", 0)], NO_FALLBACK, roll=0.0) == ["p"]


def test_a_server_on_which_this_read_failed_is_left_out() -> None:
    views = [primary(), standby("a"), standby("b")]
    assert router.readers(views, POLICY, roll=0.0, without=frozenset({"a"})) == ["b", "p"]
    assert router.readers(views, POLICY, roll=0.0, without=frozenset({"a", "b"})) == ["p"]
    assert router.readers(views, POLICY, roll=0.0, without=frozenset({"a", "b", "p"})) == []


def test_a_replica_whose_lag_nobody_could_measure_comes_last() -> None:
    unmeasured = standby("a", lag=None)
    assert router.readers([primary(), unmeasured, standby("b")], POLICY, roll=0.0) == ["b", "p", "a"]
    assert router.readers([unmeasured], NO_FALLBACK, roll=0.0) == ["a"]


@given(roll=rolls)
def test_a_replica_that_has_the_token_comes_before_one_that_has_not(roll: float) -> None:
    views = [primary(), standby("behind", 9, lsn=4999), standby("there", 1, lsn=5000)]
    names = router.readers(views, POLICY, roll=roll, after=ConsistencyToken(SYSTEM, 1, 5000))
    assert names == ["there", "behind", "p"]


@given(token=tokens, lsn=lsns, timeline=st.none() | timelines, system_id=systems, same=st.booleans())
def test_no_standby_is_trusted_with_another_history_or_too_little_of_this_one(
    *, token: ConsistencyToken, lsn: int, timeline: int | None, system_id: int, same: bool
) -> None:
    system = token.system_id if same else system_id
    standing = seen(lsn=lsn, timeline=timeline, system_id=system)
    holds = timeline == token.timeline and lsn >= token.lsn and system == token.system_id
    assert router.proven(token, standing) is holds


@given(token=tokens, further=st.integers(0, 2**32))
def test_the_tokens_own_history_is_proof_once_it_has_come_that_far(token: ConsistencyToken, further: int) -> None:
    roles: list[Role] = ["standby", "primary"]
    for role in roles:
        there = seen(role, token.lsn + further, token.timeline, token.system_id)
        assert router.proven(token, there)
        assert not router.proven(token, replace(there, lsn=token.lsn - 1))
        assert not router.proven(token, replace(there, system_id=token.system_id + 1))


@given(token=tokens, newer=st.integers(1, 5), lsn=lsns)
def test_the_primary_of_a_newer_timeline_serves_if_it_has_come_that_far(
    token: ConsistencyToken, newer: int, lsn: int
) -> None:
    moved_on = seen("primary", lsn, token.timeline + newer, token.system_id)
    assert router.proven(token, moved_on) is (lsn >= token.lsn)
    assert not router.proven(token, replace(moved_on, timeline=token.timeline - 1))


@given(token=tokens)
def test_a_token_comes_back_from_its_text(token: ConsistencyToken) -> None:
    assert ConsistencyToken.parse(str(token)) == token


def test_a_tokens_text_has_the_position_as_postgresql_writes_it() -> None:
    assert str(ConsistencyToken(7, 2, 0x16_B374_D848)) == "7:2:16/B374D848"


@pytest.mark.parametrize(
    "nonsense",
    [
        *("", "1", "1:2", "1:2:3", "1:2:3:4/5", "a:2:3/4", "1:b:3/4", "1:2:3/4/5", "1:2:x/4", "1:2:/", "1:2:3/"),
        *("--1:2:3/4", "1:-2:3/4", "1:2:-3/4", "1:2:3/-4", "1:2:3/100000000", "1:2:0x3/4", "1:2:3_0/4", " 1:2:3/4"),
    ],
)
def test_what_is_no_token_is_refused(nonsense: str) -> None:
    with pytest.raises(ValueError, match="is no consistency token: expected system:timeline:lsn"):
        ConsistencyToken.parse(nonsense)


@given(text=st.text(alphabet="0123456789ABCDEF:/-x_ ", max_size=24))
def test_whatever_is_taken_for_a_token_names_itself(text: str) -> None:
    try:
        token = ConsistencyToken.parse(text)
    except ValueError:
        return
    assert ConsistencyToken.parse(str(token)) == token
    assert min(token.timeline, token.lsn) >= 0

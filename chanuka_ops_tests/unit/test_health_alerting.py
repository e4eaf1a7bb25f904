"""Alerts: told once, told the truth, and never lost; by table, and by whatever Hypothesis thinks of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chanuka_ops.config.alerts import AlertSettings
from chanuka_ops.health.alerting import machine, service
from chanuka_ops.health.alerting.model import REACHABLE, Alert, Event, Key, Look, Policy, Silence, State
from chanuka_ops.health.model import Finding, Status

START = datetime(2026, 11, 28, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
POLICY = Policy(
    fires_after={Status.WARNING: 3, Status.CRITICAL: 1},
    at_once=frozenset(),
    clears_after=2,
    hysteresis=0.05,
    remind_s=3600,
    unknown_after_s=300,
    flaps=3,
    flap_window_s=3600,
    steady_after=5,
)
CHECK = "index.bloat"
ALL = frozenset({CHECK, "lock.blocked", REACHABLE})


def finding(status: Status, check: str = CHECK, object_: str = "public.i") -> Finding:
    return Finding(check, status, object_ or None, 60.0, "%", 50.0, f"{check} is wrong", "mend it")


def look(what: str, number: int, **more: object) -> Look:
    """One look: w warning, c critical, . nothing found, ? could not look, d the server is down, n near its limit.

    x no longer checked, p another check alone, b the password can't be had.
    """
    at = START + number * MINUTE
    base = Look("main", "db:5432", at, {}, {}, ALL)
    one = {
        "w": lambda: replace(base, bad={(CHECK, "public.i"): finding(Status.WARNING)}),
        "c": lambda: replace(base, bad={(CHECK, "public.i"): finding(Status.CRITICAL)}),
        ".": lambda: base,
        "n": lambda: replace(base, near=frozenset({(CHECK, "public.i")})),
        "?": lambda: replace(base, unknown={CHECK: "no rights"}, judged=ALL - {CHECK}),
        "x": lambda: replace(base, judged=ALL - {CHECK}),
        "b": lambda: replace(base, unknown={REACHABLE: "no password"}, judged=frozenset()),
        "p": lambda: replace(base, judged=frozenset({"lock.blocked"}), whole=False),
        "d": lambda: replace(
            base,
            bad={(REACHABLE, ""): finding(Status.CRITICAL, REACHABLE, "")},
            unknown=dict.fromkeys(ALL, "the server can't be asked"),
            judged=frozenset(),
        ),
    }[what]()
    return replace(one, **more)  # type: ignore[arg-type]


def told(looks: str, policy: Policy = POLICY, silences: Sequence[Silence] = ()) -> list[str]:
    """What is told at each look: event and severity, or nothing."""
    alerts: dict[Key, Alert] = {}
    said = []
    for number, what in enumerate(looks):
        alerts, changes = machine.advance(alerts, look(what, number), policy, silences)
        alerts = {key: Alert.from_json(alert.to_json()) for key, alert in alerts.items()}  # as the store keeps them
        said.append(" ".join(f"{change.event}:{change.alert.severity}" for change in changes))
    return said


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ("ww.", ["", "", ""]),
        ("www", ["", "", "firing:warning"]),
        ("ww.www", ["", "", "", "", "", "firing:warning"]),
        ("c", ["firing:critical"]),
        ("cc..", ["firing:critical", "", "", "resolved:critical"]),
        ("c.c..", ["firing:critical", "", "", "", "resolved:critical"]),
        ("wwwc", ["", "", "firing:warning", "escalated:critical"]),
        ("cw..", ["firing:critical", "", "", "resolved:warning"]),
        ("wc", ["", "firing:critical"]),
        ("cnnn..", ["firing:critical", "", "", "", "", "resolved:critical"]),
        ("c???..", ["firing:critical", "", "", "", "", "resolved:critical"]),
        ("????????", ["", "", "", "", "", "firing:unknown", "", ""]),
        ("??.???", ["", "", "", "", "", ""]),
        ("???????..", ["", "", "", "", "", "firing:unknown", "", "", "resolved:unknown"]),
        ("cx", ["firing:critical", "resolved:critical"]),
        ("cppp", ["firing:critical", "", "", ""]),
        ("dddd", ["firing:critical", "", "", ""]),
        ("cbbb..", ["firing:critical", "", "", "", "", "resolved:critical"]),
        ("bbbbbbb", ["", "", "", "", "", "firing:unknown", ""]),
        ("cdd..", ["firing:critical", "firing:critical", "", "", "resolved:critical resolved:critical"]),
    ],
)
def test_what_is_told(looks: str, expected: list[str]) -> None:
    assert told(looks) == expected


def test_what_shows_in_one_look_only_is_told_at_once() -> None:
    policy = replace(POLICY, at_once=frozenset({CHECK}))
    assert told("w..", policy) == ["firing:warning", "", "resolved:warning"]
    assert "lock.deadlocks" in service.policy_of(AlertSettings()).at_once


def test_a_server_that_is_down_is_all_that_is_told() -> None:
    assert told("w" + "d" * 30)[1:] == ["firing:critical", *[""] * 29]


def test_while_the_server_is_down_nothing_else_is_told_not_even_again() -> None:
    found_elsewhere = {("backup.proven_age", ""): finding(Status.CRITICAL, "backup.proven_age", "")}
    down = look("d", 0).bad
    alerts, changes = machine.advance({}, look("d", 0, bad={**down, **found_elsewhere}), POLICY)
    assert [change.alert.key.check for change in changes] == [REACHABLE]
    _, changes = machine.advance(alerts, look(".", 1, bad=found_elsewhere), POLICY)
    assert [change.alert.key.check for change in changes] == ["backup.proven_age"]  # now that there is time for it
    assert told("c" + "d" * 61)[60:] == ["", "reminder:critical"]  # of the server alone


def test_it_is_told_again_each_time_the_time_is_over() -> None:
    said = told("c" * 130)
    assert [number for number, one in enumerate(said) if one] == [0, 60, 120]
    assert said[60] == "reminder:critical"


def test_what_comes_and_goes_has_to_be_good_for_longer() -> None:
    said = told("c.." * 2 + "c" + "." * 6)
    assert said[:6] == ["firing:critical", "", "resolved:critical"] * 2
    assert said[6:] == ["firing:critical", "", "", "", "", "resolved:critical", ""]


def test_in_a_silence_nothing_is_told_and_after_it_what_fires_still_is() -> None:
    silence = Silence(1, "ma*", "index.*", "*", START, START + 3 * MINUTE, "we know")
    assert told("ccccc", silences=[silence]) == ["", "", "", "firing:critical", ""]
    assert told("cc...", silences=[silence]) == [""] * 5
    assert told("ccc..", silences=[silence]) == [""] * 5  # it's about to be over: nobody need know
    other = replace(silence, check="lock.*")
    assert told("c", silences=[other]) == ["firing:critical"]


def test_who_was_told_that_it_fires_is_told_that_it_is_over_in_a_silence_too() -> None:
    silence = Silence(1, "*", "*", "*", START + MINUTE, START + 9 * MINUTE, "we know")
    assert told("cc..", silences=[silence]) == ["firing:critical", "", "", "resolved:critical"]


def test_a_clock_that_is_put_back_loses_nothing() -> None:
    alerts, changes = machine.advance({}, look("c", 100), POLICY)
    assert [change.event for change in changes] == [Event.FIRING]
    alerts, changes = machine.advance(alerts, look("c", 0), POLICY)
    assert [change.event for change in changes] == [Event.REMINDER]
    for number in (1, 2):
        alerts, changes = machine.advance(alerts, look(".", number), POLICY)
    assert [change.event for change in changes] == [Event.RESOLVED]


def test_another_object_near_its_limit_keeps_no_alert_alive() -> None:
    alerts, _ = machine.advance({}, look("c", 0), POLICY)
    for number in (1, 2):
        other = look(".", number, near=frozenset({(CHECK, "public.other")}))
        alerts, changes = machine.advance(alerts, other, POLICY)
    assert [change.event for change in changes] == [Event.RESOLVED]


def sessions(*pids: int, status: Status = Status.CRITICAL) -> dict[tuple[str, str], Finding]:
    return {("lock.blocked", f"pid {pid}"): finding(status, "lock.blocked", f"pid {pid}") for pid in pids}


def test_sessions_that_come_one_after_the_other_are_told_of_together() -> None:
    policy = replace(POLICY, gather_s=300)
    alerts: dict[Key, Alert] = {}
    said = []
    for number in range(8):
        alerts, changes = machine.advance(alerts, look(".", number, bad=sessions(*range(number + 1))), policy)
        said.append(len(changes))
    assert said == [1, 0, 0, 0, 0, 5, 0, 0]
    both = {**look("c", 8).bad, **sessions(*range(8))}
    alerts, changes = machine.advance(alerts, look("c", 8, bad=both), policy)
    assert [change.alert.key.check for change in changes] == [CHECK]  # another check waits for nobody


def test_what_is_worse_waits_for_nobody() -> None:
    policy = replace(POLICY, gather_s=300, fires_after={})
    alerts, _ = machine.advance({}, look(".", 0, bad=sessions(1, status=Status.WARNING)), policy)
    worse = sessions(1, status=Status.WARNING) | sessions(2)
    _, changes = machine.advance(alerts, look(".", 1, bad=worse), policy)
    assert [change.alert.key.object for change in changes] == ["pid 2"]


def test_of_a_database_that_nobody_looks_at_any_more_it_is_said_that_it_is_over() -> None:
    alerts, _ = machine.advance({}, look("c", 0, bad={**look("c", 0).bad, **sessions(1)}), POLICY)
    pending, _ = machine.advance({}, look("w", 0), POLICY)
    [first, second] = machine.let_go([*alerts.values(), *pending.values()], START, "gone")
    assert (first.event, first.alert.reason, second.event) == (Event.RESOLVED, "gone", Event.RESOLVED)


LOOKS = st.text(alphabet="wc.?dnxpb", max_size=60)


@settings(deadline=None)
@given(looks=LOOKS)
def test_never_two_firings_without_a_resolve_between(looks: str) -> None:
    alerts: dict[Key, Alert] = {}
    open_: set[Key] = set()
    for number, what in enumerate(looks):
        alerts, changes = machine.advance(alerts, look(what, number), POLICY)
        for change in changes:
            key = change.alert.key
            if change.event is Event.FIRING:
                assert key not in open_
                open_.add(key)
            else:
                assert key in open_
            if change.event is Event.RESOLVED:
                open_.remove(key)
        assert open_ == {alert.key for alert in alerts.values() if alert.told is not None}


@settings(deadline=None)
@given(before=LOOKS, silent=st.integers(0, 20))
def test_what_stays_wrong_is_told_whatever_went_before(before: str, silent: int) -> None:
    """No alert is lost: by as many looks as it takes to fire, whoever wants to know has been told of it."""
    until = START + (len(before) + silent) * MINUTE
    silences = [Silence(1, "*", "*", "*", START + len(before) * MINUTE, until, "for a while")] if silent else []
    alerts: dict[Key, Alert] = {}
    for number, what in enumerate(before + "w" * (silent + 3)):
        alerts, _ = machine.advance(alerts, look(what, number), POLICY, silences)
    alert = alerts[Key("main", CHECK, "public.i")]
    assert (alert.state, alert.told is not None) == (State.FIRING, True)


def test_what_is_about_to_be_over_is_not_told_again() -> None:
    assert told("c" * 60 + "..")[59:] == ["", "", "resolved:critical"]


@settings(deadline=None)
@given(before=LOOKS)
def test_what_is_right_for_long_enough_is_over(before: str) -> None:
    alerts: dict[Key, Alert] = {}
    for number, what in enumerate(before + "." * 5):
        alerts, _ = machine.advance(alerts, look(what, number), POLICY)
    assert machine.firing(alerts.values()) == []


@settings(deadline=None)
@given(looks=LOOKS)
def test_it_is_told_again_no_more_often_than_it_should(looks: str) -> None:
    alerts: dict[Key, Alert] = {}
    last: dict[Key, datetime] = {}
    for number, what in enumerate(looks * 3):
        alerts, changes = machine.advance(alerts, look(what, number), POLICY)
        for change in changes:
            if change.event is Event.REMINDER:
                assert change.alert.seen_at - last[change.alert.key] >= timedelta(seconds=POLICY.remind_s)
            last[change.alert.key] = START + number * MINUTE

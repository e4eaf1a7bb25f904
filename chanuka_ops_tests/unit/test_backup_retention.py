"""What stays and what expires: a table of cases, and what must hold of every catalogue and every policy."""

from __future__ import annotations

import doctest
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chanuka_ops.backup import documents, retention
from chanuka_ops.backup.answers import Listed, Retention
from chanuka_ops.backup.model import Evidence, Status, Tier
from chanuka_ops.backup.retention import decide
from chanuka_ops.backup.rules import CLOCK_TOLERANCE
from chanuka_ops.config import KeepSettings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NUMBERS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def listed(created_at: datetime | None, suffix: int = 0, **fields: Any) -> Listed:
    """A backup of the catalogue, whole unless the fields say otherwise."""
    stamp = f"{created_at:%Y%m%dT%H%M%SZ}" if created_at else "20260101T000000Z"
    given_fields = {
        "tier": "taken",
        "bytes": 1,
        "server_version": "18.6",
        "kind": "logical",
        "database": "main",
    } | fields
    return Listed.model_validate({"backup_id": f"main-{stamp}-{suffix:06x}", "created_at": created_at, **given_fields})


def damaged(suffix: int = 0) -> Listed:
    return documents.damaged("default", "main", f"main-20260101T000000Z-{suffix:06x}", "status.json can't be read")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days(decided: Retention) -> set[str]:
    """The days that the ids of what stays say."""
    return {f"{name[5:9]}-{name[9:11]}-{name[11:13]}" for name in kept(decided)}


def kept(decided: Retention) -> set[str]:
    return {one.backup_id for one in decided.keep}


def expired(decided: Retention) -> set[str]:
    return {one.backup_id for one in decided.expire}


def reasons(decided: Retention, backup: Listed) -> tuple[str, ...]:
    """Everything that is said of a backup."""
    found = [one.reasons for one in decided.keep if one.backup_id == backup.backup_id]
    found += [(one.reason,) for one in decided.expire if one.backup_id == backup.backup_id]
    (only,) = found
    return only


def nightly(first: str, count: int) -> list[Listed]:
    return [listed(at(first) + timedelta(days=day, hours=3)) for day in range(count)]


# ------------------------------------------------------------------ cases


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(retention).failed == 0


def test_a_year_of_nights_under_an_ordinary_policy() -> None:
    year = nightly("2025-11-23", 365)
    decided = decide(year, KeepSettings(daily=7, weekly=4, monthly=12, yearly=3), NOW)
    assert days(decided) == {
        "2026-11-22", "2026-11-21", "2026-11-20", "2026-11-19", "2026-11-18", "2026-11-17", "2026-11-16",  # daily
        "2026-11-15", "2026-11-08", "2026-11-01",  # weekly, after the 22nd, which is a Sunday
        "2026-10-31", "2026-09-30", "2026-08-31", "2026-07-31", "2026-06-30", "2026-05-31", "2026-04-30", "2026-03-31",
        "2026-02-28", "2026-01-31", "2025-12-31",  # monthly, after the 22nd; yearly: that, and the last of these
    }  # fmt: skip
    assert len(decided.expire) == 365 - 21
    assert reasons(decided, year[-1]) == (
        "minimum: 1 of the 2 that always stay",
        "daily: the newest of 2026-11-22, day 1 of 7",
        "weekly: the newest of 2026-W47, week 1 of 4",
        "monthly: the newest of 2026-11, month 1 of 12",
        "yearly: the newest of 2026, year 1 of 3",
    )
    assert reasons(decided, year[38]) == (
        "monthly: the newest of 2025-12, month 12 of 12",
        "yearly: the newest of 2025, year 2 of 3",
    )
    assert reasons(decided, year[-9]) == (
        (
            "daily = 7 reaches back to 2026-11-16; weekly = 4: a newer one stands for 2026-W46; "
            "monthly = 12: a newer one stands for 2026-11; yearly = 3: a newer one stands for 2026"
        ),
    )
    assert (decided.database, decided.store, decided.refused) == ("main", "default", None)


@pytest.mark.parametrize(
    ("policy", "cases"),  # + stays, - expires; the newest first
    [
        ({"last": 2}, "+2026-11-22T10:00 +2026-11-22T09:00 -2026-11-22T08:00"),
        ({"last": 9}, "+2026-11-22T10:00 +2026-11-22T09:00"),
        ({"hourly": 2}, "+2026-11-22T10:59 -2026-11-22T10:00 +2026-11-22T07:59 -2026-11-22T07:00 -2026-11-22T06:00"),
        # a day is UTC's; equal instants are two, and the greater id is the newer
        ({"daily": 2}, "+2026-11-22T00:00 +2026-11-21T23:59:59 -2026-11-21T23:59:59 -2026-11-21T00:00 -2026-11-20"),
        # days that have a backup count, not the calendar's
        ({"daily": 3}, "+2026-11-22 +2026-11-21 +2026-03-01 -2026-02-28"),
        # 2026-12-31 and 2027-01-01 lie in one ISO week, 2026-W53; 2027-01-04 begins the next
        ({"weekly": 3}, "+2027-01-04 +2027-01-01 -2026-12-31 -2026-12-28 +2026-12-27 -2026-12-20"),
        ({"daily": 4}, "+2028-03-01 +2028-02-29 +2028-02-28 +2028-02-27 -2028-02-26"),
        ({"monthly": 2}, "+2028-03-01 +2028-02-29 -2028-02-28 -2028-01-31"),
        ({"yearly": 2}, "+2028-01-01 +2027-12-31 -2027-01-01 -2026-12-31"),
        # what several numbers keep is still one
        ({"daily": 2, "weekly": 2, "last": 2}, "+2026-11-22 +2026-11-21 -2026-11-20 +2026-11-15 -2026-11-14"),
        # the age is counted from the newest
        ({"maximum_age": "1d"}, "+2026-11-22T10:00 +2026-11-21T10:00 -2026-11-21T09:59:59"),
        ({"last": 3, "maximum_age": "1d"}, "+2026-11-22 +2026-11-21 -2026-11-19"),
        ({"last": 1, "minimum": 3}, "+2026-11-22 +2026-11-21 +2026-11-19 -2026-11-18"),
        ({"maximum_age": "1h", "minimum": 3}, "+2026-11-22 +2026-11-21 +2026-11-19 -2026-11-18"),
        ({"minimum": 1}, "+2026-11-22 +2026-11-21 +1999-11-19"),
        ({"last": 1}, ""),
    ],
)
def test_the_newest_of_each_stay(policy: dict[str, Any], cases: str) -> None:
    words = cases.split()
    backups = [listed(at(word[1:]), len(words) - place) for place, word in enumerate(words)]
    decided = decide(backups, KeepSettings.model_validate({"minimum": 1, **policy}), at("2028-06-01"))
    expected = [backup.backup_id for backup, word in zip(backups, words, strict=True) if word[0] == "+"]
    assert [one.backup_id for one in decided.keep] == expected
    assert len(decided.expire) == len(words) - len(expected)


def test_a_day_is_that_of_utc_wherever_the_backup_was_taken() -> None:
    tokyo = timezone(timedelta(hours=9))
    late, early = listed(datetime(2026, 11, 22, 8, tzinfo=tokyo), 1), listed(at("2026-11-21 01:00"), 2)
    assert expired(decide([late, early], KeepSettings(daily=2, minimum=1), NOW)) == {early.backup_id}


# ------------------------------------------------------------------ what is stronger than a number


def test_a_pin_holds_against_every_number_and_age_and_says_why() -> None:
    old = listed(at("2020-01-01"), pinned="the auditor's")
    decided = decide([*nightly("2026-11-01", 20), old], KeepSettings(last=1, maximum_age_hours=1), NOW)
    assert reasons(decided, old) == ("pinned: the auditor's",)


def test_the_newest_proven_one_holds_against_every_number_and_age() -> None:
    older = listed(at("2020-01-01"), tier="proven", proven_at=at("2026-11-20 04:00"))
    last = listed(at("2020-01-02"), tier="proven", proven_at=at("2020-01-03 04:00"))
    verified = listed(at("2020-01-03"), tier="verified")
    backups = [*nightly("2026-11-01", 20), verified, last, older]
    decided = decide(backups, KeepSettings(last=1, maximum_age_hours=1, minimum=1), NOW)
    assert reasons(decided, last) == ("the newest backup that was proven, at 2020-01-03 04:00 UTC",)
    assert {older.backup_id, verified.backup_id} < expired(decided)


def test_what_expires_for_its_age_says_both_numbers() -> None:
    backups = [listed(at("2026-11-22")), listed(at("2026-10-12 05:30"))]
    policy = KeepSettings(last=9, minimum=1, maximum_age_hours=30 * 24)
    decided = decide(backups, policy, NOW)
    assert reasons(decided, backups[1]) == (
        "past the maximum age of 30 d: it is 40 d 18 h 30 min older than the newest whole one",
    )


# ------------------------------------------------------------------ what is broken


@pytest.mark.parametrize(
    "broken",
    [damaged(), listed(None), listed(datetime(2020, 1, 1)), listed(at("2020-01-01"), problem="truncated")],  # noqa: DTZ001 - that's the case
    ids=["damaged", "undated", "without time zone", "problem"],
)
def test_what_can_t_be_read_stays_for_a_person_and_counts_for_nothing(broken: Listed) -> None:
    whole = nightly("2026-11-10", 3)
    decided = decide([broken, *whole], KeepSettings(last=1, minimum=1, maximum_age_hours=24), NOW)
    assert kept(decided) == {broken.backup_id, whole[-1].backup_id}
    assert "a person has to look" in reasons(decided, broken)[0]


def test_one_that_failed_its_drill_does_not_speak_for_its_day() -> None:
    good = listed(at("2026-11-22 03:00"))
    bad = listed(at("2026-11-22 09:00"), disproved="its drill of 2026-11-22 10:00 failed")
    decided = decide([good, bad], KeepSettings(daily=1, minimum=1), NOW)
    assert reasons(decided, good)[-1] == "daily: the newest of 2026-11-22, day 1 of 1"
    assert reasons(decided, bad) == ("a person has to look: its drill of 2026-11-22 10:00 failed",)


@pytest.mark.parametrize(("minimum", "expires"), [(3, True), (4, False)])
def test_one_that_failed_expires_past_the_maximum_age_if_whole_ones_are_enough(minimum: int, *, expires: bool) -> None:
    bad = listed(at("2026-01-22"), disproved="its verify of 2026-01-23 04:00 failed")
    policy = KeepSettings(daily=2, minimum=minimum, maximum_age_hours=240)
    assert (bad.backup_id in expired(decide([bad, *nightly("2026-11-10", 3)], policy, NOW))) is expires


def test_older_whole_ones_do_not_let_one_that_failed_expire() -> None:
    bad = listed(at("2026-01-22"), disproved="its verify of 2026-01-23 04:00 failed")
    backups = [listed(at("2026-11-22")), bad, *nightly("2025-11-10", 30)]
    assert bad.backup_id in kept(decide(backups, KeepSettings(daily=2, minimum=2, maximum_age_hours=240), NOW))


def test_a_store_of_broken_backups_only_loses_none() -> None:
    bad = [listed(at("2020-01-01"), n, disproved="its verify failed") for n in range(3)]
    assert not decide([*bad, damaged()], KeepSettings(last=1, maximum_age_hours=1), NOW).expire


def look(step: str, day: int, *, passed: bool) -> Evidence:
    return Evidence.model_validate({"at": NOW + timedelta(days=day), "step": step, "passed": passed, "figures": {}})


@pytest.mark.parametrize(
    ("looks", "disproved"),
    [
        ([], None),
        ([("verify", True), ("drill", True)], None),
        ([("verify", False)], "its verify of 2026-11-22 12:00 failed"),
        ([("verify", False), ("verify", True)], None),
        # reread well, and yet the copy differed
        ([("drill", False), ("verify", True)], "its drill of 2026-11-22 12:00 failed"),
        ([("drill", False), ("verify", True), ("drill", True)], None),
    ],
)
def test_a_failed_look_stays_until_one_of_its_kind_passes(looks: list[tuple[str, bool]], disproved: str | None) -> None:
    evidence = tuple(look(step, day, passed=passed) for day, (step, passed) in enumerate(looks))
    proven = bool(looks) and looks[-1] == ("drill", True)
    status = Status(backup_id="x", evidence=evidence, tier=Tier.PROVEN if proven else Tier.TAKEN)
    assert status.disproved == disproved


# ------------------------------------------------------------------ when nothing expires

TIGHT = KeepSettings(last=1, minimum=1, maximum_age_hours=1)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"listing_problem": "the store timed out"}, "the listing may be partial: the store timed out"),
        ({"held_by": "chanuka/-/drill/0a1b2c3d"}, "chanuka/-/drill/0a1b2c3d works on the database"),
        ({"held_by": ""}, " works on the database"),  # said by nobody is still held
        ({"listing_problem": ""}, "the listing may be partial: "),
    ],
)
def test_nothing_expires_and_it_says_why(told: dict[str, str], said: str) -> None:
    backups = nightly("2026-11-01", 20)
    assert decide(backups, TIGHT, NOW).expire
    decided = decide(backups, TIGHT, NOW, **told)
    assert decided.refused == f"nothing expires: {said}"
    assert not decided.expire
    assert {one.reasons for one in decided.keep} == {(decided.refused,)}


@pytest.mark.parametrize("field", ["created_at", "proven_at"])
@pytest.mark.parametrize(("ahead", "refused"), [(CLOCK_TOLERANCE, False), (CLOCK_TOLERANCE * 1.01, True)])
def test_nothing_expires_when_the_clock_ran_backwards(field: str, ahead: timedelta, *, refused: bool) -> None:
    latest = listed(at("2026-11-21"), tier="proven").model_copy(update={field: NOW + ahead})
    decided = decide([latest, *nightly("2026-11-01", 20)], TIGHT, NOW)
    assert (decided.refused is not None) is refused
    assert bool(decided.expire) is not refused
    if refused:
        assert "it says 2026-11-22 12:00 UTC, and main-20261121T000000Z-000000 has a date of" in str(decided.refused)


@pytest.mark.parametrize("fields", [{"database": "other"}, {"store": "second"}])
def test_two_databases_or_stores_at_once_are_not_decided(fields: dict[str, str]) -> None:
    decided = decide([*nightly("2026-11-01", 20), listed(at("2026-11-21"), 7, **fields)], TIGHT, NOW)
    assert "each is decided by itself" in str(decided.refused)
    assert not decided.expire


def test_a_listing_that_names_one_twice_is_not_acted_upon() -> None:
    night = nightly("2026-11-01", 20)
    decided = decide([*night, night[3]], TIGHT, NOW)
    assert decided.refused == f"nothing expires: the listing names {night[3].backup_id} more than once"
    assert not decided.expire


def test_a_moment_without_time_zone_is_an_error() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        decide([], TIGHT, NOW.replace(tzinfo=None))


# ------------------------------------------------------------------ what holds always

# instants where calendars trip: the turn of years in ISO weeks, leap days, midnights
EDGES = [at(text) for text in (
    "2020-12-31 23:59:59", "2021-01-01", "2021-01-03 23:59:59", "2021-01-04", "2024-02-29", "2024-02-29 23:59:59",
    "2024-03-01", "2024-12-30", "2026-12-31", "2027-01-01", "2026-03-29 01:30", "2026-11-22 10:00",
)]  # fmt: skip
instants = st.one_of(
    st.sampled_from(EDGES),
    st.datetimes(datetime(2019, 12, 20), datetime(2028, 3, 2), timezones=st.just(UTC)),  # noqa: DTZ001 - the zone is beside it
    st.integers(0, 200).map(lambda hours: at("2026-11-14") + timedelta(hours=hours)),
)


@st.composite
def backups_of_one(draw: st.DrawFn, suffix: int) -> Listed:
    kind = draw(st.sampled_from(["taken", "taken", "verified", "proven", "disproved", "damaged"]))
    if kind == "damaged":
        return damaged(suffix)
    created = draw(instants)
    return listed(
        created,
        suffix,
        tier="taken" if kind == "disproved" else kind,
        proven_at=created + timedelta(hours=draw(st.integers(0, 999))) if kind == "proven" else None,
        disproved="its drill failed" if kind == "disproved" else None,
        pinned=draw(st.sampled_from([None, None, None, "an audit"])),
    )


@st.composite
def catalogues(draw: st.DrawFn) -> list[Listed]:
    suffixes = draw(st.lists(st.integers(0, 0xFFFFFF), unique=True, max_size=24))
    return [draw(backups_of_one(suffix)) for suffix in suffixes]


policies = st.builds(
    KeepSettings,
    **{number: st.one_of(st.just(0), st.integers(0, 6)) for number in NUMBERS},
    minimum=st.integers(1, 5),
    maximum_age_hours=st.one_of(st.none(), st.integers(1, 48), st.integers(1, 50_000)),
)
LATE = at("2030-01-01")


def whole(backups: Iterable[Listed]) -> list[Listed]:
    """The whole ones, the newest first."""
    good = [b for b in backups if b.problem is None and b.disproved is None]
    return sorted(good, key=lambda b: (b.created_at, b.backup_id), reverse=True)


@given(backups=catalogues(), policy=policies)
def test_each_backup_either_stays_or_expires_and_says_why(backups: list[Listed], policy: KeepSettings) -> None:
    decided = decide(backups, policy, LATE)
    assert kept(decided) | expired(decided) == {backup.backup_id for backup in backups}
    assert len(decided.keep) + len(decided.expire) == len(backups)
    assert all(one.reasons and all(one.reasons) for one in decided.keep)
    assert all(one.reason for one in decided.expire)
    assert decided.refused is None


@given(backups=catalogues(), policy=policies)
def test_the_last_proven_one_the_pinned_and_the_minimum_never_expire(
    backups: list[Listed], policy: KeepSettings
) -> None:
    gone = expired(decide(backups, policy, LATE))
    good = whole(backups)
    assert not gone & {backup.backup_id for backup in backups if backup.pinned}
    assert not gone & {backup.backup_id for backup in backups if backup.problem}
    assert not gone & {backup.backup_id for backup in [b for b in good if b.tier == "proven"][:1]}
    assert not gone & {backup.backup_id for backup in good[: policy.minimum]}
    staying = [backup for backup in good if backup.backup_id not in gone]
    assert len(staying) >= min(policy.minimum, len(good))


@given(backups=catalogues(), policy=policies, reason=st.sampled_from(["listing_problem", "held_by"]))
def test_a_partial_listing_or_a_held_lock_lets_nothing_expire(
    backups: list[Listed], policy: KeepSettings, reason: str
) -> None:
    told: dict[str, Any] = {reason: "why"}
    decided = decide(backups, policy, LATE, **told)
    assert kept(decided) == {backup.backup_id for backup in backups}
    assert decided.refused is not None


@given(backups=catalogues(), policy=policies, behind=st.integers(1, 10**7))
def test_a_clock_that_ran_backwards_lets_nothing_expire(
    backups: list[Listed], policy: KeepSettings, behind: int
) -> None:
    dates = [moment for b in backups for moment in (b.created_at, b.proven_at) if moment is not None]
    assume(dates)
    now = max(dates) - CLOCK_TOLERANCE - timedelta(seconds=behind)
    decided = decide(backups, policy, now)
    assert not decided.expire
    assert "the clock ran backwards" in str(decided.refused)


@given(backups=catalogues(), policy=policies, number=st.sampled_from([*NUMBERS, "minimum", "maximum_age_hours"]),
       more=st.one_of(st.integers(1, 9), st.integers(1, 50_000)))  # fmt: skip
def test_raising_a_number_never_expires_more(
    backups: list[Listed], policy: KeepSettings, number: str, more: int
) -> None:
    """Of a policy that has a number of backups: one that has none keeps them all."""
    assume(number in {"minimum", "maximum_age_hours"} or any(getattr(policy, one) for one in NUMBERS))
    before = getattr(policy, number)
    raised = policy.model_copy(update={number: None if before is None else before + more})
    assert expired(decide(backups, raised, LATE)) <= expired(decide(backups, policy, LATE))


@given(backups=catalogues(), policy=policies)
def test_deciding_again_on_what_stayed_expires_nothing(backups: list[Listed], policy: KeepSettings) -> None:
    first = decide(backups, policy, LATE)
    again = decide([backup for backup in backups if backup.backup_id in kept(first)], policy, LATE)
    assert not again.expire


@given(backups=catalogues(), policy=policies, data=st.data())
def test_an_older_backup_never_makes_a_newer_one_expire(
    backups: list[Listed], policy: KeepSettings, data: st.DataObject
) -> None:
    ordered = sorted(backups, key=lambda b: (b.created_at or at("1990-01-01"), b.backup_id))
    assume(len(ordered) > 1)
    older, *newer = ordered
    without, together = decide(newer, policy, LATE), decide(backups, policy, LATE)
    assert expired(together) - {older.backup_id} == expired(without)


@given(backups=catalogues(), policy=policies)
def test_what_is_broken_changes_nothing_for_what_is_whole(backups: list[Listed], policy: KeepSettings) -> None:
    good = whole(backups)
    alone, among = decide(good, policy, LATE), decide(backups, policy, LATE)
    ids = {backup.backup_id for backup in good}
    assert expired(alone) == expired(among) & ids
    assert {b.backup_id: reasons(alone, b) for b in good} == {b.backup_id: reasons(among, b) for b in good}


@given(backups=catalogues(), policy=policies, later=st.timedeltas(timedelta(0), timedelta(days=5000)))
def test_time_that_passes_without_a_backup_expires_nothing_more(
    backups: list[Listed], policy: KeepSettings, later: timedelta
) -> None:
    assert decide(backups, policy, LATE + later) == decide(backups, policy, LATE)


@given(backups=catalogues(), minimum=st.integers(1, 5))
def test_a_policy_without_numbers_keeps_all(backups: list[Listed], minimum: int) -> None:
    policy = KeepSettings(minimum=minimum)
    assert policy.keeps_all
    assert not decide(backups, policy, LATE).expire


@given(backups=catalogues(), policy=policies, data=st.data())
def test_the_order_of_the_listing_does_not_matter(
    backups: list[Listed], policy: KeepSettings, data: st.DataObject
) -> None:
    assert decide(data.draw(st.permutations(backups)), policy, LATE) == decide(backups, policy, LATE)


PERIOD: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda moment: moment.replace(minute=0, second=0, microsecond=0),
    "daily": lambda moment: moment.date(),
    "weekly": lambda moment: moment.date() - timedelta(days=moment.weekday()),
    "monthly": lambda moment: (moment.year, moment.month),
    "yearly": lambda moment: moment.year,
}


@given(backups=catalogues(), number=st.integers(1, 6), setting=st.sampled_from([*PERIOD]))
def test_each_number_keeps_the_newest_of_as_many_periods_as_there_are(
    backups: list[Listed], number: int, setting: str
) -> None:
    """Against another way to count: the group of each period, the latest groups, of each the greatest."""
    good = whole(backups)
    groups: dict[Any, list[Listed]] = {}
    for backup in good:
        assert backup.created_at is not None
        groups.setdefault(PERIOD[setting](backup.created_at), []).append(backup)
    latest: Sequence[Any] = sorted(groups, reverse=True)[:number]
    expected = {max(groups[key], key=lambda b: (b.created_at, b.backup_id)).backup_id for key in latest}
    policy = KeepSettings.model_validate({setting: number, "minimum": 1})
    decided = decide([b.model_copy(update={"pinned": None, "tier": "taken"}) for b in good], policy, LATE)
    assert kept(decided) == expected


def test_five_thousand_are_decided_in_no_time_to_speak_of() -> None:
    hourly = [listed(at("2026-01-01") + timedelta(hours=hour), hour) for hour in range(5000)]
    policy = KeepSettings(last=50, hourly=100, daily=90, weekly=52, monthly=36, yearly=10, maximum_age_hours=4000)
    began = time.perf_counter()
    decided = decide(hourly, policy, LATE)
    assert time.perf_counter() - began < 10.0  # a bound that a loaded machine keeps too
    assert len(decided.keep) + len(decided.expire) == 5000

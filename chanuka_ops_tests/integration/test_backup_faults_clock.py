"""Clocks that are wrong or step back: nothing expires for it, nothing is fresh for ever, and the listing stays sane."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import pytest

from chanuka_ops import errors
from chanuka_ops.backup import keeping, rules, service
from chanuka_ops.backup.answers import Catalogue, Listed
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.proving import service as proving
from chanuka_ops.backup.rules import CLOCK_TOLERANCE
from chanuka_ops.backup.taking import service as taking
from chanuka_ops_tests.plugins.processes import Cli
from chanuka_ops_tests.plugins.site import Site, whole

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
WITHIN = timedelta(hours=26)

Clock = Callable[..., Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set this process's clock for a block: clock(ahead=…), clock(fixed=…), clock(steps=[…]), one for each look."""

    @contextmanager
    def set_to(
        ahead: timedelta = timedelta(), fixed: datetime | None = None, steps: list[datetime] | None = None
    ) -> Iterator[None]:
        left = list(steps or ())

        class Wrong(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                return left.pop(0) if left else fixed or datetime.now(tz) + ahead  # type: ignore[return-value]

        with monkeypatch.context() as patch:
            for module in (taking, proving, keeping, service):
                patch.setattr(module, "datetime", Wrong)
            yield

    return set_to


def listed(at: datetime, tier: Tier = Tier.PROVEN, number: int = 0, problem: str | None = None) -> Listed:
    return Listed(
        backup_id=f"main-{at:%Y%m%dT%H%M%SZ}-{number:06x}", database="main", kind="logical", tier=tier,
        created_at=None if problem else at, bytes=1, server_version="18", problem=problem,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dates", "passed", "said"),
    [
        ([], False, "no backup was ever proven"),
        ([NOW - DAY], True, "proven in time"),
        ([NOW - 2 * DAY], False, "too old"),
        ([NOW + CLOCK_TOLERANCE], True, "proven in time"),
        ([NOW + CLOCK_TOLERANCE * 1.01], False, "a clock is wrong: a proven backup is dated 2026-11-23 12:05 UTC"),
        ([NOW + 3650 * DAY], False, "a clock is wrong: a proven backup is dated 2036-11-20 12:00 UTC"),
        ([NOW + 3650 * DAY, NOW - DAY], True, "proven in time"),
        ([NOW + 3650 * DAY, NOW - 2 * DAY], False, "a clock is wrong"),
    ],
)
def test_a_date_in_the_future_is_not_fresh_for_ever(dates: list[datetime], passed: bool, said: str) -> None:  # noqa: FBT001 - a column of the table
    found = Catalogue(backups=tuple(map(listed, dates)), problems={})
    fresh = rules.freshness(found, WITHIN, NOW)
    assert fresh.passed == passed
    assert said in fresh.verdict


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        ([NOW, NOW - DAY], NOW),
        ([NOW + DAY, NOW - DAY, NOW], NOW),
        ([NOW + CLOCK_TOLERANCE, NOW], NOW + CLOCK_TOLERANCE),
        ([NOW + DAY, NOW + 2 * DAY], NOW + 2 * DAY),
    ],
)
def test_the_newest_is_not_the_one_dated_in_the_future(dates: list[datetime], expected: datetime) -> None:
    broken = listed(NOW, problem="no manifest")
    newest = rules.newest([*map(listed, dates), broken], NOW)
    assert newest is not None
    assert newest.created_at == expected
    assert rules.newest([broken], NOW) is None


@pytest.mark.postgres
def test_a_backup_taken_in_the_future_by_another_host(site: Site, clock: Clock, here: Cli) -> None:
    service = site.service(keep={"last": 1, "minimum": 1})
    old = site.create(service)
    with clock(ahead=DAY):
        ahead = site.create(service)
    own = site.create(service)
    assert [one.backup_id for one in service.catalogue()] == [ahead, own, old], "by the dates they bear"
    assert service.newest("main") == own
    for expiry in service.expire("main"):
        assert expiry.deleted == ()
        assert re.search(
            f"the clock ran backwards: it says .*, and {ahead} has a date of ", str(expiry.decided.refused)
        )
    keep = {"CHANUKA__OPERATIONS__BACKUP__KEEP": "{ last = 1, minimum = 1 }"}
    assert here("backup", "expire", env={**site.env, **keep}).status == 3
    assert whole(service) == [ahead, own, old]
    with clock(ahead=2 * DAY):
        assert {expiry.deleted for expiry in service.expire("main")} == {(own, old)}


@pytest.mark.slow
@pytest.mark.postgres
def test_a_drill_in_the_future(site: Site, clock: Clock) -> None:
    service = site.service(keep={"last": 1, "minimum": 1})
    old, new = site.create(service), site.create(service)
    with clock(ahead=DAY):
        assert service.drill(old, store="first").proven
    first, second = service.expire("main")
    assert re.search(f"the clock ran backwards: .* {old} has a date", str(first.decided.refused))
    assert second.deleted == (old,), "nothing is wrong there"
    assert service.catalogue()[0].backup_id == new


@pytest.mark.slow
@pytest.mark.postgres
def test_a_proven_backup_in_the_future_has_no_age(site: Site, clock: Clock) -> None:
    service = site.service()
    with clock(ahead=DAY):
        ahead = site.create(service)
    assert service.drill(ahead).proven
    own = site.create(service)
    drilled = service.drill(own)
    assert 0 < drilled.rpo_seconds < 60, "that of the one that is drilled"
    with clock(ahead=-DAY):
        assert service.drill(own).rpo_seconds == 0
    assert rules.freshness(service.look("main"), WITHIN, datetime.now(UTC)).passed


@pytest.mark.postgres
def test_a_clock_that_steps_back_in_mid_backup(site: Site, clock: Clock) -> None:
    service = site.service()
    now = datetime.now(UTC)
    with clock(steps=[now], ahead=-timedelta(hours=1)):
        created = site.create(service)
    manifest = service.store.manifest(created)
    assert manifest.created_at == now
    assert 0 < manifest.seconds < 60
    assert whole(service) == [created]


@pytest.mark.postgres
def test_two_backups_within_one_instant(site: Site, clock: Clock) -> None:
    service = site.service(keep={"last": 1, "minimum": 1})
    with clock(fixed=datetime.now(UTC)):
        ids = sorted(site.create(service) for _ in range(3))
    assert len(set(ids)) == 3
    assert [one.backup_id for one in service.catalogue()] == ids[::-1]
    assert service.newest("main") == ids[-1]
    assert {expiry.deleted for expiry in service.expire("main")} == {(ids[1], ids[0])}
    assert whole(service) == [ids[2]]


@pytest.mark.postgres
def test_a_backup_is_never_written_over_another(site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same second and the same six digits: one in 16 million, of those."""
    service = site.service()
    monkeypatch.setattr(secrets, "token_hex", lambda _: "abcdef")
    with clock(fixed=NOW):
        first = site.create(service)
        before = service.store.manifest(first)
        with pytest.raises(errors.StoreError, match=r"Directory not empty|is there already"):
            site.create(service)
    assert service.store.manifest(first) == before
    assert whole(service) == [first]
    assert site.left() == []

"""Killed at each boundary between steps, and at moments nobody chose: nothing half done is ever listed, or left."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace

import pytest

from chanuka_ops.backup.model import Tier
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import LEFTOVER_AFTER_S
from chanuka_ops_tests.integration.test_backup_killed import assert_nothing_runs
from chanuka_ops_tests.plugins.processes import left_of
from chanuka_ops_tests.plugins.site import KILLED, Site, in_clear, only, whole

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

LOCAL = [
    "begun", "dumped", "hashed", "received:first", "received:second", "local.documents:first", "local.synced:first",
    "local.renamed:first", "published:first", "local.documents:second", "local.synced:second", "local.renamed:second",
    "published:second",
]  # fmt: skip
CLOUD = [
    "dumped", "hashed", "received:first", "received:cloud", "local.renamed:first", "published:first",
    "objects.status:cloud", "objects.manifest:cloud", "published:cloud",
]  # fmt: skip
CLOUD_ONLY = ["dumped", "hashed", "received:cloud", "objects.status:cloud", "objects.manifest:cloud"]
GONE_WITHIN_S = 10.0
POLICY = {"last": 1, "minimum": 1}


def assert_all_ended(site: Site) -> None:
    assert_nothing_runs(site.database)
    assert wait_until(lambda: not left_of(site.state_dir), timeout_s=GONE_WITHIN_S), left_of(site.state_dir)


@pytest.mark.parametrize("boundary", LOCAL)
def test_a_backup_killed_at_a_boundary(boundary: str, site: Site) -> None:
    site.kill_at(boundary, "create")
    assert_all_ended(site)
    service = site.service()
    before = whole(service)
    listed_from = LOCAL.index("local.renamed:first")
    assert len(before) == (LOCAL.index(boundary) >= listed_from), "the previous state, or a complete new backup"
    assert whole(service) == before
    created = site.create(service)
    assert whole(service) == [created, *before]
    assert site.left() == [], "the next one sweeps what was left"


@pytest.mark.parametrize("boundary", CLOUD)
def test_an_encrypted_backup_for_two_kinds_of_stores_killed_at_a_boundary(boundary: str, beside: Site) -> None:
    beside.kill_at(boundary, "create")
    assert_all_ended(beside)
    assert bool(in_clear(beside.state_dir)) == (boundary == "dumped"), (
        "each plain file goes when its encrypted one lasts"
    )
    service = beside.service()
    before = whole(service)
    assert len(before) == (CLOUD.index(boundary) >= CLOUD.index("local.renamed:first"))
    in_both = CLOUD.index(boundary) >= CLOUD.index("objects.manifest:cloud")
    assert [listed.stores for listed in service.catalogue()] == [("first", "cloud") if in_both else ("first",)] * len(
        before
    )
    created = beside.create(service)
    assert whole(service) == [created, *before]
    assert service.catalogue()[0].stores == ("first", "cloud")
    assert beside.left() == []
    assert in_clear(beside.state_dir) == []


@pytest.mark.parametrize("boundary", CLOUD_ONLY)
def test_an_encrypted_backup_for_a_bucket_killed_at_a_boundary(boundary: str, beside: Site) -> None:
    site = only(beside, "cloud")
    site.kill_at(boundary, "create")
    assert_all_ended(site)
    service = site.service()
    before = whole(service)
    assert len(before) == (boundary == "objects.manifest:cloud")
    created = site.create(service)
    assert whole(service) == [created, *before]
    assert site.left() == []
    assert in_clear(site.state_dir) == []


@pytest.mark.parametrize("verb", ["a plain backup", "drill", "expire"])
def test_whatever_runs_next_removes_what_a_killed_backup_left_in_clear(verb: str, beside: Site) -> None:
    service = beside.service()
    other = beside.create(service)
    beside.kill_at("dumped", "create")
    assert in_clear(beside.state_dir)
    if verb == "drill":
        assert service.drill(other).proven
    elif verb == "expire":
        service.expire("main")
    else:
        beside.create(replace(beside, options={"stores": beside.stores}).service())
    assert not in_clear(beside.state_dir / "staging")


@pytest.mark.parametrize("boundary", ["fetched", "restored", "compared", "local.status:first"])
def test_a_drill_killed_at_a_boundary(boundary: str, site: Site) -> None:
    service = site.service()
    created = site.create(service)
    site.kill_at(boundary, "drill", created)
    assert_all_ended(site)
    assert whole(service) == [created]
    assert service.catalogue()[0].tier == Tier.VERIFIED, "nothing was proven"
    assert service.drill(created).proven
    assert site.left() == []


@pytest.mark.parametrize("boundary", ["fetched", "restored"])
def test_a_drill_of_a_bucket_killed_at_a_boundary(boundary: str, beside: Site) -> None:
    site = only(beside, "cloud")
    service = site.service()
    created = site.create(service)
    site.kill_at(boundary, "drill", created)
    assert_all_ended(site)
    assert in_clear(site.state_dir / "fetched")
    assert service.catalogue()[0].tier == Tier.VERIFIED
    assert service.drill(created).proven
    assert site.left() == []
    assert in_clear(site.state_dir) == []


@pytest.mark.parametrize("boundary", ["expiring:", "local.unlisted:first", "objects.unlisted:cloud"])
def test_an_expiry_killed_at_a_boundary(boundary: str, beside: Site) -> None:
    site = replace(beside, options={**beside.options, "keep": POLICY})
    service = site.service()
    old, new = site.create(service), site.create(service)
    site.kill_at(f"{boundary}{old}" if boundary.endswith(":") else boundary, "expire")
    assert whole(service)[0] == new
    stores = {listed.backup_id: listed.stores for listed in service.catalogue()}
    gone = {"local.unlisted:first": ("cloud",), "objects.unlisted:cloud": None}.get(boundary, ("first", "cloud"))
    assert stores.get(old) == gone, "whole where it was not deleted yet, and gone where it was"
    assert [item.problem for item in service.expire("main")] == [None, None], "the next one finishes it"
    assert whole(service) == [new]
    site.create(service)
    assert site.left() == []


def moments(site: Site, number: int, seed: int, verb: str = "create", backup_id: str | None = None) -> list[float]:
    """Seeded moments, from the beginning of it to a little after its end, however quick this machine is today."""
    took_s = []
    for _ in range(2):
        watch = Stopwatch()
        assert site.drive(verb, backup_id).error is None
        took_s.append(watch.seconds)
    chosen = random.Random(seed)
    return [round(chosen.uniform(0.0, 1.4) * max(took_s), 3) for _ in range(number)]


@pytest.mark.timeout(300)
def test_a_hundred_moments_nobody_chose(site: Site) -> None:
    statuses = [site.drive("create", kill_after_s=delay_s).status for delay_s in moments(site, 100, seed=4)]
    assert_all_ended(site)
    service = site.service()
    before = whole(service)
    assert statuses.count(KILLED) > 100 / 4, "most moments lie within a backup"
    assert 2 + statuses.count(0) <= len(before) <= 102
    created = site.create(service)
    assert whole(service) == [created, *before]
    assert site.left() == []


@pytest.mark.timeout(200)
def test_moments_nobody_chose_of_encrypted_backups_for_a_bucket_too(beside: Site) -> None:
    statuses = [beside.drive("create", kill_after_s=delay_s).status for delay_s in moments(beside, 25, seed=5)]
    assert_all_ended(beside)
    service = beside.service()
    before = whole(service)
    assert statuses.count(KILLED) > 25 / 4
    assert 2 + statuses.count(0) <= len(before)
    created = beside.create(service)
    assert whole(service) == [created, *before]
    assert beside.left() == []
    assert in_clear(beside.state_dir) == []


@pytest.mark.timeout(200)
def test_moments_nobody_chose_of_drills(beside: Site) -> None:
    site = only(beside, "cloud")
    service = site.service()
    other = site.create(service)
    delays_s = moments(site, 10, 6, "drill", other)
    created = site.create(service)
    for delay_s in delays_s:
        site.drive("drill", created, kill_after_s=delay_s)
        status = service.store.status(created)
        looks = [look for look in status.evidence if look.step == "drill"]
        assert (status.tier is Tier.PROVEN) == bool(looks)
        assert all(look.passed for look in looks), "a drill that was killed says nothing of the backup"
    assert_all_ended(site)
    hours_ago = time.time() - 2 * LEFTOVER_AFTER_S
    for scratch in (site.state_dir / "scratch").iterdir():  # killed before a server had begun: there's no data in it
        os.utime(scratch, (hours_ago, hours_ago))
    assert service.drill(created).proven
    assert site.left() == []

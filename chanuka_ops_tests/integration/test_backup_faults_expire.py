"""Several at work on one store: processes of one host, and hosts that share a store and a server and nothing else."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.storing import flocks
from chanuka_ops.backup.storing.local import LocalStore
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops_tests.plugins.processes import Cli
from chanuka_ops_tests.plugins.s3 import Bucket
from chanuka_ops_tests.plugins.site import Site, only, standing_still, whole

pytestmark = pytest.mark.postgres

KEEP_ONE = {"last": 1, "minimum": 1}
HELD = "LockHeld: database 'main': another operation is under way: "


def keeping_one(site: Site) -> Site:
    return replace(site, options={**site.options, "stores": site.stores, "keep": KEEP_ONE})


def another_host(site: Site) -> Site:
    """A host of its own: it shares the stores and the server, and has another state directory."""
    elsewhere = site.state_dir / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    elsewhere.chmod(0o711)
    return replace(
        site,
        options={**site.options, "stores": site.stores},
        environment={**site.environment, "CHANUKA_STATE_DIR": str(elsewhere)},
    )


def without_server(site: Site) -> BackupService:
    """The verbs alone, as where the server can't be asked for its lock."""
    return another_host(site).service()


# two backups


def test_two_processes_of_one_host(site: Site) -> None:
    with standing_still(site, "hashed", "create") as finish:
        outcome = site.drive("create")
        assert re.search(
            rf"^{HELD}chanuka/backup/\w+ \(pid \d+ on [^ ,]+, test, .*Z\)\. Nothing was changed", str(outcome.error)
        )
        assert finish().error is None
    assert len(whole(site.service())) == 1
    assert site.left() == []


def test_two_hosts_that_share_a_server_and_a_store(site: Site) -> None:
    with standing_still(site, "locked", "create") as finish:
        outcome = another_host(site).drive("create")
        assert re.search(rf"^{HELD}chanuka/backup/\w+ \(pid \d+, role postgres", str(outcome.error))
        assert finish().error is None
    assert len(whole(site.service())) == 1
    with standing_still(site, "hashed", "create") as finish:  # it needs the database no more
        assert another_host(site).drive("create").error is None
        assert finish().error is None
    assert len(whole(site.service())) == 3
    assert site.left() == []


@pytest.mark.slow
def test_two_databases_of_one_host(site: Site) -> None:
    service = site.service()
    with standing_still(site, "hashed", "create") as finish, ConnectionManager("other", site.database) as manager:
        other = service.create(manager).backup_id
        assert finish().error is None
    assert [one.database for one in service.catalogue()] == ["other", "main"]
    assert other in whole(service)


# a backup and a drill


@pytest.mark.slow
@pytest.mark.parametrize("host", ["the same host", pytest.param("another host", marks=pytest.mark.slow)])
def test_a_backup_and_a_drill(site: Site, host: str) -> None:
    created = site.create()
    rival = site if host == "the same host" else another_host(site)
    with standing_still(site, "restored", "drill", created) as finish:
        assert re.search(f"^{HELD}chanuka/drill/", str(rival.drive("create").error))
        assert finish().answer["tier"] == "proven"
    with standing_still(site, "locked", "create") as finish:
        assert re.search(f"^{HELD}chanuka/backup/", str(rival.drive("drill", created).error))
        assert finish().error is None
    assert len(whole(site.service())) == 2


# expire and a backup


def test_expire_during_a_backup_of_the_same_host(site: Site, here: Cli) -> None:
    site = keeping_one(site)
    old, new = site.create(), site.create()
    with standing_still(site, "published:first", "create") as finish:
        ran = here("--json", "backup", "expire", env=site.env)
        assert ran.status == 3
        assert "another operation is under way: chanuka/backup/" in ran.json["error"]["message"]
        assert finish().error is None
    newest, *rest = whole(site.service())
    assert rest == [new, old]
    assert [expiry.deleted for expiry in site.service().expire("main")] == [(new, old), (new, old)]
    assert whole(site.service()) == [newest]


@pytest.mark.parametrize(
    "boundary",
    ["hashed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("received:first", "published:first"))],
)
def test_expire_by_another_host_while_a_backup_is_written(site: Site, boundary: str) -> None:
    """What is there already counts, what isn't is not touched."""
    site = keeping_one(site)
    old, new = site.create(), site.create()
    with standing_still(site, boundary, "create") as finish:
        outcome = another_host(site).drive("expire")
        there = boundary == "published:first"
        assert [expiry["deleted"] for expiry in outcome.answer] == [[new, old] if there else [old], [old]]
        created = finish()
    assert created.error is None
    service = site.service()
    assert whole(service)[0] == created.answer["backup_id"]
    assert {one.backup_id: one.stores for one in service.catalogue()}[created.answer["backup_id"]] == (
        "first",
        "second",
    )
    assert site.left() == []


def test_expire_while_another_host_dumps(site: Site) -> None:
    site = keeping_one(site)
    old, new = site.create(), site.create()
    with standing_still(site, "locked", "create") as finish:
        assert re.search(f"^{HELD}chanuka/backup/", str(another_host(site).drive("expire").error))
        finish()
    assert whole(site.service())[1:] == [new, old]


# expire and a drill


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "boundary"),
    [
        ("first", "restored"),
        pytest.param("first", "compared", marks=pytest.mark.slow),
        pytest.param("cloud", "restored", marks=pytest.mark.slow),
    ],
)
def test_a_backup_that_is_drilled_does_not_expire(beside: Site, name: str, boundary: str) -> None:
    site = keeping_one(only(beside, name))
    service = site.service()
    old, new = site.create(service), site.create(service)
    with standing_still(site, boundary, "drill", old) as finish:
        assert re.search(f"^{HELD}chanuka/drill/", str(another_host(site).drive("expire").error)), "the server says so"
        (expiry,) = without_server(site).expire("main")
        assert (expiry.in_use, expiry.deleted, expiry.problem) == ((old,), (), None)
        assert finish().answer["tier"] == "proven"
    assert [one.tier for one in service.catalogue()] == ["taken", "proven"]
    (expiry,) = service.expire("main")
    assert expiry.deleted == (), "and now it is the newest proven one"
    assert whole(service) == [new, old]


@pytest.mark.slow
def test_a_backup_that_expires_first_is_not_drilled(site: Site) -> None:
    site = keeping_one(only(site, "first"))
    service = site.service()
    old, new = site.create(service), site.create(service)
    with standing_still(site, f"expiring:{old}", "expire") as finish:
        assert service.verify(old).tier is Tier.VERIFIED
        assert finish().answer[0]["deleted"] == [old]
    with pytest.raises(errors.BackupNotFound):
        service.drill(old)
    assert whole(service) == [new]


@pytest.mark.parametrize("name", ["first", pytest.param("cloud", marks=pytest.mark.slow)])
@pytest.mark.parametrize("act", ["pin", pytest.param("drill", marks=pytest.mark.slow)])
def test_what_is_pinned_or_proven_after_the_decision_stays(beside: Site, name: str, act: str) -> None:
    site = keeping_one(only(beside, name))
    service = without_server(site)
    older, old, new = (site.create(service) for _ in range(3))
    with standing_still(site, f"expiring:{old}", "expire") as finish:
        if act == "pin":
            service.pin(old, "wait for the auditors")
        else:
            assert service.drill(old).proven
        first = finish().answer[0]
    assert (first["deleted"], first["in_use"], first["problem"]) == ([older], [old], None)
    assert whole(service) == [new, old]


def test_what_was_disproved_after_the_decision_stays(site: Site) -> None:
    site = keeping_one(only(site, "first"))
    service = site.service()
    old, new = site.create(service), site.create(service)
    with standing_still(site, f"expiring:{old}", "expire") as finish:
        (site.state_dir / "first" / "main" / old / "dump" / "toc.dat").write_bytes(b"")
        assert service.verify(old).problems
        first = finish().answer[0]
    assert (first["deleted"], first["in_use"], first["problem"]) == ([], [old], None)
    assert {one.backup_id for one in service.catalogue()} == {new, old}, "a person has to look"


@pytest.mark.parametrize("name", ["first", pytest.param("cloud", marks=pytest.mark.slow)])
def test_what_cannot_be_read_any_more_after_the_decision_stays(beside: Site, s3: Bucket, name: str) -> None:
    site = keeping_one(only(beside, name))
    service = site.service()
    old, new = site.create(service), site.create(service)
    with standing_still(site, f"expiring:{old}", "expire") as finish:
        if name == "cloud":
            s3.write(f"main/{old}/{STATUS}", b"{}")
        else:
            (site.state_dir / "first" / "main" / old / STATUS).write_bytes(b"{}")
        first = finish().answer[0]
    assert (first["deleted"], first["in_use"], first["problem"]) == ([], [old], None)
    assert {one.backup_id for one in service.catalogue()} == {new, old}


# expire twice at once


@pytest.mark.parametrize("name", ["first", pytest.param("cloud", marks=pytest.mark.slow)])
def test_expire_by_two_hosts_at_once(beside: Site, name: str) -> None:
    site = keeping_one(only(beside, name))
    service = site.service()
    older, old, new = (site.create(service) for _ in range(3))
    with standing_still(site, f"expiring:{old}", "expire") as finish:
        (expiry,) = without_server(site).expire("main")
        assert (expiry.deleted, expiry.problem) == ((old, older), None)
        first = finish().answer[0]
    assert (first["deleted"], first["in_use"], first["problem"]) == ([old, older], [], None)
    assert whole(service) == [new]
    assert site.left() == []


def test_a_backup_that_somebody_deletes_at_this_moment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site = only(site, "first")
    created = site.create()
    store = LocalStore(site.state_dir / "first")
    real = flocks.exclusive

    def quicker(path: Path) -> int | None:
        monkeypatch.setattr(flocks, "exclusive", real)
        LocalStore(store.root).delete(created)
        return real(path)

    monkeypatch.setattr(flocks, "exclusive", quicker)
    with pytest.raises(errors.BackupNotFound):
        store.delete(created)
    assert site.left() == []


@pytest.mark.slow
def test_a_listing_while_others_delete_shows_no_damage(site: Site) -> None:
    site = only(site, "first")
    created = site.create()
    store = LocalStore(site.state_dir / "first")
    directory = store.directory(created)
    for number in range(300):
        shutil.copytree(directory, directory.parent / f"{created[:-6]}{number:06x}")
    for copy in directory.parent.iterdir():  # each as if it were that backup's own: only who is gone is of interest
        (copy / MANIFEST).write_bytes((copy / MANIFEST).read_bytes())
    doomed = sorted(path.name for path in directory.parent.iterdir() if path.name != created)

    def delete() -> None:
        for backup_id in doomed:
            LocalStore(store.root).delete(backup_id)

    deleting = threading.Thread(target=delete)
    deleting.start()
    problems = set()
    while deleting.is_alive():
        problems |= {re.sub(r"main-\S+: ", "", str(one.problem)) for one in store.list() if one.problem}
    deleting.join()
    assert not [problem for problem in problems if "No such file" in problem]
    assert [one.backup_id for one in store.list()] == [created]


# locks


def test_a_status_that_a_frozen_process_holds(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    created = site.create()
    service = site.service()
    monkeypatch.setattr(flocks, "WAIT_S", 0.2)
    directory = service.store.directory(created)
    assert directory is not None
    for held, error in ((directory, errors.StoreError), (directory / MANIFEST, errors.LockHeld)):
        descriptor = os.open(held, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(error, match=r"has been held by .* for 0 s"):
                service.verify(created, store="first")
        finally:
            os.close(descriptor)
    assert service.verify(created).problems == ()


def test_who_only_looks_whether_somebody_is_at_work_stops_nobody(site: Site) -> None:
    service = site.service()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            service.holder("main")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            with flocks.operation(site.state_dir, "main"):
                pass
    finally:
        ended.set()
        looking.join()

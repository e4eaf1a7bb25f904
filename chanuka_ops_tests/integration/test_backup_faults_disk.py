"""Disks that are full or broken: what is listed afterwards is the previous state, or a complete new backup.

ENOSPC and EIO come from the kernel: small file systems, /dev/full, and memory that can't be read. Two are made up: a
file's greatest size stands in for a full disk where nobody may mount one, and of an fsync that fails only the system
call is.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops import errors
from chanuka_ops.backup import files
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.model import File, Tier
from chanuka_ops.backup.storing.local import LocalStore
from chanuka_ops_tests.plugins.backup import local
from chanuka_ops_tests.plugins.disks import BROKEN, FULL, PAGE, broken, leave, mounted, needs_root
from chanuka_ops_tests.plugins.processes import Cli
from chanuka_ops_tests.plugins.site import Site, in_clear, only, whole

pytestmark = pytest.mark.postgres

DATA = "dump/toc.dat"


def quick_first(names: Iterable[str], *quick: str) -> list[Any]:
    """All of them; but those are for the slow lane."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def pages(directory: Path) -> int:
    """How much of a small disk the files of a backup take, its two documents aside."""
    return sum(
        -(-path.stat().st_size // PAGE)
        for path in directory.rglob("*")
        if path.is_file() and path.name not in {MANIFEST, STATUS}
    )


# a full disk


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("lacking", ["the files", pytest.param("the documents", marks=pytest.mark.slow)])
def test_the_second_store_is_full(site: Site, here: Cli, lacking: str) -> None:
    service = site.service()
    before = site.create(service)
    needed = pages(local(service).directory(before))
    second = site.state_dir / "other"
    stores = {"first": site.stores["first"], "second": {"url": str(second)}}
    full = replace(site, options={"stores": stores})
    with mounted(second, "size=4m"):
        ballast = leave(second, needed // 2 if lacking == "the files" else needed)
        ran = here("--json", "backup", "create", env=full.env)
        assert ran.status == 1
        placed = {one["store"]: one["problem"] for one in ran.json["stores"]}
        assert placed["first"] is None
        assert re.search(f"^the backup store can't be written: {second}.*: No space left", placed["second"])
        assert whole(full.service()) == [ran.json["backup_id"], before]
        assert full.service().catalogue(store="second") == []
        assert [path for path in second.rglob("*") if path.is_file()] == [ballast]
        ballast.unlink()
        created = site.create(full.service())
        assert full.service().catalogue()[0].stores == ("first", "second")
        assert whole(full.service()) == [created, ran.json["backup_id"], before]


@pytest.mark.root
@needs_root
def test_the_disk_is_full_while_it_is_encrypted(sealed: Site) -> None:
    site = only(sealed, "first")
    service = site.service()
    needed = pages(local(service).directory(site.create(service)))
    with mounted(site.state_dir / "first", "size=4m"):
        ballast = leave(site.state_dir / "first", needed - 1)
        with pytest.raises(errors.StoreError, match="can't be encrypted: No space left"):
            site.create(service)
        assert service.catalogue() == []
        assert in_clear(site.state_dir) == []
        ballast.unlink()
        assert site.left() == []


@pytest.mark.slow
@pytest.mark.root
@needs_root
@pytest.mark.parametrize("where", ["staging", "first"])
def test_not_even_a_directory_can_be_made(sealed: Site, where: str) -> None:
    """Whichever of its directories and files is one too many."""
    site = only(sealed, "first")
    service = site.service()
    created = None
    for inodes in range(2, 24):
        with mounted(site.state_dir / where, f"size=4m,nr_inodes={inodes}"):
            try:
                created = site.create(service)
            except (errors.StoreError, errors.ToolFailed) as failure:
                assert "No space left" in str(failure)  # noqa: PT017 - the last ones go well
                assert service.catalogue() == []
                assert in_clear(site.state_dir) == []
                assert site.left() == []
            else:
                break
    assert created is not None
    assert inodes > 8


@pytest.mark.root
@needs_root
def test_room_is_made_on_a_disk_that_is_full(site: Site) -> None:
    """The lock's file can't say who holds it, no status can be written, and yet what expires goes."""
    with mounted(site.state_dir / "all", "size=2m"):
        full = replace(
            site,
            state_dir=site.state_dir / "all",
            environment={**site.environment, "CHANUKA_STATE_DIR": str(site.state_dir / "all")},
            options={"keep": {"last": 1, "minimum": 1}},
        )
        service = full.service()
        old, new = full.create(service), full.create(service)
        (full.state_dir / "locks" / "main.lock").unlink()
        leave(full.state_dir, 0)
        outcome = full.drive("expire")
        assert outcome.error is None
        assert [expiry["deleted"] for expiry in outcome.answer] == [[old], [old]]
        assert [listed.backup_id for listed in service.catalogue()] == [new]


@pytest.mark.root
@needs_root
def test_a_status_is_not_written_on_a_full_disk_and_stays_whole(site: Site) -> None:
    site = only(site, "first")
    service = site.service()
    with mounted(site.state_dir / "first", "size=4m"):
        created = site.create(service)
        service.verify(created)
        status = local(service).directory(created) / STATUS
        before = status.read_bytes()
        ballast = leave(site.state_dir / "first", 0)
        with pytest.raises(errors.StoreError, match="No space left"):
            service.verify(created)
        with pytest.raises(errors.StoreError, match="No space left"):
            service.drill(created)
        with pytest.raises(errors.StoreError, match="No space left"):
            service.pin(created, "for ever")
        assert status.read_bytes() == before
        assert site.left() == []
        ballast.unlink()
        assert service.verify(created).problems == ()
        assert len(service.store.status(created).evidence) == 2


@pytest.mark.parametrize("device", [FULL, pytest.param(BROKEN, marks=pytest.mark.slow)])
def test_a_status_that_cannot_be_written_stays_whole(site: Site, device: Path) -> None:
    site = only(site, "first")
    service = site.service()
    created = site.create(service)
    service.verify(created)
    directory = local(service).directory(created)
    before = (directory / STATUS).read_bytes()
    for act in (service.verify, service.drill):
        (directory.parent / f".{created}.{STATUS}").symlink_to(device)
        with pytest.raises(errors.StoreError, match=r"No space left|Input/output error"):
            act(created)
        assert (directory / STATUS).read_bytes() == before
        assert site.left() == []
    assert service.drill(created).proven


@pytest.mark.slow
@pytest.mark.root
@needs_root
def test_a_drill_without_room_for_what_it_fetches(sealed: Site) -> None:
    site = only(sealed, "first")
    service = site.service()
    created = site.create(service)
    with mounted(site.state_dir / "fetched", "size=8k"):
        with pytest.raises(errors.RefusedError, match="make room"):
            service.drill(created)
        assert site.left() == []
    assert service.store.status(created).evidence == (), "that says nothing of the backup"
    assert service.drill(created).proven


@pytest.mark.slow
@pytest.mark.root
@needs_root
@pytest.mark.parametrize("size", ["1m", "30m"])
def test_a_drill_without_room_for_its_server(site: Site, size: str) -> None:
    service = site.service()
    created = site.create(service)
    with mounted(site.state_dir / "scratch", f"size={size},mode=0711"):
        with pytest.raises((errors.ServerError, errors.ToolFailed, errors.DatabaseError)):
            service.drill(created)
        assert not [path for path in (site.state_dir / "scratch").rglob("*") if path.is_file()]
    assert service.store.status(created).tier is Tier.VERIFIED
    assert [look.passed for look in service.store.status(created).evidence] == [True, False]
    assert service.drill(created).proven


@pytest.mark.slow
def test_a_writer_that_runs_out_in_mid_dump(site: Site) -> None:
    service = site.service()
    before = site.create(service)
    outcome = site.drive("create", limit_bytes=3000)
    assert re.search("^ToolFailed: pg_dump", str(outcome.error))
    assert whole(service) == [before]
    assert site.left() == []


def test_a_writer_that_runs_out_while_it_encrypts(sealed: Site) -> None:
    plain = replace(sealed, options={"stores": sealed.stores}).service()
    before = sealed.create(plain)
    largest = max(file.bytes for file in plain.store.manifest(before).files)
    outcome = sealed.drive("create", limit_bytes=largest)
    assert re.search(r"^StoreError: .* can't be encrypted: File too large", str(outcome.error))
    assert whole(plain) == [before]
    assert sealed.left() == []
    assert in_clear(sealed.state_dir / "staging") == []


# a broken disk


BREAKS = {
    "of a file": r"\.partial/[^/]+/dump/toc\.dat$",
    "of the status": r"\.partial/[^/]+/status\.json$",
    "of the manifest": r"\.partial/[^/]+/manifest\.json$",
    "of a directory": r"\.partial/[^/]+/dump$",
    "of the backup": r"\.partial/[^/]+$",
    "of the directory it appears in": r"/{store}/main$",
    "of the store": r"/{store}$",
}


@pytest.mark.parametrize("what", quick_first(BREAKS, "of a file", "of the manifest", "of the directory it appears in"))
def test_what_may_not_outlast_a_power_cut_is_not_there(site: Site, what: str) -> None:
    alone = only(site, "first")
    service = alone.service()
    before = alone.create(service)
    outcome = alone.drive("create", fsync_fails=BREAKS[what].format(store="first"))
    assert re.search("^StoreError: .*Input/output error", str(outcome.error))
    assert whole(service) == [before]
    assert alone.left() == []


@pytest.mark.parametrize("what", quick_first(BREAKS, "of a file"))
def test_what_may_not_outlast_a_power_cut_in_one_store_is_in_the_other(site: Site, what: str) -> None:
    service = site.service()
    before = site.create(service)
    pattern = BREAKS[what].format(store="second")
    outcome = site.drive("create", fsync_fails=pattern if "second" in pattern else f"/second/.*{pattern}")
    assert outcome.error is None
    assert [one["problem"] is None for one in outcome.answer["stores"]] == [True, False]
    assert "Input/output error" in outcome.answer["stores"][1]["problem"]
    assert whole(service) == [outcome.answer["backup_id"], before]
    assert [listed.stores for listed in service.catalogue()] == [("first",), ("first", "second")]
    assert site.left() == []


def test_a_disk_that_fails_beneath_the_plain_text(sealed: Site) -> None:
    """What is encrypted must last before its plain file goes."""
    outcome = sealed.drive("create", fsync_fails=r"first/\.partial/.*\.age$")
    assert re.search(r"can't be encrypted: Input/output error", str(outcome.error))
    assert sealed.service().catalogue() == []
    assert in_clear(sealed.state_dir) == []


@contextmanager
def unreadable(monkeypatch: pytest.MonkeyPatch, pattern: str) -> Iterator[None]:
    """Let directories fail when they are read; only the system calls are made up."""

    def failing(real: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def read(path: Any = ".") -> Any:
            if re.search(pattern, str(path)):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return real(path)

        return read

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing(os.scandir))
        patch.setattr(os, "listdir", failing(os.listdir))
        yield


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_a_directory_that_cannot_be_read_back_is_not_an_empty_one(
    sealed: Site, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    site = sealed if kind == "encrypted" else replace(sealed, options={"stores": sealed.stores})
    service = site.service()
    with (
        unreadable(monkeypatch, r"\.partial/[^/]+/dump$"),
        pytest.raises(errors.StoreError, match="Input/output error"),
    ):
        site.create(service)
    assert service.catalogue() == []
    assert site.left() == []


def test_a_directory_of_a_backup_that_cannot_be_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    service = site.service()
    created = site.create(service)
    named = {file.path for file in service.store.manifest(created).files if file.path.startswith("dump/")}
    with unreadable(monkeypatch, rf"/first/main/{created}/dump$"):
        problems = service.verify(created).problems
        assert {problem.file for problem in problems} == named
        assert {(problem.store, problem.kind) for problem in problems} == {("first", "missing")}
        assert not service.drill(created, store="first").proven
    assert service.verify(created).tier is Tier.VERIFIED
    with unreadable(monkeypatch, r"/first/main$"):
        assert list(service.look().problems) == ["first"], "nor is it an empty one"
        assert list(service.verify(created).unread) == ["first"]


def test_a_file_that_cannot_be_read_back_is_not_blamed_on_the_store_it_is_copied_to(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "x").symlink_to(BROKEN)
    store = LocalStore(tmp_path / "second", "second")
    with (
        store.writing("main", "main-20261123T000000Z-000000") as writer,
        pytest.raises(errors.StoreError, match=f"^{source}/x can't be read back: Input/output error"),
    ):
        writer.receive(source, [File(path="x", bytes=1, sha256="00")])
    assert files.below(tmp_path / "second", strict=True) == []


@pytest.mark.slow
@pytest.mark.root
@needs_root
def test_a_stored_file_that_cannot_be_read(site: Site) -> None:
    service = site.service()
    created = site.create(service)
    assert service.drill(created).proven
    with broken(local(service).directory(created) / DATA):
        found = [(problem.store, problem.file, problem.kind) for problem in service.verify(created).problems]
        assert found == [("first", DATA, "unreadable")]
        drilled = service.drill(created, store="first")
        assert not drilled.proven
        assert [(problem.file, problem.kind) for problem in drilled.problems] == [(DATA, "unreadable")]
        assert service.store.status(created).tier is Tier.TAKEN
        assert service.drill(created, store="second").proven, "the other copy is as it was"
        assert service.store.status(created).tier is Tier.TAKEN


@pytest.mark.root
@needs_root
def test_an_encrypted_file_that_cannot_be_read(sealed: Site) -> None:
    site = only(sealed, "first")
    service = site.service()
    created = site.create(service)
    with broken(local(service).directory(created) / f"{DATA}.age"):
        drilled = service.drill(created)
        assert [(problem.file, problem.kind) for problem in drilled.problems] == [(f"{DATA}.age", "unreadable")]
        assert site.left() == []
    assert not drilled.proven
    assert service.drill(created).proven


@pytest.mark.parametrize("name", [MANIFEST, STATUS])
def test_a_document_that_cannot_be_read(site: Site, name: str) -> None:
    site = only(site, "first")
    service = site.service(keep={"last": 1, "minimum": 1})
    created, newer = site.create(service), site.create(service)
    service.verify(created)
    document = local(service).directory(created) / name
    document.rename(site.state_dir / "as it was")
    document.symlink_to(BROKEN)
    (listed,) = [one for one in service.catalogue() if one.backup_id == created]
    assert listed.tier == "damaged"
    assert "Input/output error" in str(listed.problem)
    assert [problem.file for problem in service.verify(created).problems] == [name]
    (decided,) = service.retention("main")
    assert decided.expire == (), "whoever can't be read doesn't expire by itself"
    assert {kept.backup_id for kept in decided.keep} == {created, newer}
    assert service.verify(newer).problems == ()


def test_a_broken_store_is_not_an_empty_one(site: Site) -> None:
    service = site.service(keep={"last": 1, "minimum": 1})
    created = site.create(service)
    (site.state_dir / "second").rename(site.state_dir / "moved")
    (site.state_dir / "second").symlink_to("second")
    found = service.look()
    assert [listed.backup_id for listed in found.backups] == [created]
    assert re.search("can't be read: Too many levels", found.problems["second"])
    verified = service.verify(created)
    assert (verified.problems, list(verified.unread)) == ((), ["second"])
    assert [retention.refused is None for retention in service.retention("main")] == [True, False]

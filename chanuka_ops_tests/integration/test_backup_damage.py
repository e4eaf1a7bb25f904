"""Whatever happens to a byte of a backup, `verify` says so and names the file."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup.answers import RUNGS
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops_tests.plugins.backup import local
from chanuka_ops_tests.plugins.processes import Cli

pytestmark = pytest.mark.postgres


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(content)


def problems(service: BackupService, backup_id: str) -> dict[str, str]:
    return {problem.file: problem.kind for problem in service.verify(backup_id).problems}


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_one_flipped_byte_in_each_file_is_found_and_the_file_named(service: BackupService, taken: str) -> None:
    directory = local(service).directory(taken)
    files = files_of(directory)
    assert {MANIFEST, STATUS, "dump/toc.dat", "globals/roles.sql"} <= {str(f.relative_to(directory)) for f in files}
    for path in files:
        whole = path.read_bytes()
        name = str(path.relative_to(directory))
        for place in sorted({0, len(whole) // 2, len(whole) - 1} if whole else ()):
            assert service.verify(taken).tier is Tier.VERIFIED
            flipped(path, place % len(path.read_bytes()))
            kind = {MANIFEST: "manifest"}.get(name, "checksum")
            assert problems(service, taken) == {name: kind}
            if name != STATUS:  # a damaged status is replaced by what is known now
                assert service.store.status(taken).tier is Tier.TAKEN
                path.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", [MANIFEST, STATUS, "dump/toc.dat", "globals/roles.sql"])
def test_the_command_exits_with_1_and_names_the_file(cli: Cli, service: BackupService, taken: str, name: str) -> None:
    assert cli("backup", "verify", taken).status == 0
    flipped(local(service).directory(taken) / name, 40)
    ran = cli("--json", "backup", "verify", taken)
    assert ran.status == 1
    assert [problem["file"] for problem in ran.json["problems"]] == [name]
    assert ran.json["tier"] == "taken"


Damage = Callable[[Path], None]
SOME = "dump/toc.dat"


def missing(directory: Path) -> None:
    (directory / SOME).unlink()


def truncated(directory: Path) -> None:
    path = directory / SOME
    path.write_bytes(path.read_bytes()[:-1])


def appended(directory: Path) -> None:
    path = directory / SOME
    path.write_bytes(path.read_bytes() + b"\n")


def emptied(directory: Path) -> None:
    (directory / SOME).write_bytes(b"")


def extra(directory: Path) -> None:
    (directory / "dump" / "9999.dat.gz").write_bytes(b"")


def hidden(directory: Path) -> None:
    (directory / ".status.json").write_bytes(b"")


def renamed(directory: Path) -> None:
    (directory / SOME).rename(directory / "dump" / "toc.old")


def a_link(directory: Path) -> None:
    """The content is the same; but it's no longer in the backup."""
    moved = directory.parent / ".moved"
    (directory / SOME).rename(moved)
    (directory / SOME).symlink_to(moved)


def a_directory(directory: Path) -> None:
    (directory / SOME).unlink()
    (directory / SOME).mkdir()


def a_linked_directory(directory: Path) -> None:
    (directory / "more").symlink_to(directory / "dump")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (missing, {SOME: "missing"}),
        (truncated, {SOME: "size"}),
        (appended, {SOME: "size"}),
        (emptied, {SOME: "size"}),
        (extra, {"dump/9999.dat.gz": "extra"}),
        (hidden, {".status.json": "extra"}),
        (renamed, {SOME: "missing", "dump/toc.old": "extra"}),
        (a_link, {SOME: "unreadable"}),
        (a_directory, {SOME: "missing"}),
        (a_linked_directory, {"more": "extra"}),
    ],
)
def test_each_kind_of_damage(service: BackupService, taken: str, damage: Damage, found: dict[str, str]) -> None:
    assert service.verify(taken).tier is Tier.VERIFIED
    damage(local(service).directory(taken))
    assert problems(service, taken) == found
    assert service.store.status(taken).tier is Tier.TAKEN
    drilled = service.drill(taken)
    assert not drilled.proven
    assert drilled.ladder == {**dict.fromkeys(RUNGS), "manifest": False}
    assert {problem.file: problem.kind for problem in drilled.problems} == found


@pytest.mark.parametrize("name", [MANIFEST, STATUS])
def test_one_of_the_two_documents_is_missing(service: BackupService, taken: str, name: str) -> None:
    (local(service).directory(taken) / name).unlink()
    assert list(problems(service, taken)) == [name]


def another(service: BackupService, database: DatabaseSettings) -> str:
    with ConnectionManager("main", database) as manager:
        return service.create(manager).backup_id


@pytest.mark.parametrize(("name", "kind"), [(MANIFEST, "manifest"), (STATUS, "checksum")])
def test_a_document_of_another_backup(
    service: BackupService, taken: str, small: DatabaseSettings, name: str, kind: str
) -> None:
    other = another(service, small)
    service.verify(other)
    before = (local(service).directory(other) / STATUS).read_bytes()
    shutil.copy(local(service).directory(other) / name, local(service).directory(taken) / name)
    assert problems(service, taken) == {name: kind}
    assert service.store.status(taken).tier is Tier.TAKEN
    assert (local(service).directory(other) / STATUS).read_bytes() == before, "the other backup was touched"


def test_damaged_backups_are_listed_as_such_and_the_whole_ones_still_are(
    service: BackupService, taken: str, small: DatabaseSettings
) -> None:
    parent = local(service).directory(taken).parent
    damaged = another(service, small)
    (local(service).directory(damaged) / MANIFEST).write_bytes(b"{}")
    (parent / "main-20200101T000000Z-000000").mkdir()
    shutil.copytree(local(service).directory(taken), parent / "main-20200101T000000Z-000001")
    shutil.copytree(local(service).directory(taken), parent / "renamed by hand")
    listed = {backup.backup_id: backup for backup in service.catalogue("main")}
    assert {name for name, backup in listed.items() if backup.problem is None} == {taken}
    assert len(listed) == 5
    assert all(backup.tier == "damaged" for name, backup in listed.items() if name != taken)
    assert "is that of" in str(listed["main-20200101T000000Z-000001"].problem)
    assert "is not a backup id" in str(listed["renamed by hand"].problem)
    assert service.newest("main") == taken


def test_a_backup_without_anything_can_be_verified_and_not_drilled(service: BackupService, taken: str) -> None:
    empty = "main-20200101T000000Z-000000"
    (local(service).directory(taken).parent / empty).mkdir()
    assert MANIFEST in problems(service, empty)
    with pytest.raises(errors.BackupDamaged, match="manifest is damaged"):
        service.drill(empty)


@pytest.mark.slow
def test_one_that_was_repaired_counts_again(service: BackupService, taken: str) -> None:
    path = local(service).directory(taken) / SOME
    assert service.drill(taken).tier is Tier.PROVEN
    flipped(path, 50)
    assert service.verify(taken).tier is Tier.TAKEN
    flipped(path, 50)
    assert service.verify(taken).tier is Tier.VERIFIED
    assert service.drill(taken).tier is Tier.PROVEN
    assert service.verify(taken).tier is Tier.PROVEN
    assert [look.passed for look in service.store.status(taken).evidence] == [True, True, False, True, True, True, True]


def test_an_unknown_id(cli: Cli, service: BackupService, taken: str) -> None:
    for unknown in ("main-20200101T000000Z-000000", "../../etc", "main"):
        with pytest.raises(errors.BackupNotFound):
            service.verify(unknown)
    ran = cli("--json", "backup", "verify", "main-20200101T000000Z-000000")
    assert ran.status == 2
    assert "backup list" in ran.json["error"]["message"]


def test_looks_at_the_same_time_all_count(service: BackupService, taken: str) -> None:
    looks = [threading.Thread(target=service.verify, args=(taken,)) for _ in range(8)]
    for look in looks:
        look.start()
    for look in looks:
        look.join()
    assert len(service.store.status(taken).evidence) == 8
    assert service.verify(taken).problems == ()

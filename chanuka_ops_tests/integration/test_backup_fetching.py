"""A backup's files arrive as they were, or not at all; and nothing in clear stays behind."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyrage
import pytest

from chanuka_ops import context, errors
from chanuka_ops.backup import documents, encryption
from chanuka_ops.backup.encryption import Identity
from chanuka_ops.backup.model import Encryption, File, Manifest
from chanuka_ops.backup.storing import fetching
from chanuka_ops.backup.storing.local import LocalStore
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import run, wait_until

pytestmark = pytest.mark.postgres

SECRET = pyrage.x25519.Identity.generate()
PUBLIC = str(SECRET.to_public())
ONE_TABLE = "dump/toc.dat"


class Elsewhere(LocalStore):
    """A store whose files must be fetched; `sabotage` makes something else of a stream."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "elsewhere")
        self.sabotage: Callable[[str, BinaryIO], BinaryIO] = lambda _, stream: stream
        self.opened: list[str] = []

    def directory(self, backup_id: str) -> Any:
        super().directory(backup_id)

    def paths(self, backup_id: str) -> set[str]:
        return LocalStore(self.root).paths(backup_id)

    @contextmanager
    def open(self, backup_id: str, path: str) -> Iterator[BinaryIO]:
        self.opened.append(path)
        with LocalStore(self.root).open(backup_id, path) as stream:
            yield self.sabotage(path, stream)

    def manifest(self, backup_id: str) -> Manifest:
        return LocalStore(self.root).manifest(backup_id)

    @contextmanager
    def reading(self, backup_id: str) -> Iterator[None]:
        with LocalStore(self.root).reading(backup_id):
            yield


@pytest.fixture
def plain(taken_once: Path, tmp_path: Path) -> Path:
    """A store with one backup in clear."""
    root = tmp_path / "plain"
    shutil.copytree(taken_once, root / "main" / taken_once.name)
    return root


@pytest.fixture
def sealed(taken_once: Path, tmp_path: Path) -> Path:
    """A store with the same backup, encrypted."""
    root = tmp_path / "sealed"
    manifest = LocalStore(taken_once.parents[1]).manifest(taken_once.name)
    store = LocalStore(root)
    with store.writing("main", taken_once.name) as writer:
        keys = encryption.recipients_of([PUBLIC])
        stored = encryption.encrypt_all(
            taken_once, [file.path for file in manifest.files], writer.staging, keys, jobs=2, delete=False
        )
        described = {"files": stored, "encryption": Encryption(recipients=(PUBLIC,))}
        writer.publish(manifest.model_copy(update=described))
    return root


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "work"


def only_backup(store: LocalStore) -> Manifest:
    (directory,) = (store.root / "main").iterdir()
    return store.manifest(directory.name)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in documents.OWN
    }


@pytest.fixture
def stores(plain: Path, sealed: Path) -> dict[str, LocalStore]:
    """The backup in clear and encrypted, here and elsewhere."""
    return {
        "plain": LocalStore(plain),
        "plain elsewhere": Elsewhere(plain),
        "sealed": LocalStore(sealed),
        "sealed elsewhere": Elsewhere(sealed),
    }


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("kind", ["plain", "plain elsewhere", "sealed", "sealed elsewhere"])
def test_the_plain_files_are_those_that_were_dumped(
    stores: dict[str, LocalStore], taken_once: Path, into: Path, kind: str, jobs: int
) -> None:
    store = stores[kind]
    manifest = only_backup(store)
    seen: list[context.Progress] = []
    with (
        context.scope(on_progress=seen.append),
        fetching.fetched(store, manifest, identities=[SECRET], into=into, jobs=jobs) as found,
    ):
        assert contents(found.directory) == contents(taken_once)
        assert found.problems == ()
        assert found.bytes == manifest.bytes
        assert (found.decrypt_seconds > 0) is kind.startswith("sealed")
        if kind != "plain":
            assert found.directory.parent == into
            assert found.directory.stat().st_mode & 0o777 == 0o700
            assert (seen[0].label, seen[0].done, seen[0].total) == ("fetch", 0, manifest.bytes)
            last = "decrypt" if kind.startswith("sealed") else "fetch"
            assert (seen[-1].label, seen[-1].done, seen[-1].total) == (last, manifest.bytes, manifest.bytes)
    assert not into.exists() or not list(into.iterdir())


def test_what_lies_here_in_clear_is_used_where_it_lies(plain: Path, into: Path) -> None:
    store = LocalStore(plain)
    manifest = only_backup(store)
    with fetching.fetched(store, manifest, identities=None, into=into, jobs=2) as found:
        assert found.directory == store.directory(manifest.backup_id)
    assert not into.exists()
    assert found.directory.exists()


@pytest.mark.parametrize("kind", ["plain elsewhere", "sealed"])
def test_pg_restore_reads_it(
    stores: dict[str, LocalStore], taken_once: Path, into: Path, kind: str, pg: Binaries
) -> None:
    store = stores[kind]

    def script(directory: Path) -> list[str]:
        target = into.parent / "script.sql"
        run([pg.path("pg_restore"), f"--file={target}", directory / "dump"], deadline_s=20)
        lines = target.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith((r"\restrict", r"\unrestrict"))]

    with fetching.fetched(store, only_backup(store), identities=[SECRET], into=into, jobs=2) as found:
        assert "1000\tbill 1000" in script(found.directory)
        assert script(found.directory) == script(taken_once)


@pytest.mark.parametrize("kind", ["plain elsewhere", "sealed", "sealed elsewhere"])
def test_only_what_is_asked_for_is_fetched(
    stores: dict[str, LocalStore], taken_once: Path, into: Path, kind: str
) -> None:
    store = stores[kind]
    with fetching.fetched(store, only_backup(store), identities=[SECRET], into=into, jobs=2, only={ONE_TABLE}) as found:
        assert contents(found.directory) == {ONE_TABLE: (taken_once / ONE_TABLE).read_bytes()}
    if isinstance(store, Elsewhere):
        assert [path.removesuffix(".age") for path in store.opened] == [ONE_TABLE]


def test_only_what_is_asked_for_is_checked(plain: Path, into: Path) -> None:
    store = LocalStore(plain)
    manifest = only_backup(store)
    directory = store.directory(manifest.backup_id)
    (directory / "globals/roles.sql").write_text("damaged")
    with fetching.fetched(store, manifest, identities=None, into=into, jobs=2, only={ONE_TABLE}) as found:
        assert found.problems == ()
    (directory / ONE_TABLE).write_bytes(b"damaged")
    with fetching.fetched(store, manifest, identities=None, into=into, jobs=2, only={ONE_TABLE}) as found:
        assert [(problem.file, problem.kind) for problem in found.problems] == [(ONE_TABLE, "size")]


def test_a_file_that_the_backup_does_not_have(sealed: Path, into: Path) -> None:
    store = LocalStore(sealed)
    with (
        pytest.raises(errors.ConfigurationError, match=r"has no file dump/nothing\.dat"),
        fetching.fetched(
            store, only_backup(store), identities=[SECRET], into=into, jobs=2, only={"dump/nothing.dat", ONE_TABLE}
        ),
    ):
        pass


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(5_000_000))


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "checksum": flip,
    "size": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "size, longer": grow,
    "missing": Path.unlink,
    "unreadable": loop,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["plain", "plain elsewhere", "sealed", "sealed elsewhere"])
def test_a_damaged_file_is_a_problem_and_nothing_is_decrypted(
    stores: dict[str, LocalStore], into: Path, kind: str, damage: str
) -> None:
    store = stores[kind]
    manifest = only_backup(store)
    suffix = ".age" if kind.startswith("sealed") else ""
    DAMAGES[damage](LocalStore(store.root).directory(manifest.backup_id) / f"{ONE_TABLE}{suffix}")
    with fetching.fetched(store, manifest, identities=[SECRET], into=into, jobs=2) as found:
        kinds = [(problem.file, problem.kind, problem.store) for problem in found.problems]
        expected = damage.partition(",")[0]
        if kind.endswith("elsewhere") and damage == "unreadable":
            expected = "missing"  # there's no telling from afar
        assert kinds == [(f"{ONE_TABLE}{suffix}", expected, store.name)]
        if suffix:
            assert not [path for path in found.directory.rglob("*") if path.is_file() and path.suffix != ".age"]
    assert not into.exists() or not list(into.iterdir())


def test_an_extra_file_is_a_problem_where_it_would_be_used(plain: Path, into: Path) -> None:
    store = LocalStore(plain)
    manifest = only_backup(store)
    (store.directory(manifest.backup_id) / "dump/9999.dat").write_bytes(b"x")
    with fetching.fetched(store, manifest, identities=None, into=into, jobs=2) as found:
        assert [(problem.file, problem.kind) for problem in found.problems] == [("dump/9999.dat", "extra")]
    with fetching.fetched(store, manifest, identities=None, into=into, jobs=2, verify=False) as found:
        assert found.problems == ()


class Failing(io.BytesIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read(self, _: int | None = -1, /) -> bytes:
        raise self.error


def test_a_disk_that_fails_is_a_problem_of_the_file(plain: Path, into: Path) -> None:
    store = Elsewhere(plain)
    broken = OSError(errno.EIO, "Input/output error")
    store.sabotage = lambda path, stream: Failing(broken) if path == ONE_TABLE else stream
    with fetching.fetched(store, only_backup(store), identities=None, into=into, jobs=2) as found:
        assert [(problem.file, problem.kind) for problem in found.problems] == [(ONE_TABLE, "unreadable")]


def test_a_file_without_end_is_not_fetched_without_end(plain: Path, into: Path) -> None:
    """The room was checked for what the manifest says."""
    store = Elsewhere(plain)
    manifest = only_backup(store)
    passed = 0

    class Endless(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal passed
            passed += size or 0
            assert passed < 10_000_000
            return bytes(size or 0)

    store.sabotage = lambda *_: Endless()
    with fetching.fetched(store, manifest, identities=None, into=into, jobs=1, only={ONE_TABLE}) as found:
        assert [(problem.file, problem.kind) for problem in found.problems] == [(ONE_TABLE, "size")]


def test_a_store_that_fails_is_an_error_and_leaves_nothing(sealed: Path, into: Path) -> None:
    store = Elsewhere(sealed)
    store.sabotage = lambda path, stream: Failing(errors.StoreError("the bucket is gone")) if "toc" in path else stream
    with (
        pytest.raises(errors.StoreError, match="the bucket is gone"),
        fetching.fetched(store, only_backup(store), identities=[SECRET], into=into, jobs=2),
    ):
        pass
    assert not list(into.iterdir())


@pytest.mark.parametrize("kind", ["sealed", "sealed elsewhere"])
def test_a_wrong_key_is_one_clear_error_and_leaves_nothing(
    stores: dict[str, LocalStore], into: Path, kind: str
) -> None:
    store = stores[kind]
    manifest = only_backup(store)
    wrong: list[Identity] = [pyrage.x25519.Identity.generate()]
    with (
        pytest.raises(errors.DecryptionFailed) as failure,
        fetching.fetched(store, manifest, identities=wrong, into=into, jobs=2),
    ):
        pass
    assert str(failure.value).startswith(f"{manifest.backup_id}: ")
    assert f"none of the 1 secret keys of operations.backup.identity opens it, it was encrypted for {PUBLIC}" in str(
        failure.value
    )
    assert not list(into.iterdir())


def test_a_missing_key_is_said_before_anything_is_fetched(sealed: Path, into: Path) -> None:
    store = Elsewhere(sealed)
    with (
        pytest.raises(errors.ConfigurationError, match=r"operations\.backup\.identity is not set"),
        fetching.fetched(store, only_backup(store), identities=None, into=into, jobs=2),
    ):
        pass
    assert store.opened == []


@pytest.mark.parametrize("kind", ["plain elsewhere", "sealed", "sealed elsewhere"])
def test_too_little_room_is_refused_before_anything_is_fetched(
    stores: dict[str, LocalStore], into: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Only the operating system's answer is made up: the file system is as large as it is."""
    store = stores[kind]
    manifest = only_backup(store)
    beside = max(file.bytes for file in manifest.files) if kind == "sealed elsewhere" else 0
    needed = manifest.bytes + beside

    def free(at: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(at, 0, at))

    free(needed - 1)
    with (
        pytest.raises(errors.RefusedError, match=f"has {needed - 1} bytes free, and the backup's files need {needed}:"),
        fetching.fetched(store, manifest, identities=[SECRET], into=into, jobs=1),
    ):
        pass
    if isinstance(store, Elsewhere):
        assert store.opened == []
    assert not list(into.iterdir())
    free(needed)
    with fetching.fetched(store, manifest, identities=[SECRET], into=into, jobs=1) as found:
        assert found.problems == ()


@pytest.mark.parametrize("path", ["../escaped", "/etc/escaped", "dump/../../escaped", "dump//toc.dat", "./toc.dat", ""])
def test_a_manifest_cannot_make_us_write_elsewhere(plain: Path, into: Path, path: str) -> None:
    store = Elsewhere(plain)
    manifest = only_backup(store)
    evil = manifest.model_copy(update={"files": (*manifest.files, File(path=path, bytes=1, sha256="00"))})
    with (
        pytest.raises(errors.BackupDamaged, match="is no path inside a backup"),
        fetching.fetched(store, evil, identities=None, into=into, jobs=2),
    ):
        pass
    assert store.opened == []


def test_a_plain_file_in_an_encrypted_backup_is_not_trusted(sealed: Path, into: Path) -> None:
    store = LocalStore(sealed)
    manifest = only_backup(store)
    slipped = manifest.model_copy(update={"files": (*manifest.files, File(path="dump/x.dat", bytes=1, sha256="00"))})
    with (
        pytest.raises(errors.BackupDamaged, match=r"dump/x\.dat is not encrypted"),
        fetching.fetched(store, slipped, identities=[SECRET], into=into, jobs=2),
    ):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_in_clear_is_left_however_the_block_ends(sealed: Path, into: Path, error: type[BaseException]) -> None:
    store = LocalStore(sealed)

    def use() -> None:
        with fetching.fetched(store, only_backup(store), identities=[SECRET], into=into, jobs=2) as found:
            assert (found.directory / ONE_TABLE).exists()
            raise error

    with pytest.raises(error):
        use()
    assert not list(into.iterdir())


def test_an_interrupt_in_mid_fetch_ends_every_thread(sealed: Path, into: Path) -> None:
    store = Elsewhere(sealed)

    def interrupted(step: context.Progress) -> None:
        if step.label == "decrypt":
            raise KeyboardInterrupt

    with (
        context.scope(on_progress=interrupted),
        pytest.raises(KeyboardInterrupt),
        fetching.fetched(store, only_backup(store), identities=[SECRET], into=into, jobs=4),
    ):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chanuka-")]
    assert not list(into.iterdir())


KILLED = """
import sys, time
from pathlib import Path
import pyrage
from chanuka_ops.backup import encryption
from chanuka_ops.backup.storing import fetching
from chanuka_ops.backup.storing.local import LocalStore

store = LocalStore(Path(sys.argv[1]))
manifest = store.manifest(sys.argv[2])
secret = pyrage.x25519.Identity.from_str(sys.stdin.readline().strip())
with fetching.fetched(store, manifest, identities=[secret], into=Path(sys.argv[3]), jobs=2) as found:
    print(found.directory, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_in_clear_the_next_one_removes(sealed: Path, into: Path) -> None:
    store = LocalStore(sealed)
    manifest = only_backup(store)
    argv = [sys.executable, "-c", KILLED, str(sealed), manifest.backup_id, str(into)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        print(SECRET, file=process.stdin, flush=True)
        left = Path(process.stdout.readline().strip())
        try:
            assert (left / ONE_TABLE).exists()
            with fetching.fetched(store, manifest, identities=[SECRET], into=into, jobs=2) as beside:
                assert (left / ONE_TABLE).exists(), "its process lives"
                assert beside.directory != left
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert (left / ONE_TABLE).exists()
    with fetching.fetched(store, manifest, identities=[SECRET], into=into, jobs=2):
        assert not left.exists()
    assert not list(into.iterdir())


@pytest.mark.parametrize("kind", ["plain", "sealed elsewhere"])
def test_nobody_deletes_it_meanwhile(stores: dict[str, LocalStore], into: Path, kind: str) -> None:
    store = stores[kind]
    manifest = only_backup(store)
    keeper = LocalStore(store.root)
    with (
        fetching.fetched(store, manifest, identities=[SECRET], into=into, jobs=2),
        pytest.raises(errors.LockHeld),
    ):
        keeper.delete(manifest.backup_id)
    keeper.delete(manifest.backup_id)


def test_files_are_fetched_several_at_once(plain: Path, into: Path) -> None:
    """Each of four streams waits until all four are open."""
    store = Elsewhere(plain)
    together = threading.Barrier(4)

    def wait(_: str, stream: BinaryIO) -> BinaryIO:
        together.wait(timeout=20)
        return stream

    manifest = only_backup(store)
    store.sabotage = wait
    chosen = [file.path for file in manifest.files][:4]
    with fetching.fetched(store, manifest, identities=None, into=into, jobs=4, only=chosen) as found:
        assert found.problems == ()


def test_the_first_failure_ends_the_others_soon(plain: Path, into: Path) -> None:
    store = Elsewhere(plain)
    manifest = only_backup(store)
    first, second, *_ = (file.path for file in manifest.files)
    endless = threading.Event()

    class Endless(io.BytesIO):
        def read(self, _: int | None = -1, /) -> bytes:
            endless.set()
            time.sleep(0.01)
            return b"x"

    class Later(io.BytesIO):
        def read(self, _: int | None = -1, /) -> bytes:
            assert wait_until(endless.is_set, timeout_s=20)
            raise errors.StoreError("gone")

    huge = manifest.model_copy(
        update={"files": tuple(file.model_copy(update={"bytes": 10**6}) for file in manifest.files)}
    )
    store.sabotage = lambda path, _: Endless() if path == first else Later()
    start = time.monotonic()
    with (
        pytest.raises(errors.StoreError, match="gone"),
        fetching.fetched(store, huge, identities=None, into=into, jobs=2, only=[first, second]),
    ):
        pass
    assert time.monotonic() - start < 20
    assert not list(into.iterdir())

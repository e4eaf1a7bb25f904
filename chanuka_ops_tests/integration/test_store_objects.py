"""Backups in a bucket, as long as nothing goes wrong: written, listed, read, changed, kept, deleted."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chanuka_ops import context, errors
from chanuka_ops.backup import documents, rules
from chanuka_ops.backup.model import Evidence, Pin, Status, Tier
from chanuka_ops.backup.storing import leases
from chanuka_ops.backup.storing.transfers import PART_BYTES
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.s3 import SECRET, Bucket, sample

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def test_a_backup_is_written_listed_and_read(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()
    assert store.list() == []
    with store.writing("main", one.backup_id) as writer:
        assert writer.staging is None
        writer.receive(tmp_path, one.manifest.files)
        assert store.list() == [], "nothing is listed before it's published"
        writer.publish(one.manifest)
    (listed,) = store.list()
    assert (listed.backup_id, listed.database, listed.tier, listed.bytes, listed.store, listed.problem) == (
        one.backup_id, "main", "taken", one.manifest.bytes, "cloud", None,
    )  # fmt: skip
    assert one.is_whole_in(store)
    assert store.status(one.backup_id).tier is Tier.TAKEN
    assert store.directory(one.backup_id) is None
    assert store.where == s3.url
    assert not [key for key in s3.all_keys() if "/.leases/" in key], "leases are given back"
    assert one.is_whole_in(s3.store("another")), "whoever comes later finds the same"


def test_files_larger_than_a_part(s3: Bucket, tmp_path: Path) -> None:
    sizes = {"dump/a": PART_BYTES - 1, "dump/b": PART_BYTES, "dump/c": PART_BYTES + 1, "dump/d": 2 * PART_BYTES}
    one, store = sample(tmp_path, sizes), s3.store()
    told: list[context.Progress] = []
    with context.scope(on_progress=told.append):
        one.send(store)
    assert (told[-1].label, told[-1].done, told[-1].total) == (
        "upload to cloud",
        sum(sizes.values()),
        sum(sizes.values()),
    )
    told.clear()
    with context.scope(on_progress=told.append):
        assert one.is_whole_in(store)
    assert (told[-1].label, told[-1].done, told[-1].total) == ("verify", sum(sizes.values()), sum(sizes.values()))
    for name in sizes:
        with store.open(one.backup_id, name) as stream:
            assert stream.read(10) + stream.read() == (tmp_path / name).read_bytes()
    assert s3.uploads() == []


@pytest.mark.parametrize("database", ["Bills & Votes", "é%20+?#.b~*'"])
def test_databases_by_any_name(s3: Bucket, tmp_path: Path, database: str) -> None:
    one, store = sample(tmp_path, database=database), s3.store()
    one.send(store)
    assert [backup.database for backup in store.list()] == [database]
    assert [backup.database for backup in store.list(database)] == [database]
    assert store.list("other") == []
    assert one.is_whole_in(s3.store())


def test_the_newest_comes_first_and_one_database_at_a_time(s3: Bucket, tmp_path: Path) -> None:
    store = s3.store()
    for number, database in enumerate(("main", "mai", "main")):
        sample(tmp_path, {"a": 1}, database=database, at=NOW + timedelta(hours=number), number=number).plant(s3)
    assert [backup.created_at for backup in store.list()] == [NOW + timedelta(hours=n) for n in (2, 1, 0)]
    assert [backup.created_at for backup in store.list("main")] == [NOW + timedelta(hours=n) for n in (2, 0)]
    assert [backup.created_at for backup in store.list("mai")] == [NOW + timedelta(hours=1)]


def test_what_is_no_backup_is_not_listed(s3: Bucket, tmp_path: Path) -> None:
    store = s3.store()
    s3.write("main/main-20261122T170509Z-aaaaaa/dump/toc.dat", b"unfinished")
    s3.write("main/main-20261122T170509Z-aaaaaa/dump/manifest.json", b"not at its place")
    s3.write("main/note.txt", b"somebody's")
    s3.write("manifest.json", b"somebody's")
    assert store.list() == []
    with pytest.raises(errors.BackupNotFound, match="aaaaaa"):
        store.manifest("main-20261122T170509Z-aaaaaa")


def test_a_file_that_is_not_as_described_never_arrives(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path, {"small": 10, "large": PART_BYTES + 10}), s3.store()
    for name in ("small", "large"):
        whole = (tmp_path / name).read_bytes()
        for wrong in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
            (tmp_path / name).write_bytes(wrong)
            with pytest.raises(errors.StoreError, match=f"{name}: what was read is not"):
                one.send(store)
            assert s3.all_keys() == []
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "small").unlink()
    with pytest.raises(errors.StoreError, match="small can't be read: No such file"):
        one.send(store)
    assert (s3.all_keys(), s3.uploads(), store.list()) == ([], [], [])


def test_what_did_not_arrive_is_not_published(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()

    def send() -> None:
        with store.writing("main", one.backup_id) as writer:
            writer.receive(tmp_path, one.manifest.files)
            s3.remove(f"main/{one.backup_id}/dump/1.dat")
            writer.publish(one.manifest)

    with pytest.raises(errors.StoreError, match=r"dump/1\.dat has no bytes there, and 70000 were sent"):
        send()
    assert s3.all_keys() == []


def test_an_interrupt_takes_back_what_was_sent(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path, {"dump/a": 10, "dump/b": 3 * PART_BYTES}), s3.store()

    def interrupt(progress: context.Progress) -> None:
        if progress.done > PART_BYTES:
            raise KeyboardInterrupt

    with context.scope(on_progress=interrupt), pytest.raises(KeyboardInterrupt):
        one.send(store)
    assert (s3.all_keys(), s3.uploads(), store.list()) == ([], [], [])


def test_a_backup_is_never_written_twice(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()
    one.send(store)
    with pytest.raises(errors.StoreError, match="is there already"):
        one.send(store)
    assert one.is_whole_in(store)


def test_damage_is_seen(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    folder = f"main/{one.backup_id}"
    s3.write(f"{folder}/dump/extra.dat", b"x")
    s3.write(f"{folder}/dump/1.dat", b"y" * 70_000)
    s3.write(f"{folder}/dump/toc.dat", b"")
    s3.remove(f"{folder}/globals/roles.sql")
    found = rules.file_problems(one.manifest.files, store.files(one.backup_id))
    assert {(problem.file, problem.kind) for problem in found} == {
        ("dump/extra.dat", "extra"), ("dump/1.dat", "checksum"), ("dump/toc.dat", "size"),
        ("globals/roles.sql", "missing"),
    }  # fmt: skip
    with (
        pytest.raises(errors.BackupDamaged, match=r"globals/roles\.sql is missing"),
        store.open(one.backup_id, "globals/roles.sql"),
    ):
        pass


def test_a_file_that_may_not_be_read_is_none(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    s3.fault("GET|HEAD", r"1\.dat$", "status", status=403, times=None)
    found = store.files(one.backup_id)
    assert found["dump/1.dat"] is None
    assert [problem.kind for problem in rules.file_problems(one.manifest.files, found)] == ["unreadable"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("status.json", b"{}", "status.json: it is not a sealed document"),
        ("status.json", documents.seal(Status(backup_id="main-20261122T170509Z-bbbbbb").model_dump(mode="json")),
         "status.json is that of main-20261122T170509Z-bbbbbb"),
        ("manifest.json", b"{}", "manifest.json: it is not a sealed document"),
    ],
)  # fmt: skip
def test_a_damaged_document_is_listed_as_such(
    s3: Bucket, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    s3.write(f"main/{one.backup_id}/{name}", content)
    (listed,) = store.list()
    assert (listed.tier, listed.problem) == ("damaged", f"{one.backup_id}: {reason}")


def test_a_missing_status(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    s3.remove(f"main/{one.backup_id}/status.json")
    assert store.list()[0].problem == f"{one.backup_id}: status.json is missing"
    with pytest.raises(errors.BackupDamaged, match="is missing"):
        store.status(one.backup_id)
    pinned = store.change_status(
        one.backup_id, lambda s: s.model_copy(update={"pin": Pin(reason="r", at=NOW, actor="a")})
    )
    assert store.status(one.backup_id) == pinned
    (listed,) = store.list()
    assert (listed.problem, listed.pinned, listed.bytes) == (None, "r", one.manifest.bytes)


def test_listing_reads_no_manifest(s3: Bucket, tmp_path: Path) -> None:
    store = s3.store()
    for number in range(3):
        sample(tmp_path, {"a": 1}, number=number).plant(s3)
    s3.gate.requests.clear()
    assert len(store.list()) == 3
    asked = [target for _, target in s3.gate.requests]
    assert len(asked) == 4, asked
    assert not [target for target in asked if "manifest.json" in target]


def look(at: datetime, *, passed: bool = True) -> Evidence:
    return Evidence(at=at, step="verify", passed=passed, figures={})


def test_two_that_look_at_once_both_count(s3: Bucket, tmp_path: Path) -> None:
    one = sample(tmp_path)
    one.plant(s3)
    lookers = 3
    together = threading.Barrier(lookers)

    def record(number: int) -> None:
        store = s3.store()
        store.status(one.backup_id)
        together.wait()
        store.change_status(one.backup_id, lambda s: rules.after_look(s, look(NOW + timedelta(seconds=number))))

    threads = [threading.Thread(target=record, args=(number,)) for number in range(lookers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = s3.store().status(one.backup_id)
    assert {evidence.at for evidence in status.evidence} == {NOW + timedelta(seconds=n) for n in range(lookers)}
    assert status.tier is Tier.VERIFIED


def test_a_change_between_reading_and_writing_is_not_lost(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    calls = []

    def change(status: Status) -> Status:
        calls.append(status)
        if len(calls) == 1:
            s3.store().change_status(one.backup_id, lambda s: rules.after_look(s, look(NOW)))
        return rules.after_look(status, look(NOW + timedelta(hours=1)))

    assert len(store.change_status(one.backup_id, change).evidence) == 2
    assert len(calls) == 2


@pytest.mark.slow
def test_a_status_that_never_comes_to_rest(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanuka_ops.backup.storing.objects.CHANGE_TRIES", 3)
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    rival = s3.store()

    def change(status: Status) -> Status:
        rival.change_status(one.backup_id, lambda s: rules.after_look(s, look(datetime.now(UTC))))
        return rules.after_look(status, look(NOW))

    with pytest.raises(errors.StoreError, match="3 times in a row"):
        store.change_status(one.backup_id, change)
    assert len(store.status(one.backup_id).evidence) == 3


def test_deleting(s3: Bucket, tmp_path: Path) -> None:
    one, other, store = sample(tmp_path), sample(tmp_path / "b", number=1), s3.store()
    one.plant(s3)
    other.plant(s3)
    s3.gate.requests.clear()
    store.delete(one.backup_id)
    assert not [key for key in s3.all_keys() if one.backup_id in key]
    assert other.is_whole_in(store)
    for missing in (store.manifest, store.status, store.files, store.directory, store.delete):
        with pytest.raises(errors.BackupNotFound, match=one.backup_id):
            missing(one.backup_id)
    with pytest.raises(errors.BackupNotFound):
        store.change_status(one.backup_id, lambda s: s)
    with pytest.raises(errors.BackupNotFound), store.reading(one.backup_id):
        pass
    with pytest.raises(errors.BackupNotFound, match="is not a backup id"):
        store.delete("../main")


def test_who_reads_keeps_it(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    with (
        context.scope(run_id="0123456789abcdef", actor="ops"),
        store.reading(one.backup_id),
        store.reading(one.backup_id),
    ):
        with pytest.raises(errors.LockHeld, match=r"is kept: ops on .* \(pid \d+, run 01234567, to read it\)"):
            s3.store().delete(one.backup_id)
        assert one.is_whole_in(store)
    store.delete(one.backup_id)
    assert s3.all_keys() == []


def test_a_reader_waits_for_who_deletes(s3: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    held = s3.fault("POST", r"\?delete", "delay", seconds=1.0)
    deleting = threading.Thread(target=store.delete, args=(one.backup_id,))
    deleting.start()
    assert wait_until(lambda: held.hits > 0, timeout_s=10)
    with pytest.raises(errors.BackupNotFound), s3.store().reading(one.backup_id):
        pass
    deleting.join()
    assert s3.all_keys() == []


@pytest.mark.slow
def test_a_dead_lease_holds_nobody(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 2.0)
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    folder = f"main/.leases/{one.backup_id}"
    for name in ("exclusive.json", "0123.json"):
        s3.write(f"{folder}/{name}", b'{"holder": {"actor": "gone"}, "purpose": "read"}')
    with pytest.raises(errors.LockHeld, match="gone on"):
        store.delete(one.backup_id)
    threading.Event().wait(3.2)
    store.delete(one.backup_id)
    assert store.list() == []


@pytest.mark.slow
def test_a_lease_is_kept_alive(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's time has whole seconds: so long a lease, so often renewed, is the shortest that proves it."""
    monkeypatch.setattr(leases, "LEASE_S", 2.0)
    one, store = sample(tmp_path), s3.store()
    one.plant(s3)
    with store.reading(one.backup_id):
        threading.Event().wait(3.5)
        with pytest.raises(errors.LockHeld):
            store.delete(one.backup_id)


def aged(s3: Bucket, number: int, *names: str) -> str:
    """Leave an unfinished upload that its id says is long ago."""
    backup_id = f"main-20250101T000000Z-{number:06x}"
    for name in names:
        s3.write(f"main/{backup_id}/{name}", b"left")
    return backup_id


def test_leftovers_are_swept_a_day_later(s3: Bucket, tmp_path: Path) -> None:
    aged(s3, 1, "dump/a", "status.json")
    whole = sample(tmp_path / "whole", at=datetime(2025, 1, 1, tzinfo=UTC), number=2)
    whole.plant(s3)
    at_work = aged(s3, 3, "dump/a")
    s3.write(f"main/.leases/{at_work}/exclusive.json", b"{}")
    recent = f"main-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-000004"
    s3.write(f"main/{recent}/dump/a", b"under way")
    s3.write("other/" + aged(s3, 5) + "/dump/a", b"another database's")
    s3.write("main/somebodys/file", b"no backup")
    sample(tmp_path / "b", number=6).send(s3.store())
    assert {key.split("/")[1] for key in s3.data_keys()} == {
        whole.backup_id, at_work, recent, "main-20250101T000000Z-000005", "somebodys",
        "main-20261122T170509Z-000006",
    }  # fmt: skip
    assert whole.is_whole_in(s3.store())


def test_secrets_show_nowhere(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = s3.store()
    store.list()
    assert SECRET not in repr(store) + repr(vars(store)) + repr(store._bucket) + store.where
    assert repr(store) == f"ObjectStore('cloud', '{s3.url}')"
    monkeypatch.delenv("TEST_S3_SECRET")
    store.list()
    with pytest.raises(
        errors.ConfigurationError, match=r"secret_access_key of store cloud is to come from \$TEST_S3_SECRET"
    ):
        s3.store().list()

"""A bucket that fails: what is listed afterwards is the previous state, or a complete new backup, never half of one."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup import documents, rules
from chanuka_ops.backup.model import Evidence
from chanuka_ops.backup.storing import leases
from chanuka_ops.backup.storing.objects import ObjectStore
from chanuka_ops.backup.storing.transfers import PART_BYTES
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.gate import Act, Fault
from chanuka_ops_tests.plugins.s3 import (
    ENVIRONMENT,
    SECRET,
    Bucket,
    Sample,
    bucket_on,
    sample,
    serving,
    settings_of,
)

DEADLINE_S = 1.5
slow = partial(pytest.param, marks=pytest.mark.slow)
LARGE = {"dump/toc.dat": 1000, "dump/1.dat": 2 * PART_BYTES + 5, "globals/roles.sql": 30}
NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def before(s3: Bucket, tmp_path: Path) -> Sample:
    """A backup that was there before anything fails."""
    made = sample(tmp_path / "before", number=0xBEF0)
    made.plant(s3)
    return made


@pytest.fixture
def new(tmp_path: Path) -> Sample:
    """The one that is written while something fails."""
    return sample(tmp_path / "new", number=1)


@pytest.fixture
def large(tmp_path: Path) -> Sample:
    """The same with a file that is sent in parts."""
    return sample(tmp_path / "large", LARGE, number=2)


def listed(s3: Bucket) -> set[str]:
    """What a host that knows nothing of all this sees."""
    catalogue = s3.store().list()
    assert [backup.problem for backup in catalogue if backup.problem] == []
    return {backup.backup_id for backup in catalogue}


def assert_the_previous_state(s3: Bucket, before: Sample, *, nothing_left: bool = True) -> None:
    s3.heal()
    assert listed(s3) == {before.backup_id}
    assert before.is_whole_in(s3.store())
    if nothing_left:
        assert [key for key in s3.all_keys() if f"main/{before.backup_id}/" not in key] == []


def assert_both(s3: Bucket, before: Sample, new: Sample) -> None:
    s3.heal()
    assert listed(s3) == {before.backup_id, new.backup_id}
    assert before.is_whole_in(s3.store())
    assert new.is_whole_in(s3.store())


# errors that the server answers


@pytest.mark.parametrize("status", [slow(500), 503])
@pytest.mark.parametrize("key", [slow(r"1\.dat"), slow(r"status\.json"), r"manifest\.json", slow(r"exclusive\.json")])
def test_a_server_that_fails_for_a_moment(s3: Bucket, before: Sample, new: Sample, key: str, status: int) -> None:
    fault = s3.fault("PUT", key, "status", status=status, times=2)
    new.send(s3.store())
    assert fault.hits == 2
    assert_both(s3, before, new)


@pytest.mark.parametrize("key", [r"1\.dat", slow(r"status\.json"), slow(r"exclusive\.json")])
def test_a_server_that_goes_on_failing(s3: Bucket, before: Sample, new: Sample, key: str) -> None:
    s3.fault("PUT", key, "status", times=None)
    with pytest.raises(errors.StoreError, match=f"can't write .*{key}.*after \\d+ retries.*503.*SlowDown") as failure:
        new.send(s3.store(deadline_s=DEADLINE_S))
    assert SECRET not in str(failure.value)
    assert_the_previous_state(s3, before)


@pytest.mark.slow
def test_a_manifest_that_is_never_taken(s3: Bucket, before: Sample, new: Sample) -> None:
    """An answer of 503 to the last try says nothing of an earlier one: what was sent stays, unlisted."""
    s3.fault("PUT", r"manifest\.json", "status", times=None)
    with pytest.raises(errors.StoreError, match=r"can't write main/.*/manifest\.json"):
        new.send(s3.store(deadline_s=DEADLINE_S))
    assert_the_previous_state(s3, before, nothing_left=False)
    assert [key for key in s3.all_keys() if "/.leases/" in key] == []


@pytest.mark.parametrize("times", [2, slow(None)])
def test_listing_and_reading_where_the_server_fails(s3: Bucket, before: Sample, times: int | None) -> None:
    store = s3.store(deadline_s=DEADLINE_S if times is None else 20.0)
    store.directory(before.backup_id)

    def opened() -> bytes:
        with store.open(before.backup_id, "dump/1.dat") as stream:
            return stream.read()

    looks: list[tuple[str, Callable[[], object]]] = [
        (r"list-type", store.list),
        (r"status\.json", store.list),
        (r"manifest\.json", lambda: store.manifest(before.backup_id)),
        (r"1\.dat", lambda: store.files(before.backup_id)),
        (r"1\.dat", opened),
    ]
    for key, look in looks:
        s3.heal()
        healthy = look()
        fault = s3.fault("GET", key, "status", status=500, times=times)
        if times is None:
            with pytest.raises(errors.StoreError, match=r"s3://.*: can't .*500"):
                look()
        else:
            assert look() == healthy
            assert fault.hits == times
    assert_the_previous_state(s3, before)


# slowness


@pytest.mark.parametrize("key", [r"1\.dat", slow(r"exclusive\.json"), slow(r"manifest\.json")])
def test_a_server_that_takes_too_long(s3: Bucket, before: Sample, new: Sample, key: str) -> None:
    s3.fault("PUT", key, "delay", seconds=6.0, times=None)
    start = time.monotonic()
    with pytest.raises(errors.StoreError, match="timed out"):
        new.send(s3.store(deadline_s=0.6))
    assert time.monotonic() - start < 15
    s3.gate.faults.clear()
    assert before.is_whole_in(s3.store())
    assert {backup.problem for backup in s3.store().list()} == {None}


@pytest.mark.slow
def test_reading_from_a_server_that_takes_too_long(s3: Bucket, before: Sample) -> None:
    s3.fault("GET", "status", "delay", seconds=6.0, times=None)
    start = time.monotonic()
    with pytest.raises(errors.StoreError, match="timed out"):
        s3.store(deadline_s=0.6).list()
    assert time.monotonic() - start < 10


# connections that are cut, replies that are lost


@pytest.mark.parametrize("key", [r"1\.dat\?partNumber=2", slow(r"toc\.dat$"), slow(r"manifest\.json")])
def test_a_cut_in_mid_upload_is_made_good(s3: Bucket, before: Sample, large: Sample, key: str) -> None:
    fault = s3.fault("PUT", key, "cut_upload", times=2)
    large.send(s3.store())
    assert fault.hits == 2
    assert_both(s3, before, large)
    assert s3.uploads() == []


@pytest.mark.slow
def test_an_upload_that_is_cut_each_time(s3: Bucket, before: Sample, large: Sample) -> None:
    s3.fault("PUT", "partNumber=2", "cut_upload", times=None)
    with pytest.raises(errors.StoreError, match=r"can't write .*1\.dat"):
        large.send(s3.store(deadline_s=DEADLINE_S))
    assert_the_previous_state(s3, before)
    assert s3.uploads() == [], "parts that were sent are taken back: they'd cost, and nobody sees them"


@pytest.mark.parametrize(
    "key", [r"toc\.dat$", slow(r"1\.dat\?partNumber=1"), slow(r"status\.json"), slow(r"exclusive\.json")]
)
def test_a_lost_reply_to_a_put(s3: Bucket, before: Sample, large: Sample, key: str) -> None:
    fault = s3.fault("PUT", key, "lose_reply", times=2)
    large.send(s3.store())
    assert fault.hits >= 1
    assert_both(s3, before, large)


@pytest.mark.slow
def test_a_lost_reply_to_the_end_of_a_multipart_upload(s3: Bucket, before: Sample, large: Sample) -> None:
    """Said again, the server knows of no such upload: what then is there decides."""
    fault = s3.fault("POST", "uploadId", "lose_reply")
    large.send(s3.store())
    assert fault.hits == 1
    assert_both(s3, before, large)


@pytest.mark.parametrize("times", [1, slow(2), slow(None)])
def test_a_lost_reply_to_the_put_of_the_manifest(s3: Bucket, before: Sample, new: Sample, times: int | None) -> None:
    fault = s3.fault("PUT", "manifest", "lose_reply", times=times)
    new.send(s3.store())
    assert fault.hits >= 1
    assert_both(s3, before, new)


@pytest.mark.parametrize("key", ["manifest", slow("exclusive")])
def test_a_put_that_was_done_and_is_denied(s3: Bucket, before: Sample, new: Sample, key: str) -> None:
    """The client puts again by itself, and meets what it wrote."""
    fault = s3.fault("PUT", key, "deny", status=500)
    new.send(s3.store())
    assert fault.hits == 1
    assert_both(s3, before, new)


@pytest.mark.parametrize("act", [slow("deny"), "lose_reply"])
def test_a_look_whose_reply_is_lost_counts_once(s3: Bucket, before: Sample, act: Act) -> None:
    fault = s3.fault("PUT", "status", act)
    look = Evidence(at=NOW, step="verify", passed=True, figures={})
    s3.store().change_status(before.backup_id, lambda s: rules.after_look(s, look))
    assert fault.hits == 1
    assert s3.store().status(before.backup_id).evidence == (look,)


def test_a_manifest_that_arrives_after_its_writer_gave_up(s3: Bucket, before: Sample, new: Sample) -> None:
    fault = s3.fault("PUT", "manifest", "hold", times=None)
    with pytest.raises(errors.StoreError, match=r"can't write .*manifest\.json"):
        new.send(s3.store(deadline_s=0.5))
    assert fault.hits
    assert_the_previous_state(s3, before, nothing_left=False)
    s3.write(f"main/{new.backup_id}/manifest.json", documents.first_documents(new.manifest)[0])
    assert_both(s3, before, new)


def test_the_manifest_is_somebody_elses(s3: Bucket, before: Sample, new: Sample) -> None:
    rival = documents.first_documents(new.manifest.model_copy(update={"actor": "rival"}))[0]

    def send() -> None:
        with s3.store().writing("main", new.backup_id) as writer:
            writer.receive(new.directory, new.manifest.files)
            s3.write(f"main/{new.backup_id}/manifest.json", rival)
            writer.publish(new.manifest)

    with pytest.raises(errors.StoreError, match="somebody else wrote a backup of that name"):
        send()
    s3.heal()
    assert listed(s3) == {before.backup_id, new.backup_id}
    assert s3.store().manifest(new.backup_id).actor == "rival"
    assert rules.file_problems(new.manifest.files, s3.store().files(new.backup_id)) == ()


@pytest.mark.parametrize("times", [3, slow(None)])
def test_a_cut_in_mid_download(s3: Bucket, large: Sample, times: int | None) -> None:
    large.plant(s3)
    store = s3.store(deadline_s=5.0)
    fault = s3.fault("GET", r"1\.dat", "cut_download", times=times, after=1)
    if times is None:
        with pytest.raises(errors.StoreError, match=r"can't read .*1\.dat"):
            store.files(large.backup_id)
        with pytest.raises(errors.StoreError), store.open(large.backup_id, "dump/1.dat") as stream:
            stream.read()
    else:
        assert large.is_whole_in(store)
        fault.hits = 0
        with store.open(large.backup_id, "dump/1.dat") as stream:
            assert stream.read() == (large.directory / "dump/1.dat").read_bytes()
    assert fault.hits >= 3


@pytest.mark.slow
def test_a_file_that_is_replaced_while_it_is_read(s3: Bucket, large: Sample) -> None:
    large.plant(s3)
    with s3.store().open(large.backup_id, "dump/1.dat") as stream:
        stream.read(10)
        s3.write(f"main/{large.backup_id}/dump/1.dat", bytes(LARGE["dump/1.dat"]))
        with pytest.raises(errors.StoreError, match=r"can't read .*412"):
            stream.read()


# listings


def test_a_listing_of_many_pages_is_whole(s3: Bucket, before: Sample, tmp_path: Path) -> None:
    others = [sample(tmp_path / str(n), {"a": 1, "b": 2}, number=n) for n in range(5)]
    for other in others:
        other.plant(s3)
    fault = s3.fault("GET", "list-type=2", "page", status=3, times=None)
    assert {backup.backup_id for backup in s3.store().list()} == {before.backup_id, *(o.backup_id for o in others)}
    assert fault.hits >= 8


@pytest.mark.parametrize("of", ["the store", slow("a backup")])
def test_a_listing_whose_later_page_fails_is_none(s3: Bucket, before: Sample, of: str) -> None:
    store = s3.store(deadline_s=DEADLINE_S)
    store.directory(before.backup_id)
    s3.fault("GET", "continuation-token", "status", times=None)
    s3.fault("GET", "list-type=2", "page", status=3, times=None)
    with pytest.raises(errors.StoreError, match="can't list"):
        _ = store.list() if of == "the store" else store.files(before.backup_id)
    assert_the_previous_state(s3, before)


def test_a_bucket_that_is_not_there_is_not_an_empty_one(s3: Bucket) -> None:
    nowhere = ObjectStore("nowhere", settings_of("s3://test-nowhere/x", s3.endpoint))
    for act in (nowhere.list, lambda: nowhere.manifest("main-20261122T170509Z-aaaaaa")):
        with pytest.raises(errors.StoreError, match=r"s3://test-nowhere/x: can't list .*NoSuchBucket"):
            act()


# servers that know no conditions


@pytest.mark.slow
def test_a_server_without_conditional_writes(
    s3: Bucket, before: Sample, new: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    s3.fault("PUT", "", "status", status=501, conditional=True, times=None)
    store = s3.store(deadline_s=DEADLINE_S)
    with caplog.at_level(logging.WARNING):
        new.send(store)
        look = Evidence(at=NOW, step="verify", passed=True, figures={})
        for _ in range(2):
            store.change_status(new.backup_id, lambda s: rules.after_look(s, look))
    assert len(store.status(new.backup_id).evidence) == 2
    said = [record for record in caplog.records if "no conditional writes" in record.message]
    assert len(said) == 1
    with pytest.raises(errors.StoreError, match="is there already"):
        new.send(store)
    assert_both(s3, before, new)


@pytest.mark.slow
def test_a_server_that_ignores_conditions(
    s3: Bucket, before: Sample, new: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    s3.fault("PUT", "", "unconditional", times=None)
    with caplog.at_level(logging.WARNING):
        new.send(s3.store())
    assert "doesn't refuse to overwrite" in caplog.text
    assert_both(s3, before, new)


def test_a_server_that_heeds_them_is_not_accused(s3: Bucket, new: Sample, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        new.send(s3.store())
    assert caplog.records == []


# rivals


def test_two_writers_of_one_backup(s3: Bucket, before: Sample, new: Sample) -> None:
    together = threading.Barrier(3)
    outcomes: list[str] = []

    def write() -> None:
        store = s3.store()
        together.wait()
        try:
            new.send(store)
        except errors.StoreError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("won")

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("won") == 1, outcomes
    assert all(re.search(r"won|is being worked on|is there already", outcome) for outcome in outcomes)
    assert_both(s3, before, new)


def test_a_writer_whose_lease_was_taken_over_publishes_nothing(
    s3: Bucket, before: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was frozen for so long that another host swept what it had sent."""
    old = sample(tmp_path / "old", at=datetime.now(UTC) - timedelta(days=2), number=3)
    monkeypatch.setattr(leases, "LEASE_S", 1000.0)  # its keeper sleeps

    def send() -> None:
        with s3.store().writing("main", old.backup_id) as writer:
            writer.receive(old.directory, old.manifest.files)
            monkeypatch.setattr(leases, "LEASE_S", 0.0)
            sample(tmp_path / "other", number=4).send(s3.store())
            monkeypatch.setattr(leases, "LEASE_S", 1000.0)
            assert not [key for key in s3.all_keys() if old.backup_id in key], "swept"
            for file in old.manifest.files:  # and even where its own late puts had arrived since
                s3.write(f"main/{old.backup_id}/{file.path}", (old.directory / file.path).read_bytes())
            writer.publish(old.manifest)

    with pytest.raises(errors.StoreError, match="was taken over"):
        send()
    assert old.backup_id not in listed(s3)


@pytest.mark.slow
def test_a_delete_that_fails_at_the_manifest(s3: Bucket, before: Sample, new: Sample) -> None:
    new.plant(s3)
    s3.fault("POST", r"\?delete", "status", status=500, times=None)
    with pytest.raises(errors.StoreError, match=r"can't delete main/.*manifest\.json"):
        s3.store(deadline_s=DEADLINE_S).delete(new.backup_id)
    assert_both(s3, before, new)


@pytest.mark.slow
def test_a_delete_that_fails_past_the_manifest(s3: Bucket, before: Sample, new: Sample) -> None:
    new.plant(s3)
    s3.fault("POST", r"\?delete", "status", status=500, times=None, after=1)
    s3.store(deadline_s=DEADLINE_S).delete(new.backup_id)
    assert_the_previous_state(s3, before, nothing_left=False)
    assert [key for key in s3.data_keys() if new.backup_id in key], "left for the next to sweep"


# ends


WRITER = """
import json, sys
from pathlib import Path
from chanuka_ops.backup.model import Manifest
from chanuka_ops.backup.storing.objects import ObjectStore
from chanuka_ops.config import StoreSettings
stated = json.loads(sys.stdin.read())
store = ObjectStore("cloud", StoreSettings.model_validate(stated["settings"]), deadline_s=20.0)
manifest = Manifest.model_validate(stated["manifest"])
if stated["act"] == "delete":
    store.delete(manifest.backup_id)
else:
    with store.writing("main", manifest.backup_id) as writer:
        writer.receive(Path(stated["directory"]), manifest.files)
        writer.publish(manifest)
if stated["act"] == "read back":
    found = store.files(manifest.backup_id)
    assert found == {file.path: file for file in manifest.files}, "not what was sent"
    for file in manifest.files:
        with store.open(manifest.backup_id, file.path) as stream:
            while stream.read(1 << 20):
                pass
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(peak.split()[1])
"""


@contextmanager
def at_work(s3: Bucket, one: Sample, act: str = "write") -> Iterator[subprocess.Popen[str]]:
    """A process that writes or deletes a backup."""
    stated = {
        "settings": s3.settings().model_dump(mode="json"),
        "manifest": one.manifest.model_dump(mode="json"),
        "directory": str(one.directory),
        "act": act,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(stated))
        process.stdin.close()
        process.stdin = None
        yield process
    finally:
        process.kill()
        process.communicate()


def killed_at(s3: Bucket, one: Sample, fault: Fault, act: str = "write") -> None:
    with at_work(s3, one, act) as process:
        assert wait_until(lambda: fault.reached.is_set() or process.poll() is not None, timeout_s=30)
        assert fault.reached.is_set(), process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.wait()
    s3.heal()


BEFORE_IT_IS_LISTED = [
    pytest.param(("PUT", "exclusive", "hold"), id="before_the_lease"),
    pytest.param(("PUT", "exclusive", "hold_reply"), id="after_the_lease"),
    pytest.param(("PUT", r"toc\.dat", "hold"), id="at_the_first_file"),
    pytest.param(("PUT", "partNumber=2", "hold"), id="in_mid_file"),
    pytest.param(("POST", "uploadId", "hold"), id="at_the_end_of_a_file"),
    pytest.param(("POST", "uploadId", "hold_reply"), id="after_the_end_of_a_file"),
    pytest.param(("PUT", r"status\.json", "hold"), id="before_the_status"),
    pytest.param(("PUT", r"status\.json", "hold_reply"), id="after_the_status"),
    pytest.param(("PUT", r"manifest\.json", "hold"), id="before_the_manifest"),
]


@pytest.mark.slow
@pytest.mark.parametrize("moment", BEFORE_IT_IS_LISTED)
def test_kill_9_of_a_writer(s3: Bucket, before: Sample, large: Sample, moment: tuple[str, str, Act]) -> None:
    killed_at(s3, large, s3.fault(*moment))
    assert_the_previous_state(s3, before, nothing_left=False)
    with pytest.raises(errors.BackupNotFound):
        s3.store().manifest(large.backup_id)
    again = sample(large.directory.parent / "again", number=9)
    again.send(s3.store())
    assert_both(s3, before, again)


@pytest.mark.slow
def test_kill_9_of_a_writer_after_the_manifest(s3: Bucket, before: Sample, large: Sample) -> None:
    killed_at(s3, large, s3.fault("PUT", r"manifest\.json", "hold_reply"))
    assert_both(s3, before, large)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "gone"), [(0, False), (1, True)])
def test_kill_9_of_a_deleter(s3: Bucket, before: Sample, new: Sample, after: int, gone: bool) -> None:  # noqa: FBT001
    new.plant(s3)
    killed_at(s3, new, s3.fault("POST", r"\?delete", "hold", after=after), "delete")
    if gone:
        assert_the_previous_state(s3, before, nothing_left=False)
    else:
        assert_both(s3, before, new)


@pytest.mark.slow
def test_the_server_is_killed_in_mid_upload(tmp_path: Path, s3_secrets: None) -> None:
    one = sample(tmp_path, LARGE)
    with serving() as (port, server), bucket_on(port) as bucket:
        fault = bucket.fault("PUT", "partNumber=2", "hold")
        failures: list[errors.StoreError] = []

        def write() -> None:
            try:
                one.send(bucket.store(deadline_s=DEADLINE_S))
            except errors.StoreError as failure:
                failures.append(failure)

        writing = threading.Thread(target=write)
        writing.start()
        assert fault.reached.wait(30)
        server.kill()
        server.wait()
        bucket.heal()
        start = time.monotonic()
        writing.join()
        assert time.monotonic() - start < 30
    assert re.search(r"can't write .*1\.dat", str(failures[0]))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_files(s3: Bucket, tmp_path: Path) -> None:
    mib = 1 << 20
    one = sample(
        tmp_path, {"dump/1.dat": 150 * mib, "dump/2.dat": 50 * mib, "dump/3.dat": 50 * mib, "dump/4": 50 * mib}
    )
    with at_work(s3, one, "read back") as process:
        stdout, stderr = process.communicate(timeout=110)
    assert process.returncode == 0, stderr
    assert int(stdout) < 150 * 1024, f"{int(stdout) // 1024} MB"

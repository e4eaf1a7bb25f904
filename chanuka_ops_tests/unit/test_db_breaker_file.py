"""The breakers' file: what processes share, and what becomes of that when the file can't be used."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chanuka_ops.db import breaker, breaker_file
from chanuka_ops.db.breaker import OPEN, Policy, Record, State
from chanuka_ops.db.breaker_file import LOCK_WAIT_S, BreakerFile
from chanuka_ops.db.classify import FailureClass
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.disks import leave, mounted, needs_root

AVAILABILITY = FailureClass.AVAILABILITY
POLICY = Policy(3, 10.0, OPEN[AVAILABILITY])
TARGET = "ops@db:5432"


@contextmanager
def records(path: Path | None) -> Iterator[BreakerFile]:
    opened = BreakerFile(path)
    try:
        yield opened
    finally:
        opened.close()


def count(opened: BreakerFile, target: str = TARGET) -> int:
    _, after = opened.change(target, AVAILABILITY, lambda record: replace(record, failures=record.failures + 1))
    return after.failures


def half_open(opened: BreakerFile) -> None:
    opened.change(TARGET, AVAILABILITY, lambda _: Record(open_until=time.time() - 1, failures=3, trips=1))


# what another process does: `verb path` and it says what came of it
OTHER = f"""
import fcntl, os, sys, time
from dataclasses import replace
from pathlib import Path
from chanuka_ops.db import breaker_file
from chanuka_ops.db.breaker import OPEN, Policy
from chanuka_ops.db.breaker_file import BreakerFile
from chanuka_ops.db.classify import FailureClass
one = FailureClass.AVAILABILITY
verb, path = sys.argv[1], Path(sys.argv[2])
breaker_file.LOCK_WAIT_S = 30  # a machine that is busy elsewhere is no reason to go on without the lock
records = BreakerFile(path)
if verb == "count":
    for _ in range(int(sys.argv[3])):
        records.change({TARGET!r}, one, lambda record: replace(record, failures=record.failures + 1))
elif verb == "lock":
    fd = os.open(path / "records", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
elif verb == "turn":
    with records.turn({TARGET!r}, one, Policy(3, 10.0, OPEN[one]), float(sys.argv[3])) as taken:
        print(taken, flush=True)
        sys.stdin.read()
"""


@contextmanager
def other(verb: str, path: Path, argument: object = "") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, verb, str(path), str(argument)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def alone(caplog: pytest.LogCaptureFixture) -> int:
    return sum(getattr(record, "event", "") == "breaker.alone" for record in caplog.records)


def test_what_one_has_written_another_reads(tmp_path: Path) -> None:
    with records(tmp_path) as first, records(tmp_path) as second, records(None) as apart:
        assert (first.shared, apart.shared) == (True, False)
        count(first)
        assert count(second) == 2
        assert first.read(TARGET, AVAILABILITY).failures == 2
        assert apart.read(TARGET, AVAILABILITY) == Record()


def test_targets_and_classes_have_records_of_their_own(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        count(opened)
        assert opened.read(TARGET, FailureClass.SATURATION) == Record()
        assert opened.read("other@db:5432", AVAILABILITY) == Record()
        assert [one.failures for one in opened.read_all(TARGET)] == [1, 0, 0]


def test_four_processes_lose_no_update(tmp_path: Path) -> None:
    each = 2000
    with ExitStack() as stack:
        others = [stack.enter_context(other("count", tmp_path, each)) for _ in range(4)]
        assert [process.wait(timeout=60) for process in others] == [0] * 4
    with records(tmp_path) as opened:
        assert opened.read(TARGET, AVAILABILITY).failures == 4 * each


def test_without_the_lock_updates_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: two changes that overlap."""
    overlapping = threading.Barrier(2)

    def slowly(record: Record) -> Record:
        overlapping.wait(timeout=5)
        return replace(record, failures=record.failures + 1)

    monkeypatch.setattr(breaker_file, "_lock", lambda _: None)
    with records(tmp_path) as first, records(tmp_path) as second:
        threads = [threading.Thread(target=one.change, args=(TARGET, AVAILABILITY, slowly)) for one in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert first.read(TARGET, AVAILABILITY).failures == 1


@pytest.mark.parametrize("content", [b"", b"short", b"chanuka breaker 0\n" + bytes(300_000), os.urandom(300_000)])
def test_a_file_that_is_none_of_ours_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "records").write_bytes(content)
    with records(tmp_path) as opened:
        assert opened.shared
        assert opened.read(TARGET, AVAILABILITY) == Record()
        assert count(opened) == 1
        with records(tmp_path) as second:
            assert second.read(TARGET, AVAILABILITY).failures == 1


def test_garbage_within_the_file_reads_as_closed(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        count(opened)
        raw = bytearray((tmp_path / "records").read_bytes())
        at = raw.index(breaker_file._digest(TARGET)) + 16
        raw[at : at + Record.LAYOUT.size] = b"\xff" * Record.LAYOUT.size  # each time is a NaN
        (tmp_path / "records").write_bytes(raw)
        assert opened.read(TARGET, AVAILABILITY) == Record()
        assert count(opened) == 1


@pytest.mark.parametrize("left", [0, 64, 100, 5000])
def test_a_file_that_is_cut_short_while_it_is_in_use(tmp_path: Path, left: int) -> None:
    with records(tmp_path) as opened, records(tmp_path) as second:
        count(opened)
        os.truncate(tmp_path / "records", left)
        assert opened.read(TARGET, AVAILABILITY) == Record(), "no SIGBUS, no error: closed"
        assert count(opened) == 1
        assert count(second) == 2


def test_a_file_that_is_removed_while_it_is_in_use(tmp_path: Path) -> None:
    with records(tmp_path) as first, records(tmp_path) as second:
        count(first)
        (tmp_path / "records").unlink()
        assert count(second) == 1, "to remove the file is to close every breaker"
        assert count(first) == 2
        assert second.read(TARGET, AVAILABILITY).failures == 2


def test_a_directory_that_is_removed_while_it_is_in_use(tmp_path: Path) -> None:
    with records(tmp_path / "breaker") as opened:
        count(opened)
        (tmp_path / "breaker" / "records").unlink()
        (tmp_path / "breaker").rmdir()
        assert count(opened) == 1
        assert count(opened) == 2


def test_a_slot_that_became_anothers_is_not_taken_for_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_file, "_digest", colliding)
    with records(tmp_path) as first, records(tmp_path) as second:
        count(first, "a")
        os.truncate(tmp_path / "records", 0)  # the same file, emptied: its slots are given out again
        for _ in range(5):
            count(second, "b")
        assert first.read("a", AVAILABILITY) == Record()
        assert count(first, "a") == 1
        assert second.read("b", AVAILABILITY).failures == 5


def colliding(target: str) -> bytes:
    """Every target's first slot is the same."""
    return bytes(4) + target.encode().rjust(12, b"\1")


def test_colliding_keys_have_slots_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_file, "_digest", colliding)
    names = [f"t{number}" for number in range(breaker_file._PROBED)]
    with records(tmp_path) as opened, records(tmp_path) as second:
        for expected, name in enumerate(names, start=1):
            for _ in range(expected):
                count(opened, name)
        assert [second.read(name, AVAILABILITY).failures for name in names] == list(range(1, len(names) + 1))


def test_one_target_too_many_counts_for_its_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_file, "_digest", colliding)
    with records(tmp_path) as opened, records(tmp_path) as second:
        for number in range(breaker_file._PROBED):
            count(opened, f"t{number}")
        assert [count(opened, "late") for _ in range(3)] == [1, 2, 3]
        assert opened.read("late", AVAILABILITY).failures == 3
        assert second.read("late", AVAILABILITY) == Record()
        assert second.read("t0", AVAILABILITY).failures == 1


def test_a_directory_that_cannot_be_made_is_told_once_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with records(tmp_path / "file" / "breaker") as opened:
        assert_works_alone(opened)
    assert alone(caplog) == 1


def test_a_usable_directory_is_not_complained_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with records(tmp_path) as opened:
        assert count(opened) == 1
        assert opened.shared
    assert alone(caplog) == 0


def assert_works_alone(opened: BreakerFile) -> None:
    assert not opened.shared
    assert [count(opened) for _ in range(3)] == [1, 2, 3]
    half_open(opened)
    with opened.turn(TARGET, AVAILABILITY, POLICY, 1.0) as first, opened.turn(TARGET, AVAILABILITY, POLICY, 1.0) as two:
        assert (first, two) == (True, False), "within the process it is one at a time all the same"


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_a_full_or_read_only_disk_is_told_once_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: str
) -> None:
    with mounted(tmp_path, options), records(tmp_path) as opened:
        assert_works_alone(opened)
    assert alone(caplog) == 1


@pytest.mark.root
@needs_root
def test_a_disk_that_fills_up_later_stops_nobody(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=1m"), records(tmp_path) as opened:
        leave(tmp_path, 0)
        assert os.statvfs(tmp_path).f_bavail == 0
        assert [count(opened) for _ in range(3)] == [1, 2, 3], "its blocks are there already"
        half_open(opened)
        with opened.turn(TARGET, AVAILABILITY, POLICY, 1.0) as taken:
            assert taken


def test_a_lock_whose_holder_is_stopped_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with records(tmp_path) as opened, other("lock", tmp_path) as holder:
        assert said(holder) == "locked"
        holder.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        for _ in range(4):
            count(opened)
        assert opened.read(TARGET, FailureClass.SATURATION) == Record()
        assert time.monotonic() - start < 4 * LOCK_WAIT_S + 2
        holder.kill()  # the kernel frees the lock of a process that dies
        holder.wait()
        before = opened.read(TARGET, AVAILABILITY).failures
        assert count(opened) == before + 1
        with records(tmp_path) as second:
            assert second.read(TARGET, AVAILABILITY).failures == before + 1


def test_a_lock_is_waited_for_while_its_holder_lives_briefly(tmp_path: Path) -> None:
    """The twin: a lock that is freed in time is had."""
    with records(tmp_path) as opened, records(tmp_path) as second:
        fd = os.open(tmp_path / "records", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        timer = threading.Timer(LOCK_WAIT_S / 10, os.close, (fd,))
        timer.start()
        count(opened)
        timer.join()
        assert second.read(TARGET, AVAILABILITY).failures == 1


def test_the_turn_is_one_threads_at_a_time(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        half_open(opened)
        taken: list[bool] = []
        all_there = threading.Barrier(8)

        def attempt() -> None:
            with opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as mine:
                taken.append(mine)
                all_there.wait(timeout=10)

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == [False] * 7 + [True]
        with opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as mine:
            assert mine, "given back"


def test_the_turn_is_one_processs_at_a_time_and_free_again_afterwards(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        half_open(opened)
        with other("turn", tmp_path, 30) as holder:
            assert said(holder) == "True"
            with opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as mine:
                assert not mine
            with opened.turn("other@db:5432", AVAILABILITY, POLICY, 30.0) as mine:
                assert mine, "of another target"
            holder.communicate("", timeout=10)
        with opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as mine:
            assert mine


def test_the_turn_of_a_process_that_is_killed_is_free_at_once(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        half_open(opened)
        with other("turn", tmp_path, 30) as holder:
            assert said(holder) == "True"
            with opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as mine:
                assert not mine, "while it lives, the turn is its own"
            holder.kill()
            holder.wait()
            with opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as mine:
                assert mine, "not after the dead one's 30 s"


def test_the_turn_of_a_process_that_is_stopped_is_taken_over_at_its_own_deadline_by_one(tmp_path: Path) -> None:
    deadline_s = 0.5
    with ExitStack() as stack:
        opened, second = (stack.enter_context(records(tmp_path)) for _ in range(2))
        half_open(opened)
        holder = stack.enter_context(other("turn", tmp_path, deadline_s))
        assert said(holder) == "True"
        ends = opened.read(TARGET, AVAILABILITY).probe_until
        holder.send_signal(signal.SIGSTOP)
        taken_at: list[float] = []

        def try_it() -> bool:
            with (
                opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as mine,
                second.turn(TARGET, AVAILABILITY, POLICY, 30.0) as also,
            ):
                if mine or also:
                    taken_at.append(time.time())
                assert not (mine and also), "who takes over has the turn for himself"
                return mine or also

        assert wait_until(try_it, timeout_s=10, poll_s=0.01)
        assert taken_at[0] >= ends


def test_a_turn_is_not_given_where_another_has_settled_it_meanwhile(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        half_open(opened)
        opened.change(TARGET, AVAILABILITY, lambda record: breaker.failed(record, time.time(), POLICY, roll=0.5, pid=1))
        assert breaker.state(opened.read(TARGET, AVAILABILITY), time.time(), POLICY) is State.OPEN
        with opened.turn(TARGET, AVAILABILITY, POLICY, 1.0) as mine:
            assert not mine


def test_a_forked_child_shares_the_records_and_holds_no_lock_of_its_parents(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        half_open(opened)
        read_end, write_end = os.pipe()
        with opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as mine:
            assert mine
            child = os.fork()
            if child == 0:
                count(opened, "child")
                os.close(write_end)
                os.read(read_end, 1)  # until the parent is done; the turn's descriptor stays open here
                os._exit(0)
        try:
            with opened.turn(TARGET, AVAILABILITY, POLICY, 30.0) as again:
                assert again, "the child's copy of the descriptor doesn't keep the turn"
            assert wait_until(lambda: opened.read("child", AVAILABILITY).failures == 1, timeout_s=10)
            assert count(opened, "child") == 2
        finally:
            os.close(write_end)
            os.close(read_end)
            os.waitpid(child, 0)

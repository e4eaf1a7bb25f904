"""A program that is started always ends, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.postgres import process

STUBBORN = 'trap "" TERM; (trap "" TERM; echo child $BASHPID; exec sleep 600) & echo ready; wait; sleep 600'


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_output_and_status() -> None:
    finished = process.run(["sh", "-c", "cat; echo oops >&2; exit 3"], stdin="in\n", deadline_s=10, check=False)
    assert (finished.status, finished.stdout, finished.stderr) == (3, "in", "oops")


@pytest.mark.parametrize("asked", [True, False])
def test_who_is_asked_later_or_never_leaves_no_pipe_open(asked: bool) -> None:  # noqa: FBT001 - a case
    lines: list[str] = []
    with process.started(["cat"], asked_later=True, on_line=lines.append) as running:
        pipes = {str(path.readlink()) for path in Path(f"/proc/{running.pid}/fd").iterdir() if path.name == "0"}
        if asked:
            running.ask("in\n")
            assert process.wait_until(lambda: lines == ["in"], timeout_s=20)
    kept = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # another thread's, gone meanwhile
            kept.add(str(path.readlink()))
    assert pipes
    assert not pipes & kept


def test_lines_come_as_they_are_written() -> None:
    lines: list[str] = []
    with process.started(["sh", "-c", "echo one; sleep 600"], on_line=lines.append):
        assert process.wait_until(lambda: lines == ["one"], timeout_s=20)


def test_a_failure_says_the_status_and_the_end_of_what_was_said() -> None:
    with pytest.raises(errors.ToolFailed) as failure:
        process.run(["sh", "-c", "seq 1 5000 >&2; exit 7"], deadline_s=10)
    assert str(failure.value) == "sh exited with 7: " + " | ".join(str(n) for n in range(4993, 5001))
    assert failure.value.status == 7


def test_a_failure_by_a_signal() -> None:
    with pytest.raises(errors.ToolFailed, match="sh was killed by signal 9") as failure:
        process.run(["sh", "-c", "kill -9 $$"], deadline_s=10)
    assert failure.value.status == -9


def test_a_failure_masks_passwords() -> None:
    with pytest.raises(errors.ToolFailed) as failure:
        process.run(["sh", "-c", "echo 'postgresql://u:s3cret@h/d password=s3cret' >&2; exit 1"], deadline_s=10)
    assert "s3cret" not in str(failure.value)


def test_only_the_last_lines_are_kept() -> None:
    finished = process.run(["sh", "-c", "seq 1 100000"], deadline_s=20)
    assert finished.stdout.splitlines() == [str(n) for n in range(100000 - process.KEPT_LINES + 1, 100001)]


def test_output_that_is_no_text() -> None:
    assert process.run(["printf", r"\377\n"], deadline_s=10).stdout == "\ufffd"


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(errors.ToolFailed, match=r"/no/such/tool can't be started: No such file"):
        process.run(["/no/such/tool"], deadline_s=10)


def test_a_program_that_does_not_read_what_it_is_given() -> None:
    assert process.run(["true"], stdin="x" * 1_000_000, deadline_s=10).status == 0


def test_past_its_deadline_it_is_stopped() -> None:
    start = time.monotonic()
    with pytest.raises(errors.ToolFailed, match="sleep ran past its deadline of 0 s and was stopped"):
        process.run(["sleep", "600"], deadline_s=0.3)
    assert time.monotonic() - start < 20


def test_the_deadline_holds_while_something_is_reported_meanwhile() -> None:
    seen: list[float] = []
    with (
        process.started(["sleep", "600"]) as running,
        pytest.raises(errors.ToolFailed, match="deadline"),
    ):
        running.wait(deadline_s=1.5, meanwhile=lambda: seen.append(time.monotonic()))
    assert 2 <= len(seen) <= 7


@pytest.mark.slow
def test_a_stubborn_group_is_killed_to_the_last() -> None:
    lines: list[str] = []
    with process.started(["bash", "-c", STUBBORN], on_line=lines.append) as running:
        assert process.wait_until(lambda: len(lines) == 2, timeout_s=20)
        child = int(next(line for line in lines if line.startswith("child")).split()[1])
        assert alive(child)
        start = time.monotonic()
        running.stop()
        assert time.monotonic() - start >= process.STOP_GRACE_S - 0.5, "TERM first, and time to heed it"
    assert not alive(running.pid)
    assert process.wait_until(lambda: not alive(child), timeout_s=20)


def test_a_child_that_outlives_its_leader_is_killed_and_not_waited_for() -> None:
    start = time.monotonic()
    finished = process.run(["bash", "-c", '(trap "" TERM; exec sleep 600) & echo $!'], deadline_s=20)
    child = int(finished.stdout)
    assert process.wait_until(lambda: not alive(child), timeout_s=20)
    assert time.monotonic() - start < 15, "its deadline is later"


def test_an_error_in_the_block_ends_it() -> None:
    with pytest.raises(KeyError), process.started(["sleep", "600"]) as running:
        raise KeyError
    assert not alive(running.pid)


def test_stopping_twice_is_harmless_and_touches_nobody_else() -> None:
    """Once it has ended, its number may be another group's: no signal goes there any more."""
    with process.started(["true"]) as running:
        assert process.wait_until(running.ended, timeout_s=20)
        running.stop()
        running.stop()


ORPHAN = """
import sys
from chanuka_ops.postgres import process
with process.started([{program!r}, *{arguments!r}]) as running:
    print(running.pid, flush=True)
    running.wait(deadline_s=600)
"""


def test_it_ends_when_its_starter_is_killed() -> None:
    code = ORPHAN.format(program="sleep", arguments=["600"])
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert alive(pid)
        starter.kill()
    assert process.wait_until(lambda: not alive(pid), timeout_s=20)


def test_ctrl_c_of_a_terminal_does_not_reach_it_before_us() -> None:
    with process.started(["sleep", "600"]) as running:
        assert os.getpgid(running.pid) == running.pid != os.getpgid(0)
        assert os.getsid(running.pid) == running.pid


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another account")
def test_it_runs_as_another_account_with_no_group_of_ours() -> None:
    account = process.Account(65534, 65534, "nobody")
    said = process.run(["sh", "-c", "id -u; id -G"], account=account, deadline_s=10, cwd=Path("/")).stdout
    assert said.split() == ["65534", "65534"]
    with process.started(["sleep", "600"], account=account, cwd=Path("/")) as running:
        running.stop()
    with pytest.raises(errors.ToolFailed, match="signal 15"):
        running.wait(deadline_s=1)


def test_a_password_file_is_gone_with_its_block(tmp_path: Path) -> None:
    with process.password_file(r"a:b\c") as (env, fds):
        assert Path(env["PGPASSFILE"]).read_text() == "*:*:*:*:a\\:b\\\\c\n"
        assert os.fstat(fds[0]).st_mode & 0o077 == 0
        assert not os.get_inheritable(fds[0])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fds[0])
    with process.password_file(None) as nothing:
        assert nothing == ({}, ())

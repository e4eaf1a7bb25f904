"""A child's end is noticed when it comes, not at the next look."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from chanuka_ops.postgres import process, waiting


def refused(_: int) -> int:
    raise OSError


@pytest.mark.parametrize("kernel", ["tells", "doesn't"])
def test_its_end_ends_the_wait(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    if kernel == "doesn't":
        monkeypatch.setattr(os, "pidfd_open", refused)
    done = process.run([sys.executable, "-c", "import time; time.sleep(0.2)"], deadline_s=60)
    assert done.status == 0


def test_at_the_kernel_s_word_there_is_one_look() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"]) as child:
        waiting.until_ended(child.pid, 60)
        assert child.poll() == 0


def test_the_time_is_up_first() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        start = time.monotonic()
        waiting.until_ended(child.pid, 0.05)
        assert time.monotonic() - start >= 0.05
        assert child.poll() is None
        child.kill()

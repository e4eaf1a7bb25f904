"""Waits for a child's end at the kernel's word, so that it's noticed at once and costs nothing meanwhile."""

from __future__ import annotations

import os
import select
import time

LOOK_EVERY_S = 0.02  # where the kernel gives no word
LONGEST_S = 60.0


def until_ended(pid: int, timeout_s: float) -> None:
    """Wait until a child ends whose status nobody has fetched yet, or for so long; it may come back earlier."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # another system, a kernel before 5.3, no descriptor left
        time.sleep(min(timeout_s, LOOK_EVERY_S))
        return
    try:
        ends = select.poll()
        ends.register(descriptor, select.POLLIN)
        ends.poll(1000 * min(timeout_s, LONGEST_S))
    finally:
        os.close(descriptor)

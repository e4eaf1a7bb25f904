"""The keeper of a server: a small process that runs `postgres` for as long as somebody holds its lease.

The lease is a shared flock on a file. Whoever uses the server holds it; the kernel lets go of it however the user
ends, SIGKILL included. When the last one is gone the keeper gets the exclusive lock, stops the server (fast shutdown),
and for a scratch server removes its directories. So no server outlives its users, and none is stopped under one.

Run as `python -m chanuka_ops.postgres.keeper` by server.py; standard library only, so that it starts at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

FAST_SHUTDOWN_S = 30.0
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the server described by one JSON argument until its lease is free."""
    order = json.loads(sys.argv[1])
    account = {"user": order["uid"], "group": order["gid"], "extra_groups": []} if order["uid"] is not None else {}
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_the_keeper() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)  # fast shutdown

    process = subprocess.Popen(
        order["argv"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_the_keeper,  # noqa: PLW1509 - one system call is safe after fork
        cwd=order["data_dir"],
        **account,
    )
    threading.Thread(target=_stop_when_unused, args=(Path(order["lease"]), process), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
    status = process.wait()
    for directory in order["remove"]:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if status == 0 else 1


def _stop_when_unused(lease: Path, process: subprocess.Popen[bytes]) -> None:
    descriptor = os.open(lease, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # granted when the last user is gone; held until this process ends
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=FAST_SHUTDOWN_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)


if __name__ == "__main__":
    sys.exit(main())

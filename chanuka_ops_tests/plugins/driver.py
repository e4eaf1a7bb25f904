"""Does the program's verbs in processes that end, or fail, as an order says.

Run as `python -m chanuka_ops_tests.plugins.driver`, with orders as `forked.py` takes them.

::

    env              the whole environment
    verb, id, store  what is to be done
    kill_at          a boundary (backup/boundaries.py) at which it kills itself
    kill_after_s     when it is killed
    stop_at          a boundary at which it stands still until the path `go` is there; it makes the path `at` first
    limit_bytes      how large a file may grow: a writer that runs out, without a disk that is full
    fsync_fails      a pattern of paths whose fsync ends with EIO
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import time
from pathlib import Path
from typing import Any

from chanuka_ops import config, context, errors
from chanuka_ops.backup import boundaries
from chanuka_ops.orchestrators.backups import BackupOperations
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops_tests.plugins.forked import Order, serve


def do(order: Order) -> Any:
    settings = config.load()
    verb, backup_id, store = order["verb"], str(order.get("id")), order.get("store")
    with context.scope(actor="test"):
        if verb == "create":
            with DatabaseOrchestrator.open(settings) as orchestrator:
                return orchestrator.backup().model_dump(mode="json")
        with BackupOperations.from_store(settings, "main") as operations:
            if verb == "drill":
                return operations.drill(backup_id, store=store).model_dump(mode="json")
            if verb == "verify":
                return operations.verify(backup_id, store=store).model_dump(mode="json")
            return [expiry.model_dump(mode="json") for expiry in operations.expire(store=store)]


def prepare(order: Order) -> None:
    def look(step: str) -> None:
        if step == order.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == order.get("stop_at"):
            Path(order["at"]).touch()
            while not Path(order["go"]).exists():
                time.sleep(0.01)

    boundaries.on_reached = look
    if "limit_bytes" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit_bytes"], order["limit_bytes"]))
    if "fsync_fails" in order:
        fail_fsync(re.compile(order["fsync_fails"]))


def fail_fsync(pattern: re.Pattern[str]) -> None:
    """Stand in for a disk that has lost what was written. Only the system call is made up."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if pattern.search(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]  # this process is the test's own


def act(order: Order) -> dict[str, Any]:
    os.environ.clear()
    os.environ.update(order["env"])
    try:
        prepare(order)
        return {"answer": do(order)}
    except errors.ChanukaError as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    serve(act)

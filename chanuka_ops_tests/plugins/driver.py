"""Does the program's verbs in processes that end, or fail, as an order says.

Run as `python -m chanuka_ops_tests.plugins.driver`. Each line of its input is an order, each line of its output says
how that ended. An order is done by a fork of this process: the imports, which take longest, are done once.

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
import json
import os
import re
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from chanuka_ops import config, context, errors
from chanuka_ops.backup import boundaries
from chanuka_ops.orchestrators.backups import BackupOperations
from chanuka_ops.orchestrators.database import DatabaseOrchestrator

Order = dict[str, Any]


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


def in_child(order: Order, answers: int) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.environ.clear()
    os.environ.update(order["env"])
    answer: dict[str, Any]
    try:
        prepare(order)
        answer = {"answer": do(order)}
    except errors.ChanukaError as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    except BaseException:  # noqa: BLE001 - the test is told of it
        answer = {"crash": traceback.format_exc()}
    with os.fdopen(answers, "w") as stream:
        json.dump(answer, stream)
    os._exit(0)


def done(order: Order) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        in_child(order, writing)
    os.close(writing)
    with os.fdopen(reading) as stream:
        ended, _, _ = select.select([stream], [], [], order.get("kill_after_s"))
        if not ended:
            os.kill(child, signal.SIGKILL)
        content = stream.read()
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), **(json.loads(content) if content else {})}


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(done(json.loads(line)))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

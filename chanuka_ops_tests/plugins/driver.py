"""Does one of the program's verbs in a process of its own, and kills itself at a boundary, or forks and is killed.

Run as `python -m chanuka_ops_tests.plugins.driver`, its order one JSON document as its argument: `verb`, `id`, and
either `boundary` (kill yourself there) or `delays_s` (for each: fork, do it, be killed after so long).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from chanuka_ops import config, context
from chanuka_ops.backup import boundaries
from chanuka_ops.orchestrators.backups import BackupOperations
from chanuka_ops.orchestrators.database import DatabaseOrchestrator

DONE = 0
NOT_REACHED = 3


def do(verb: str, backup_id: str) -> None:
    settings = config.load()
    with context.scope(actor="test"):
        if verb == "create":
            with DatabaseOrchestrator.open(settings) as orchestrator:
                orchestrator.backup()
            return
        with BackupOperations.from_store(settings, "main") as operations:
            if verb == "drill":
                operations.drill(backup_id)
            elif verb == "verify":
                operations.verify(backup_id)
            else:
                operations.expire()


def kill_at(boundary: str) -> None:
    def look(step: str) -> None:
        if step == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    boundaries.on_reached = look


def main() -> int:
    order = json.loads(sys.argv[1])
    verb, backup_id = order["verb"], order.get("id", "")
    if "boundary" in order:
        kill_at(order["boundary"])
        do(verb, backup_id)
        return NOT_REACHED
    for delay_s in order["delays_s"]:
        child = os.fork()  # the imports, which take longest, are done once
        if child == 0:
            try:
                do(verb, backup_id)
            finally:
                os._exit(DONE)
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return DONE


if __name__ == "__main__":
    sys.exit(main())

"""Orders done by forks of this process: what is imported, which takes longest, is imported once.

Each line of standard input is an order, each line of standard output says how that ended: {status, …what it answered},
with {crash} where it raised.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

Order = dict[str, Any]
Act = Callable[[Order], dict[str, Any]]


def serve(act: Act) -> None:
    """Do each order as it comes; one with `kill_after_s` is killed then."""
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(_done(json.loads(line), act))}\n")
        sys.stdout.flush()


def _done(order: Order, act: Act) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(order, act, writing)
    os.close(writing)
    with os.fdopen(reading) as stream:
        ended, _, _ = select.select([stream], [], [], order.get("kill_after_s"))
        if not ended:
            os.kill(child, signal.SIGKILL)
        content = stream.read()
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), **(json.loads(content) if content else {})}


def _in_child(order: Order, act: Act, answers: int) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    answer: dict[str, Any]
    try:
        answer = act(order)
    except BaseException:  # noqa: BLE001 - the test is told of it
        answer = {"crash": traceback.format_exc()}
    with os.fdopen(answers, "w") as stream:
        json.dump(answer, stream)
    os._exit(0)

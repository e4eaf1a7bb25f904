"""The migration process: `python -m chanuka_ops.migrator.running.runner`.

Alembic keeps its state in module-level proxies, so two migrations in one process, on two threads, send DDL to each
other's databases; and a process can be ended. The request comes as one JSON document on standard input (it holds the
password, which belongs in no argument list and no environment). Standard output is for events, a JSON object a line:

    planned {from, steps} · attempt {revision, attempt, pid} · retry {revision, attempt, blockers}
    progress {label, done, total, unit, eta_s, detail} · applied {revision, seconds, attempts} · done {to} · plan {plan}
    foreseen {plan, steps} · traced {statement} · preview {sql} · resolved {message} · error {error, message, sqlstate}
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, TextIO

from alembic.util import CommandError

from chanuka_ops import context, errors, interrupts, logs
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.migrator.running.resolving import Resolution
from chanuka_ops.migrator.running.revising import Watcher
from chanuka_ops.migrator.running.steps import Steps
from chanuka_ops.migrator.scripts import load

_OWN_FAILURE = 1


def main() -> int:
    """Read the request, do it, tell how it went."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: psycopg then cancels the statement
    gc.freeze()  # what was imported stays: there is nothing to be collected in it
    emit = _emitter(_own_stdout())
    try:
        request = json.load(sys.stdin)
        logs.configure(level=request["log_level"])
        told = context.scope(**request["context"], on_progress=lambda step: _tell(emit, step))
        with told, interrupts.kept():
            _work(request, emit)
    except KeyboardInterrupt:
        return _fail(emit, errors.Interrupted("the migration was interrupted; the step under way was rolled back"))
    except errors.ChanukaError as error:
        return _fail(emit, error)
    except CommandError as error:
        return _fail(emit, errors.MigrationFailed(f"Alembic: {error}"))
    except Exception as error:  # noqa: BLE001 - env.py and revisions are code: they may raise anything
        return _fail(emit, errors.MigrationFailed(f"{type(error).__name__}: {error}"))
    return 0


def _work(request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    database = DatabaseSettings(**request["database"])
    settings = MigrationSettings(**request["settings"])
    with ExitStack() as stack:
        watchers: tuple[Watcher, ...] = ()
        if request.get("trace"):
            # a fifth of what this process needs to start, and only a rehearsal needs it
            from chanuka_ops.migrator.rehearsal.watching import tracing  # noqa: PLC0415 - as said

            watchers = (stack.enter_context(tracing(database, settings, emit)),)
        bounds = [Bound.from_json(bound) for bound in request.get("bounds", ())]
        files = load(Path(request["location"]))
        _act(Steps(database, settings, files, emit, watchers, bounds=bounds), request, emit)


def _act(steps: Steps, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    action, to = request["action"], request["to"]
    if action == "plan":
        emit({"event": "plan", "plan": steps.plan().to_json()})
    elif action.startswith("foresee_"):
        plan, ahead = steps.foresee(action.removeprefix("foresee_"), to)
        emit({"event": "foreseen", "plan": plan.to_json(), "steps": [step.to_json() for step in ahead]})
    elif action.startswith("preview_"):
        emit({"event": "preview", "sql": steps.preview(action.removeprefix("preview_"), to)})
    elif action == "resolve":
        emit({"event": "resolved", "message": steps.resolve(Resolution(**request["resolution"]))})
    elif action == "accept":
        emit({"event": "resolved", "message": steps.accept(to)})
    else:
        steps.move(action, to, request.get("expected"))


def _tell(emit: Callable[[dict[str, Any]], None], step: context.Progress) -> None:
    """Tell how far a revision is."""
    said = {"label": step.label, "done": step.done, "total": step.total, "unit": step.unit}
    emit({"event": "progress", **said, "eta_s": step.eta_s, "detail": step.detail})


def _own_stdout() -> TextIO:
    """Keep standard output for events: what a revision, or a program it starts, prints goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _emitter(stream: TextIO) -> Callable[[dict[str, Any]], None]:
    mutex = threading.Lock()  # the thread that minds the statement under way tells its progress

    def emit(event: dict[str, Any]) -> None:
        with mutex:
            stream.write(json.dumps(event) + "\n")
            stream.flush()

    return emit


def _fail(emit: Callable[[dict[str, Any]], None], error: errors.ChanukaError) -> int:
    sqlstate = error.sqlstate if isinstance(error, errors.DatabaseError) else None
    message = logs.redact(str(error))
    emit({"event": "error", "error": type(error).__name__, "message": message, "sqlstate": sqlstate})
    return _OWN_FAILURE


def _end(status: int) -> NoReturn:
    """End at once: all is said, and to take the interpreter down in good order takes longer than a short migration."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end(main())

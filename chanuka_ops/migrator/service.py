"""Migrator: what is pending, up, down. Alembic runs in a process of its own while this one holds the lock."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db import credentials
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.locating import locate
from chanuka_ops.migrator.model import Applied, Direction, Entry, Migrated, Plan, Revision
from chanuka_ops.migrator.running import ahead
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.migrator.running.journal import Journal
from chanuka_ops.migrator.running.resolving import Resolution
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

OPERATION = "migrate"
PLAN_DEADLINE_S = 120.0
HISTORY_MOST = 200
SESSION_END_TIMEOUT_S = 10.0

OnTraced = Callable[[dict[str, Any]], None]


class Migrator:
    """Alembic migrations of one database."""

    def __init__(self, manager: ConnectionManager, settings: MigrationSettings) -> None:
        self._manager = manager
        self._settings = settings

    def plan(self, deadline_s: float = PLAN_DEADLINE_S) -> Plan:
        """Say what is pending and what stands in the way. Takes no lock, writes nothing.

        Errors: `ConfigurationError` where there are no scripts; `ConnectError`. What is wrong *with* the revisions is
        in the plan's problems; `rules.refusal(plan)` is the error that they amount to.
        """
        with context.scope(operation=OPERATION, database=self._manager.name):
            return self._plan(deadline_s)

    def foresee(self, direction: Direction, to: str) -> tuple[Plan, tuple[Revision, ...]]:
        """Say where the database stands and which revisions `up` or `down` would run; run nothing. Errors: as they."""
        with context.scope(operation=OPERATION, database=self._manager.name):
            child = _Child()
            self._run(child, f"foresee_{direction}", to, PLAN_DEADLINE_S)
            found = child.result("foreseen")
        return Plan.from_json(found["plan"]), tuple(Revision(**step) for step in found["steps"])

    def up(
        self,
        to: str = rules.HEAD,
        *,
        wait_s: float | None = None,
        expected: Mapping[str, str] | None = None,
        bounds: Sequence[Bound] = (),
    ) -> Migrated:
        """Apply what is pending, up to a revision; wait for another operation on the database at most `wait_s`.

        `expected`: the SHA-256 of each file by revision, as it was when it was allowed to run; another is refused.
        `bounds`: what was predicted of its statements; one far past it is cancelled.
        `to` is a revision, "head", or any of Alembic's other targets: "heads", "label@head", "+2", "a1+1".
        Errors: `LockHeld`, `HeadsConflict`, `RefusedError`, `ConfigurationError` (nothing was changed); `LockTimeout`,
        `MigrationFailed`, `MigrationAborted` (they name the revision, and say what remains of it); `OutcomeUnknown`.
        """
        return self._move("up", to, wait_s, expected=expected, bounds=bounds)

    def down(
        self,
        to: str,
        *,
        wait_s: float | None = None,
        expected: Mapping[str, str] | None = None,
        bounds: Sequence[Bound] = (),
    ) -> Migrated:
        """Roll back to a revision, or to "base".

        Arguments and errors: as `up`.
        """
        return self._move("down", to, wait_s, expected=expected, bounds=bounds)

    def traced(self, direction: Direction, to: str, on_traced: OnTraced) -> Migrated:
        """Run a copy's revisions as `up` and `down` do, and call `on_traced` with what each statement did.

        It is called from a thread, also with what came before a failure. Errors: as `up`.
        """
        return self._move(direction, to, None, on_traced=on_traced)

    def preview(self, direction: Direction, to: str) -> str:
        """Return the SQL that `up` or `down` would run. Takes no lock, runs nothing.

        Errors: as `up`; `MigrationFailed` naming a revision that needs a database to say what it does.
        """
        with context.scope(operation=OPERATION, database=self._manager.name):
            child = _Child()
            self._run(child, f"preview_{direction}", to, PLAN_DEADLINE_S)
            return str(child.result("preview")["sql"])

    def resolve(self, resolution: Resolution) -> str:
        """Take down a person's word on a revision that was broken off; return what was taken down.

        Errors: `RefusedError` where nothing of that is open; `LockHeld`.
        """
        name = self._manager.name
        lock = operation_lock(self._manager, wait_s=self._settings.wait_s)
        with context.scope(operation=OPERATION, database=name), lock:
            child = _Child()
            self._run(child, "resolve", None, PLAN_DEADLINE_S, resolution=resolution.to_json())
            return str(child.result("resolved")["message"])

    def history(self, most: int = HISTORY_MOST) -> list[Entry]:
        """Return the runs of revisions that the journal holds, newest first. Errors: `ConnectError`."""
        scope = context.scope(operation=OPERATION, database=self._manager.name)
        with scope, Journal(self._manager, self._settings) as journal:
            return [Entry(**row._mapping) for row in journal.history(most)]  # noqa: SLF001 - SQLAlchemy's public name

    def _plan(self, deadline_s: float = PLAN_DEADLINE_S) -> Plan:
        child = _Child()
        self._run(child, "plan", None, deadline_s)
        return Plan.from_json(child.result("plan")["plan"])

    def accept(self, revision: str) -> str:
        """Take down that an applied revision's file may be as it is now; return what was taken down.

        Errors: `RefusedError` where it wasn't edited; `LockHeld`.
        """
        with context.scope(operation=OPERATION, database=self._manager.name), operation_lock(self._manager):
            child = _Child()
            self._run(child, "accept", revision, PLAN_DEADLINE_S)
            return str(child.result("resolved")["message"])

    def _move(
        self,
        direction: Direction,
        to: str,
        wait_s: float | None,
        *,
        on_traced: OnTraced | None = None,
        expected: Mapping[str, str] | None = None,
        bounds: Sequence[Bound] = (),
    ) -> Migrated:
        name = self._manager.name
        wait_s = self._settings.wait_s if wait_s is None else wait_s
        with context.scope(operation=OPERATION, database=name), operation_lock(self._manager, wait_s=wait_s):
            child = _Child(on_traced)
            with self._session_ended(child):
                more = {"trace": on_traced is not None, "expected": None if expected is None else dict(expected)}
                predicted = [bound.to_json() for bound in bounds]
                self._run(child, direction, to, self._settings.deadline_s, bounds=predicted, **more)
            planned, done = child.result("planned"), child.result("done")
        log.info(
            "database %s stands at %s (%d revisions %s)",
            *(name, done["to"] or rules.BASE, len(child.applied), direction),
            extra={"event": "migrate.done", "from": planned["from"], "to": done["to"]},
        )
        return Migrated(planned["from"], done["to"], tuple(child.applied))

    def _run(self, child: _Child, action: str, to: str | None, deadline_s: float, **more: Any) -> None:
        request = json.dumps({**self._request(action, to), **more})
        with ahead.started(child.take) as running:
            running.ask(request)
            finished = running.wait(deadline_s=deadline_s, check=False)
        for line in finished.stderr.splitlines():
            log.debug("migration process: %s", line, extra={"event": "migrate.said"})
        failure = child.failure()
        if failure is not None:
            raise failure
        if finished.status != 0:
            last = finished.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            how = f"killed by signal {-finished.status}" if finished.status < 0 else f"ended with {finished.status}"
            raise errors.ToolFailed(f"the migration process was {how}: {last[0]}", status=finished.status)

    def _request(self, action: str, to: str | None) -> dict[str, Any]:
        database, scope = self._manager.target(), context.current()
        url = database.sqlalchemy_url.set(password=credentials.password_of(database))
        return {
            "action": action,
            "to": to,
            "location": str(locate(self._settings, Path.cwd())),
            "database": {
                "url": url.render_as_string(hide_password=False),
                "timeouts": database.timeouts.model_dump(),
                "pooler": database.pooler,
            },
            "settings": self._settings.model_dump(mode="json"),
            "context": {
                "run_id": scope.run_id,
                "actor": scope.actor,
                "job": scope.job,
                "operation": scope.operation,
                "database": scope.database,
            },
            "log_level": logging.getLogger("chanuka_ops").getEffectiveLevel(),
        }

    @contextmanager
    def _session_ended(self, child: _Child) -> Iterator[None]:
        """See to it that the lock is not given back while the process's server session may still be at work."""
        try:
            yield
        except errors.ToolFailed as error:  # it was killed, or ran past its deadline, and could not tell
            self._end_session(child)
            raise self._outcome(child, error) from None
        except BaseException:
            self._end_session(child)
            raise

    def _end_session(self, child: _Child) -> None:
        if child.pid is None:
            return
        sql = text(catalog.load("chanuka_ops.migrator").sql("end_session"))
        key = {"pid": child.pid, "application_name": context.current().application_name()}
        gone = False
        with suppress(errors.DatabaseError), self._manager.autocommit() as connection:  # it may be the server that died
            gone = wait_until(lambda: connection.execute(sql, key).first() is None, timeout_s=SESSION_END_TIMEOUT_S)
        if not gone:
            log.error(
                "server session %d of the migration is still there", child.pid, extra={"event": "migrate.session"}
            )

    def _outcome(self, child: _Child, error: errors.ToolFailed) -> errors.ChanukaError:
        """Ask the database how far a migration came that can't tell itself."""
        under_way = f" while revision {child.revision} ran" if child.revision else ""
        try:
            stands = self._plan().current or rules.BASE
        except errors.ChanukaError as again:
            return errors.OutcomeUnknown(
                f"{error}{under_way}, and the database can't be asked how far it came ({again}):"
                " see `chanuka-ops migrate plan` once it answers"
            )
        return errors.MigrationFailed(
            f"{error}{under_way}. The database stands at {stands} and its session was ended: run the migration again."
        )


class _Child:
    """What the migration process has told so far. Told from a reader thread, read after it has ended."""

    def __init__(self, on_traced: OnTraced | None = None) -> None:
        self._on_traced = on_traced
        self.applied: list[Applied] = []
        self.revision: str | None = None
        self.pid: int | None = None
        self._events: dict[str, dict[str, Any]] = {}
        self._total = 0
        self._on_progress = context.current().on_progress  # context variables don't reach the reader's thread
        self._started = time.monotonic()

    def take(self, line: str) -> None:
        """Take a line of its output."""
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            return
        kind = event.pop("event")
        self._events[kind] = event
        if kind == "planned":
            self._total = len(event["steps"])
        elif kind == "attempt":
            self.revision, self.pid = event["revision"], event["pid"]
        elif kind == "retry":
            log.warning("revision %s waits for a lock held by %s", event["revision"], event["blockers"])
        elif kind == "traced" and self._on_traced is not None:
            self._on_traced(event["statement"])
        elif kind == "progress":
            self._on_progress(context.Progress(**event))
        elif kind == "applied":
            self.applied.append(Applied(**event))
            self._on_progress(context.Progress(OPERATION, len(self.applied), self._total, "revisions"))

    def result(self, kind: str) -> dict[str, Any]:
        """Return the last event of that kind.

        Errors: `MigrationFailed` where there was none: the process ended without saying how.
        """
        if kind not in self._events:
            raise errors.MigrationFailed(f"the migration process ended without saying {kind!r}")
        return self._events[kind]

    def failure(self) -> errors.ChanukaError | None:
        """Return the error it told of, as the same class here."""
        event = self._events.get("error")
        if event is None:
            return None
        kind: type[errors.ChanukaError] = getattr(errors, event["error"], errors.MigrationFailed)
        message = event["message"]
        if self.applied:
            message += f" Before that: {', '.join(step.revision for step in self.applied)} went through."
        if issubclass(kind, errors.DatabaseError):
            return kind(message, sqlstate=event["sqlstate"])
        return kind(message)

"""Running revisions, one at a time, with a lock timeout and bounded tries. Lives in the migration process."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Applied, Direction, Plan, Script
from chanuka_ops.migrator.running.blockers import BlockerWatch
from chanuka_ops.migrator.scripts import Scripts

log = logging.getLogger(__name__)

Emit = Callable[[dict[str, Any]], None]


class Steps:
    """The revisions of one directory against one database. `emit` takes what happens, as it happens."""

    def __init__(self, database: DatabaseSettings, settings: MigrationSettings, files: Scripts, emit: Emit) -> None:
        self._settings = settings
        self._files = files
        self._emit = emit
        self._manager = ConnectionManager("migration", database)

    def current(self) -> tuple[str, ...]:
        """Return the revisions in the version table; nothing is written, the table isn't even made."""
        found: tuple[str, ...] = ()

        def look(revisions: tuple[str, ...], _: MigrationContext) -> list[Any]:
            nonlocal found
            found = tuple(revisions)
            return []

        with self._manager.session(profile=Profile.QUERY) as connection:
            self._run_env(connection.execution_options(postgresql_readonly=True), look, dont_mutate=True)
        return found

    def plan(self) -> Plan:
        """Say what is pending."""
        files = self._files
        return rules.build_plan(files.scripts, self.current(), directory=files.path, unreadable=files.unreadable)

    def move(self, direction: Direction, to: str) -> None:
        """Take the database to `to`, a step at a time, each step an event.

        Errors: what `rules.refusal` and `rules.steps` say; `LockTimeout`; `MigrationFailed`; `OutcomeUnknown`.
        """
        refused = rules.refusal(self.plan())
        if refused is not None:
            raise refused
        before = self.current()
        steps = rules.steps(self._files.scripts, before, direction, to)
        self._emit({"event": "planned", "from": _joined(before), "steps": [step.revision for step in steps]})
        with BlockerWatch(self._manager, lock_timeout_s=self._settings.lock_timeout_s) as watch:
            for step in steps:
                applied = self._step(step, direction, watch)
                self._emit({"event": "applied", **applied.to_json()})
        self._emit({"event": "done", "to": _joined(self.current())})

    def _step(self, script: Script, direction: Direction, watch: BlockerWatch) -> Applied:
        transactional = script.nature(direction).transactional
        begun = time.monotonic()
        for attempt in count(1):
            started = time.monotonic()
            try:
                self._attempt(script, direction, watch, attempt)
            except errors.ConnectError:
                raise
            except errors.ConnectionLost as error:
                self._find_out(script, direction, error)
            except errors.DatabaseError as error:
                wait_s = None
                if transactional:
                    wait_s = rules.retry_after(
                        error.sqlstate,
                        attempt=attempt,
                        elapsed_s=time.monotonic() - begun,
                        deadline_s=self._settings.retry_deadline_s,
                        roll=random.random(),  # noqa: S311 - jitter, no secret
                    )
                if wait_s is None:
                    raise self._failure(script, error, watch, attempt, transactional=transactional) from None
                said = {"event": "retry", "revision": script.revision, "attempt": attempt, "blockers": watch.names()}
                self._emit(said)
                time.sleep(wait_s)
                continue
            return Applied(script.revision, round(time.monotonic() - started, 3), attempt)
        raise AssertionError("count() has no end")  # pragma: no cover

    def _attempt(self, script: Script, direction: Direction, watch: BlockerWatch, attempt: int) -> None:
        found = self._files.directory.get_revision(script.revision)
        make = MigrationStep.upgrade_from_script if direction == "up" else MigrationStep.downgrade_from_script
        step = make(self._files.directory.revision_map, found)
        # A connection of its own for each attempt: no setting that a broken-off one left is in force in the next.
        with self._manager.session(
            profile=Profile.MAINTENANCE, lock_timeout_s=self._settings.lock_timeout_s
        ) as connection:
            pid = engines.backend_pid(connection)
            watch.watch(pid)
            self._emit({"event": "attempt", "revision": script.revision, "attempt": attempt, "pid": pid})
            self._run_env(connection, lambda *_: [step])

    def _run_env(self, connection: Connection, work: Callable[..., list[Any]], **options: Any) -> None:
        def on_our_connection(revisions: tuple[str, ...], migrating: MigrationContext) -> list[Any]:
            theirs = migrating.connection
            if theirs is None or theirs.engine is not connection.engine:
                raise errors.ConfigurationError(
                    f"{self._files.path}/env.py makes a connection of its own, which has no lock timeout: let it use"
                    " config.attributes['connection'], as this program's own env.py does. Nothing was changed."
                )
            return work(revisions, migrating)

        self._files.config.attributes["connection"] = connection
        try:
            with EnvironmentContext(self._files.config, self._files.directory, fn=on_our_connection, **options):
                self._files.directory.run_env()
        finally:
            del self._files.config.attributes["connection"]

    def _find_out(self, script: Script, direction: Direction, error: errors.ConnectionLost) -> None:
        """Settle whether a revision whose connection broke, perhaps in its COMMIT, was applied."""
        name = script.revision
        try:
            current = self.current()
        except errors.DatabaseError as again:
            raise errors.OutcomeUnknown(
                f"the connection broke while revision {name} ran ({error}), and the database can't be asked whether it"
                f" was applied ({again}): see `chanuka-ops migrate plan` once it answers"
            ) from None
        done = name in rules.ancestry(self._files.scripts, current)
        if done is not (direction == "up"):
            remains = _remains(script.nature(direction).transactional)
            raise errors.MigrationFailed(
                f"the connection broke while revision {name} ran ({error}). {remains}"
                f" The database stands at {_joined(current) or rules.BASE}."
            ) from None
        log.warning("the connection broke after revision %s was committed", name, extra={"event": "migrate.lost"})

    def _failure(
        self, script: Script, error: errors.DatabaseError, watch: BlockerWatch, attempt: int, *, transactional: bool
    ) -> errors.ChanukaError:
        where = f"revision {script.revision}"
        tail = _remains(transactional)
        if isinstance(error, errors.LockTimeout):
            limit = f"within {self._settings.lock_timeout_s:g} s in any of {attempt} attempts"
            return errors.LockTimeout(  # outside a transaction a revision may have set a limit of its own
                f"{where} did not get its lock {limit if transactional else 'in time'}; blocked by {watch.names()}."
                f" {tail} Let the blocker end, or end it, and run the migration again.",
                sqlstate=error.sqlstate,
            )
        return errors.MigrationFailed(f"{where}: {error} (SQLSTATE {error.sqlstate}). {tail}")


def _joined(revisions: tuple[str, ...]) -> str | None:
    return ", ".join(revisions) or None


def _remains(transactional: bool) -> str:  # noqa: FBT001 - one private question
    if transactional:
        return "Nothing of that revision was changed."
    return "It runs outside a transaction: what it finished stays, and it is safe to run it again."

"""Running one revision: its attempts, each with a lock timeout; what is written down of them, and what is said."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

from alembic.runtime.migration import MigrationStep
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Applied, Direction, Script
from chanuka_ops.migrator.running import resuming, settling
from chanuka_ops.migrator.running.blockers import BlockerWatch
from chanuka_ops.migrator.running.environment import Environment
from chanuka_ops.migrator.running.journal import Broken, Journal
from chanuka_ops.migrator.running.recording import Attempt, Recorder
from chanuka_ops.migrator.running.resuming import Past
from chanuka_ops.migrator.running.statements import Observer, observed
from chanuka_ops.migrator.scripts import Scripts

log = logging.getLogger(__name__)

Emit = Callable[[dict[str, Any]], None]
Watcher = Callable[[Connection, Script, Direction], Observer]


@dataclass(frozen=True, slots=True)
class Bench:
    """What revisions are run with."""

    manager: ConnectionManager
    settings: MigrationSettings
    files: Scripts
    environment: Environment
    journal: Journal
    watch: BlockerWatch
    emit: Emit


class Reviser:
    """Runs revisions one after the other, on one connection for as long as none fails."""

    def __init__(self, bench: Bench, watchers: Sequence[Watcher], current: Callable[[], tuple[str, ...]]) -> None:
        self._manager, self._settings, self._files = bench.manager, bench.settings, bench.files
        self._environment, self._journal, self._watch = bench.environment, bench.journal, bench.watch
        self._emit = bench.emit
        self._watchers = watchers
        self._current = current
        self._held: tuple[ExitStack, Connection] | None = None
        self._entry: int | None = None
        self._broken: dict[str, Broken] = self._journal.broken()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            held[0].close()

    def run(self, script: Script, direction: Direction) -> Applied:
        """Run a revision to its end.

        Errors: `LockTimeout`, `MigrationFailed`, `OutcomeUnknown`, `RefusedError`; `ConnectError`.
        """
        broken = self._broken.get(script.revision)
        past = settling.past_of(self._journal, broken if broken and broken.direction == direction else None, script)
        self._entry, begun = None, time.monotonic()
        for attempt in count(1):
            started = time.monotonic()
            try:
                self._attempt(script, direction, attempt, past)
            except errors.ConnectError:
                raise
            except errors.ConnectionLost as error:
                self._find_out(script, direction, error, attempt)
            except errors.DatabaseError as error:
                wait_s = self._wait_s(script, direction, error, attempt, time.monotonic() - begun)
                if wait_s is None:
                    failure = self._failure(script, direction, error, attempt)
                    self._broken_off(attempt, str(failure))
                    raise failure from None
                said = {"event": "retry", "revision": script.revision, "attempt": attempt}
                self._emit({**said, "blockers": self._watch.names()})
                time.sleep(wait_s)
                continue
            except BaseException as error:
                self._broken_off(attempt, f"{type(error).__name__}: {error}")
                raise
            seconds = round(time.monotonic() - started, 3)
            return Applied(script.revision, seconds, attempt)
        raise AssertionError("count() has no end")  # pragma: no cover

    def _attempt(self, script: Script, direction: Direction, attempt: int, past: Sequence[Past]) -> None:
        found = self._files.directory.get_revision(script.revision)
        make = MigrationStep.upgrade_from_script if direction == "up" else MigrationStep.downgrade_from_script
        step = make(self._files.directory.revision_map, found)
        with self._connected() as connection:
            pid = engines.backend_pid(connection)
            entry, past = self._written(script, direction, attempt, pid, past)
            self._watch.watch(pid, script.revision)
            self._emit({"event": "attempt", "revision": script.revision, "attempt": attempt, "pid": pid})
            recorder = Recorder(
                self._journal,
                connection,
                Attempt(entry, attempt, script.revision),
                past,
                watch_reads=not script.nature(direction).transactional,
            )
            watchers = [watcher(connection, script, direction) for watcher in self._watchers]
            with observed(connection, [*watchers, recorder]):
                self._environment.run(connection, lambda *_: [step])
            recorder.finish()
            self._journal.end(entry, "done", attempt)

    def _written(
        self, script: Script, direction: Direction, attempt: int, pid: int, past: Sequence[Past]
    ) -> tuple[int, Sequence[Past]]:
        """Write that the attempt begins; return the entry, and the past as the entry has it."""
        if self._entry is not None:
            self._journal.again(self._entry, attempt, pid)
            return self._entry, self._journal.past(self._entry)
        self._entry = self._journal.begin(script, direction, pid)
        if not past:
            return self._entry, past
        self._journal.write(self._entry, 0, [as_written(resuming.carried(item)) for item in past])
        return self._entry, self._journal.past(self._entry)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Give the session, without anything that the revision before has set; a failure ends it."""
        fresh = self._held is None
        if self._held is None:
            opened = ExitStack()
            session = self._manager.session(profile=Profile.MAINTENANCE, lock_timeout_s=self._settings.lock_timeout_s)
            self._held = (opened, opened.enter_context(session))
        opened, connection = self._held
        try:
            self._clean(connection, fresh=fresh)
            yield connection
            if connection.in_transaction():  # env.py left one open
                connection.rollback()
        except BaseException:
            self._held = None
            if not opened.__exit__(*sys.exc_info()):  # it translates the driver's errors
                raise

    def _clean(self, connection: Connection, *, fresh: bool) -> None:
        raw = engines.driver_connection(connection)
        raw.prepare_threshold = None  # DISCARD ALL forgets what was prepared, and the driver doesn't
        limit_s = self._settings.statement_timeout_s
        if fresh and limit_s is None:
            return
        raw.autocommit = True
        if not fresh:
            raw.execute("discard all")
        if limit_s is not None:
            raw.execute(f"set statement_timeout = {round(limit_s * 1000)}")
        raw.autocommit = False

    def _wait_s(
        self, script: Script, direction: Direction, error: errors.DatabaseError, attempt: int, elapsed_s: float
    ) -> float | None:
        if not script.nature(direction).transactional:
            return None
        return rules.retry_after(
            error.sqlstate,
            attempt=attempt,
            elapsed_s=elapsed_s,
            deadline_s=self._settings.retry_deadline_s,
            roll=random.random(),  # noqa: S311 - jitter, no secret
        )

    def _broken_off(self, attempt: int, message: str, *, reached: bool = False) -> None:
        """Write how the run ended; where that fails too, the next run finds it out."""
        if self._entry is None:
            return
        try:
            settling.settle_one(self._journal, self._entry, reached=reached, attempts=attempt, message=message)
        except errors.DatabaseError as second:
            log.warning("the journal can't be written, the next run will: %s", second,
                        extra={"event": "migrate.journal"})  # fmt: skip

    def _find_out(self, script: Script, direction: Direction, error: errors.ConnectionLost, attempt: int) -> None:
        """Settle whether a revision whose connection broke, perhaps in its COMMIT, was applied."""
        name = script.revision
        try:
            current = self._current()
        except errors.DatabaseError as again:
            raise errors.OutcomeUnknown(
                f"the connection broke while revision {name} ran ({error}), and the database can't be asked whether it"
                f" was applied ({again}): see `chanuka-ops migrate plan` once it answers"
            ) from None
        done = name in rules.ancestry(self._files.scripts, current)
        reached = done is (direction == "up")
        self._broken_off(attempt, f"the connection broke: {error}", reached=reached)
        if not reached:
            remains = _remains(script.nature(direction).transactional)
            raise errors.MigrationFailed(
                f"the connection broke while revision {name} ran ({error}). {remains}"
                f" The database stands at {', '.join(current) or rules.BASE}."
            ) from None
        log.warning("the connection broke after revision %s was committed", name, extra={"event": "migrate.lost"})

    def _failure(
        self, script: Script, direction: Direction, error: errors.DatabaseError, attempt: int
    ) -> errors.ChanukaError:
        where = f"revision {script.revision}"
        transactional = script.nature(direction).transactional
        tail = _remains(transactional)
        if isinstance(error, errors.LockTimeout):
            limit = f"within {self._settings.lock_timeout_s:g} s in any of {attempt} attempts"
            return errors.LockTimeout(  # outside a transaction a revision may have set a limit of its own
                f"{where} did not get its lock {limit if transactional else 'in time'}; blocked by"
                f" {self._watch.names()}. {tail} Let the blocker end, or end it, and run the migration again.",
                sqlstate=error.sqlstate,
            )
        return errors.MigrationFailed(f"{where}: {error} (SQLSTATE {error.sqlstate}). {tail}")


def as_written(step: resuming.Written) -> dict[str, Any]:
    """Return a step of an earlier run as the journal takes it."""
    return {
        "step": step.step,
        "kind": step.kind,
        "fingerprint": step.fingerprint,
        "statement": step.statement,
        "autocommit": step.autocommit,
        "answers": step.answers,
        "row_count": step.rows,
        "xid": step.xid,
        "outcome": step.outcome,
        "resolution": step.resolution,
        "started_at": None,
        "ended_at": None,
    }


def _remains(transactional: bool) -> str:  # noqa: FBT001 - one private question
    if transactional:
        return "Nothing of that revision was changed."
    return "It runs outside a transaction: what it finished stays, and it is safe to run it again."

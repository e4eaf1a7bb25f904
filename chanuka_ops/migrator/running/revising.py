"""Running one revision: its attempts, each with a lock timeout; what is written down of them, and what is said."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from alembic.runtime.migration import MigrationContext, MigrationStep
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Applied, Direction, Script
from chanuka_ops.migrator.running import bounds, resuming, settling
from chanuka_ops.migrator.running.blockers import BlockerWatch
from chanuka_ops.migrator.running.environment import Environment
from chanuka_ops.migrator.running.journal import Broken, Journal
from chanuka_ops.migrator.running.minding import Minder
from chanuka_ops.migrator.running.recording import Attempt, Recorder, as_written
from chanuka_ops.migrator.running.resuming import Past
from chanuka_ops.migrator.running.statements import Observer, Wire, wired
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
    minder: Minder
    emit: Emit


@dataclass(slots=True)
class _UnderWay:
    """The revision that is being run: since when, its entry in the journal, its attempt and when that began."""

    script: Script
    begun: float
    entry: int | None = None
    attempt: int = 0
    started: float = 0.0


class Reviser:
    """Runs revisions one after the other, on one connection for as long as none fails."""

    def __init__(self, bench: Bench, watchers: Sequence[Watcher], current: Callable[[], tuple[str, ...]]) -> None:
        self._manager, self._settings, self._files = bench.manager, bench.settings, bench.files
        self._environment, self._journal, self._watch = bench.environment, bench.journal, bench.watch
        self._minder, self._emit = bench.minder, bench.emit
        self._watchers = watchers
        self._current = current
        self._held: tuple[ExitStack, Connection] | None = None
        self._left: list[Script] = []
        self._touched = False  # whether the revision before may have left settings or such in the session
        self._under_way: _UnderWay | None = None
        self._uncommitted: tuple[Recorder, _UnderWay] | None = None
        self._broken: dict[str, Broken] = self._journal.broken()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            held[0].close()

    def run(self, steps: Sequence[Script], direction: Direction) -> None:
        """Run revisions to their end, each an event.

        Errors: `LockTimeout`, `MigrationFailed`, `OutcomeUnknown`, `RefusedError`; `ConnectError`.
        """
        self._left = list(steps)
        while self._left:
            script = self._left[0]
            if self._under_way is None or self._under_way.script is not script:
                self._under_way = _UnderWay(script, time.monotonic())
            try:
                with self._connected() as connection:
                    self._go(connection, direction)
            except errors.ConnectError:
                raise
            except errors.ConnectionLost as error:
                self._find_out(self._left[0], direction, error)
                self._applied()
            except errors.DatabaseError as error:
                self._again(self._left[0], direction, error)
            except BaseException as error:
                self._broken_off(f"{type(error).__name__}: {error}")
                raise

    def _go(self, connection: Connection, direction: Direction) -> None:
        """Run one revision after the other in one run of env.py; where that has them all in one transaction, just one.

        What fails is the first of `_left`: one that is done is taken off before the next one begins.
        """
        walk: Generator[MigrationStep, None, None] | None = None

        def work(_: tuple[str, ...], migrating: MigrationContext) -> Generator[MigrationStep, None, None]:
            nonlocal walk
            walk = self._walk(connection, wire, direction, alone=migrating._in_external_transaction)  # noqa: SLF001 - Alembic says it nowhere else
            return walk

        with wired(connection) as wire:
            try:
                self._environment.run(connection, work)
            finally:
                if walk is not None:
                    walk.close()
        if self._uncommitted is not None:
            self._done(*self._uncommitted)

    def _walk(
        self, connection: Connection, wire: Wire, direction: Direction, *, alone: bool
    ) -> Generator[MigrationStep, None, None]:
        while self._left:
            script = self._left[0]
            if self._under_way is None or self._under_way.script is not script:
                self._under_way = _UnderWay(script, time.monotonic())
                if self._touched:
                    self._clean(connection, fresh=False)
            found = self._files.directory.get_revision(script.revision)
            make = MigrationStep.upgrade_from_script if direction == "up" else MigrationStep.downgrade_from_script
            recorder = self._recorder(connection, script, direction)
            watchers = [watcher(connection, script, direction) for watcher in self._watchers]
            with wire.told([self._minder, *watchers, recorder]):
                yield make(self._files.directory.revision_map, found)
            if alone:
                self._uncommitted = (recorder, self._under_way)
                return
            self._done(recorder, self._under_way)

    def _recorder(self, connection: Connection, script: Script, direction: Direction) -> Recorder:
        """Begin an attempt of the revision under way."""
        now = self._now()
        now.attempt += 1
        now.started = time.monotonic()
        pid = engines.backend_pid(connection)
        past = self._written(now, direction, pid)
        transactional = script.nature(direction).transactional
        self._minder.begin(script, transactional=transactional)
        self._watch.watch(pid, script.revision)
        self._emit({"event": "attempt", "revision": script.revision, "attempt": now.attempt, "pid": pid})
        attempt = Attempt(now.entry or 0, now.attempt, script.revision)
        return Recorder(self._journal, connection, attempt, past, watch_reads=not transactional)

    def _done(self, recorder: Recorder, now: _UnderWay) -> None:
        """Take the revision under way off: it is committed."""
        self._uncommitted = None
        recorder.finish()
        self._journal.done(now.entry or 0, now.attempt)
        self._touched = recorder.touched_session
        self._applied()

    def _applied(self) -> None:
        now = self._now()
        seconds = round(time.monotonic() - now.started, 3)
        self._emit({"event": "applied", **Applied(now.script.revision, seconds, now.attempt).to_json()})
        self._left.pop(0)

    def _now(self) -> _UnderWay:
        if self._under_way is None:
            raise AssertionError("no revision is under way")  # pragma: no cover
        return self._under_way

    def _again(self, script: Script, direction: Direction, error: errors.DatabaseError) -> None:
        """Wait for the next try of a revision that failed; or give up.

        Errors: `LockTimeout`, `MigrationFailed`.
        """
        now = self._now()
        wait_s = None
        if script.nature(direction).transactional and self._minder.crossed is None:
            wait_s = rules.retry_after(
                error.sqlstate,
                attempt=now.attempt,
                elapsed_s=time.monotonic() - now.begun,
                deadline_s=self._settings.retry_deadline_s,
                roll=random.random(),  # noqa: S311 - jitter, no secret
            )
        if wait_s is None:
            failure = self._failure(script, direction, error, now.attempt)
            self._broken_off(str(failure))
            raise failure from None
        said = {"event": "retry", "revision": script.revision, "attempt": now.attempt}
        self._emit({**said, "blockers": self._watch.names()})
        time.sleep(wait_s)

    def _written(self, now: _UnderWay, direction: Direction, pid: int) -> Sequence[Past]:
        """Write that the attempt begins; return the past that it has to reckon with.

        Errors: `RefusedError` where the file was edited since.
        """
        if now.entry is not None:
            self._journal.again(now.entry, now.attempt, pid)
            return self._journal.past(now.entry)
        broken = self._broken.get(now.script.revision)
        same_way = broken if broken is not None and broken.direction == direction else None
        past = settling.past_of(self._journal, same_way, now.script)
        now.entry = self._journal.begin(now.script, direction, pid)
        if not past:
            return past
        self._journal.write(now.entry, 0, [as_written(resuming.carried(item)) for item in past])
        return self._journal.past(now.entry)

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
        as_it_was = raw.autocommit  # env.py may want it so
        raw.autocommit = True
        if not fresh:
            raw.execute("discard all")
        if limit_s is not None:
            raw.execute(f"set statement_timeout = {round(limit_s * 1000)}")
        raw.autocommit = as_it_was

    def _broken_off(self, message: str, *, reached: bool = False) -> None:
        """Write how the run ended; where that fails too, the next run finds it out."""
        now = self._under_way
        if now is None or now.entry is None:
            return
        try:
            settling.settle_one(self._journal, now.entry, reached=reached, attempts=now.attempt, message=message)
        except errors.DatabaseError as second:
            log.warning("the journal can't be written, the next run will: %s", second,
                        extra={"event": "migrate.journal"})  # fmt: skip

    def _find_out(self, script: Script, direction: Direction, error: errors.ConnectionLost) -> None:
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
        self._broken_off(f"the connection broke: {error}", reached=reached)
        if not reached:
            aborted = self._minder.failure()
            if aborted is not None:
                raise aborted from None
            remains = bounds.remains(transactional=script.nature(direction).transactional)
            raise errors.MigrationFailed(
                f"the connection broke while revision {name} ran ({error}). {remains}"
                f" The database stands at {', '.join(current) or rules.BASE}."
            ) from None
        log.warning("the connection broke after revision %s was committed", name, extra={"event": "migrate.lost"})

    def _failure(
        self, script: Script, direction: Direction, error: errors.DatabaseError, attempt: int
    ) -> errors.ChanukaError:
        aborted = self._minder.failure()
        if aborted is not None:
            return aborted
        where = f"revision {script.revision}"
        transactional = script.nature(direction).transactional
        tail = bounds.remains(transactional=transactional)
        if isinstance(error, errors.LockTimeout):
            limit = f"within {self._settings.lock_timeout_s:g} s in any of {attempt} attempts"
            return errors.LockTimeout(  # outside a transaction a revision may have set a limit of its own
                f"{where} did not get its lock {limit if transactional else 'in time'}; blocked by"
                f" {self._watch.names()}. {tail} Let the blocker end, or end it, and run the migration again.",
                sqlstate=error.sqlstate,
            )
        return errors.MigrationFailed(f"{where}: {error} (SQLSTATE {error.sqlstate}). {tail}")

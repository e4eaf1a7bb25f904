"""Running revisions, one at a time. Lives in the migration process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alembic.runtime.migration import MigrationContext

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Direction, Plan, Revision, Script
from chanuka_ops.migrator.running import preview, settling, targets
from chanuka_ops.migrator.running.blockers import BlockerWatch
from chanuka_ops.migrator.running.bounds import Bound, by_statement
from chanuka_ops.migrator.running.environment import Environment
from chanuka_ops.migrator.running.journal import Journal
from chanuka_ops.migrator.running.minding import Minder
from chanuka_ops.migrator.running.resolving import Resolution, resolve
from chanuka_ops.migrator.running.revising import Bench, Emit, Reviser, Watcher
from chanuka_ops.migrator.scripts import Scripts


class Steps:
    """The revisions of one directory against one database.

    `emit` takes what happens, as it happens; `watchers` make observers for each attempt of a revision; `bounds` are
    what was predicted of its statements.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        settings: MigrationSettings,
        files: Scripts,
        emit: Emit,
        watchers: Sequence[Watcher] = (),
        *,
        bounds: Sequence[Bound] = (),
    ) -> None:
        self._settings = settings
        self._files = files
        self._emit = emit
        self._watchers = tuple(watchers)
        self._bounds = by_statement(bounds)
        self._manager = ConnectionManager("migration", database)
        self._environment = Environment(files, database, settings)

    def current(self) -> tuple[str, ...]:
        """Return the revisions in the version table; nothing is written, the table isn't even made."""
        found: tuple[str, ...] = ()

        def look(revisions: tuple[str, ...], _: MigrationContext) -> list[Any]:
            nonlocal found
            found = tuple(revisions)
            return []

        with self._manager.session(profile=Profile.QUERY) as connection:
            self._environment.run(connection.execution_options(postgresql_readonly=True), look, dont_mutate=True)
        return found

    def plan(self) -> Plan:
        """Say what is pending."""
        return self._plan(self.current())

    def foresee(self, direction: Direction, to: str) -> tuple[Plan, list[Revision]]:
        """Say what `move` would run, each with what that way of it does. Errors: as `move`; nothing is run."""
        before, steps = self._steps(direction, to)
        natures = [(step, step.nature(direction)) for step in steps]
        return self._plan(before), [
            Revision(step.revision, step.doc, step.sha256, nature.destructive, nature.transactional, step.phase)
            for step, nature in natures
        ]

    def move(self, direction: Direction, to: str, expected: Mapping[str, str] | None = None) -> None:
        """Take the database to `to`, a step at a time, each step an event.

        `expected` is the SHA-256 of each file by revision, as they were looked at: no other is run.

        Errors: what `rules.refusal` and `targets.steps` say; `RefusedError` for what an earlier run has left open;
        `LockTimeout`; `MigrationFailed`; `OutcomeUnknown`.
        """
        before, steps = self._steps(direction, to)
        if expected is not None:
            rules.require_as_seen(steps, expected)
        with Journal(self._manager, self._settings) as journal:
            journal.prepare()
            applied = rules.ancestry(self._files.scripts, before)
            settling.settle(self._manager, journal, self._settings, applied)
            self._emit({"event": "planned", "from": _joined(before), "steps": [step.revision for step in steps]})
            after = before
            if steps:
                if not before:
                    self._make_version_table()
                self._run(steps, direction, journal)
                after = self.current()
        self._emit({"event": "done", "to": _joined(after)})

    def preview(self, direction: Direction, to: str) -> str:
        """Return the SQL of what `move` would run; nothing is run.

        Errors: as `move`; `MigrationFailed` naming a revision that needs a database to say what it does.
        """
        before, steps = self._steps(direction, to)
        return preview.sql_of(self._files, self._environment, before, steps, direction)

    def resolve(self, resolution: Resolution) -> str:
        """Take down a person's word on a revision that was broken off; return what was taken down.

        Errors: `RefusedError` where nothing of that is open.
        """
        with Journal(self._manager, self._settings) as journal:
            journal.prepare()
            applied = rules.ancestry(self._files.scripts, self.current())
            settling.settle(self._manager, journal, self._settings, applied)
            return resolve(journal, self._files.scripts, resolution)

    def accept(self, revision: str) -> str:
        """Take down that an applied revision's file may be as it is now; return what was taken down.

        Errors: `RefusedError` where it wasn't edited.
        """
        edited = {problem.revision for problem in self.plan().problems if problem.kind == "edited"}
        if revision not in edited:
            raise errors.RefusedError(f"revision {revision} was not edited after it was applied: nothing to accept")
        sha256 = self._files.script(revision).sha256
        with Journal(self._manager, self._settings) as journal:
            journal.accept_edit(revision, sha256, "its edited file was accepted")
        return f"the file of revision {revision} is accepted as it is now (SHA-256 {sha256[:12]})"

    def _steps(self, direction: Direction, to: str) -> tuple[tuple[str, ...], list[Script]]:
        before = self.current()
        plan = rules.meant(self._plan(before), direction, to)
        refused = rules.refusal(plan if direction == "up" else rules.for_the_way_back(plan))
        if refused is not None:
            raise refused
        return before, targets.steps(self._files, before, direction, to)

    def _make_version_table(self) -> None:
        """Have Alembic make its table now: it's no statement of the first revision, whose rerun won't send it again."""
        limit_s = self._settings.lock_timeout_s
        with self._manager.session(profile=Profile.MAINTENANCE, lock_timeout_s=limit_s) as connection:
            self._environment.run(connection, lambda *_: [])
            connection.commit()

    def _plan(self, current: tuple[str, ...]) -> Plan:
        files = self._files
        with Journal(self._manager, self._settings) as journal:
            recorded = journal.applied()
        return rules.build_plan(
            files.scripts, current, directory=files.path, unreadable=files.unreadable, recorded=recorded
        )

    def _run(self, steps: Sequence[Script], direction: Direction, journal: Journal) -> None:
        manager, settings = self._manager, self._settings
        minder = Minder(settings, self._bounds)
        with BlockerWatch(manager, settings, minder.look) as watch:
            bench = Bench(manager, settings, self._files, self._environment, journal, watch, minder, self._emit)
            with Reviser(bench, self._watchers, self.current) as reviser:
                reviser.run(steps, direction)


def _joined(revisions: tuple[str, ...]) -> str | None:
    return ", ".join(revisions) or None

"""Restores a backup: whole, schemas or tables, into a new or an empty database, or in the place of another.

- *new*: made under another name, restored, checked, and only then given its own: nobody meets a half of it.
- *empty*: restored where it is, in one transaction: whole or not at all. It keeps its owner, encoding and locale.
- *replace*: made beside the old one as a new one is, and swapped in by rename (swap.py). The old one stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.backup.answers import Mismatch
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.model import Manifest
from chanuka_ops.backup.restoring import archive as archives
from chanuka_ops.backup.restoring import pg_restore, preflight, properties, rowcheck, swap, target
from chanuka_ops.backup.restoring.archive import Archive
from chanuka_ops.backup.restoring.preflight import Plan
from chanuka_ops.backup.restoring.restored import Ended, Finished, Options, Restored
from chanuka_ops.backup.restoring.swap import Mark
from chanuka_ops.backup.restoring.target import Target
from chanuka_ops.config import BackupSettings, DatabaseSettings
from chanuka_ops.db import engines
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.parameters import Profile
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres.binaries import Binaries

log = logging.getLogger(__name__)

DUMP = "dump"
ROLES = "globals/roles.sql"
# the commit of the swap flushes all that came before it; until then the sibling is of no use to anybody
_SIBLING_SESSION = {**pg_restore.SESSION, "synchronous_commit": "off"}


def restore(
    directory: Path,
    manifest: Manifest,
    settings: DatabaseSettings,
    *,
    tools: Binaries,
    backup: BackupSettings,
    options: Options,
) -> Restored:
    """Restore a backup, whose plain files lie below `directory`, into the database that `settings` name.

    Row counts that differ from the manifest's are an answer (`mismatches`), not an error; nothing is put in place then.

    Errors: `RefusedError` and `LockHeld` where something stands in the way, and nothing was changed; `ToolFailed` with
    pg_restore's words, `DatabaseError`: what was there is there still. `OutcomeUnknown` where the swap's commit got no
    answer: the next run says which of the two states it is.
    """
    ends = time.monotonic() + backup.deadline_s
    archive = archives.read(directory / DUMP, tools)
    with target.seen(settings) as there, swap.exclusively(there), ExitStack() as lock:
        if (existing := there.existing()) is not None and existing.connectable:
            lock.enter_context(operation_lock(lock.enter_context(there.manager())))
        swept = swap.sweep(there)
        plan = preflight.plan(there, archive, manifest, options, _roles(directory))
        reached("restore: planned")
        source = _Source(directory / DUMP, manifest, archive)
        work = _Restore(there, plan, source, tools=tools, jobs=backup.jobs, ends=ends)
        with work.roles():
            return work.run(lock, [f"dropped what a killed restore had left: {name}" for name in swept])


def finish(settings: DatabaseSettings, *, replace: str | None) -> Finished:
    """Put the database in its place that an earlier restore made and did not come to swap in.

    `replace` is the name of the existing database that may be replaced, if there is one.
    Errors: `RefusedError` where there is nothing to finish, or several, or the name isn't given; as `restore`.
    """
    with target.seen(settings) as there, swap.exclusively(there), ExitStack() as lock:
        ready = [(left.name, left.mark) for left in swap.siblings(there) if left.mark and left.mark.state == "ready"]
        if len(ready) != 1:
            names = ", ".join(name for name, _ in ready) or "none"
            raise errors.RefusedError(
                f"one finished restore into {there.name!r} is needed, and there is {names}. Nothing was changed."
            )
        ((name, mark),) = ready
        existing = there.existing()
        if existing is not None:
            preflight.refuse_replacing(there, replace)
            lock.enter_context(operation_lock(lock.enter_context(there.manager())))
        old, ended = swap.swap(there, name, mark.comment, instead_of=existing, let_go=lock.close)
        return Finished(
            backup_id=mark.backup_id, database=there.name, old_database=old, restored_at=mark.at,
            ended_sessions=tuple(ended),
        )  # fmt: skip


def _roles(directory: Path) -> str:
    try:
        return (directory / ROLES).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # one of single databases may have none
        return ""


class _NotTheSameError(errors.ChanukaError):
    """The copy doesn't hold what the manifest says: it isn't put in place."""

    def __init__(self, mismatches: list[Mismatch]) -> None:
        super().__init__(f"{len(mismatches)} tables or sequences of the copy differ from the manifest")
        self.mismatches = mismatches


@dataclass(frozen=True, slots=True)
class _Source:
    dump: Path
    manifest: Manifest
    archive: Archive


class _Restore:
    """One restore under way, until the moment `ends` of the monotonic clock."""

    def __init__(self, there: Target, plan: Plan, source: _Source, *, tools: Binaries, jobs: int, ends: float) -> None:
        self._target, self._plan, self._tools, self._jobs, self._ends = there, plan, tools, jobs, ends
        self._dump, self._manifest, self._archive = source.dump, source.manifest, source.archive
        self._watch = Stopwatch()
        self._phases: dict[str, float] = {}
        self._warnings: list[str] = []
        self._counted = rowcheck.Counted({}, {})

    @contextmanager
    def roles(self) -> Iterator[None]:
        """Make the roles that are needed, in one step; where the block fails, they go again."""
        if self._plan.role_statements:
            with self._target.seat.transaction(profile=Profile.MAINTENANCE) as connection:
                for statement in self._plan.role_statements:
                    engines.execute_verbatim(connection, statement)
        try:
            yield
        except BaseException:
            self._drop_roles()
            raise

    def run(self, lock: ExitStack, warnings: list[str]) -> Restored:
        self._warnings = [*self._plan.warnings, *warnings]
        old: str | None = None
        ended: list[Ended] = []
        mismatches: list[Mismatch] = []
        try:
            if self._plan.way == "empty":
                self._in_place()
            else:
                old, ended = self._beside(lock)
        except _NotTheSameError as differing:
            mismatches = differing.mismatches
            if self._plan.way == "empty":
                self._warnings.append(f"database {self._target.name} holds what was restored, though it differs")
            else:
                self._drop_roles()
        plan, manifest = self._plan, self._manifest
        return Restored(
            backup_id=manifest.backup_id,
            database=self._target.name,
            seconds=self._watch.seconds,
            restored=not mismatches,
            way=plan.way,
            server_version=self._target.server.version,
            tables=len(plan.pick.tables),
            rows=sum(rows or 0 for rows in self._counted.rows.values()),
            sequences=len(self._counted.sequences),
            phases=self._phases,
            checks={**plan.checks, "rows": self._row_outcome(mismatches)},
            mismatches=tuple(mismatches),
            left_out=plan.pick.left_out,
            added=plan.pick.bare,
            roles_made=plan.roles_made if not mismatches or plan.way == "empty" else (),
            old_database=old,
            ended_sessions=tuple(ended),
            warnings=tuple(self._warnings),
        )

    def _in_place(self) -> None:
        self._pg_restore(self._target.name, "--single-transaction", session=pg_restore.SESSION)
        reached("restore: restored")
        self._look_over(self._target.name)
        if self._plan.options.whole:
            self._warnings += properties.carry(self._target, self._archive, self._target.name, self._plan)

    def _beside(self, lock: ExitStack) -> tuple[str | None, list[Ended]]:
        with swap.sibling(self._target, self._manifest.backup_id, self._create) as name:
            reached("restore: marked")
            self._pg_restore(name, f"--jobs={self._jobs}", session=_SIBLING_SESSION)
            reached("restore: restored")
            self._look_over(name)
            words = None
            if self._plan.options.whole:
                self._warnings += properties.carry(self._target, self._archive, name, self._plan)
                words = properties.comment(self._archive)
            ready = Mark(
                backup_id=self._manifest.backup_id, into=self._target.name, state="ready", at=datetime.now(UTC),
                comment=words,
            )  # fmt: skip
            swap.set_mark(self._target, name, ready)
            reached("restore: ready")
            with self._phase("swap"):
                return swap.swap(self._target, name, words, instead_of=self._plan.existing, let_go=lock.close)

    def _create(self, name: str) -> None:
        unknown = properties.create(self._target, self._archive, name, tablespaces=self._plan.tablespaces)
        if unknown is not None:
            self._warnings.append(unknown)

    def _pg_restore(self, name: str, how: str, *, session: Mapping[str, str]) -> None:
        options = ["--no-subscriptions", how]
        if self._plan.options.roles == "skip":
            options += ["--no-owner", "--no-privileges"]
        if not self._plan.tablespaces:
            options.append("--no-tablespaces")
        with self._phase("restore"):
            pg_restore.run(
                self._dump,
                self._target.settings.with_dbname(name),
                self._tools,
                options=options,
                deadline_s=self._left_s(),
                listing=self._plan.pick.listing(),
                session=session,
                meanwhile=pg_restore.growth(self._target.seat, name, self._plan.expected_bytes),
            )

    def _look_over(self, name: str) -> None:
        """Gather the planner's statistics, and compare what was restored with the manifest."""
        with self._target.manager(name) as manager:
            if self._plan.options.analyze:
                context.progress("analyze", 0, 1, "databases")
                with self._phase("analyze"), manager.autocommit(deadline_s=self._left_s()) as connection:
                    connection.execute(text("analyze"))
                context.progress("analyze", 1, 1, "databases")
            if not self._plan.options.check:
                return
            with self._phase("check"):
                self._counted = rowcheck.count(manager, deadline_s=self._left_s())
        mismatches = rowcheck.differences(self._manifest.fingerprint, self._plan.pick.tables, self._counted)
        if mismatches:
            raise _NotTheSameError(mismatches)

    def _row_outcome(self, mismatches: list[Mismatch]) -> str:
        if not self._plan.options.check:
            return "not looked at"
        uncounted = self._counted.uncounted
        if uncounted:
            return f"unknown: this role can't count the rows of {', '.join(uncounted)}"
        return f"{len(mismatches)} differ" if mismatches else "ok"

    def _left_s(self) -> float:
        return max(0.001, self._ends - time.monotonic())

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        watch = Stopwatch()
        try:
            yield
        except (errors.StatementTimeout, errors.DeadlineExceeded):
            if time.monotonic() < self._ends:
                raise
            raise errors.StatementTimeout(
                f"the time for the restore (operations.backup.deadline) was over in the step {name!r}: it was stopped"
            ) from None
        self._phases[name] = watch.seconds

    def _drop_roles(self) -> None:
        for role in reversed(self._plan.roles_made):
            try:
                self._target.run("restore_drop_role", name=role)
            except errors.ChanukaError as failure:
                log.warning("role %s can't be dropped again: %s", role, failure, extra={"event": "restore.left"})

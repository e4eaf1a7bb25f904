"""Before a run: what earlier ones, that were broken off, have left on the server and in the journal."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row

from chanuka_ops import errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.model import Script
from chanuka_ops.migrator.running import resuming
from chanuka_ops.migrator.running.journal import Broken, Journal
from chanuka_ops.migrator.running.resuming import Past
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2


def settle(manager: ConnectionManager, journal: Journal, settings: MigrationSettings, applied: Collection[str]) -> None:
    """Wait for, or end, the sessions of runs that were killed; then write how each of those runs ended.

    `applied` are the revisions that the database has. Errors: `RefusedError` naming a session that doesn't end.
    """
    unsettled = journal.unsettled()
    if any(run.alive for run in unsettled):
        _await_orphans(manager, journal, settings)
    for run in unsettled:
        settle_one(journal, run.id, reached=(run.revision in applied) is (run.direction == "up"))


def settle_one(journal: Journal, entry: int, *, reached: bool, attempts: int = 1, message: str = "") -> None:
    """Write how a run ended that could not say so itself."""
    past = [] if reached else journal.past(entry)
    outcome = "done" if reached else resuming.outcome_of(past)
    journal.end(entry, outcome, attempts, message or "it was broken off; how it ended was found out later")


def past_of(journal: Journal, broken: Broken | None, script: Script) -> list[Past]:
    """Return what a rerun of a revision has to reckon with.

    Errors: `RefusedError` where the file is another than the one that was begun.
    """
    if broken is None:
        return []
    past = journal.past(broken.entry)
    if past and broken.sha256 != script.sha256:
        done = ", ".join(str(item.written.step) for item in past)
        raise errors.RefusedError(
            f"revision {script.revision} was broken off earlier after its steps {done} were committed, and its file was"
            f" edited since (SHA-256 {broken.sha256[:12]} then, {script.sha256[:12]} now). Restore the file and run the"
            f" migration again; or say `chanuka-ops migrate resolve {script.revision} --edited` (the steps that were"
            " committed are the same in it), or `--forget` (they were undone by hand). Nothing was changed."
        )
    return past


def _await_orphans(manager: ConnectionManager, journal: Journal, settings: MigrationSettings) -> None:
    end = text(catalog.load("chanuka_ops.migrator").sql("end_session"))
    with manager.autocommit() as connection:

        def gone() -> bool:
            alive = [run for run in journal.unsettled() if run.alive]
            if settings.blockers == "cancel_own_orphans":
                for run in alive:
                    log.warning("the orphaned session %d of run %s is ended", run.backend_pid, run.run_id,
                                extra={"event": "migrate.orphan"})  # fmt: skip
                    connection.execute(end, {"pid": run.backend_pid, "application_name": run.application_name})
            return not alive

        if not wait_until(gone, timeout_s=settings.wait_s, poll_s=LOOK_EVERY_S):
            raise errors.RefusedError(_still_there(journal.unsettled(), settings.wait_s))


def _still_there(runs: Sequence[Row[Any]], waited_s: float) -> str:
    told = "; ".join(
        f"pid {run.backend_pid} ({run.application_name}, {run.state}: {run.query}) of revision {run.revision}"
        for run in runs
        if run.alive
    )
    return (
        f"a session of an earlier migration that was killed is still at work after {waited_s:g} s: {told}. Let it end,"
        " or end it with pg_terminate_backend, or set operations.migration.blockers to cancel_own_orphans."
        " Nothing was changed."
    )

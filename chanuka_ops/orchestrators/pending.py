"""Which migrations wait to be rehearsed: asked again and again, in a time that is bounded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chanuka_ops import errors
from chanuka_ops.config import Settings
from chanuka_ops.logs import redact
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Plan
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.orchestrators.database import DatabaseOrchestrator

ONE_MAY_TAKE_S = 15.0


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits at a database: its plan's hash (None: not to be remembered), whether a rehearsal is due, and words.

    A rehearsal is due where revisions are pending, nothing stands in their way, and there is a backup to restore.
    """

    database: str
    plan_hash: str | None
    due: bool
    words: str


def order(names: Sequence[str], seen: Mapping[str, str | None]) -> list[str]:
    """Put first those that were asked longest ago; `seen` has them in the order in which they were.

    >>> order(["a", "b", "c"], {"b": "1", "a": "2"})
    ['c', 'b', 'a']
    """
    asked = {name: position for position, name in enumerate(seen)}
    return sorted(names, key=lambda name: asked.get(name, -1))


def look(
    settings: Settings, names: Sequence[str], seen: Mapping[str, str | None], *, budget_s: float
) -> Iterator[Pending]:
    """Ask database after database, until the time is used up; what wasn't come to is first the next time.

    `seen` has the hash of each plan that was asked for before, which isn't due again. A database that can't be asked,
    or whose revisions can't be read, is no error here: its words say so.
    """
    end = time.monotonic() + budget_s
    for name in order(names, seen):
        left_s = end - time.monotonic()
        if left_s <= 0:
            return
        try:
            yield _asked(settings, name, seen.get(name), min(left_s, ONE_MAY_TAKE_S))
        except errors.ChanukaError as failure:
            yield Pending(name, None, due=False, words=redact(f"{type(failure).__name__}: {failure}"))


def _asked(settings: Settings, name: str, seen: str | None, deadline_s: float) -> Pending:
    with DatabaseOrchestrator.open(settings, name) as opened:
        plan = Migrator(opened.manager, settings.operations.migration).plan(deadline_s)
        refused = rules.refusal(plan)
        if not plan.pending:
            return Pending(name, plan.plan_hash, due=False, words="nothing is pending")
        if refused is not None:
            return Pending(name, None, due=False, words=redact(str(refused)))
        if plan.plan_hash == seen:
            return Pending(name, plan.plan_hash, due=False, words=f"{_named(plan)} was asked for")
        try:
            opened.backups.newest(name)
        except errors.BackupNotFound:  # the hash is not taken down: it is due once there is one
            words = f"{_named(plan)} is pending, and there is no backup to rehearse it on"
            return Pending(name, None, due=False, words=words)
    return Pending(name, plan.plan_hash, due=True, words=f"{_named(plan)} is pending")


def _named(plan: Plan) -> str:
    return f"plan {plan.plan_hash[:12]} ({len(plan.pending)} revisions)"

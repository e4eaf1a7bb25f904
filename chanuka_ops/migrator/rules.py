"""Decisions about migrations: what is pending, what stands in the way, which steps to take, and whether to try again.

Pure: the files, the database's revision, the time and the dice are arguments.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from chanuka_ops import errors
from chanuka_ops.db.retry import Backoff
from chanuka_ops.migrator.model import Direction, Plan, Problem, Revision, Script

BASE = "base"
HEAD = "head"
EXACTLY = "="  # before revisions: at these, and at nothing else
_BRANCHES = 2
# Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
BACKOFF = Backoff(first_s=0.4, most_s=5.0)
_RETRIED = {
    "55P03",
    "40P01",
}  # lock not available, deadlock: the transaction was rolled back, and the next try can differ


def heads_of(scripts: Sequence[Script]) -> tuple[str, ...]:
    """Return the revisions that no other builds on."""
    parents = {parent for script in scripts for parent in script.parents}
    return tuple(script.revision for script in scripts if script.revision not in parents)


def ancestry(scripts: Sequence[Script], revisions: Iterable[str]) -> set[str]:
    """Return those revisions and all they build on; what no file knows is left out."""
    parents = {script.revision: script.parents for script in scripts}
    found: set[str] = set()
    waiting = list(revisions)
    while waiting:
        revision = waiting.pop()
        if revision in parents and revision not in found:
            found.add(revision)
            waiting += parents[revision]
    return found


def build_plan(
    scripts: Sequence[Script],
    current: Sequence[str],
    *,
    directory: str,
    unreadable: Sequence[str] = (),
    recorded: Mapping[str, str] | None = None,
) -> Plan:
    """Say what is pending. `scripts` come parents first; `current` is what the database's version table holds.

    `recorded` is the journal's: the SHA-256 that each applied revision's file had when it was applied.
    """
    done = ancestry(scripts, current)
    pending = tuple(
        Revision(s.revision, s.doc, s.sha256, s.up.destructive, s.up.transactional, s.phase)
        for s in scripts
        if s.revision not in done
    )
    heads = heads_of(scripts)
    stands = ", ".join(current) or None
    content = {"current": stands, "heads": heads, "pending": [(step.revision, step.sha256) for step in pending]}
    digest = hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
    problems = [Problem("unreadable", None, message) for message in unreadable]
    problems += _problems(scripts, heads, current, directory, readable=not unreadable)
    problems += _edited(scripts, done, recorded or {})
    problems += _out_of_order(scripts, done)
    return Plan(stands, heads, pending, tuple(problems), digest)


def _problems(
    scripts: Sequence[Script], heads: Sequence[str], current: Sequence[str], directory: str, *, readable: bool
) -> list[Problem]:
    if not scripts:
        message = f"no revision files in {directory}: is operations.migration.script_location right"
        return [Problem("no_revisions", None, message)] if readable else []
    known = {script.revision for script in scripts}
    problems = [
        Problem(
            "contract_without_expand",
            script.revision,
            f"revision {script.revision} completes {script.completes}, which isn't among the revisions it builds on:"
            " its expand half has to come before it",
        )
        for script in scripts
        if script.completes is not None and script.completes not in ancestry(scripts, script.parents)
    ]
    if len(heads) > 1:
        names = " and ".join(heads)
        message = f"{len(heads)} heads in {directory}: {names}. Decide their order, or join them with a merge revision"
        problems.append(Problem("several_heads", heads[-1], message))
    problems += [
        Problem(
            "unknown_revision",
            revision,
            f"the database stands at revision {revision}, which no file in {directory} knows:"
            " it was migrated by a newer or another version of the program",
        )
        for revision in current
        if revision not in known
    ]
    return problems


def _edited(scripts: Sequence[Script], done: Collection[str], recorded: Mapping[str, str]) -> Iterator[Problem]:
    for script in scripts:
        then = recorded.get(script.revision)
        if script.revision in done and then is not None and then != script.sha256:
            yield Problem(
                "edited",
                script.revision,
                f"the file of revision {script.revision} was edited after it was applied (SHA-256 {then[:12]} then,"
                f" {script.sha256[:12]} now): the database holds what it did then. Put the file back and write a new"
                f" revision; or, if nothing that it does has changed, `chanuka-ops migrate accept {script.revision}`",
            )


def _out_of_order(scripts: Sequence[Script], done: Collection[str]) -> Iterator[Problem]:
    """Name pending revisions beside which later ones were applied: two branches that a merge joins."""
    for script in scripts:
        if len(script.parents) < _BRANCHES or script.revision in done:
            continue
        below = ancestry(scripts, script.parents)
        applied, pending = below & set(done), [s.revision for s in scripts if s.revision in below - set(done)]
        shared = set.intersection(*(ancestry(scripts, [parent]) for parent in script.parents))
        beside = [s.revision for s in scripts if s.revision in applied - shared]
        late = [name for name in pending if name not in shared]
        if beside and late:
            yield Problem(
                "out_of_order",
                late[0],
                f"{', '.join(late)} will be applied after {', '.join(beside)}, which another branch had first:"
                f" {script.revision} joins them, and elsewhere the order may have been the other",
                refuses=False,
            )


def drifted(plan: Plan, *, live_sha256: str, said: str | None, refuses: bool) -> Plan:
    """Return the plan with the live schema in its hash; `said` is how that differs from the recorded one."""
    digest = hashlib.sha256(f"{plan.plan_hash} {live_sha256}".encode()).hexdigest()
    problems = plan.problems
    if said is not None:
        problems = (*problems, Problem("drift", plan.current, said, refuses=refuses))
    return replace(plan, problems=problems, plan_hash=digest)


def for_the_way_back(plan: Plan) -> Plan:
    """Return the plan without what is no reason to stay: who rolls back an incident can't first put files in order."""
    return replace(plan, problems=tuple(p for p in plan.problems if p.kind not in {"edited", "drift"}))


def meant(plan: Plan, direction: Direction, to: str) -> Plan:
    """Return the plan without the problem of several heads, where the target says which one is meant."""
    if direction == "up" and to == HEAD:
        return plan
    return replace(plan, problems=tuple(problem for problem in plan.problems if problem.kind != "several_heads"))


def refusal(plan: Plan) -> errors.ChanukaError | None:
    """Return the error that the plan's first problem calls for, or None where nothing stands in the way."""
    refusing = [problem for problem in plan.problems if problem.refuses]
    if not refusing:
        return None
    kinds: dict[str, type[errors.ChanukaError]] = {
        "no_revisions": errors.ConfigurationError,
        "unreadable": errors.ConfigurationError,
        "several_heads": errors.HeadsConflict,
        "contract_without_expand": errors.ConfigurationError,
    }
    problem = refusing[0]
    return kinds.get(problem.kind, errors.RefusedError)(f"{problem.message}. Nothing was changed.")


def require_as_seen(steps: Sequence[Script], expected: Mapping[str, str]) -> None:
    """Refuse to run what wasn't looked at before. Errors: `RefusedError` naming each revision."""
    other = [script.revision for script in steps if expected.get(script.revision) != script.sha256]
    if other:
        raise errors.RefusedError(
            f"{', '.join(other)}: another file, or another version of it, than was planned a moment ago. Nothing was"
            " changed: plan again."
        )


def steps(scripts: Sequence[Script], current: Sequence[str], direction: Direction, to: str) -> list[Script]:
    """Return the revisions to run, in order, so that the database stands at `to`.

    The way down to a revision leaves other branches alone; down to several, or by `exactly`, it leaves those only.

    Errors: `ConfigurationError` for a target that no file knows, `RefusedError` for one that lies the other way.
    """
    done = ancestry(scripts, current)
    names = [name.strip() for name in to.removeprefix(EXACTLY).split(",")]
    target: set[str] = set() if to == BASE else ancestry(scripts, [_resolve(scripts, name) for name in names])
    if direction == "up":
        if to != HEAD and done > target:
            raise errors.RefusedError(f"the database stands past {to} already: to go back there, use migrate down")
        return [script for script in scripts if script.revision in target - done]
    if not target <= done:
        raise errors.RefusedError(f"the database doesn't stand past {to}: to go there, use migrate up")
    kept = set(target)
    if len(names) == 1 and not to.startswith(EXACTLY):
        kept |= {script.revision for script in scripts if not ancestry(scripts, [script.revision]) > target}
    return [script for script in reversed(scripts) if script.revision in done - kept]


def exactly(current: str | None) -> str:
    """Name where a database stood, as a plan says it, as a target of the way back.

    >>> exactly("b3, c2"), exactly(None)
    ('=b3, c2', 'base')
    """
    return BASE if current is None else f"{EXACTLY}{current}"


def before_contract(plan: Plan) -> str | None:
    """Return the last pending revision before the first that takes something away; None where that is the first.

    Old code, still running, works with what is there then.
    """
    safe = list(takewhile(lambda revision: revision.phase != "contract", plan.pending))
    return safe[-1].revision if safe else None


def _resolve(scripts: Sequence[Script], to: str) -> str:
    if to == HEAD:
        return heads_of(scripts)[-1]
    fitting = [script.revision for script in scripts if script.revision.startswith(to)]
    exact = [revision for revision in fitting if revision == to]
    if len(exact or fitting) != 1:
        known = ", ".join(script.revision for script in scripts)
        raise errors.ConfigurationError(f"revision {to!r} names {'several' if fitting else 'no'} files; known: {known}")
    return (exact or fitting)[0]


def retry_after(
    sqlstate: str | None, *, attempt: int, elapsed_s: float, deadline_s: float, roll: float
) -> float | None:
    """Return how long to wait before the whole revision is tried again, or None to give up.

    `attempt` counts from 1; `elapsed_s` since the first began; `roll` is a number from 0 to 1. The next attempt has
    the same lock timeout as all others: a last one without would queue everybody behind it.
    """
    if sqlstate not in _RETRIED:
        return None
    return BACKOFF.within(attempt, roll, deadline_s - elapsed_s)

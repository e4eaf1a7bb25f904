"""What a rerun does with a revision that was broken off after some of it was committed. Pure.

The earlier run's journal says which statements were sent, and in which transactions; the server says which of those
were committed. What was committed is left out, in the same order, as long as the revision sends the same statements.
Where that can't be decided a person is asked, by the number of the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from chanuka_ops.migrator.running.statement import Kind, Statement

State = Literal["done", "look", "unknown"]
"""done: committed. look: its end isn't known, and the catalogue tells. unknown: nobody can tell."""

_LOOKED_FOR = {"build_index", "drop_index", "detach"}


@dataclass(frozen=True, slots=True)
class Written:
    """A step as the journal has it. `xid` is of the transaction it was part of, None where that had none."""

    id: int
    step: int
    kind: Kind
    fingerprint: str
    statement: str
    outcome: str
    resolution: str
    answers: bool
    autocommit: bool
    rows: int
    xid: str | None


@dataclass(frozen=True, slots=True)
class Past:
    """A step that a rerun has to reckon with. `agreed`: a person has said that it's done."""

    written: Written
    state: State
    agreed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a statement that the rerun sends; `past` is the step it was, `why` is for a person."""

    act: Literal["run", "skip", "look", "ask"]
    past: Past | None = None
    why: str = ""


RUN = Verdict("run")


def reckon(steps: Sequence[Written], statuses: Mapping[str, str | None]) -> list[Past]:
    """Say what remains of a run, in its order. `statuses` is `pg_xact_status` of each transaction."""
    found = [(step, _state(step, statuses)) for step in steps]
    return [Past(step, state, agreed=step.resolution == "done") for step, state in found if state is not None]


def _state(step: Written, statuses: Mapping[str, str | None]) -> State | None:
    if step.kind in {"always", "control"} or (step.kind == "read" and not step.answers):
        return None  # they are sent each time
    if step.resolution:
        return "done" if step.resolution == "done" else None
    if step.outcome in {"done", "sent"}:
        return "done" if step.outcome == "done" else _committed(step, statuses)
    if step.outcome not in {"running", "failed"} or not step.autocommit or step.kind == "upkeep":
        return None
    if step.kind in _LOOKED_FOR:
        return "look"
    return "unknown" if step.kind == "opaque" else None


def _committed(step: Written, statuses: Mapping[str, str | None]) -> State | None:
    status = statuses.get(step.xid) if step.xid is not None else "aborted"
    if status == "aborted":
        return None
    return "done" if status == "committed" else "unknown"


class Player:
    """Follows a rerun statement by statement."""

    def __init__(self, past: Sequence[Past]) -> None:
        self._left = list(past)

    @property
    def left(self) -> tuple[Past, ...]:
        """What the rerun has not come to yet."""
        return tuple(self._left)

    def next(self, statement: Statement) -> Verdict:
        """Take the next statement and say what to do with it."""
        if not self._left or statement.kind in {"always", "control"}:
            return RUN
        same = [n for n, past in enumerate(self._left) if past.written.fingerprint == statement.fingerprint]
        if not same:
            return self._another(statement)
        past = self._left[same[0]]
        del self._left[: same[0] + 1]  # what it left out now, it found to be there by itself
        if past.state == "look":
            return Verdict("look", past)
        if past.state == "unknown":
            return Verdict("ask", past, "it was cut off, and whether it was done can't be known")
        if past.written.answers and not past.agreed:
            return Verdict("ask", past, "it was committed, and the revision may use its result, which is gone")
        return Verdict("skip", past)

    def _another(self, statement: Statement) -> Verdict:
        if statement.kind == "read" or all(past.state == "look" for past in self._left):
            return RUN
        awaited = next(past for past in self._left if past.state != "look")
        return Verdict("ask", awaited, f"the revision now sends something else in its place: {statement.shown}")


def after_look(kind: Kind, seen: str) -> Literal["skip", "run", "drop_first", "finalize"]:
    """Say what follows from what was seen: "valid", "invalid" or "gone"; "attached", "pending" or "gone".

    >>> after_look("build_index", "invalid"), after_look("drop_index", "gone"), after_look("detach", "pending")
    ('drop_first', 'skip', 'finalize')
    """
    if kind == "build_index":
        return {"valid": "skip", "invalid": "drop_first"}.get(seen, "run")  # type: ignore[return-value]  # as above
    if kind == "drop_index":
        return "skip" if seen == "gone" else "run"
    return {"gone": "skip", "pending": "finalize"}.get(seen, "run")  # type: ignore[return-value]  # as above


def carried(past: Past) -> Written:
    """Return the step as the next run's journal begins with it."""
    outcome = past.written.outcome if past.state != "done" else "done"
    return replace(past.written, outcome=outcome, resolution="done" if past.agreed else "")


def outcome_of(past: Sequence[Past]) -> Literal["failed", "partial"]:
    """Say how a run that didn't reach its end is to be called: whether anything of it is there."""
    return "partial" if past else "failed"


def how_to_resolve(revision: str, past: Past, why: str) -> str:
    """Tell a person what to do about a step."""
    step = past.written.step
    return (
        f"revision {revision} was broken off earlier, and its step {step} has to be resolved: {why}."
        f" Step {step} was: {past.written.statement}. Look at the database, then say"
        f" `chanuka-ops migrate resolve {revision} --step {step} --done` (it is done: leave it out) or `--redo` (run it"
        " again). Nothing was changed by this run at that step."
    )

"""A person's word on what a revision that was broken off has left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chanuka_ops import context, errors
from chanuka_ops.migrator.model import Script
from chanuka_ops.migrator.running.journal import Broken, Journal

How = Literal["done", "redo", "edited", "forget"]
"""done, redo: of one step. edited: the file may be another by now. forget: all of it was undone by hand."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a person says of a revision, or of one step of it."""

    revision: str
    how: How
    step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `migrate resolve`."""
        return asdict(self)


def resolve(journal: Journal, scripts: Sequence[Script], resolution: Resolution) -> str:
    """Write it into the journal; return a sentence on what was written.

    Errors: `RefusedError` where the revision, or the step, isn't open.
    """
    broken = _broken(journal, resolution.revision)
    who = context.current().actor
    if resolution.how == "forget":
        journal.forget(broken.revision, f"forgotten by {who}: what it had done was undone by hand")
        return f"revision {broken.revision} will be run from its start"
    if resolution.how == "edited":
        files = {script.revision: script.sha256 for script in scripts}
        if broken.revision not in files:
            raise errors.RefusedError(f"no file of revision {broken.revision} is there. Nothing was changed.")
        journal.accept(broken.entry, files[broken.revision])
        return f"revision {broken.revision} goes on with its file as it is now ({files[broken.revision][:12]})"
    past = journal.past(broken.entry)
    steps = [item.written for item in past if item.written.step == resolution.step]
    if not steps:
        there = ", ".join(f"{item.written.step} ({item.state})" for item in past) or "none"
        raise errors.RefusedError(
            f"revision {broken.revision} has no step {resolution.step} that could be resolved: there are {there}."
            " Nothing was changed."
        )
    journal.resolve(steps[-1].id, resolution.how)
    then = "left out" if resolution.how == "done" else "run again"
    return f"step {resolution.step} of revision {broken.revision} will be {then}: {steps[-1].statement}"


def _broken(journal: Journal, name: str) -> Broken:
    broken = journal.broken()
    if name not in broken:
        there = f"broken off are: {', '.join(broken)}" if broken else "no revision was broken off with work left behind"
        raise errors.RefusedError(f"revision {name} has nothing to resolve; {there}. Nothing was changed.")
    return broken[name]

"""The nouns of migrations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self

Direction = Literal["up", "down"]
Phase = Literal["expand", "contract"]
ProblemKind = Literal[
    "no_revisions",
    "unreadable",
    "several_heads",
    "unknown_revision",
    "contract_without_expand",
    "edited",
    "out_of_order",
    "drift",
]


@dataclass(frozen=True, slots=True)
class Nature:
    """What one direction of a revision does, as far as its source tells.

    `destructive`: it can lose data. `transactional`: it runs as a whole or not at all.
    """

    destructive: bool
    transactional: bool


@dataclass(frozen=True, slots=True)
class Script:
    """One revision file: its place in the graph, and what it does.

    `phase` is the half of a change that it is: "expand" makes room, "contract" takes away what `completes` (the expand
    half) made superfluous.
    """

    revision: str
    parents: tuple[str, ...]
    doc: str
    sha256: str
    up: Nature
    down: Nature
    phase: Phase | None = None
    completes: str | None = None

    def nature(self, direction: Direction) -> Nature:
        """Return what that direction does."""
        return self.up if direction == "up" else self.down


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision that is to be applied. `sha256` is of the file with its line endings normalised."""

    revision: str
    doc: str
    sha256: str
    destructive: bool
    transactional: bool
    phase: Phase | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `migrate plan`."""
        return {
            "revision": self.revision,
            "doc": self.doc,
            "sha256": self.sha256,
            "destructive": self.destructive,
            "transactional": self.transactional,
            "phase": self.phase,
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the pending revisions can't be applied; or, where it doesn't refuse, what is to be known before they are."""

    kind: ProblemKind
    revision: str | None
    message: str
    refuses: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `migrate plan`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the database stands, and what is to come. `plan_hash` names exactly this: an approval is of a hash."""

    current: str | None
    heads: tuple[str, ...]
    pending: tuple[Revision, ...]
    problems: tuple[Problem, ...]
    plan_hash: str

    def to_json(self) -> dict[str, Any]:
        """Return the document of `migrate plan`."""
        return {
            "current": self.current,
            "heads": list(self.heads),
            "pending": [revision.to_json() for revision in self.pending],
            "problems": [problem.to_json() for problem in self.problems],
            "plan_hash": self.plan_hash,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(
            document["current"],
            tuple(document["heads"]),
            tuple(Revision(**entry) for entry in document["pending"]),
            tuple(Problem(**entry) for entry in document["problems"]),
            document["plan_hash"],
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """A revision that went through: seconds of its last attempt, and how many there were."""

    revision: str
    seconds: float
    attempts: int

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `migrate up`."""
        return {"revision": self.revision, "seconds": self.seconds, "attempts": self.attempts}


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a run did: the revision before, the revision after (None is the empty base), and the steps between."""

    before: str | None
    after: str | None
    applied: tuple[Applied, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `migrate up` and `migrate down`."""
        return {"from": self.before, "to": self.after, "applied": [step.to_json() for step in self.applied]}


@dataclass(frozen=True, slots=True)
class Entry:
    """A revision's run as the journal has it. `outcome`: running, done, failed (nothing of it is there) or partial."""

    revision: str
    direction: Direction
    actor: str
    run_id: str
    host: str
    started_at: datetime
    seconds: float
    attempts: int
    outcome: str
    sha256: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `migrate history`."""
        return {**asdict(self), "started_at": self.started_at.isoformat(), "seconds": round(self.seconds, 3)}

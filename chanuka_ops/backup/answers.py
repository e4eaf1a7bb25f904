"""What the verbs of backups answer."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from chanuka_ops.backup.model import Document, Tier


class Problem(Document):
    """A file that isn't as the manifest says; `kind`: missing, extra, size, checksum, unreadable, manifest."""

    file: str
    kind: Literal["missing", "extra", "size", "checksum", "unreadable", "manifest"]
    store: str = "default"


class Listed(Document):
    """One backup of a store's catalogue; without a manifest that can be read, `problem` says why.

    `proven_at` is when a drill last proved it, `pinned` why it never expires, `disproved` which look at it failed and
    has not been answered by one that passed.
    """

    backup_id: str
    database: str
    kind: str
    tier: str
    created_at: datetime | None
    bytes: int | None
    server_version: str | None
    store: str = "default"
    stores: tuple[str, ...] = ()
    copy_problems: tuple[str, ...] = ()
    proven_at: datetime | None = None
    pinned: str | None = None
    disproved: str | None = None
    problem: str | None = None


class Catalogue(Document):
    """What all stores hold together; a store in `problems` couldn't be listed, so that it may be partial."""

    backups: tuple[Listed, ...]
    problems: dict[str, str]


class Freshness(Document):
    """Whether the newest proven backup is young enough, in words, and its age; None: not known, or none."""

    verdict: str
    passed: bool
    age_seconds: float | None


class Mismatch(Document):
    """Something the restored copy doesn't hold as the source did."""

    object: str
    source: str
    restored: str


class Placed(Document):
    """One store's part in a backup: where it is, or why it is not there."""

    store: str
    where: str
    problem: str | None = None


class Created(Document):
    """What `backup create` answers; `store` is where the first copy is, `stores` says it of each."""

    backup_id: str
    kind: str
    tier: Tier
    bytes: int
    source_bytes: int
    seconds: float
    store: str
    tables: int
    rows: int
    stores: tuple[Placed, ...] = ()

    @property
    def missing(self) -> tuple[Placed, ...]:
        """The stores that did not get their copy."""
        return tuple(placed for placed in self.stores if placed.problem is not None)


class Verified(Document):
    """What `backup verify` answers; `unread` says by name which stores could not be read, and why."""

    backup_id: str
    tier: Tier
    files: int
    bytes: int
    seconds: float
    problems: tuple[Problem, ...]
    unread: dict[str, str] = Field({})


class Comparison(Document):
    """How a restored copy compares with the fingerprint, and what else was looked at in it.

    `has_content` is False where the fingerprint is of the structure only. `part` is the part of the sampled tables that
    was compared, None where there are none. `index_problems` and `assertion_problems` are None where nothing was asked.
    """

    tables_compared: int
    rows_compared: int
    coverage: float
    mismatches: tuple[Mismatch, ...]
    structure_problems: tuple[Mismatch, ...]
    warnings: tuple[str, ...]
    tables: dict[str, tuple[int, int, bool]]
    has_content: bool = True
    part: int | None = None
    index_problems: tuple[Mismatch, ...] | None = None
    assertion_problems: tuple[Mismatch, ...] | None = None

    @property
    def equal(self) -> bool:
        """Whether the copy held the source's data."""
        return not self.mismatches and not self.structure_problems


# without one of these a backup isn't proven; indexes and assertions may be switched off or not be there
REQUIRED_RUNGS = ("manifest", "restores", "structure", "content")
RUNGS = (*REQUIRED_RUNGS, "indexes", "assertions")


class Drilled(Document):
    """What `backup drill` answers. `ladder` says which rungs held, in order; None: not reached, or not asked."""

    backup_id: str
    tier: Tier
    restore_seconds: float | None
    tables_compared: int
    rows_compared: int
    coverage: float
    mismatches: tuple[Mismatch, ...]
    structure_problems: tuple[Mismatch, ...]
    rto_seconds: float | None
    rpo_seconds: float
    phases: dict[str, float] = Field({})
    ladder: dict[str, bool | None]
    warnings: tuple[str, ...]
    scratch_version: str | None
    problems: tuple[Problem, ...]
    tables: dict[str, tuple[int, int, bool]]
    part: int | None = None
    index_problems: tuple[Mismatch, ...] | None = None
    assertion_problems: tuple[Mismatch, ...] | None = None

    @property
    def proven(self) -> bool:
        """Whether each rung that it takes held, and none failed: a content that wasn't compared proves nothing."""
        held = all(self.ladder.get(rung) for rung in REQUIRED_RUNGS)
        return held and False not in self.ladder.values()

    @property
    def differing(self) -> tuple[Mismatch, ...]:
        """Everything that isn't as at the source, or not as it should be."""
        found = (self.index_problems or (), self.assertion_problems or ())
        return (*self.mismatches, *self.structure_problems, *(item for problems in found for item in problems))

    def failure(self) -> str:
        """Say what differs, the first ten of it; where nothing does, what was not looked at."""
        damaged = [f"{problem.store}: {problem.file} ({problem.kind})" for problem in self.problems]
        differing = [
            f"{item.object}: {item.source} at the source, {item.restored} in the restored copy"
            for item in self.differing
        ]
        unseen = ", ".join(rung for rung in REQUIRED_RUNGS if self.ladder.get(rung) is None)
        return "; ".join((damaged + differing)[:10]) or f"not compared: {unseen}"


class Kept(Document):
    """A backup that stays, and everything that speaks for it."""

    backup_id: str
    reasons: tuple[str, ...]


class Expired(Document):
    """A backup that no rule keeps any more, and why."""

    backup_id: str
    reason: str


class Retention(Document):
    """Which backups of one database in one store stay and which expire, the newest first.

    `refused` says why nothing may expire at all. `database` and `store` are None where there is no backup.
    """

    database: str | None
    store: str | None
    keep: tuple[Kept, ...]
    expire: tuple[Expired, ...]
    refused: str | None = None


class Expiry(Document):
    """What became of a decision in one store; a backup `in_use` stays until the next time.

    `problem` says why nothing more went: a guard's refusal, or the store's failure.
    """

    decided: Retention
    deleted: tuple[str, ...] = ()
    in_use: tuple[str, ...] = ()
    problem: str | None = None

"""What the verbs of backups answer."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from chanuka_ops.backup.model import Document, Tier


class Problem(Document):
    """A file that isn't as the manifest says; `kind`: missing, extra, size, checksum, unreadable, manifest."""

    file: str
    kind: Literal["missing", "extra", "size", "checksum", "unreadable", "manifest"]
    store: str = "default"


class Listed(Document):
    """One backup of a store's catalogue; without a manifest that can be read, `problem` says why.

    `proven_at` is when a drill last proved it, `pinned` why it never expires.
    """

    backup_id: str
    database: str
    kind: str
    tier: str
    created_at: datetime | None
    bytes: int | None
    server_version: str | None
    store: str = "default"
    proven_at: datetime | None = None
    pinned: str | None = None
    problem: str | None = None


class Mismatch(Document):
    """Something the restored copy doesn't hold as the source did."""

    object: str
    source: str
    restored: str


class Created(Document):
    """What `backup create` answers."""

    backup_id: str
    kind: str
    tier: Tier
    bytes: int
    source_bytes: int
    seconds: float
    store: str
    tables: int
    rows: int


class Verified(Document):
    """What `backup verify` answers."""

    backup_id: str
    tier: Tier
    files: int
    bytes: int
    seconds: float
    problems: tuple[Problem, ...]


class Comparison(Document):
    """How a restored copy compares with the fingerprint."""

    tables_compared: int
    rows_compared: int
    coverage: float
    mismatches: tuple[Mismatch, ...]
    structure_problems: tuple[Mismatch, ...]
    warnings: tuple[str, ...]
    tables: dict[str, tuple[int, int, bool]]

    @property
    def equal(self) -> bool:
        """Whether the copy held the source's data."""
        return not self.mismatches and not self.structure_problems


class Drilled(Document):
    """What `backup drill` answers. `ladder` says which rungs held, in order; None: not reached."""

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
    ladder: dict[str, bool | None]
    warnings: tuple[str, ...]
    scratch_version: str | None
    problems: tuple[Problem, ...]
    tables: dict[str, tuple[int, int, bool]]

    @property
    def proven(self) -> bool:
        """Whether every rung held."""
        return all(self.ladder.values())

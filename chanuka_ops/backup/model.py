"""Nouns of backups. The manifest's own format is documented in docs/manifest.md."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

FORMAT: Final = "chanuka-ops/backup/1"
HASH_ALGORITHM: Final = "sum-hashtextextended-rowtext/1"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tier(StrEnum):
    """How far a backup has been proved."""

    TAKEN = "taken"
    VERIFIED = "verified"
    PROVEN = "proven"

    @property
    def rank(self) -> int:
        """0 for taken, 1 for verified, 2 for proven."""
        return list(Tier).index(self)


class File(_Document):
    """One file of a backup, its path relative to the backup's directory."""

    path: str
    bytes: int
    sha256: str


class TableContent(_Document):
    """A table's rows: how many, and the sum of each row's 64-bit hash, which no order changes."""

    rows: int
    hash: str


class SequenceState(_Document):
    """A sequence's value before and after the dump; sequences don't keep to a snapshot."""

    before: int
    after: int
    called_before: bool
    called_after: bool
    increment: int
    cycle: bool


class Fingerprint(_Document):
    """What a database held in one snapshot: enough to tell whether a copy holds the same."""

    algorithm: Literal["sum-hashtextextended-rowtext/1"] = HASH_ALGORITHM
    tables: dict[str, TableContent]
    large_objects: TableContent
    sequences: dict[str, SequenceState]
    extensions: dict[str, str]
    objects: dict[str, str]
    schema_hash: str

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables.values())


class Source(_Document):
    """The server and database a backup was taken from."""

    dbname: str
    server_version: str
    server_version_num: int
    encoding: str
    collate: str
    ctype: str
    source_bytes: int
    snapshot_at: datetime
    schema_revision: str | None

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.server_version_num // 10000


class Manifest(_Document):
    """Everything a backup says of itself; written last, so that a backup with a manifest is whole."""

    format: Literal["chanuka-ops/backup/1"] = FORMAT
    backup_id: str
    database: str
    kind: Literal["logical"] = "logical"
    created_at: datetime
    seconds: float
    actor: str
    run_id: str
    tool_version: str
    tool_major: int
    compression_level: int
    jobs: int
    source: Source
    files: tuple[File, ...]
    fingerprint: Fingerprint

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)


class Evidence(_Document):
    """One look at a backup: when, by what, whether it passed, and its figures."""

    at: datetime
    step: Literal["verify", "drill"]
    passed: bool
    figures: dict[str, Any]


class Status(_Document):
    """A backup's tier and why; kept beside the manifest and replaced as a whole."""

    backup_id: str
    tier: Tier = Tier.TAKEN
    evidence: tuple[Evidence, ...] = ()


class Problem(_Document):
    """A file that isn't as the manifest says; `kind`: missing, extra, size, checksum, unreadable, manifest."""

    file: str
    kind: Literal["missing", "extra", "size", "checksum", "unreadable", "manifest"]


class Listed(_Document):
    """One backup of the catalogue; without a manifest that can be read, `problem` says why."""

    backup_id: str
    database: str
    kind: str
    tier: str
    created_at: datetime | None
    bytes: int | None
    server_version: str | None
    problem: str | None = None


class Mismatch(_Document):
    """Something the restored copy doesn't hold as the source did."""

    object: str
    source: str
    restored: str


class Created(_Document):
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


class Verified(_Document):
    """What `backup verify` answers."""

    backup_id: str
    tier: Tier
    files: int
    bytes: int
    seconds: float
    problems: tuple[Problem, ...]


class Comparison(_Document):
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


class Drilled(_Document):
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

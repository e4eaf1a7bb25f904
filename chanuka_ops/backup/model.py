"""What a store keeps of a backup: manifest and status. Their format is documented in docs/manifest.md."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

FORMAT: Final = "chanuka-ops/backup/1"
ROW_TEXT: Final = "sum-hashtextextended-rowtext/1"  # manifests that were written with it can still be proved
MIXED_COLUMNS: Final = "sum-mixed-columns/2"
HashAlgorithm = Literal["sum-hashtextextended-rowtext/1", "sum-mixed-columns/2"]


class Document(BaseModel):
    """A frozen noun whose fields are all there is."""

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


class File(Document):
    """One file of a backup, its path relative to the backup's directory."""

    path: str
    bytes: int
    sha256: str


class Part(Document):
    """One of the parts a very large table is compared by: its rows are those whose key falls into it."""

    rows: int
    hash: str


class TableContent(Document):
    """A table's rows: how many, and the sum of each row's 64-bit hash, which no order changes.

    None where only the structure was fingerprinted. `parts` sum up to the whole; `key` is the SQL expression that says
    what part a row falls into: its absolute remainder by their number.
    """

    rows: int | None
    hash: str | None
    key: str | None = None
    parts: tuple[Part, ...] = ()


class SequenceState(Document):
    """A sequence's value before and after the dump; sequences don't keep to a snapshot."""

    before: int
    after: int
    called_before: bool
    called_after: bool
    increment: int
    cycle: bool


class Fingerprint(Document):
    """What a database held in one snapshot: enough to tell whether a copy holds the same.

    An object's value is the hash of its definition, and after a colon that of its owner and grants, where it has any.
    `collations` has the provider and the version of each that is used, as the server's libraries had it.
    """

    algorithm: HashAlgorithm = MIXED_COLUMNS
    tables: dict[str, TableContent]
    large_objects: TableContent
    sequences: dict[str, SequenceState]
    extensions: dict[str, str]
    collations: dict[str, str] = {}
    objects: dict[str, str]
    schema_hash: str

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows or 0 for table in self.tables.values())

    @property
    def has_content(self) -> bool:
        """Whether rows were read, not only the structure."""
        return self.large_objects.hash is not None


class Source(Document):
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
    system_identifier: str | None = None

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.server_version_num // 10000


class Encryption(Document):
    """How the files are encrypted, and for whom: public keys."""

    scheme: Literal["age"] = "age"
    recipients: tuple[str, ...]


class Filters(Document):
    """What was left out or picked, as the settings said it then."""

    schemas: tuple[str, ...] = ()
    exclude_schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    exclude_tables: tuple[str, ...] = ()
    exclude_table_data: tuple[str, ...] = ()


class Manifest(Document):
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
    compression: str = "gzip"
    compression_level: int
    encryption: Encryption | None = None
    filters: Filters | None = None
    role_passwords: bool = False
    jobs: int
    source: Source
    files: tuple[File, ...]
    fingerprint: Fingerprint

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)


class Evidence(Document):
    """One look at a backup: when, by what, whether it passed, and its figures."""

    at: datetime
    step: Literal["verify", "drill"]
    passed: bool
    figures: dict[str, Any]


class Pin(Document):
    """Why a backup never expires, since when, and who says so."""

    reason: str
    at: datetime
    actor: str


class Summary(Document):
    """What a listing shows of a manifest, so that thousands need not be parsed; `manifest_sha256` is of its bytes."""

    database: str
    kind: str
    created_at: datetime
    bytes: int
    server_version: str
    manifest_bytes: int
    manifest_sha256: str


class Status(Document):
    """A backup's tier and why; kept beside the manifest and replaced as a whole."""

    backup_id: str
    tier: Tier = Tier.TAKEN
    evidence: tuple[Evidence, ...] = ()
    pin: Pin | None = None
    summary: Summary | None = None

    @property
    def proven_at(self) -> datetime | None:
        """When a drill last proved it, if it still counts as proven."""
        if self.tier is not Tier.PROVEN:
            return None
        return max((look.at for look in self.evidence if look.step == "drill" and look.passed), default=None)

    @property
    def disproved(self) -> str | None:
        """Which look at it failed, where none of that kind has passed since; None for one that is proven."""
        if self.tier is Tier.PROVEN:
            return None
        newest = {look.step: look for look in self.evidence}
        failed = [look for step in ("drill", "verify") if (look := newest.get(step)) is not None and not look.passed]
        return f"its {failed[0].step} of {failed[0].at:%Y-%m-%d %H:%M} failed" if failed else None

"""The nouns of the operations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the server knows it. `rows` is its estimate, None before the first ANALYZE."""

    oid: int
    schema: str
    name: str
    kind: str
    rows: int | None

    @property
    def partitioned(self) -> bool:
        """Whether it holds its rows in partitions."""
        return self.kind == "p"

    @property
    def foreign(self) -> bool:
        """Whether its rows are on another server."""
        return self.kind == "f"


@dataclass(frozen=True, slots=True)
class Index:
    """An index to be made. `terms` and `include` are SQL already: quoted names, or expressions."""

    name: str
    terms: tuple[str, ...]
    unique: bool = False
    using: str = "btree"
    include: tuple[str, ...] = ()
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """The columns by whose order a backfill walks: quoted names, and the SQL types that they're cast to."""

    columns: tuple[str, ...]
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """A backfill's statement, its names SQL already. `progress_id` is its row in the table `cursors`."""

    cursors: str
    table: str
    key: Key
    assignments: str
    where: str | None
    progress_id: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a backfill stands: whether a batch was done, and whether all were."""

    progress_id: int
    begun: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What a backfill may cost others. None: no limit."""

    batch_s: float
    lag_bytes: int | None
    wal_bytes_per_s: int | None


@dataclass(frozen=True, slots=True)
class Load:
    """What the server bears: WAL written so far, the worst standby's lag, and an autovacuum that must not be held up.

    `hidden`: how many standbys there are whose lag this role may not see.
    """

    wal_bytes: int
    lag_bytes: int
    hidden: int
    wraparound: bool

"""The nouns of a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Blocks = Literal["", "w", "rw"]
"""Whom a transaction's locks hold up: nobody, writers, or readers as well."""
Impact = Literal[
    "error",
    "rewrite-under-blocking-lock",
    "scan-under-blocking-lock",
    "brief-lock-rw",
    "brief-lock-w",
    "no-blocking-lock",
]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, index, view … of the copy. `kind` is pg_class's letter; `filenode` and `tablespace` are 0 for "none"."""

    oid: int
    name: str
    kind: str
    filenode: int
    tablespace: int


@dataclass(frozen=True, slots=True)
class Look:
    """The copy at one moment: its relations, rows read so far by table, bytes of WAL so far, size in bytes."""

    relations: Mapping[int, Relation]
    rows: Mapping[int, int]
    wal_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Traced:
    """What a statement did.

    `locks` are those that its transaction held after it, above RowExclusiveLock, by relation that was there before the
    rehearsal; `touched` what it locked to write, or more. `scanned` are all rows it read, by table or index. `sampled`:
    it ran outside a transaction, so its locks were looked at again and again meanwhile, and a very short one may be
    missing. `rows`: how many it changed, -1 where the server doesn't say. `times`: sent so often in a row.
    """

    sql: str
    step: int
    seconds: float
    locks: Mapping[str, str]
    blocks: Blocks
    rewritten: tuple[str, ...]
    scanned: int
    scanned_rows_while_blocking: int
    wal_bytes: int
    size_change_bytes: int
    rows: int
    impact: Impact
    sampled: bool = False
    error: str | None = None
    sqlstate: str | None = None
    line: int | None = None
    revision: str | None = None
    direction: str = "up"
    times: int = 1
    touched: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `migrate rehearse`."""
        return {
            "sql": self.sql,
            "step": self.step,
            "line": self.line,
            "revision": self.revision,
            "direction": self.direction,
            "seconds": self.seconds,
            "locks": dict(self.locks),
            "blocks": self.blocks,
            "rewritten": list(self.rewritten),
            "scanned": self.scanned,
            "scanned_rows_while_blocking": self.scanned_rows_while_blocking,
            "wal_bytes": self.wal_bytes,
            "size_change_bytes": self.size_change_bytes,
            "rows": self.rows,
            "impact": self.impact,
            "sampled": self.sampled,
            "times": self.times,
            "touched": list(self.touched),
            "error": self.error,
            "sqlstate": self.sqlstate,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(**{**document, "rewritten": tuple(document["rewritten"]), "touched": tuple(document["touched"])})


@dataclass(frozen=True, slots=True)
class Leg:
    """One way of the ladder: up, down, or up again. `seconds` of all; `error` says why it didn't get to its end."""

    name: str
    seconds: float
    revisions: tuple[str, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it came to its end."""
        return self.error is None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a report."""
        return {
            "name": self.name,
            "passed": self.passed,
            "seconds": self.seconds,
            "revisions": list(self.revisions),
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table in the copy or at the source: bytes of its heap (with what it stores apart), and of its indexes."""

    heap_bytes: int
    index_bytes: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.heap_bytes + self.index_bytes


@dataclass(frozen=True, slots=True)
class Ran:
    """What a rehearsal on a copy brought.

    `schema_differences` and `changed_tables` compare after the way down with before the way up; both are None where
    there was no way down. `changed_tables`: of those that no statement touched. `beside`: rows written to tables that
    no statement names (by triggers, cascades, code), by table.
    """

    legs: tuple[Leg, ...]
    statements: tuple[Traced, ...]
    schema_differences: tuple[Mapping[str, str], ...] | None = None
    changed_tables: tuple[str, ...] | None = None
    untouched_tables: int = 0
    skipped: int = 0
    sizes: Mapping[str, TableSize] = field(default_factory=dict)
    server_version: int = 0

    def leg(self, name: str) -> bool | None:
        """Tell whether that way came to its end; None where it wasn't gone."""
        return next((leg.passed for leg in self.legs if leg.name == name), None)

    @property
    def schema_restored(self) -> bool | None:
        """Whether the way down leads back to the schema before; None where there was none."""
        return None if self.schema_differences is None else not self.schema_differences

    @property
    def passed(self) -> bool:
        """Whether every way came to its end and left what it should."""
        return all(leg.passed for leg in self.legs) and not self.schema_differences and not self.changed_tables

    def problem(self) -> str | None:
        """Say what is wrong, or None."""
        for leg in self.legs:
            if leg.error is not None:
                return f"{leg.name.replace('_', ' ')}: {leg.error}"
        if self.schema_differences:
            names = ", ".join(f"{item['object']} {item['kind']}" for item in self.schema_differences[:10])
            return f"the way down doesn't lead back to the schema before: {names}"
        if self.changed_tables:
            return f"tables that no statement touches have other rows now: {', '.join(self.changed_tables[:10])}"
        return None

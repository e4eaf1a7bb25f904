"""What a migration left unfinished: looked for before and after it, so that only what is new is told.

::

    before = look(connection)
    …                                  # the migration
    left = compare(before, look(connection))
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops.db import engines
from chanuka_ops.sql import catalog

LeftKind = Literal["invalid_index", "unvalidated_constraint", "unindexed_foreign_key"]

_WORDS: dict[LeftKind, str] = {
    "invalid_index": "index {object} is invalid: every write keeps it up to date, and no query uses it",
    "unvalidated_constraint": "constraint {object} is NOT VALID: rows from before it may break it",
    "unindexed_foreign_key": "no index serves the foreign key {object}: each delete of a row that it refers to reads"
    " the whole table",
}
_BLOCKS = ("left_invalid_indexes", "left_unvalidated_constraints", "left_unindexed_foreign_keys")


@dataclass(frozen=True, slots=True)
class Left:
    """Something unfinished. `object` is its name as SQL, `remedy` the statement that finishes or removes it."""

    kind: LeftKind
    object: str
    remedy: str

    def words(self) -> str:
        """Say what it is, and what to do.

        >>> Left("invalid_index", "public.ix", "reindex index concurrently public.ix").words()
        'index public.ix is invalid: every write keeps it up to date, and no query uses it. Remedy: reindex index \
concurrently public.ix'
        """
        return f"{_WORDS[self.kind].format(object=self.object)}. Remedy: {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a report."""
        return {"kind": self.kind, "object": self.object, "remedy": self.remedy, "summary": self.words()}


def look(connection: Connection) -> frozenset[Left]:
    """Return all that is unfinished now, in every schema of the application. Errors: `DatabaseError`."""
    major = engines.server_major(connection)
    blocks = catalog.load("chanuka_ops.migrator")
    return frozenset(
        Left(row.kind, row.object, row.remedy)
        for name in _BLOCKS
        for row in connection.execute(text(blocks.sql(name, major)))
    )


def compare(before: Collection[Left], after: Collection[Left]) -> tuple[Left, ...]:
    """Return what is unfinished after and wasn't before, by kind and name.

    >>> old, new = Left("invalid_index", "a", "…"), Left("invalid_index", "b", "…")
    >>> [left.object for left in compare([old], [new, old])]
    ['b']
    """
    known = {(left.kind, left.object) for left in before}
    new = (left for left in after if (left.kind, left.object) not in known)
    return tuple(sorted(new, key=lambda left: (left.kind, left.object)))

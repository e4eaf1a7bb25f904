"""The nouns of the data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """How one table is filled: a statement for a range of keys. `keys` and `rows` are those of one unit of scale.

    A bill's versions, say, are made by the number of the bill: 600 keys a unit, 1,500 rows.
    """

    name: str
    keys: int
    rows: int
    batch: int


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be done for a table: keys `first` to `last`, of which `missing` rows are not there yet."""

    table: Table
    first: int
    last: int
    missing: int


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """What is in the database now. `created`: this run added rows."""

    tables: dict[str, int]
    seconds: float
    created: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as a document."""
        return {"tables": dict(self.tables), "seconds": self.seconds, "created": self.created}

"""What of a database a backup holds: the settings' filters, resolved to names in the backup's own snapshot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Selection:
    """The schemas, relations and tables' rows that are backed up; None stands for all there are.

    Names are as the server quotes them: `public`, `public.bills`, `"Odd"."Name"`.
    """

    schemas: frozenset[str] | None = None
    relations: frozenset[str] | None = None
    without_rows: frozenset[str] = frozenset()

    def has_rows(self, table: str) -> bool:
        """Whether a table's rows are in the backup."""
        return self.has_object(None, table) and table not in self.without_rows

    def has_object(self, schema: str | None, relation: str | None) -> bool:
        """Whether an object is in the backup: one of a relation by its relation, any other by its schema.

        One that belongs to neither (an extension, a publication) is in it only where nothing is filtered.
        """
        if relation is not None:
            return self.relations is None or relation in self.relations
        if schema is not None:
            return self.schemas is None or schema in self.schemas
        return self.schemas is None and self.relations is None


EVERYTHING = Selection()

"""A connection that isn't one: what a revision gets that asks its database while it is rendered without one.

It knows two databases: one in which nothing is there, and one in which each table is there, without the columns that
are asked for. A revision that looks before it acts shows in one of them what it does, and every question is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

from sqlalchemy import inspection
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import ClauseElement

Take = Callable[[str], None]


class Pretended:
    """A connection to nowhere. `full`: every table that is asked for is there."""

    name = "postgresql"

    def __init__(self, dialect: Dialect, take: Take, *, full: bool) -> None:
        self.dialect = dialect
        self.engine = self
        self.full = full
        self.asked = 0
        self._take = take

    def execute(self, statement: Any, *_: Any, **__: Any) -> Nothing:
        """Take a statement's text; its answer is empty."""
        if isinstance(statement, ClauseElement):
            statement = statement.compile(dialect=self.dialect, compile_kwargs={"literal_binds": True})
        self._take(f"{str(statement).strip()};")
        self.asked += 1
        return Nothing()

    exec_driver_sql = scalar = scalars = execute

    def connect(self, **_: Any) -> Self:
        """Be the connection of one's own engine, and its transaction."""
        return self

    begin = begin_nested = execution_options = connect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End nothing."""

    def close(self) -> None:
        """End nothing."""

    commit = rollback = close

    def in_transaction(self) -> bool:
        """Say that one is open, as there is in a migration."""
        return True


class Nothing:
    """The answer to a query: no row."""

    rowcount = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False

    def fetchall(self) -> list[Any]:
        """Return no row."""
        return []

    def fetchmany(self, _: int = 0) -> list[Any]:
        """Return no row."""
        return []

    all = mappings = scalars = fetchall

    def first(self) -> None:
        """Return no row."""

    fetchone = scalar = scalar_one_or_none = one_or_none = first


class Everything(list[Any]):
    """A list of names that holds whatever it is asked for."""

    def __contains__(self, _: object) -> bool:
        return True


class Looker:
    """An inspector: lists of tables are full or empty, all others are empty."""

    default_schema_name = "public"

    def __init__(self, connection: Pretended) -> None:
        self._connection = connection
        self.dialect = connection.dialect
        self.bind = self.engine = connection

    def _tables(self, *_: Any, **__: Any) -> list[Any]:
        self._connection.asked += 1
        return Everything() if self._connection.full else []

    get_table_names = get_view_names = get_schema_names = _tables

    def has_table(self, *_: Any, **__: Any) -> bool:
        """Say whether a table is there."""
        return bool(self._tables() != [] or self._connection.full)

    def has_index(self, *_: Any, **__: Any) -> bool:
        """Say that no index is there."""
        self._connection.asked += 1
        return False

    def get_pk_constraint(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return a key without columns."""
        self._connection.asked += 1
        return {"constrained_columns": [], "name": None}

    def _none(self, *_: Any, **__: Any) -> list[Any]:
        self._connection.asked += 1
        return []

    get_columns = get_indexes = get_foreign_keys = get_unique_constraints = get_check_constraints = _none
    get_enums = get_sequence_names = _none


def install() -> None:
    """Let `sqlalchemy.inspect()` know such a connection."""
    inspection._inspects(Pretended)(Looker)  # noqa: SLF001 - the one door there is; SQLAlchemy's own dialects use it

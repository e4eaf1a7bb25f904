"""The catalogue of a live server, read in one snapshot: what a script alone can't tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.lint import grammar
from chanuka_ops.migrator.lint.catalogue import (
    Catalogue,
    Column,
    Constraint,
    Index,
    Routine,
    Table,
    Type,
    UserType,
    type_of,
)
from chanuka_ops.sql import catalog


def look(manager: ConnectionManager) -> Catalogue:
    """Read what lint wants to know of a database: only catalogues, no table of the user's.

    Errors: `DatabaseError`.
    """
    with manager.read() as connection:
        return _Reading(connection).catalogue()


class _Reading:
    """One snapshot's answers, put together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        [server] = self._rows("lint_server")
        self._server = server
        self._path = tuple(server.path)

    def catalogue(self) -> Catalogue:
        relations = self._rows("lint_relations")
        columns = self._grouped("lint_columns", self._column)
        constraints = self._grouped("lint_constraints", self._constraint)
        indexes = self._grouped("lint_indexes", _index)
        readers, users = self._readers(), self._users()
        tables = {
            table.name: replace(
                table,
                columns={column.name: column for column in columns[table.name]},
                constraints={constraint.name: constraint for constraint in constraints[table.name]},
                indexes={index.name: index for index in indexes[table.name]},
                read_by=readers[table.name],
                named_by=users[table.name],
            )
            for table in map(self._table, relations)
        }
        return Catalogue(
            int(self._server.major),
            tables,
            {kind.name: kind for kind in map(self._type, self._rows("lint_types"))},
            {routine.name: routine for routine in map(self._routine, self._rows("lint_routines"))},
            str(self._server.time_zone),
            self._path,
            frozenset(row.name for row in self._rows("lint_volatile_builtins")),
            self._needed(),
        )

    def _rows(self, block: str) -> Sequence[Any]:
        return self._connection.execute(text(catalog.load("chanuka_ops.migrator").sql(block))).all()

    def _grouped(self, block: str, make: Any) -> defaultdict[str, list[Any]]:
        groups: defaultdict[str, list[Any]] = defaultdict(list)
        for row in self._rows(block):
            groups[self._name(row.schema, row.relation)].append(make(row))
        return groups

    def _name(self, schema: str | None, name: str | None) -> str:
        if name is None:
            return ""
        return name if schema in self._path else f"{schema}.{name}"

    def _table(self, row: Any) -> Table:
        return Table(
            self._name(row.schema, row.name),
            row.kind,
            whole=True,
            parent=self._name(row.parent_schema, row.parent) or None,
            default_partition=self._name(row.default_schema, row.default_partition) or None,
            partition_key=tuple(row.partition_key or ()),
            policies=row.policies,
            unlogged=row.persistence == "u",
            populated=row.populated,
            access_method=row.access_method,
            tablespace=row.tablespace,
        )

    def _column(self, row: Any) -> Column:
        kind = _written(row.type)
        return Column(
            row.name, kind, row.not_null, bool(row.generated), virtual=row.generated == "v", collation=row.collation
        )

    def _constraint(self, row: Any) -> Constraint:
        reference = self._name(row.references_schema, row.references_relation) or None
        expr = _check(row.definition) if row.definition else None
        columns, referred = tuple(row.columns or ()), tuple(row.referred or ())
        return Constraint(row.name, row.kind, row.valid, columns, expr, reference, referred)

    def _readers(self) -> defaultdict[str, dict[str, frozenset[str]]]:
        readers: defaultdict[str, dict[str, frozenset[str]]] = defaultdict(dict)
        for row in self._rows("lint_view_columns"):
            views = readers[self._name(row.schema, row.relation)]
            view = self._name(row.view_schema, row.view)
            views[view] = views.get(view, frozenset()) | {row.column}
        return readers

    def _needed(self) -> dict[tuple[str, str], tuple[tuple[str, str], ...]]:
        needed: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for row in self._rows("lint_needed"):
            user = row.dependent, self._name(row.user_schema, row.user_relation)
            needed[row.kind, self._name(row.schema, row.name)].append(user)
        return {key: tuple(users) for key, users in needed.items()}

    def _users(self) -> defaultdict[str, dict[str, frozenset[str]]]:
        users: defaultdict[str, dict[str, frozenset[str]]] = defaultdict(dict)
        for row in self._rows("lint_column_users"):
            of_table = users[self._name(row.schema, row.relation)]
            of_table[row.used_by] = of_table.get(row.used_by, frozenset()) | {row.column}
        return users

    def _type(self, row: Any) -> UserType:
        columns = tuple(self._unqualified(row.columns or ()))
        base = _written(row.base) if row.base else None
        return UserType(
            self._name(row.schema, row.name), row.kind, base, row.constrained, columns=columns, known_columns=True
        )

    def _unqualified(self, columns: Sequence[str]) -> Iterator[str]:
        for column in columns:
            schema, _, rest = column.partition(".")
            yield rest if schema in self._path else column

    def _routine(self, row: Any) -> Routine:
        name = self._name(row.schema, row.name)
        return Routine(name, row.volatility, row.language, row.body, row.definition, guarded=row.guarded)


def _index(row: Any) -> Index:
    uses = frozenset(row.uses or ()) | {column for column in row.columns or () if column}
    columns = tuple(row.columns or ())
    return Index(row.name, columns, row.is_unique, row.partial, row.valid, uses, row.tablespace)


@cache
def _written(kind: str) -> Type | None:
    """Return a type from how format_type writes it."""
    try:
        cast = grammar.expression(f"NULL::{kind}")
    except grammar.SyntaxFault:
        return None
    return type_of(cast.type_name)


def _check(definition: str) -> Any:
    try:
        [statement] = grammar.parse(f"ALTER TABLE t ADD {definition}")
    except grammar.SyntaxFault:
        return None
    return statement.cmds[0].parts["def"].raw_expr

"""What is known of the database that a script is for: nouns, read from a server or gathered from earlier statements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from chanuka_ops.migrator.lint.tree import Node, function_name, literal, not_null_columns

# The names of the grammar and of SQL to those of pg_type.
_ALIASES = {
    "integer": "int4", "int": "int4", "bigint": "int8", "smallint": "int2", "boolean": "bool", "decimal": "numeric",
    "real": "float4", "double precision": "float8", "character varying": "varchar", "character": "bpchar",
    "timestamp without time zone": "timestamp", "timestamp with time zone": "timestamptz",
    "time without time zone": "time", "time with time zone": "timetz", "bit varying": "varbit",
}  # fmt: skip
_SERIAL = {"serial": "int4", "serial4": "int4", "bigserial": "int8", "serial8": "int8", "smallserial": "int2",
           "serial2": "int2"}  # fmt: skip

Empty: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Type:
    """A type as a column has it: pg_type's name (the schema in front where it isn't on the path), and its modifiers."""

    name: str
    mods: tuple[int, ...] = ()
    array: bool = False

    def __str__(self) -> str:
        """Return it as one would write it."""
        mods = f"({','.join(map(str, self.mods))})" if self.mods else ""
        return f"{self.name}{mods}{'[]' if self.array else ''}"


def type_of(node: Node | None) -> Type | None:
    """Return a type of the grammar; None where there is none."""
    if node is None or node.tag != "TypeName":
        return None
    names = [str(part) for part in node.names or () if part not in ("pg_catalog", "public")]
    name = ".".join(names)
    mods = tuple(value for part in node.typmods or () if isinstance(value := literal(part), int))
    name = _SERIAL.get(name, _ALIASES.get(name, name))
    return Type(name, mods, array=bool(node.array_bounds))


def is_serial(node: Node | None) -> bool:
    """Tell whether the type is one of the serial ones."""
    return node is not None and any(part in _SERIAL for part in node.names or ())


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `type` is None where it isn't known."""

    name: str
    type: Type | None = None
    not_null: bool = False
    generated: bool = False
    virtual: bool = False
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint of a table or a domain: c check, f foreign key, u unique, p primary key, x exclusion, n not null."""

    name: str
    kind: str
    valid: bool = True
    columns: tuple[str, ...] = ()
    expr: Any = None
    references: str | None = None
    referred: tuple[str, ...] = ()
    """The columns there; none where the primary key is meant."""

    @property
    def proves_not_null(self) -> frozenset[str]:
        """The columns that it proves to hold no null."""
        if not self.valid:
            return frozenset()
        if self.kind in ("n", "p"):
            return frozenset(self.columns)
        return not_null_columns(self.expr) if self.kind == "c" else frozenset()


@dataclass(frozen=True, slots=True)
class Index:
    """An index: `columns` holds names, and "" for an expression; `uses` every column, of expressions and WHERE too."""

    name: str
    columns: tuple[str, ...] = ()
    unique: bool = False
    partial: bool = False
    valid: bool = True
    uses: frozenset[str] = frozenset()
    tablespace: str | None = None

    def rebuilt_with(self, column: str) -> bool:
        """Tell whether it is built anew whenever the column's type is touched: it has an expression or a WHERE."""
        return column in self.uses and (self.partial or "" in self.columns)


RelationKind = Literal["r", "p", "v", "m", "f", "S", "c"]


@dataclass(frozen=True, slots=True)
class Table:
    """A relation. `whole`: all its columns are known. `fresh`: this script made it, so nobody else uses it yet.

    `filled`: it is fresh, and has as many rows as a query or a load gave it. `unlogged`: None where it isn't known.
    """

    name: str
    kind: RelationKind = "r"
    columns: Mapping[str, Column] = field(default_factory=lambda: Empty)
    constraints: Mapping[str, Constraint] = field(default_factory=lambda: Empty)
    indexes: Mapping[str, Index] = field(default_factory=lambda: Empty)
    whole: bool = False
    fresh: bool = False
    temporary: bool = False
    parent: str | None = None
    default_partition: str | None = None
    partition_key: tuple[str, ...] = ()
    read_by: Mapping[str, frozenset[str]] = field(default_factory=lambda: Empty)
    """For each view, the columns that it reads."""
    named_by: Mapping[str, frozenset[str]] = field(default_factory=lambda: Empty)
    """For each trigger, policy and generated column of it, the columns that it names."""
    policies: int = 0
    filled: bool = False
    unlogged: bool | None = None
    populated: bool = True
    access_method: str | None = None
    tablespace: str | None = None

    def not_null(self, column: str) -> bool:
        """Tell whether the column is known to hold no null."""
        if any(column in constraint.proves_not_null for constraint in self.constraints.values()):
            return True
        known = self.columns.get(column)
        # from PostgreSQL 18 on a column is marked NOT NULL also by a constraint that is NOT VALID
        doubt = any(c.kind == "n" and not c.valid and column in c.columns for c in self.constraints.values())
        return known is not None and known.not_null and not doubt

    def with_column(self, column: Column) -> Table:
        """Return it with a column added or changed."""
        return replace(self, columns={**self.columns, column.name: column})

    def with_constraint(self, constraint: Constraint) -> Table:
        """Return it with a constraint added or changed."""
        return replace(self, constraints={**self.constraints, constraint.name: constraint})

    def with_index(self, index: Index) -> Table:
        """Return it with an index added."""
        return replace(self, indexes={**self.indexes, index.name: index})


@dataclass(frozen=True, slots=True)
class UserType:
    """A type made by users: e enum, d domain, c composite. `columns` use it, as "table.column"."""

    name: str
    kind: str
    base: Type | None = None
    constrained: bool = False
    constraints: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()
    known_columns: bool = False
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Routine:
    """A function or procedure made by users: its volatility (i, s, v), its language, its body, where they are known.

    `definition` is the whole CREATE statement; `guarded`: it has settings or its owner's rights, so it isn't inlined.
    """

    name: str
    volatility: str = "v"
    language: str = ""
    body: str = ""
    definition: str = ""
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The whole of it. `version` is the server's major; `time_zone` what a session of the migration has."""

    version: int
    tables: Mapping[str, Table] = field(default_factory=lambda: Empty)
    types: Mapping[str, UserType] = field(default_factory=lambda: Empty)
    routines: Mapping[str, Routine] = field(default_factory=lambda: Empty)
    time_zone: str | None = None
    path: tuple[str, ...] = ("public",)
    builtin_volatile: frozenset[str] = frozenset()
    needed: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """For ("function", name) or ("sequence", name): what needs it, each with the relation that it is of."""


def calls(tree: Any) -> list[str]:
    """Return the names of the functions that an expression calls."""
    names: list[str] = []
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif isinstance(item, Node):
            if item.tag == "FuncCall":
                names.append(function_name(item))
            stack.extend(item.parts.values())
    return names

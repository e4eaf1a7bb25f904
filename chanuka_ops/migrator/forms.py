"""What `migrate new` writes for each kind of change: the safe form, and its downgrade. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from chanuka_ops.errors import ConfigurationError
from chanuka_ops.migrator.model import Phase
from chanuka_ops.migrator.operations.rules import fitted

Kind = Literal[
    "empty", "index", "column", "not-null", "foreign-key", "check", "backfill", "drop-column", "drop-table", "unique",
    "enum-value",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
LINE = 120
INDENT = "    "
RETIRED = "_retired"

_NAME = re.compile(r"^[a-z][a-z0-9]*(?:_[a-z0-9]+)*$")
_PLAIN = re.compile(r"^[a-z_][a-z0-9_]*$")
_NOTHING = '"""Nothing is to be undone: {why}."""'


@dataclass(frozen=True, slots=True)
class Request:
    """What a revision is asked to do; what its kind doesn't need is left out."""

    name: str
    kind: Kind = "empty"
    table: str | None = None
    schema: str | None = None
    columns: tuple[str, ...] = ()
    type_: str | None = None
    value: str | None = None
    condition: str | None = None
    references: str | None = None
    referenced_columns: tuple[str, ...] = ("id",)
    completes: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """A revision's words: its docstring's first line, and the lines of its two functions."""

    doc: str
    upgrade: tuple[str, ...]
    downgrade: tuple[str, ...]
    phase: Phase | None = None


def form(request: Request) -> Form:
    """Return what to write.

    Errors: `ConfigurationError` naming the option that this kind needs, or a name that is none.
    """
    if not _NAME.match(request.name):
        raise ConfigurationError(
            f"{request.name!r} is no name for a revision: small letters, digits and _, as add_title"
        )
    if request.completes is not None and not request.kind.startswith("drop-"):
        raise ConfigurationError(f"--completes is for what takes something away (drop-column), not for {request.kind}")
    return _FORMS[request.kind](request)


def text(value: object) -> str:
    r"""Write a string as Python has it, in double quotes; None is None.

    >>> text('a "b"'), text(None)
    ('"a \\"b\\""', 'None')
    """
    return "None" if value is None else json.dumps(value, ensure_ascii=False)


def sql_name(name: str) -> str:
    """Write a name as SQL, in quotes where it needs them.

    >>> sql_name("bills"), sql_name("Bills")
    ('bills', '"Bills"')
    """
    return name if _PLAIN.match(name) else '"' + name.replace('"', '""') + '"'


def _call(function: str, *arguments: str, **named: str) -> str:
    """Write a call as the formatter would: on one line, or an argument a line."""
    words = [*arguments, *(f"{name}={value}" for name, value in named.items())]
    one = f"{function}({', '.join(words)})"
    if len(INDENT + one) <= LINE:
        return one
    inner = ", ".join(words)
    if len(2 * INDENT + inner) <= LINE:
        return f"{function}(\n{2 * INDENT}{inner}\n{INDENT})"
    return f"{function}(\n" + "".join(f"{2 * INDENT}{word},\n" for word in words) + f"{INDENT})"


def _operation(request: Request, name: str, *arguments: str, **named: str) -> str:
    schema = {"schema": text(request.schema)} if request.schema else {}
    return _call(f"ops.{name}", *arguments, **named, **schema)


def _qualified(request: Request, name: str) -> str:
    return f"{sql_name(request.schema)}.{sql_name(name)}" if request.schema else sql_name(name)


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(text(value) for value in values)}]"


def _execute(sql: str) -> str:
    return _call("op.execute", text(sql))


def _table(request: Request) -> str:
    if not request.table:
        raise ConfigurationError(f"a revision of kind {request.kind} needs --table")
    return request.table


def _columns(request: Request) -> tuple[str, ...]:
    if not request.columns:
        raise ConfigurationError(f"a revision of kind {request.kind} needs --column")
    return request.columns


def _column(request: Request) -> str:
    columns = _columns(request)
    if len(columns) > 1:
        raise ConfigurationError(f"a revision of kind {request.kind} is about one --column, not {len(columns)}")
    return columns[0]


def _option(request: Request, value: str | None, option: str, example: str) -> str:
    if not value:
        raise ConfigurationError(f"a revision of kind {request.kind} needs {option}, as {option} {example}")
    return value


def _empty(request: Request) -> Form:
    doc = request.name.replace("_", " ").capitalize() + "."
    return Form(doc, ('"""Say here what is to change."""',), ('"""Say here how it is changed back."""',))


def _index(request: Request) -> Form:
    table, columns = _table(request), _columns(request)
    name = fitted("_".join([table, *columns, "idx"]))
    return Form(
        f"An index on {table} ({', '.join(columns)}), built without blocking writers.",
        (_operation(request, "concurrent_index", text(name), text(table), _list(columns)),),
        (_operation(request, "drop_concurrent_index", text(name), text(table)),),
    )


def _add_column(request: Request) -> Form:
    table, column = _table(request), _column(request)
    kind = _option(request, request.type_, "--type", "text")
    return Form(
        f"The column {column} of {table}; nullable, so that no row is rewritten.",
        (_execute(f"alter table {_qualified(request, table)} add column {sql_name(column)} {kind}"),),
        (_execute(f"alter table {_qualified(request, table)} drop column {sql_name(column)}"),),
        "expand",
    )


def _not_null(request: Request) -> Form:
    table, column = _table(request), _column(request)
    return Form(
        f"{table}.{column} is never null; proved without blocking.",
        (_operation(request, "set_not_null", text(table), text(column)),),
        (_operation(request, "drop_not_null", text(table), text(column)),),
    )


def _foreign_key(request: Request) -> Form:
    table, columns = _table(request), _columns(request)
    there = _option(request, request.references, "--references", "bills")
    if len(request.referenced_columns) != len(columns):
        raise ConfigurationError("a foreign key has as many --referenced-column as --column")
    name, index = (fitted("_".join([table, *columns, suffix])) for suffix in ("fkey", "idx"))
    return Form(
        f"{table} ({', '.join(columns)}) refers to {there}; proved without blocking, and indexed.",
        (
            "# Without an index each deletion in the other table would read all of this one.",
            _operation(request, "concurrent_index", text(index), text(table), _list(columns)),
            _operation(request, "add_foreign_key", text(name), text(table), _list(columns), text(there),
                _list(request.referenced_columns),
            ),
        ),
        (
            _operation(request, "drop_constraint", text(name), text(table)),
            _operation(request, "drop_concurrent_index", text(index), text(table)),
        ),
    )  # fmt: skip


def _check(request: Request) -> Form:
    table = _table(request)
    condition = _option(request, request.condition, "--condition", "'length(title) > 0'")
    name = fitted(f"{table}_{request.name}")
    return Form(
        f"A condition that every row of {table} meets; proved without blocking.",
        (_operation(request, "add_check", text(name), text(table), text(condition)),),
        (_operation(request, "drop_constraint", text(name), text(table)),),
    )


def _backfill(request: Request) -> Form:
    table, column = _table(request), _column(request)
    value = _option(request, request.value, "--value", "'lower(title)'")
    where = request.condition or f"{sql_name(column)} is null"
    return Form(
        f"Fills in {table}.{column} of the rows there are, in batches.",
        (
            "# Rows that are written from now on are filled in by the new code, a default or a trigger.",
            _operation(request, "backfill", text(table), f"{{{text(column)}: {text(value)}}}", where=text(where)),
        ),
        (_NOTHING.format(why="what was filled in does no harm"),),
    )


def _drop_column(request: Request) -> Form:
    table, column = _table(request), _column(request)
    kind = _option(request, request.type_, "--type", "text (for the downgrade)")
    return Form(
        f"Drops {table}.{column}, which no running code reads or writes any more.",
        (_execute(f"alter table {_qualified(request, table)} drop column {sql_name(column)}"),),
        (
            "# The column comes back empty: what it held is in the backups only.",
            _execute(f"alter table {_qualified(request, table)} add column {sql_name(column)} {kind}"),
        ),
        "contract",
    )


def _drop_table(request: Request) -> Form:
    """A table is renamed first: who still uses it is found out while nothing is lost."""
    table = _table(request)
    if table.endswith(RETIRED):
        return Form(
            f"Drops {table}, which was retired and not missed.",
            (_execute(f"drop table if exists {_qualified(request, table)}"),),
            (_NOTHING.format(why="the table is in the backups only"),),
            "contract",
        )
    retired = fitted(f"{table}{RETIRED}")
    return Form(
        f"Retires {table}: renamed, so that who still uses it is found out while nothing is lost.",
        (
            "# To drop it in a later release: chanuka-ops migrate new … --kind drop-table --table",
            f"# {retired}",
            _execute(f"alter table if exists {_qualified(request, table)} rename to {sql_name(retired)}"),
        ),
        (_execute(f"alter table if exists {_qualified(request, retired)} rename to {sql_name(table)}"),),
        "contract",
    )


def _unique(request: Request) -> Form:
    table, columns = _table(request), _columns(request)
    name = fitted("_".join([table, *columns, "key"]))
    return Form(
        f"{table} ({', '.join(columns)}) is unique; its index is built without blocking writers.",
        (_operation(request, "add_unique", text(name), text(table), _list(columns)),),
        (_operation(request, "drop_constraint", text(name), text(table)),),
    )


def _enum_value(request: Request) -> Form:
    kind = _option(request, request.type_, "--type", "bill_status")
    value = _option(request, request.value, "--value", "archived")
    literal = "'" + value.replace("'", "''") + "'"
    return Form(
        f"The value {value} of {kind}.",
        (
            "# It can be used from the next revision on: not in the transaction that adds it.",
            _execute(f"alter type {_qualified(request, kind)} add value if not exists {literal}"),
        ),
        (_NOTHING.format(why="a type keeps its values, and one that no row has does no harm"),),
        "expand",
    )


_FORMS: dict[Kind, Callable[[Request], Form]] = {
    "empty": _empty,
    "index": _index,
    "column": _add_column,
    "not-null": _not_null,
    "foreign-key": _foreign_key,
    "check": _check,
    "backfill": _backfill,
    "drop-column": _drop_column,
    "drop-table": _drop_table,
    "unique": _unique,
    "enum-value": _enum_value,
}

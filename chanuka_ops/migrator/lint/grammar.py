"""PostgreSQL's own grammar. The one module that knows the parser: its trees become `tree.Node` here.

libpg_query is the parser of PostgreSQL 18: what only 19 has (REPACK) it doesn't know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import postgast
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chanuka_ops.errors import ChanukaError
from chanuka_ops.migrator.lint.tree import Node

_SPOTS = frozenset({"location", "stmt_location", "stmt_len", "rexpr_list_start", "rexpr_list_end"})


class SyntaxFault(ChanukaError):
    """A statement that PostgreSQL's parser doesn't accept. `offset` counts characters from the statement's first."""

    exit_code = 2

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Routine:
    """What a PL/pgSQL body sends, in its order: ("static" | "dynamic" | "expression" | "commit", SQL, line).

    `constants`: the variables that are given one value only, each with its expression.
    """

    steps: tuple[tuple[str, str, int], ...]
    constants: Mapping[str, str]


def parse(sql: str) -> tuple[Node, ...]:
    """Parse statements.

    Errors: `SyntaxFault`.
    """
    try:
        result = postgast.parse(sql)
    except postgast.PgQueryError as error:
        raise SyntaxFault(str(error), max(0, error.cursorpos - 1)) from None
    return tuple(_plain(raw.stmt) for raw in result.stmts)


def expression(sql: str) -> Any:
    """Parse an expression, as a SELECT's only column.

    Errors: `SyntaxFault`.
    """
    [statement] = parse(f"SELECT {sql}")
    targets: tuple[Node, ...] = statement.target_list or ()
    return targets[0].val if len(targets) == 1 else statement


def routine(sql: str) -> Routine | None:
    """Return what the body of a DO block or of a PL/pgSQL function holds, or None where it can't be read."""
    try:
        functions = postgast.parse_plpgsql(sql)
    except (postgast.PgQueryError, ValueError):  # the parser writes no valid JSON of some assignments to NEW.column
        return None
    steps: list[tuple[str, str, int]] = []
    constants: dict[str, str] = {}
    for function in functions:
        _steps(function, 0, steps)
        constants |= _constants(function)
    return Routine(tuple(steps), constants)


def _plain(message: Message) -> Any:
    kind = message.DESCRIPTOR.name
    if kind == "Node":
        chosen = message.WhichOneof("node")
        return None if chosen is None else _plain(getattr(message, chosen))
    if kind in _LEAVES:
        return getattr(message, _LEAVES[kind])
    if kind == "List":
        return tuple(_plain(item) for item in getattr(message, "items"))  # noqa: B009 - messages are made at run time
    fields = {field.name: _value(field, value) for field, value in message.ListFields() if field.name not in _SPOTS}
    if kind == "A_Const":
        fields = {"value": next((value for name, value in fields.items() if name != "isnull"), None)}
        if not message.ListFields():
            fields = {"value": 0}
    return Node(kind, fields)


_LEAVES = {"String": "sval", "Integer": "ival", "Float": "fval", "Boolean": "boolval", "BitString": "bsval"}


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if isinstance(value, Message):
            return _plain(value)
        return tuple(_plain(item) for item in value)
    if field.type == FieldDescriptor.TYPE_ENUM and field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value


_DYNAMIC = {"PLpgSQL_stmt_dynexecute": "query", "PLpgSQL_stmt_dynfors": "query"}


def _steps(part: Any, line: int, steps: list[tuple[str, str, int]]) -> None:
    if isinstance(part, list):
        for item in part:
            _steps(item, line, steps)
        return
    if not isinstance(part, dict):
        return
    for name, inner in part.items():
        here = inner.get("lineno", line) if isinstance(inner, dict) else line
        if name in _DYNAMIC:
            steps.append(("dynamic", _query(inner.get("query")), here))
            _steps({key: value for key, value in inner.items() if key != "query"}, here, steps)
        elif name == "PLpgSQL_stmt_return_query" and "dynquery" in inner:
            steps.append(("dynamic", _query(inner["dynquery"]), here))
        elif name in ("PLpgSQL_stmt_commit", "PLpgSQL_stmt_rollback"):
            steps.append(("commit", "", here))
        elif name == "PLpgSQL_expr":
            static = inner.get("parseMode", 0) == 0
            steps.append(("static" if static else "expression", str(inner.get("query", "")), line))
        else:
            _steps(inner, here, steps)


_ASSIGNED = re.compile(r"\s*\w+\s*:?=")


def _constants(function: Any) -> dict[str, str]:
    """Return what is declared, or assigned, once: loops, INTO and GET DIAGNOSTICS give other values."""
    inner = function["PLpgSQL_function"]
    variables = [datum.get("PLpgSQL_var", {}) for datum in inner.get("datums", ())]
    values: dict[int, list[str | None]] = {
        number: [_query(variable["default_val"])]
        for number, variable in enumerate(variables)
        if "default_val" in variable
    }
    _values(inner, values)
    return {
        variables[number]["refname"]: given[0]
        for number, given in values.items()
        if len(given) == 1 and given[0] is not None and variables[number].get("refname")
    }


def _values(part: Any, values: dict[int, list[str | None]]) -> None:
    if isinstance(part, list):
        for item in part:
            _values(item, values)
    if not isinstance(part, dict):
        return
    for name, inner in part.items():
        if name == "PLpgSQL_stmt_assign":
            text = _query(inner.get("expr"))
            values.setdefault(inner["varno"], []).append(_ASSIGNED.sub("", text, count=1))
        elif name == "fields":
            for field in inner:
                values.setdefault(field["varno"], []).append(None)
        elif name == "PLpgSQL_stmt_foreach_a":
            values.setdefault(inner["varno"], []).append(None)
        elif name == "PLpgSQL_diag_item":
            values.setdefault(inner["target"], []).append(None)
        _values(inner, values)


def _query(expr: Any) -> str:
    return str(expr["PLpgSQL_expr"]["query"]) if expr else ""

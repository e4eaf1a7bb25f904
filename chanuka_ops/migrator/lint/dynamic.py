"""SQL that a body puts together when it runs: read where its parts are constants, else said to be unseen. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from chanuka_ops.migrator.lint import grammar
from chanuka_ops.migrator.lint.tree import Node, column_of, literal

NOTHING: Mapping[str, str] = MappingProxyType({})
PLACEHOLDER = "something_unseen"
_PART = re.compile(r"%(?:(?P<position>\d+)\$)?-?\d*(?P<kind>[ILs%])")


@dataclass(frozen=True, slots=True)
class Built:
    """What is executed, as far as it can be read. `whole`: nothing of it had to be guessed."""

    sql: str
    whole: bool


def built(expression: str, constants: Mapping[str, str] = NOTHING) -> Built | None:
    """Read the expression of an EXECUTE; None where nothing of it is a constant.

    `constants`: the variables that are given one value only, each with its expression.

    >>> built("format('drop table %I', t)", {"t": "'a'"})
    Built(sql='drop table a', whole=True)
    """
    try:
        tree = grammar.expression(expression)
    except grammar.SyntaxFault:
        return None
    return _text(tree, constants)


def _text(tree: Any, constants: Mapping[str, str]) -> Built | None:
    value = literal(tree)
    if isinstance(value, str | int):
        return Built(str(value), whole=True)
    if not isinstance(tree, Node):
        return None
    if tree.tag == "A_Expr" and tree.parts.get("name") == ("||",):
        left, right = _text(tree.lexpr, constants), _text(tree.rexpr, constants)
        if left is None and right is None:
            return None
        blank = Built(PLACEHOLDER, whole=False)
        left, right = left or blank, right or blank
        return Built(left.sql + right.sql, left.whole and right.whole)
    if tree.tag == "FuncCall":
        return _call(tree, constants)
    return _text(tree.arg, constants) if tree.tag == "TypeCast" else _variable(tree, constants)


def _variable(tree: Node, constants: Mapping[str, str]) -> Built | None:
    name = column_of(tree) if tree.tag == "ColumnRef" else None
    if name is None or name not in constants:
        return None
    others = {key: value for key, value in constants.items() if key != name}  # a value isn't made of itself
    return built(constants[name], others)


def _call(tree: Node, constants: Mapping[str, str]) -> Built | None:
    name, arguments = str((tree.funcname or ("",))[-1]), tree.args or ()
    if name == "quote_ident" and arguments:
        return _text(arguments[0], constants)
    if name == "concat":
        parts = [_text(argument, constants) or Built(PLACEHOLDER, whole=False) for argument in arguments]
        return Built("".join(part.sql for part in parts), all(part.whole for part in parts))
    if name != "format" or not arguments or not isinstance(literal(arguments[0]), str):
        return None
    return _formatted(str(literal(arguments[0])), arguments[1:], constants)


def _formatted(form: str, arguments: tuple[Any, ...], constants: Mapping[str, str]) -> Built:
    whole, turn = True, 0

    def fill(match: re.Match[str]) -> str:
        nonlocal whole, turn
        if match["kind"] == "%":
            return "%"
        position = int(match["position"]) - 1 if match["position"] else turn
        turn = position + 1
        text = _text(arguments[position], constants) if position < len(arguments) else None
        if text is None or not text.whole:
            whole = False
            return "'something unseen'" if match["kind"] == "L" else PLACEHOLDER
        if match["kind"] == "L":
            return "'" + text.sql.replace("'", "''") + "'"
        return f'"{text.sql}"' if match["kind"] == "I" and not re.fullmatch(r"[a-z_]\w*", text.sql) else text.sql

    return Built(_PART.sub(fill, form), whole)

"""SQL that a body puts together when it runs: read where its parts are constants, else said to be unseen. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from chanuka_ops.migrator.lint import grammar
from chanuka_ops.migrator.lint.tree import Node, literal

PLACEHOLDER = "something_unseen"
_PART = re.compile(r"%(?:(?P<position>\d+)\$)?-?\d*(?P<kind>[ILs%])")


@dataclass(frozen=True, slots=True)
class Built:
    """What is executed, as far as it can be read. `whole`: nothing of it had to be guessed."""

    sql: str
    whole: bool


def built(expression: str) -> Built | None:
    """Read the expression of an EXECUTE; None where nothing of it is a constant.

    >>> built("format('drop table %I', 'a')")
    Built(sql='drop table a', whole=True)
    """
    try:
        tree = grammar.expression(expression)
    except grammar.SyntaxFault:
        return None
    return _text(tree)


def _text(tree: Any) -> Built | None:
    value = literal(tree)
    if isinstance(value, str | int):
        return Built(str(value), whole=True)
    if not isinstance(tree, Node):
        return None
    if tree.tag == "A_Expr" and tree.parts.get("name") == ("||",):
        left, right = _text(tree.lexpr), _text(tree.rexpr)
        if left is None and right is None:
            return None
        blank = Built(PLACEHOLDER, whole=False)
        left, right = left or blank, right or blank
        return Built(left.sql + right.sql, left.whole and right.whole)
    if tree.tag == "FuncCall":
        return _call(tree)
    return _text(tree.arg) if tree.tag == "TypeCast" else None


def _call(tree: Node) -> Built | None:
    name, arguments = str((tree.funcname or ("",))[-1]), tree.args or ()
    if name == "quote_ident" and arguments:
        return _text(arguments[0])
    if name == "concat":
        parts = [_text(argument) or Built(PLACEHOLDER, whole=False) for argument in arguments]
        return Built("".join(part.sql for part in parts), all(part.whole for part in parts))
    if name != "format" or not arguments or not isinstance(literal(arguments[0]), str):
        return None
    return _formatted(str(literal(arguments[0])), arguments[1:])


def _formatted(form: str, arguments: tuple[Any, ...]) -> Built:
    whole, turn = True, 0

    def fill(match: re.Match[str]) -> str:
        nonlocal whole, turn
        if match["kind"] == "%":
            return "%"
        position = int(match["position"]) - 1 if match["position"] else turn
        turn = position + 1
        text = _text(arguments[position]) if position < len(arguments) else None
        if text is None or not text.whole:
            whole = False
            return "'something unseen'" if match["kind"] == "L" else PLACEHOLDER
        if match["kind"] == "L":
            return "'" + text.sql.replace("'", "''") + "'"
        return f'"{text.sql}"' if match["kind"] == "I" and not re.fullmatch(r"[a-z_]\w*", text.sql) else text.sql

    return Built(_PART.sub(fill, form), whole)

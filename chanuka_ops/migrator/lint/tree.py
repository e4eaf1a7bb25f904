"""A parsed statement as plain data: what the rules read, whichever parser made it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """One node of PostgreSQL's grammar. A field that isn't there reads as None, a list that is empty too."""

    tag: str
    parts: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """Return a field of the grammar by its name."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self.parts.get(name)

    def __bool__(self) -> bool:
        """Be true: a node without fields is a node."""
        return True


def walk(tree: Any) -> Iterator[Node]:
    """Yield every node of a tree, the outer before the inner."""
    if isinstance(tree, Node):
        yield tree
        for value in tree.parts.values():
            yield from walk(value)
    elif isinstance(tree, tuple):
        for item in tree:
            yield from walk(item)


def found(tree: Any, tag: str) -> list[Node]:
    """Return the nodes of one kind."""
    return [node for node in walk(tree) if node.tag == tag]


def literal(tree: Any) -> Any:
    """Return the value of a constant, under casts too; None where it is no constant."""
    while isinstance(tree, Node) and tree.tag == "TypeCast":
        tree = tree.arg
    if isinstance(tree, Node) and tree.tag == "A_Const":
        return tree.value
    return None


def column_of(tree: Any) -> str | None:
    """Return the column's name where the expression is a column, under casts too."""
    while isinstance(tree, Node) and tree.tag in ("TypeCast", "RelabelType"):
        tree = tree.arg
    if isinstance(tree, Node) and tree.tag == "ColumnRef" and tree.parts.get("fields"):
        last = tree.parts["fields"][-1]
        return last if isinstance(last, str) else None
    return None


def conjuncts(tree: Any) -> Iterator[Node]:
    """Yield the conditions that all must hold: the parts of an AND, or the one there is."""
    if isinstance(tree, Node) and tree.tag == "BoolExpr" and tree.boolop == "AND_EXPR":
        for part in tree.args or ():
            yield from conjuncts(part)
    elif isinstance(tree, Node):
        yield tree


def not_null_columns(tree: Any) -> frozenset[str]:
    """Return the columns that a CHECK's expression proves to be not null."""
    return frozenset(name for part in conjuncts(tree) if (name := _not_null(part)))


def _not_null(part: Node) -> str | None:
    """Return the column that `x IS NOT NULL`, or `NOT (x IS NULL)`, is of."""
    wanted = "IS_NOT_NULL"
    if part.tag == "BoolExpr" and part.boolop == "NOT_EXPR" and part.args:
        part, wanted = part.args[0], "IS_NULL"
    return column_of(part.arg) if part.tag == "NullTest" and part.nulltesttype == wanted else None


def function_name(call: Node) -> str:
    """Return a call's function name, the schema in front unless it is pg_catalog."""
    parts = [part for part in call.funcname or () if part != "pg_catalog"]
    return ".".join(str(part) for part in parts)

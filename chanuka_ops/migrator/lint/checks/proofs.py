"""Whether CHECKs prove that a table's rows belong in a partition, or that none of them does. Pure.

A proof is read where the CHECK compares the partition key with constants; anything else is "maybe".
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from chanuka_ops.migrator.lint.catalogue import Table, type_of
from chanuka_ops.migrator.lint.tree import Node, column_of, conjuncts, found, literal

Proof = Literal["yes", "no", "maybe"]
_TURNED = {"<=": ">=", "<": ">", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}


@dataclass(frozen=True, slots=True)
class Fact:
    """What a valid CHECK says of the key: `operator` one of < <= >= > (of one value), = and <> (of any of some)."""

    operator: str
    values: tuple[Any, ...]


def proven(part: Table, parent: Table, bound: Node | None) -> Proof:
    """Tell whether the partition's valid CHECKs prove its bounds."""
    checks = list(_checks(part))
    if bound is None or not checks or bound.strategy == "h":
        return "no"
    key = _key(parent, checks)
    if bound.is_default or key is None:
        return "maybe"
    facts, all_read = _facts(checks, key)
    if not facts and all_read:
        return "no"
    within = _in_list(facts, bound) if bound.strategy == "l" else _in_range(facts, bound)
    if within and part.not_null(key):
        return "yes"
    return "no" if all_read and (part.whole or not within) else "maybe"


def excluded(rest: Table, parent: Table, bound: Node) -> Proof:
    """Tell whether the default partition's valid CHECKs prove that no row of it is within a new partition's bounds."""
    checks = list(_checks(rest))
    key = _key(parent, checks)
    if not checks:
        return "no"
    if key is None or bound.strategy == "h":
        return "maybe"
    facts, all_read = _facts(checks, key)
    if bound.strategy == "l":
        wanted = [_plain(literal(datum)) for datum in bound.listdatums or ()]
        outside = any(_outside_list(fact, wanted) for fact in facts)
    else:
        low, high = _edge(bound.lowerdatums), _edge(bound.upperdatums)
        outside = any(_outside_range(fact, low, high) for fact in facts)
    return "yes" if outside else "no" if all_read else "maybe"


def _checks(table: Table) -> Iterator[Node]:
    for constraint in table.constraints.values():
        if constraint.kind == "c" and constraint.valid:
            yield from conjuncts(constraint.expr)


def _key(parent: Table, checks: list[Node]) -> str | None:
    """Return the one column of the key; where the parent isn't known, the one that is compared."""
    if parent.partition_key or parent.whole:
        return parent.partition_key[0] if len(parent.partition_key) == 1 else None
    compared = [name for check in checks if check.tag == "A_Expr" for name in _names(check)]
    return compared[0] if compared else None


def _facts(checks: list[Node], key: str) -> tuple[list[Fact], bool]:
    """Return what is said of the key, and whether all that is said of it was understood."""
    about = [check for check in checks if key in _names(check) and not _beside(check, key)]
    facts = [_fact(check, key) for check in about]
    read = [fact for several in facts for fact in several]
    return read, all(facts)


def _beside(check: Node, key: str) -> bool:
    """Tell whether a condition can't be a proof: it is of a function of the key, or of the key's being null."""
    if check.tag == "NullTest":
        return True
    return check.tag == "A_Expr" and not any(_bare(side) == key for side in (check.lexpr, check.rexpr))


def _bare(tree: Any) -> str | None:
    """Return a column that is compared as it is; text's casts are none."""
    while isinstance(tree, Node) and tree.tag == "TypeCast":
        cast = type_of(tree.type_name)
        if cast is None or cast.name not in ("text", "varchar", "bpchar"):
            return None
        tree = tree.arg
    return column_of(tree) if isinstance(tree, Node) and tree.tag == "ColumnRef" else None


def _fact(check: Node, key: str) -> tuple[Fact, ...]:
    """Return what one condition says; nothing where it isn't understood."""
    kind = check.parts.get("kind") if check.tag == "A_Expr" else None
    if kind is None or not check.parts.get("name"):
        return ()
    operator, left, right = check.parts["name"][-1], check.lexpr, check.rexpr
    if kind == "AEXPR_BETWEEN" and column_of(left) == key:
        low, high = (_plain(literal(edge)) for edge in right)
        return () if low is None or high is None else (Fact(">=", (low,)), Fact("<=", (high,)))
    if kind == "AEXPR_OP" and column_of(left) != key:
        operator, left, right = _TURNED.get(operator, ""), right, left
    if column_of(left) != key or operator not in _TURNED or found(right, "ColumnRef"):
        return ()
    listed = kind in ("AEXPR_IN", "AEXPR_OP_ANY", "AEXPR_OP_ALL")
    if listed and operator != ("<>" if kind == "AEXPR_OP_ALL" or operator == "<>" else "="):
        return ()
    values = tuple(_plain(literal(value)) for value in (_elements(right) if listed else [right]))
    return () if None in values or not values else (Fact(operator, values),)


def _in_list(facts: list[Fact], bound: Node) -> bool:
    wanted = [_plain(literal(datum)) for datum in bound.listdatums or ()]
    return any(fact.operator == "=" and all(value in wanted for value in fact.values) for fact in facts)


def _in_range(facts: list[Fact], bound: Node) -> bool:
    low, high = _edge(bound.lowerdatums), _edge(bound.upperdatums)
    above = low is None or any(
        fact.operator in (">=", ">", "=") and all(_below(low, value, equal=True) for value in fact.values)
        for fact in facts
    )
    below = high is None or any(
        fact.operator in ("<", "<=", "=")
        and all(_below(value, high, equal=fact.operator == "<") for value in fact.values)
        for fact in facts
    )
    return above and below


def _outside_list(fact: Fact, wanted: list[Any]) -> bool:
    if fact.operator == "<>":
        return all(value in fact.values for value in wanted)
    return fact.operator == "=" and not any(value in fact.values for value in wanted)


def _outside_range(fact: Fact, low: Any, high: Any) -> bool:
    if fact.operator in ("<", "<="):
        return low is not None and _below(fact.values[0], low, equal=fact.operator == "<")
    if fact.operator in (">", ">="):
        return high is not None and _below(high, fact.values[0], equal=True)
    return fact.operator == "=" and all(
        (low is not None and _below(value, low, equal=False)) or (high is not None and _below(high, value, equal=True))
        for value in fact.values
    )


def _edge(datums: Any) -> Any:
    """Return a bound's constant; None for MINVALUE and MAXVALUE."""
    value: Any = literal(datums[0]) if datums else None
    if value is None and datums and column_of(datums[0]) in ("minvalue", "maxvalue"):
        return None
    return None if isinstance(value, str) and value.lower() in ("minvalue", "maxvalue") else _plain(value)


def _below(one: Any, other: Any, *, equal: bool) -> bool:
    """Tell whether a value is below another, or the same where `equal`; of different kinds none is."""
    if isinstance(one, str) is not isinstance(other, str) or isinstance(one, dt.datetime) is not isinstance(
        other, dt.datetime
    ):
        return False
    return bool(one < other or (equal and one == other))


def _plain(value: Any) -> Any:
    """Return a constant in the form that compares: a number, a moment, or text. Moments without a zone are in UTC."""
    if not isinstance(value, str):
        return value
    bare = value.strip()
    if re.fullmatch(r"-?\d+(\.\d+)?", bare):
        return float(bare) if "." in bare else int(bare)
    try:
        moment = dt.datetime.fromisoformat(bare)
    except ValueError:
        return bare
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def _elements(right: Any) -> Iterable[Any]:
    if isinstance(right, tuple):
        return right
    arrays = found(right, "A_ArrayExpr")
    return tuple(arrays[0].elements or ()) if arrays else (right,)


def _names(check: Node) -> set[str]:
    return {name for ref in found(check, "ColumnRef") if (name := column_of(ref))}

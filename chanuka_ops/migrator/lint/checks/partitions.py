"""Partitions: ATTACH, DETACH, PARTITION OF; and whether a CHECK proves that rows belong where they are to go."""

from __future__ import annotations

import re
from typing import Any, Literal

from chanuka_ops.migrator.lint.catalogue import Table
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node, column_of, conjuncts, found, literal
from chanuka_ops.migrator.lint.world import Effects, World

_MIDNIGHT = re.compile(r"[ T]00:00(:00)?(\.0+)?([+-]00(:?00)?)?$")


def attach(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ATTACH PARTITION; of an index, it is of the catalogue only."""
    part = cmd.parts["def"]
    name = world.name(part.name)
    fx.lock(table.name, Mode.SHARE_UPDATE_EXCLUSIVE)
    if world.used(name):
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
        proof = proven(world.table(name), table, part.bound)
        if proof != "yes":
            fx.hit("attach-scans" if proof == "no" else "attach-maybe-proven", name)
        mine = {(index.columns, index.unique) for index in world.table(name).indexes.values() if not index.partial}
        for index in table.indexes.values():
            if (index.columns, index.unique) not in mine and index.valid:
                fx.hit("attach-builds-index", name, index.name)
    default(table, part.bound, world, fx)


def default(parent: Table, bound: Node | None, world: World, fx: Effects) -> None:
    """A new partition looks whether the default one holds rows of its own."""
    name = parent.default_partition
    if name is None or bound is None or bound.is_default or not world.used(name):
        return
    fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    excluded = any(
        c.kind == "c" and c.valid and found(c.expr, "A_Expr") for c in world.table(name).constraints.values()
    )
    fx.hit("attach-maybe-proven" if excluded else "default-partition-scanned", name)


def partition_of(node: Node, world: World, fx: Effects) -> None:
    """CREATE TABLE … PARTITION OF."""
    for relation in node.inh_relations or ():
        parent = world.name(relation)
        fx.lock(parent, Mode.ACCESS_EXCLUSIVE)
        if world.used(parent):
            fx.hit("partition-of-locks-parent", parent)
        default(world.table(parent), node.partbound, world, fx)


def detach(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """DETACH PARTITION."""
    part = cmd.parts["def"]
    name = world.name(part.name)
    if part.concurrent:
        if world.in_transaction:
            fx.hit("concurrently-in-transaction", table.name, "DETACH PARTITION CONCURRENTLY")
        if table.default_partition is not None:
            fx.hit("detach-with-default", table.name)
        fx.lock(table.name, Mode.SHARE_UPDATE_EXCLUSIVE)
        return
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    if world.used(table.name):
        fx.hit("detach-locks-parent", table.name)


def proven(part: Table, parent: Table, bound: Node | None) -> Literal["yes", "no", "maybe"]:
    """Tell whether the partition's valid CHECKs prove its bounds."""
    checks = [each for c in part.constraints.values() if c.kind == "c" and c.valid for each in conjuncts(c.expr)]
    if not checks or bound is None or bound.is_default:
        return "no" if bound is None or not bound.is_default or not checks else "maybe"
    if bound.strategy == "h":
        return "no"
    keys = parent.partition_key or tuple(dict.fromkeys(name for check in checks for name in _names(check)))[:1]
    if len(keys) != 1:
        return "maybe"
    key = keys[0]
    if not any(key in _names(check) for check in checks):
        return "no"
    if bound.strategy == "l":
        return "yes" if _listed(checks, key, bound) and part.not_null(key) else "maybe"
    nulls_out = part.not_null(key)
    low, high = _edge(bound.lowerdatums), _edge(bound.upperdatums)
    above = low is None or any(_compares(check, key, (">=", ">"), low) for check in checks)
    below = high is None or any(_compares(check, key, ("<",), high) for check in checks)
    return "yes" if above and below and nulls_out else "maybe" if above or below else "no"


def _edge(datums: Any) -> Any:
    """Return a bound's constant; None for MINVALUE and MAXVALUE."""
    value: Any = literal(datums[0]) if datums else None
    return None if isinstance(value, str) and value.lower() in ("minvalue", "maxvalue") else value


def _names(check: Node) -> set[str]:
    return {name for ref in found(check, "ColumnRef") if (name := column_of(ref))}


def _compares(check: Node, key: str, operators: tuple[str, ...], edge: Any) -> bool:
    if check.tag == "A_Expr" and check.parts.get("kind") == "AEXPR_BETWEEN" and ">=" in operators:
        bounds: tuple[Any, ...] = check.rexpr or ()
        return column_of(check.lexpr) == key and bool(bounds) and _plain(literal(bounds[0])) == _plain(edge)
    if check.tag != "A_Expr" or not check.parts.get("name"):
        return False
    operator, left, right = check.parts["name"][-1], check.lexpr, check.rexpr
    if column_of(left) != key:
        operator, left, right = {"<=": ">=", "<": ">", ">": "<"}.get(operator, operator), right, left
    return operator in operators and column_of(left) == key and _implies(operator, literal(right), edge)


def _implies(operator: str, value: Any, edge: Any) -> bool:
    """Tell whether `key operator value` lies within the edge. Moments are compared as text where they are ISO."""
    mine, theirs = _plain(value), _plain(edge)
    if mine is None or theirs is None or type(mine) is not type(theirs):
        return False
    return bool(mine >= theirs if operator.startswith(">") else mine <= theirs)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        bare = _MIDNIGHT.sub("", value.strip())
        return int(bare) if re.fullmatch(r"-?\d+", bare) else bare
    return value


def _listed(checks: list[Node], key: str, bound: Node) -> bool:
    wanted = {_plain(literal(datum)) for datum in bound.listdatums or ()}
    for check in checks:
        if check.tag == "A_Expr" and column_of(check.lexpr) == key and (check.parts.get("name") or ("",))[-1] == "=":
            values = check.rexpr if isinstance(check.rexpr, tuple) else tuple(_elements(check.rexpr))
            if values and {_plain(literal(value)) for value in values} <= wanted:
                return True
    return False


def _elements(right: Any) -> list[Any]:
    arrays = found(right, "A_ArrayExpr")
    return list(arrays[0].elements or ()) if arrays else [right]

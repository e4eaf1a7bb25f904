"""Rows: INSERT, UPDATE, DELETE, MERGE, TRUNCATE, COPY, SELECT, LOCK, and the calls of functions."""

from __future__ import annotations

from typing import Any

from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node, column_of, conjuncts, found, literal
from chanuka_ops.migrator.lint.world import Effects, World

_LOCK_MODES = tuple(Mode)
VERSION_TABLE = "alembic_version"  # of one row
_BOUNDS = frozenset({"=", "<", "<=", ">", ">="})


def read(node: Any, world: World, fx: Effects) -> None:
    """Note the relations that a query reads."""
    if not isinstance(node, Node):
        return
    made = {cte.ctename for cte in found(node, "CommonTableExpr")}
    for relation in found(node, "RangeVar"):
        name = world.name(relation)
        if relation.relname not in made and world.used(name):
            fx.lock(name, Mode.ACCESS_SHARE)
            fx.scan(name)


def select(node: Node, world: World, fx: Effects) -> None:
    """SELECT, also INTO a new table, FOR UPDATE, and of functions that do something."""
    if node.into_clause is not None:
        fx.hit("table-as-select", world.name(node.into_clause.rel))
        read(Node("SelectStmt", {k: v for k, v in node.parts.items() if k != "into_clause"}), world, fx)
    else:
        read(node, world, fx)
    for call in found(node, "FuncCall"):
        _setting(call, world, fx)


def _setting(call: Node, world: World, fx: Effects) -> None:
    name = (call.funcname or ("",))[-1]
    arguments: tuple[Any, ...] = call.args or ()
    if name == "set_config" and len(arguments) == 3 and literal(arguments[2]) is not True:  # noqa: PLR2004 - set_config(name, value, is_local)
        fx.hit("session-setting", str(literal(arguments[0])))
    elif name == "setval" and arguments:
        fx.hit("sequence-changed", str(literal(arguments[0])), "setval")
    elif name == "pg_advisory_lock" and world.in_transaction:
        fx.hit("prepared-transaction", "pg_advisory_lock")


def update(node: Node, world: World, fx: Effects) -> None:
    """UPDATE."""
    name = _written(node, world, fx)
    if world.used(name):
        bound = bounded(node)
        if bound == "no":
            fx.hit("mass-update", name)
        elif bound == "unknown":
            fx.hit("unbounded-write", name)


def delete(node: Node, world: World, fx: Effects) -> None:
    """DELETE."""
    name = _written(node, world, fx)
    if world.used(name):
        bound = bounded(node)
        fx.hit({"no": "mass-delete", "unknown": "unbounded-write"}.get(bound, "delete-rows"), name)


def insert(node: Node, world: World, fx: Effects) -> None:
    """INSERT, of values or of a query."""
    name = world.name(node.relation)
    fx.lock(name, Mode.ROW_EXCLUSIVE)
    query = node.select_stmt
    inner = Effects()
    read(query, world, inner)
    read(node.with_clause, world, inner)
    for scanned in inner.scans:
        fx.lock(scanned, Mode.ACCESS_SHARE)
        fx.scan(scanned)
    if inner.scans and _open(query):
        fx.hit("insert-select", name, inner.scans[0])


def _open(query: Any) -> bool:
    return isinstance(query, Node) and query.limit_count is None and bounded(query) != "yes"


def merge(node: Node, world: World, fx: Effects) -> None:
    """MERGE."""
    name = world.name(node.relation)
    fx.lock(name, Mode.ROW_EXCLUSIVE)
    fx.scan(name)
    read(node.source_relation, world, fx)
    if world.used(name):
        source = node.source_relation
        fx.hit("merge-rows", name, world.name(source) if source.tag == "RangeVar" else "its source")


def _written(node: Node, world: World, fx: Effects) -> str:
    name = world.name(node.relation)
    for part in (node.where_clause, node.from_clause, node.using_clause, node.with_clause, node.target_list):
        if isinstance(part, tuple):
            for item in part:
                read(item, world, fx)
        else:
            read(part, world, fx)
    fx.lock(name, Mode.ROW_EXCLUSIVE)
    if name.rpartition(".")[2] != VERSION_TABLE:
        fx.scan(name)
    return name


def bounded(node: Node) -> str:
    """Tell whether a WHERE keeps the number of rows small: "yes", "no" (it doesn't try), or "unknown".

    A range or a list of constants is a bound; an equality with a constant is one of a key (`id = 7`) or of a few rows
    in many; a LIMIT in a subquery is one.
    """
    where = node.where_clause
    if where is None:
        return "no"
    if any(select.limit_count is not None for select in found(node, "SelectStmt")):
        return "yes"
    ranges: dict[str, set[str]] = {}
    verdict = "no"
    for part in conjuncts(where):
        operator = (part.parts.get("name") or ("",))[-1] if part.tag == "A_Expr" else ""
        kind = part.parts.get("kind") if part.tag == "A_Expr" else ""
        column = column_of(part.lexpr) if part.tag == "A_Expr" else None
        if column is None:
            verdict = verdict if part.tag == "NullTest" else "unknown"
        elif kind in ("AEXPR_BETWEEN", "AEXPR_IN") and operator != "<>":
            return "yes" if _key(column) or kind == "AEXPR_BETWEEN" else "unknown"
        elif operator == "=" and _key(column) and not found(part.rexpr, "ColumnRef"):
            return "yes"
        elif operator in _BOUNDS:
            ranges.setdefault(column, set()).add(operator[0])
            verdict = "unknown"
        elif operator not in ("<>", "!=") or kind == "AEXPR_NOT_DISTINCT":
            verdict = "unknown"
    return "yes" if any({"<", ">"} <= operators for operators in ranges.values()) else verdict


def _key(column: str) -> bool:
    return column in ("id", "uuid", "ctid", "key", "code") or column.endswith(("_id", "_uuid", "_key"))


def truncate(node: Node, world: World, fx: Effects) -> None:
    """TRUNCATE."""
    for relation in node.relations or ():
        name = world.name(relation)
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
        if node.behavior == "DROP_CASCADE":
            fx.hit("truncate-cascade", name)
        elif world.used(name):
            fx.hit("truncate", name)


def copy(node: Node, world: World, fx: Effects) -> None:
    """COPY."""
    name = world.name(node.relation)
    if node.is_program or (node.filename is not None):
        fx.hit("copy-program", name)
    if node.is_from:
        fx.lock(name, Mode.ROW_EXCLUSIVE)
        fx.hit("bulk-load", name)
    elif name:
        fx.lock(name, Mode.ACCESS_SHARE)
        fx.scan(name)


def lock(node: Node, world: World, fx: Effects) -> None:
    """LOCK TABLE."""
    mode = _LOCK_MODES[node.mode or Mode.ACCESS_EXCLUSIVE]
    for relation in node.relations or ():
        name = world.name(relation)
        fx.lock(name, mode)
        if mode.blocks and world.used(name):
            fx.hit("lock-table", name, mode.words)


def explain(node: Node, world: World, fx: Effects) -> None:
    """EXPLAIN ANALYZE runs what it explains."""
    if any(option.defname == "analyze" for option in node.options or ()):
        read(node.query, world, fx)


CHECKS = {
    "SelectStmt": select,
    "UpdateStmt": update,
    "DeleteStmt": delete,
    "InsertStmt": insert,
    "MergeStmt": merge,
    "TruncateStmt": truncate,
    "CopyStmt": copy,
    "LockStmt": lock,
    "ExplainStmt": explain,
}

"""Rows: INSERT, UPDATE, DELETE, MERGE, TRUNCATE, COPY, SELECT, LOCK, and the calls of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chanuka_ops.migrator.lint.checks.bounds import bounded, few
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node, found, literal
from chanuka_ops.migrator.lint.world import Effects, World

_LOCK_MODES = tuple(Mode)
VERSION_TABLE = "alembic_version"  # of one row


def read(node: Any, world: World, fx: Effects) -> None:
    """Note the relations that a query reads, and what it writes within a WITH."""
    if isinstance(node, Node):
        _read(node, made_by_with(node), world, fx, scans=True)


def made_by_with(node: Node) -> set[str]:
    """Return the names that a statement's WITH clauses give: they are no relations."""
    return {cte.ctename for cte in found(node, "CommonTableExpr")}


def _read(tree: Any, made: set[str], world: World, fx: Effects, *, scans: bool) -> None:
    if isinstance(tree, tuple):
        for item in tree:
            _read(item, made, world, fx, scans=scans)
        return
    if not isinstance(tree, Node):
        return
    if tree.tag in _WRITES:
        _WRITES[tree.tag](tree, world, fx)
        return
    if tree.tag == "SelectStmt":
        scans = not few(tree)
    elif tree.tag == "RangeVar":
        name = world.name(tree)
        if tree.relname not in made and world.used(name):
            fx.lock(name, Mode.ACCESS_SHARE)
            if scans:
                fx.scan(name)
    for part in tree.parts.values():
        _read(part, made, world, fx, scans=scans)


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
    elif name.startswith("pg_sleep") and world.held():
        fx.hit("sleep-while-locked", ", ".join(sorted(world.held())))


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
    inner = Effects()
    _read((node.select_stmt, node.with_clause), made_by_with(node), world, inner, scans=True)
    fx.take(inner)
    fx.lock(name, Mode.ROW_EXCLUSIVE)
    if inner.scans and _open(node.select_stmt):
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
    parts = (node.where_clause, node.from_clause, node.using_clause, node.with_clause, node.target_list)
    _read(parts, made_by_with(node), world, fx, scans=True)
    fx.lock(name, Mode.ROW_EXCLUSIVE)
    if name.rpartition(".")[2] != VERSION_TABLE:
        fx.scan(name)
    return name


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
    read(node.query, world, fx)
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


def cursor(node: Node, world: World, fx: Effects) -> None:
    """DECLARE … CURSOR."""
    read(node.query, world, fx)


_WRITES: dict[str, Callable[[Node, World, Effects], None]] = {
    "UpdateStmt": update,
    "DeleteStmt": delete,
    "InsertStmt": insert,
    "MergeStmt": merge,
}

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
    "DeclareCursorStmt": cursor,
}

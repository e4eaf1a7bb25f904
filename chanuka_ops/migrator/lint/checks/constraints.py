"""Constraints of tables: what ADD, VALIDATE and DROP cost."""

from __future__ import annotations

from chanuka_ops.migrator.lint.catalogue import Constraint, Table
from chanuka_ops.migrator.lint.checks.versions import since
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node
from chanuka_ops.migrator.lint.world import Effects, World

NOT_VALID_ANYWHERE_SINCE = 18
_KINDS = {
    "CONSTR_CHECK": "c", "CONSTR_FOREIGN": "f", "CONSTR_UNIQUE": "u", "CONSTR_PRIMARY": "p", "CONSTR_EXCLUSION": "x",
    "CONSTR_NOTNULL": "n",
}  # fmt: skip


def made(node: Node, table: str, world: World) -> Constraint:
    """Return the constraint that a definition makes; an unnamed one has PostgreSQL's own choice of a name."""
    kind = _KINDS.get(node.contype, "?")
    columns = tuple(str(column) for column in node.fk_attrs or node.parts.get("keys") or ())
    reference = world.name(node.pktable) if node.pktable is not None else None
    first = f"_{columns[0]}" if columns else ""
    suffix = {"c": "_check", "f": "_fkey", "u": "_key", "p": "_pkey", "x": "_excl", "n": "_not_null"}.get(kind, "")
    name = node.conname or f"{table}{first if kind != 'p' else ''}{suffix}"
    enforced = node.is_enforced is not None or kind not in ("c", "f")
    valid = not node.skip_validation and enforced
    referred = tuple(str(column) for column in node.pk_attrs or ())
    return Constraint(name, kind, valid, columns, node.raw_expr, reference, referred)


def add(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ADD CONSTRAINT."""
    node = cmd.parts["def"]
    constraint = made(node, table.name, world)
    used = world.used(table.name)
    fx.lock(table.name, Mode.SHARE_ROW_EXCLUSIVE if constraint.kind == "f" else Mode.ACCESS_EXCLUSIVE)
    if not node.conname:
        fx.hit("constraint-unnamed", table.name)
    if constraint.kind in ("c", "f") and node.is_enforced is None:
        since(NOT_VALID_ANYWHERE_SINCE, "NOT ENFORCED", table.name, world, fx)
    if constraint.kind == "f":
        _foreign_key(node, constraint, table, world, fx)
        return
    if not used:
        return
    if constraint.kind == "c" and constraint.valid:
        fx.hit("check-scans", table.name)
    elif constraint.kind == "n":
        _not_null(node, constraint, table, world, fx)
    elif constraint.kind in ("u", "p") and node.indexname:
        _using_index(node, constraint, table, fx)
    elif constraint.kind in ("u", "p", "x"):
        rule = {"u": "unique-builds-index", "p": "primary-key-builds-index", "x": "exclusion-builds-index"}
        fx.hit(rule[constraint.kind], table.name)


def _not_null(node: Node, constraint: Constraint, table: Table, world: World, fx: Effects) -> None:
    since(NOT_VALID_ANYWHERE_SINCE, "a named NOT NULL constraint", table.name, world, fx)
    if not node.skip_validation and not all(table.not_null(column) for column in constraint.columns):
        fx.hit("not-null-constraint-scans", table.name)


def _foreign_key(node: Node, constraint: Constraint, table: Table, world: World, fx: Effects) -> None:
    other = constraint.references or ""
    fx.lock(other, Mode.SHARE_ROW_EXCLUSIVE)
    if node.fk_del_action == "c":
        fx.hit("foreign-key-cascades", table.name)
    if world.used(table.name):
        if constraint.valid:
            fx.hit("foreign-key-scans", table.name, other)
        elif table.kind == "p" and node.skip_validation and world.version < NOT_VALID_ANYWHERE_SINCE:
            fx.hit("foreign-key-not-valid-partitioned", table.name)
    elif table.filled and constraint.valid and world.used(other):
        fx.hit("foreign-key-scans", table.name, other)
    if world.used(other) and other != table.name:
        fx.hit("foreign-key-locks-both", table.name, other)


def alter(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ALTER CONSTRAINT: to enforce a foreign key that wasn't is to check every row."""
    change = cmd.parts["def"]
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    constraint = table.constraints.get(change.conname)
    other = (constraint.references if constraint is not None else None) or ""
    if not change.alter_enforceability:
        return
    since(NOT_VALID_ANYWHERE_SINCE, "ENFORCED", table.name, world, fx)
    if change.is_enforced and world.used(table.name):
        fx.lock(other, Mode.SHARE_ROW_EXCLUSIVE)
        fx.hit("foreign-key-scans", table.name, other or "the table that it refers to")


def _using_index(node: Node, constraint: Constraint, table: Table, fx: Effects) -> None:
    if constraint.kind != "p":
        return
    index = table.indexes.get(node.indexname)
    columns = index.columns if index is not None else ()
    open_ones = [column for column in columns if column and not table.not_null(column)]
    if table.whole and index is not None:
        if open_ones:
            fx.hit("primary-key-nullable", table.name, ", ".join(open_ones))
    elif open_ones or not columns:
        fx.hit("primary-key-maybe-nullable", table.name, ", ".join(open_ones) or "each column of the index")


def validate(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """VALIDATE CONSTRAINT: long, under a weak lock; unless a strong one is held already."""
    fx.lock(table.name, Mode.SHARE_UPDATE_EXCLUSIVE)
    if not world.used(table.name):
        return
    if (table.name, cmd.name) in world.transaction.not_valid:
        fx.hit("validate-in-same-transaction", table.name)
    fx.scan(table.name)
    constraint = table.constraints.get(cmd.name)
    if constraint is not None and constraint.references:
        fx.lock(constraint.references, Mode.ROW_SHARE)


def drop(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """DROP CONSTRAINT."""
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    constraint = table.constraints.get(cmd.name)
    if constraint is not None and constraint.references:
        fx.lock(constraint.references, Mode.ACCESS_EXCLUSIVE)
    if cmd.behavior == "DROP_CASCADE":
        fx.hit("drop-cascade", f"{table.name}.{cmd.name}")
    elif constraint is not None and constraint.kind in ("p", "u"):
        for user in _referring(constraint, table, world):
            fx.hit("drop-refused", f"{table.name}.{cmd.name}", f"a foreign key of {user}")
    if world.used(table.name) and not _superseded(constraint, table):
        fx.hit("constraint-dropped", table.name, cmd.name)


def _referring(key: Constraint, table: Table, world: World) -> set[str]:
    """Return the tables whose foreign keys are of this very key."""
    return {
        other.name
        for other in world.all_tables().values()
        for c in other.constraints.values()
        if c.kind == "f"
        and c.references == table.name
        and (set(c.referred) == set(key.columns) if c.referred else key.kind == "p")
    }


def _superseded(constraint: Constraint | None, table: Table) -> bool:
    """Tell whether a CHECK (… IS NOT NULL) is said by NOT NULL as well by now."""
    if constraint is None or constraint.kind != "c":
        return False
    proven = constraint.proves_not_null
    return bool(proven) and all(
        table.columns[column].not_null if column in table.columns else False for column in proven
    )

"""RENAME and SET SCHEMA, which are instant, and wrong for every client that is still running."""

from __future__ import annotations

from chanuka_ops.migrator.lint.checks.dropping import name_of
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node
from chanuka_ops.migrator.lint.world import Effects, World

_QUIET = frozenset({"OBJECT_TABCONSTRAINT", "OBJECT_DOMCONSTRAINT", "OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY"})


def rename(node: Node, world: World, fx: Effects) -> None:
    """ALTER … RENAME."""
    kind, name = node.rename_type, world.name(node.relation)
    if kind == "OBJECT_INDEX":
        fx.lock(name, Mode.SHARE_UPDATE_EXCLUSIVE)
        return
    if kind in ("OBJECT_COLUMN", "OBJECT_ATTRIBUTE"):
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
        if world.used(name):
            fx.hit("rename-column", name, node.subname or "")
        parent = world.table(name).parent
        if parent is not None:
            fx.hit("partition-alone-refused", name, f"{node.subname} is a column of its parent, {parent}")
    elif kind == "OBJECT_TABLE":
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
        if world.used(name):
            fx.hit("rename-table", name)
    elif kind in _QUIET:
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    elif kind == "OBJECT_SCHEMA":
        fx.hit("rename-schema", node.subname or "")
    else:
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
        fx.hit("rename-object", name or name_of(node.object, world) or node.subname or "")


def set_schema(node: Node, world: World, fx: Effects) -> None:
    """ALTER … SET SCHEMA."""
    name = world.name(node.relation) or name_of(node.object, world)
    fx.lock(world.name(node.relation), Mode.ACCESS_EXCLUSIVE)
    if world.used(name):
        fx.hit("set-schema", name)


def owner(node: Node, world: World, fx: Effects) -> None:
    """ALTER … OWNER TO (of what isn't a table)."""
    fx.hit("owner-changed", name_of(node.object, world) if node.object is not None else "it")


CHECKS = {"RenameStmt": rename, "AlterObjectSchemaStmt": set_schema, "AlterOwnerStmt": owner}

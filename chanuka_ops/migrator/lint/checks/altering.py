"""ALTER TABLE and its kin: which lock each part takes, and who looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chanuka_ops.migrator.lint.catalogue import Table
from chanuka_ops.migrator.lint.checks import columns, constraints, partitions, usertypes
from chanuka_ops.migrator.lint.checks.constraints import add as add_constraint
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node
from chanuka_ops.migrator.lint.world import Effects, World

Part = Callable[[Node, Table, World, Effects], None]

# https://www.postgresql.org/docs/current/sql-altertable.html: ACCESS EXCLUSIVE unless noted there.
LOCKS = {
    "AT_SetStatistics": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_SetOptions": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetOptions": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_SetRelOptions": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetRelOptions": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_ReplaceRelOptions": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_ClusterOn": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_DropCluster": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_ValidateConstraint": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_DetachPartitionFinalize": Mode.SHARE_UPDATE_EXCLUSIVE,
    "AT_EnableTrig": Mode.SHARE_ROW_EXCLUSIVE,
    "AT_EnableAlwaysTrig": Mode.SHARE_ROW_EXCLUSIVE,
    "AT_EnableReplicaTrig": Mode.SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigAll": Mode.SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigUser": Mode.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrig": Mode.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigAll": Mode.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigUser": Mode.SHARE_ROW_EXCLUSIVE,
}
# Parts that only change the catalogue: the rule that a person should read, where there is one.
RULES = {
    "AT_SetLogged": "set-logged-rewrites",
    "AT_SetUnLogged": "set-logged-rewrites",
    "AT_SetTableSpace": "set-tablespace-copies",
    "AT_SetAccessMethod": "set-access-method-rewrites",
    "AT_AddInherit": "inherit-checks",
    "AT_DropInherit": "inherit-checks",
    "AT_AddOf": "inherit-checks",
    "AT_ReplicaIdentity": "replica-identity",
    "AT_DisableRowSecurity": "row-security-disabled",
    "AT_NoForceRowSecurity": "row-security-disabled",
    "AT_DisableTrig": "trigger-disabled",
    "AT_DisableTrigAll": "trigger-disabled",
    "AT_DisableTrigUser": "trigger-disabled",
    "AT_DisableRule": "rule-created",
    "AT_EnableRule": "rule-created",
    "AT_ChangeOwner": "owner-changed",
}
_COLUMN_RULES = {"AT_DropNotNull": "drop-not-null", "AT_DropExpression": "drop-expression"}
_DROPS = frozenset({"AT_DropConstraint", "AT_DropColumn"})
_PARTS: dict[str, Part] = {
    "AT_AddColumn": columns.add,
    "AT_AlterColumnType": columns.change_type,
    "AT_SetNotNull": columns.set_not_null,
    "AT_DropColumn": columns.drop,
    "AT_SetExpression": columns.set_expression,
    "AT_AddIdentity": columns.identity,
    "AT_AddConstraint": add_constraint,
    "AT_ValidateConstraint": constraints.validate,
    "AT_AlterConstraint": constraints.alter,
    "AT_DropConstraint": constraints.drop,
    "AT_AttachPartition": partitions.attach,
    "AT_DetachPartition": partitions.detach,
}


def alter_table(node: Node, world: World, fx: Effects) -> None:
    """ALTER TABLE, INDEX, VIEW, TYPE (of a composite) and others."""
    name = world.name(node.relation)
    if node.objtype == "OBJECT_TYPE":
        usertypes.alter_composite(node, name, world, fx)
        return
    if node.objtype in ("OBJECT_SEQUENCE", "OBJECT_VIEW", "OBJECT_FOREIGN_TABLE"):
        return
    if node.objtype == "OBJECT_INDEX":
        _alter_index(node, name, world, fx)
        return
    table = world.table(name)
    if node.missing_ok and world.exists(name) is False:
        return
    if (
        node.relation.inh is None
        and table.kind == "p"
        and all(c.subtype == "AT_AddConstraint" for c in node.cmds or ())
    ):
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    if node.relation.inh is None:
        partitions.only_parent(node, table, world, fx)
    left = _without_dropped(node, table)
    for cmd in node.cmds or ():
        _part(cmd, table if cmd.subtype in _DROPS else left, world, fx)
        _at_once(cmd, node, table, world, fx)
    if name in world.transaction.altered and world.used(name):
        fx.hit("alter-separately", name)


def _without_dropped(node: Node, table: Table) -> Table:
    """Return the table as the other parts meet it: whatever the order in the text, PostgreSQL drops first."""
    gone = {cmd.name for cmd in node.cmds or () if cmd.subtype == "AT_DropConstraint"}
    return replace(table, constraints={name: c for name, c in table.constraints.items() if name not in gone})


def _at_once(cmd: Node, node: Node, table: Table, world: World, fx: Effects) -> None:
    """Speak of VALIDATE in the very ALTER TABLE that adds the constraint, and so holds its strong lock."""
    added = {part.parts["def"].conname for part in node.cmds or () if part.subtype == "AT_AddConstraint"}
    if cmd.subtype == "AT_ValidateConstraint" and cmd.name in added and world.used(table.name):
        fx.hit("validate-in-same-transaction", table.name)


def _part(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    kind = cmd.subtype
    check = _PARTS.get(kind)
    if check is not None:
        check(cmd, table, world, fx)
        return
    fx.lock(table.name, LOCKS.get(kind, Mode.ACCESS_EXCLUSIVE))
    if kind == "AT_EnableRowSecurity":
        fx.hit("row-security-enabled" if table.policies else "row-security-without-policy", table.name)
    elif kind == "AT_ColumnDefault" and cmd.parts.get("def") is None:
        fx.hit("drop-default", f"{table.name}.{cmd.name}")
    elif kind in _COLUMN_RULES:
        fx.hit(_COLUMN_RULES[kind], f"{table.name}.{cmd.name}")
        if kind == "AT_DropNotNull" and table.parent is not None and world.table(table.parent).not_null(cmd.name):
            fx.hit("partition-alone-refused", table.name, f"{cmd.name} is NOT NULL in its parent, {table.parent}")
    elif kind == "AT_SetIdentity" and _restarts(cmd):
        fx.hit("sequence-changed", f"{table.name}.{cmd.name}", "RESTART")
    elif kind == "AT_SetIdentity" or _already(cmd, table):
        return
    elif kind in RULES and (world.used(table.name) or not kind.startswith("AT_Set")):
        fx.hit(RULES[kind], table.name, cmd.name or "every trigger")


def _already(cmd: Node, table: Table) -> bool:
    """Tell whether the table is known to be as it is to become: then nothing is rewritten."""
    have = {
        "AT_SetLogged": table.unlogged is False,
        "AT_SetUnLogged": table.unlogged is True,
        "AT_SetAccessMethod": table.access_method is not None and table.access_method == cmd.name,
        "AT_SetTableSpace": table.tablespace is not None and table.tablespace == cmd.name,
    }
    return have.get(cmd.subtype, False)


def _restarts(cmd: Node) -> bool:
    options = cmd.parts.get("def") or ()
    return any(isinstance(option, Node) and option.defname == "restart" for option in options)


def _alter_index(node: Node, name: str, world: World, fx: Effects) -> None:
    """Only SET TABLESPACE copies; ATTACH PARTITION and the others are of the catalogue."""
    for cmd in node.cmds or ():
        if cmd.subtype == "AT_SetTableSpace":
            owner = world.owner_of(name)
            if owner is not None and owner.indexes[name].tablespace == cmd.name:
                continue
            if owner is None or world.used(owner.name):
                fx.hit("set-tablespace-copies", name)
                fx.lock(name, Mode.ACCESS_EXCLUSIVE)


def move_all(node: Node, _: World, fx: Effects) -> None:
    """ALTER TABLE ALL IN TABLESPACE … SET TABLESPACE."""
    fx.hit("set-tablespace-copies", f"everything in {node.orig_tablespacename}")


CHECKS = {"AlterTableStmt": alter_table, "AlterTableMoveAllStmt": move_all}

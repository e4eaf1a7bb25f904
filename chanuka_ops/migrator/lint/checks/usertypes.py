"""Domains and enums."""

from __future__ import annotations

from chanuka_ops.migrator.lint.catalogue import type_of
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node, found, walk
from chanuka_ops.migrator.lint.world import Effects, World


def alter_domain(node: Node, world: World, fx: Effects) -> None:
    """ALTER DOMAIN."""
    name = world.joined(node.type_name)
    domain = world.type(name)
    tables = {column.rpartition(".")[0] for column in domain.columns} if domain is not None else set()
    unused = domain is not None and (domain.fresh or (domain.known_columns and not tables))
    kind = node.subtype
    if kind in ("C", "O", "V") and not unused:
        for table in tables or {f"the tables of {name}"}:
            fx.lock(table, Mode.SHARE)
    if kind == "C":
        if node.parts["def"].skip_validation:
            fx.locks.clear()
            fx.hit("domain-constraint-added", name)
        elif not unused:
            fx.hit("domain-constraint-scans", name)
    elif kind == "O" and not unused:
        fx.hit("domain-constraint-scans", name)
    elif kind == "V" and not unused:
        fx.hit("domain-validate-scans", name)
    elif kind in ("X", "N"):
        fx.hit("constraint-dropped", name, node.name or "NOT NULL")


def alter_composite(node: Node, name: str, world: World, fx: Effects) -> None:
    """ALTER TYPE … of a composite: the type of an attribute can't be changed where a column has it."""
    fx.hit("composite-changed", name)
    known = world.type(name)
    users = known.columns if known is not None else ()
    if users and any(cmd.subtype == "AT_AlterColumnType" for cmd in node.cmds or ()):
        fx.hit("column-type-refused", name, f"column {users[0]} is of type {name}")


def create_domain(node: Node, world: World, fx: Effects) -> None:
    """CREATE DOMAIN."""
    if any(constraint.contype in ("CONSTR_CHECK", "CONSTR_NOTNULL") for constraint in node.constraints or ()):
        fx.hit("domain-with-constraint", world.joined(node.domainname))


def create_enum(node: Node, world: World, fx: Effects) -> None:
    """CREATE TYPE … AS ENUM."""
    fx.hit("enum-type", world.joined(node.type_name))


def alter_enum(node: Node, world: World, fx: Effects) -> None:
    """ALTER TYPE … ADD VALUE, RENAME VALUE."""
    name = world.joined(node.type_name)
    if node.old_val is not None:
        fx.hit("enum-value-renamed", name, node.old_val)
    elif node.new_val_neighbor is None:
        fx.hit("enum-value-order", name, node.new_val)
    if node.old_val is None and not node.skip_if_new_val_exists and not world.in_transaction:
        fx.hit("not-repeatable", f"ADD VALUE {node.new_val}")


def enum_values_used(node: Node, world: World, fx: Effects) -> None:
    """Speak where a statement uses a value that its own transaction added."""
    added = world.transaction.enum_values
    if not added or node.tag in ("AlterEnumStmt", "CommentStmt"):
        return
    for constant in walk(node):
        if constant.tag == "A_Const" and isinstance(constant.value, str):
            for value in added:
                kind, _, label = value.partition("\0")
                if constant.value == label and _may_hold(node, kind, world):
                    fx.hit("enum-value-used", kind, label)


def _may_hold(node: Node, kind: str, world: World) -> bool:
    """Tell whether a statement may take a word for a value of the enum: no, where no column is of it."""
    tables = [world.table(world.name(relation)) for relation in found(node, "RangeVar")]
    types = {column.type.name for table in tables for column in table.columns.values() if column.type is not None}
    named = {type_.name for cast in found(node, "TypeCast") if (type_ := type_of(cast.type_name)) is not None}
    rows = node.tag in ("InsertStmt", "UpdateStmt", "DeleteStmt", "SelectStmt", "MergeStmt")
    known = rows and bool(tables) and all(table.whole for table in tables) and not found(node, "FuncCall")
    return not known or kind in types | named


CHECKS = {
    "AlterDomainStmt": alter_domain,
    "CreateDomainStmt": create_domain,
    "CreateEnumStmt": create_enum,
    "AlterEnumStmt": alter_enum,
}

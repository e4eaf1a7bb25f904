"""What CREATE TABLE and ALTER TABLE leave behind: the table as the next statement meets it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chanuka_ops.migrator.lint.catalogue import Column, Constraint, Index, Table, type_of
from chanuka_ops.migrator.lint.checks import constraints
from chanuka_ops.migrator.lint.checks.columns import by_kind
from chanuka_ops.migrator.lint.tree import Node, column_of, found
from chanuka_ops.migrator.lint.world import World

LIKE_CONSTRAINTS, LIKE_INDEXES = 1 << 2, 1 << 6  # of TableLikeOption, in PostgreSQL's parsenodes.h


def _column(node: Node) -> Column:
    parts = by_kind(node)
    generated = parts.get("GENERATED")
    return Column(
        node.colname,
        type_of(node.type_name),
        not_null=bool(parts.keys() & {"NOTNULL", "PRIMARY", "IDENTITY"}),
        generated=generated is not None,
        virtual=generated is not None and generated.generated_kind == "v",
    )


def with_element(table: Table, element: Node, world: World) -> Table:
    """Return a table with a column, a constraint, or what LIKE gives it."""
    if element.tag == "ColumnDef":
        return _with_column(table, element, world)
    if element.tag == "Constraint":
        return _with_constraint(table, constraints.made(element, table.name, world))
    if element.tag == "TableLikeClause":
        model = world.table(world.name(element.relation))
        table = replace(table, columns={**table.columns, **model.columns}, whole=model.whole)
        options = element.options or 0
        for constraint in model.constraints.values():
            if constraint.kind == "n" or (constraint.kind == "c" and options & LIKE_CONSTRAINTS):
                table = table.with_constraint(constraint)
        if options & LIKE_INDEXES:
            for index in model.indexes.values():
                table = table.with_index(replace(index, name=f"{table.name}_{index.name}"))
        return table
    return table


def _with_column(table: Table, node: Node, world: World) -> Table:
    table = table.with_column(_column(node))
    for kind, constraint in by_kind(node).items():
        if kind in ("CHECK", "UNIQUE", "PRIMARY", "FOREIGN"):
            made = constraints.made(constraint, table.name, world)
            table = _with_constraint(table, replace(made, columns=made.columns or (node.colname,)))
    return table


def _with_constraint(table: Table, constraint: Constraint) -> Table:
    table = table.with_constraint(constraint)
    if constraint.kind in ("u", "p"):
        table = table.with_index(Index(constraint.name, constraint.columns, unique=True))
    return table


def parted(parent: Table, bound: Node | None, part: str, world: World) -> None:
    """Note that a table has a partition: so it is partitioned, if that wasn't known."""
    default = part if bound is not None and bound.is_default else parent.default_partition
    world.keep(replace(parent, kind="p", default_partition=default))


def alter_table(node: Node, world: World) -> None:
    """Note what ALTER TABLE changes."""
    name = world.name(node.relation)
    if node.objtype not in ("OBJECT_TABLE", "OBJECT_MATVIEW"):
        return
    for cmd in node.cmds or ():
        change = _PARTS.get(cmd.subtype)
        if change is not None:
            world.keep(change(cmd, world.table(name), world))
    world.transaction.altered.append(name)


def _add_column(cmd: Node, table: Table, world: World) -> Table:
    return _with_column(table, cmd.parts["def"], world)


def _drop_column(cmd: Node, table: Table, _: World) -> Table:
    """What is of the column goes with it: its constraints and its indexes."""
    return replace(
        table,
        columns={name: column for name, column in table.columns.items() if name != cmd.name},
        constraints={name: c for name, c in table.constraints.items() if not _of(c, cmd.name)},
        indexes={name: i for name, i in table.indexes.items() if cmd.name not in (*i.columns, *i.uses)},
    )


def _of(constraint: Constraint, column: str) -> bool:
    return column in constraint.columns or any(column_of(ref) == column for ref in found(constraint.expr, "ColumnRef"))


def _change_type(cmd: Node, table: Table, _: World) -> Table:
    column = table.columns.get(cmd.name, Column(cmd.name))
    return table.with_column(replace(column, type=type_of(cmd.parts["def"].type_name)))


def _set_not_null(cmd: Node, table: Table, _: World) -> Table:
    column = table.columns.get(cmd.name, Column(cmd.name))
    return table.with_column(replace(column, not_null=cmd.subtype == "AT_SetNotNull"))


def _add_constraint(cmd: Node, table: Table, world: World) -> Table:
    node = cmd.parts["def"]
    constraint = constraints.made(node, table.name, world)
    if not constraint.valid:
        world.transaction.not_valid.add((table.name, constraint.name))
    if node.indexname:
        index = table.indexes.get(node.indexname, Index(node.indexname, unique=True))
        constraint = replace(constraint, columns=index.columns)
    return _with_constraint(table, constraint)


def _validate(cmd: Node, table: Table, _: World) -> Table:
    constraint = table.constraints.get(cmd.name)
    return table if constraint is None else table.with_constraint(replace(constraint, valid=True))


def _drop_constraint(cmd: Node, table: Table, _: World) -> Table:
    return replace(table, constraints={name: c for name, c in table.constraints.items() if name != cmd.name})


def _attach(cmd: Node, table: Table, world: World) -> Table:
    part = world.name(cmd.parts["def"].name)
    world.keep(replace(world.table(part), parent=table.name))
    parted(table, cmd.parts["def"].bound, part, world)
    return world.table(table.name)


def _detach(cmd: Node, table: Table, world: World) -> Table:
    part = world.name(cmd.parts["def"].name)
    world.keep(replace(world.table(part), parent=None))
    return replace(table, default_partition=None) if table.default_partition == part else table


def _persistence(cmd: Node, table: Table, _: World) -> Table:
    return replace(table, unlogged=cmd.subtype == "AT_SetUnLogged")


_PARTS: dict[str, Callable[[Node, Table, World], Table]] = {
    "AT_AddColumn": _add_column,
    "AT_DropColumn": _drop_column,
    "AT_AlterColumnType": _change_type,
    "AT_SetNotNull": _set_not_null,
    "AT_DropNotNull": _set_not_null,
    "AT_AddConstraint": _add_constraint,
    "AT_ValidateConstraint": _validate,
    "AT_DropConstraint": _drop_constraint,
    "AT_AttachPartition": _attach,
    "AT_DetachPartition": _detach,
    "AT_SetLogged": _persistence,
    "AT_SetUnLogged": _persistence,
}

"""ALTER TABLE … ADD COLUMN, ALTER COLUMN, DROP COLUMN."""

from __future__ import annotations

from typing import Any

from chanuka_ops.migrator.lint import casts, volatility
from chanuka_ops.migrator.lint.catalogue import Column, Table, Type, is_serial, type_of
from chanuka_ops.migrator.lint.checks import habits
from chanuka_ops.migrator.lint.checks.versions import since
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node, column_of, found
from chanuka_ops.migrator.lint.world import Effects, World

VIRTUAL_SINCE = 18
EXPRESSION_SINCE = 17


def by_kind(column: Node) -> dict[str, Node]:
    """Return a column's constraints by their kind: DEFAULT, NOTNULL, UNIQUE and so on."""
    return {constraint.contype.removeprefix("CONSTR_"): constraint for constraint in column.constraints or ()}


def default_of(column: Node) -> Any:
    """Return a column's default expression, where it has one that isn't NULL."""
    constraint = by_kind(column).get("DEFAULT")
    raw = constraint.raw_expr if constraint is not None else None
    return None if isinstance(raw, Node) and raw.tag == "A_Const" and raw.value is None else raw


def add(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ADD COLUMN."""
    column = cmd.parts["def"]
    used = world.used(table.name)
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    habits.column(column, table.name, fx, key=False)
    if column.colname in table.columns and cmd.missing_ok:
        return
    if table.parent is not None:
        fx.hit("partition-alone-refused", table.name, f"a partition has the columns of its parent, {table.parent}")
    parts = by_kind(column)
    if "FOREIGN" in parts:
        other = world.name(parts["FOREIGN"].pktable)
        fx.lock(other, Mode.SHARE_ROW_EXCLUSIVE)
        if used and default_of(column) is not None and not parts["FOREIGN"].skip_validation:
            fx.hit("column-inline-references", table.name, other)
        elif world.used(other):
            fx.hit("column-references-locks", table.name, other)
    if not used:
        return
    _rewriting(column, parts, table, world, fx)
    if "UNIQUE" in parts or "PRIMARY" in parts:
        fx.hit("column-inline-unique", table.name)
    if "CHECK" in parts:
        fx.hit("column-inline-check", table.name)
    filled = default_of(column) is not None or parts.keys() & {"GENERATED", "IDENTITY"} or is_serial(column.type_name)
    if parts.keys() & {"NOTNULL", "PRIMARY"} and not filled:
        fx.hit("column-not-null-fails", table.name, column.colname)


def _rewriting(column: Node, parts: dict[str, Node], table: Table, world: World, fx: Effects) -> None:
    if "GENERATED" in parts:
        generated = parts["GENERATED"]
        if generated.generated_kind == "v":
            since(VIRTUAL_SINCE, "a virtual generated column", table.name, world, fx)
            if "NOTNULL" in parts:
                fx.hit("set-not-null-scans", table.name)
        else:
            fx.hit("column-generated-stored", table.name, column.colname)
        return
    if is_serial(column.type_name):
        fx.hit("column-serial", table.name, f"{column.colname} is serial")
        return
    if "IDENTITY" in parts:
        fx.hit("column-serial", table.name, f"{column.colname} is an identity column")
        return
    domain = world.type(_name(type_of(column.type_name)))
    if domain is not None and domain.kind == "d" and domain.constrained:
        fx.hit("column-constrained-domain", table.name, domain.name)
    judge_default(default_of(column), column.colname, table, world, fx)


def judge_default(default: Any, column: str, table: Table, world: World, fx: Effects) -> None:
    """Tell whether filling a column with a default gives each row another value."""
    verdict, function = volatility.of(default, world)
    if verdict == "volatile":
        fx.hit("column-volatile-default", table.name, f"{function}() for {column} is volatile")
    elif verdict == "unknown":
        fx.hit("column-unknown-default", table.name, f"{function}()")


def change_type(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ALTER COLUMN … TYPE."""
    definition = cmd.parts["def"]
    name, new = cmd.name, type_of(definition.type_name)
    column = table.columns.get(name, Column(name))
    where = f"{table.name}.{name}"
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    fx.hit("column-type-clients", where)
    if new is None:
        return
    habits.type_style(definition.type_name, where, fx)
    _refused(table, column, fx)
    if not world.used(table.name):
        return
    change = f"{name} from {column.type or 'an unknown type'} to {new}"
    cost = _cost(definition, column, new, world)
    rebuilt = any(index.rebuilt_with(name) for index in table.indexes.values())
    collation = definition.coll_clause
    collated = collation is not None and _collation(collation) != (column.collation or "")
    indexed = any(name in index.columns for index in table.indexes.values())
    checked = any(_mentions(constraint.expr, name) for constraint in table.constraints.values())
    if cost == "rewrite":
        fx.hit("column-type-rewrites", table.name, change)
    elif cost == "unknown":
        fx.hit("column-type-unknown", table.name, change)
    elif cost == "likely":
        fx.hit("column-type-in-utc", table.name, change)
    elif rebuilt or ((cost == "reindex" or collated) and indexed):
        fx.hit("column-type-reindexes", table.name, change)
    if cost != "rewrite" and checked:
        fx.hit("column-type-rechecks", table.name, f"a CHECK uses {name}")


def _collation(node: Node) -> str:
    name = str((node.collname or ("",))[-1])
    return "" if name == "default" else name


def _cost(definition: Node, column: Column, new: Type, world: World) -> casts.Cost:
    using = definition.raw_default
    target = world.type(new.name)
    source = world.type(column.type.name) if column.type is not None else None
    if target is not None and target.kind == "d" and target.constrained:
        return "rewrite"
    old = source.base if source is not None and source.kind == "d" and source.base is not None else column.type
    if target is not None and target.kind == "d" and target.base is not None:
        new = target.base
    if isinstance(using, Node) and not _same(using, column.name, new):
        return "rewrite"
    return casts.cost(old, new, utc=world.utc)


def _same(using: Node, column: str, new: Type) -> bool:
    """Tell whether USING says what happens anyway: the column, or the column cast to its new type."""
    if using.tag == "TypeCast":
        return column_of(using.arg) == column and type_of(using.type_name) == new and using.arg.tag == "ColumnRef"
    return column_of(using) == column


def _refused(table: Table, column: Column, fx: Effects) -> None:
    for view, columns in table.read_by.items():
        if column.name in columns:
            fx.hit("column-type-refused", table.name, f"view {view} reads {column.name}")
    for user, columns in table.named_by.items():
        if column.name in columns:
            fx.hit("column-type-refused", table.name, f"{user} names {column.name}")
    if column.name in table.partition_key:
        fx.hit("column-type-refused", table.name, f"{column.name} is part of the partition key")
    if table.parent is not None and table.kind in ("r", "p"):
        fx.hit("partition-alone-refused", table.name, f"{column.name} is a column of its parent, {table.parent}")


def _mentions(expr: Any, column: str) -> bool:
    return any((ref.parts.get("fields") or ("",))[-1] == column for ref in found(expr, "ColumnRef"))


def set_not_null(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ALTER COLUMN … SET NOT NULL."""
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    fx.hit("set-not-null-clients", f"{table.name}.{cmd.name}")
    if world.used(table.name) and not table.not_null(cmd.name):
        fx.hit("set-not-null-scans", table.name)


def drop(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """DROP COLUMN."""
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    if world.used(table.name):
        fx.hit("drop-column", table.name, cmd.name)
    if cmd.behavior == "DROP_CASCADE":
        fx.hit("drop-cascade", f"{table.name}.{cmd.name}")
        return
    for view, columns in table.read_by.items():
        if cmd.name in columns and world.exists(view):
            fx.hit("drop-refused", f"{table.name}.{cmd.name}", f"view {view}")
    for user, columns in table.named_by.items():
        if cmd.name in columns:
            fx.hit("drop-refused", f"{table.name}.{cmd.name}", user)
    if table.parent is not None:
        fx.hit("partition-alone-refused", table.name, f"{cmd.name} is a column of its parent, {table.parent}")


def set_expression(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ALTER COLUMN … SET EXPRESSION."""
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    since(EXPRESSION_SINCE, "SET EXPRESSION", table.name, world, fx)
    column = table.columns.get(cmd.name)
    virtual = column is not None and column.generated and column.virtual
    if world.used(table.name) and not virtual:
        fx.hit("set-expression-rewrites", table.name, cmd.name)


def identity(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ADD GENERATED … AS IDENTITY to a column that is there: PostgreSQL wants it NOT NULL, and touches no row."""
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    column = table.columns.get(cmd.name)
    if column is not None and not table.not_null(cmd.name) and world.used(table.name):
        fx.hit("column-not-null-fails", table.name, cmd.name)


def _name(kind: Type | None) -> str:
    return kind.name if kind is not None else ""

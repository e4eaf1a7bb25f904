"""DROP of anything."""

from __future__ import annotations

from typing import Any

from chanuka_ops.migrator.lint.catalogue import Table
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node
from chanuka_ops.migrator.lint.world import Effects, World


def drop(node: Node, world: World, fx: Effects) -> None:
    """DROP TABLE, INDEX, VIEW, TYPE, FUNCTION and the rest."""
    kind = (node.remove_type or "").removeprefix("OBJECT_")
    if kind == "INDEX":
        _indexes(node, world, fx)
        return
    for item in node.objects or ():
        name = name_of(item, world)
        if node.missing_ok and kind in ("TABLE", "VIEW", "MATVIEW") and world.exists(name) is False:
            continue
        if node.behavior == "DROP_CASCADE" and _old(kind, name, world):
            fx.hit("drop-cascade", name)
        elif node.behavior != "DROP_CASCADE":
            named = {name_of(other, world) for other in node.objects or ()}
            for dependent in _dependents(kind, name, world) - named:
                fx.hit("drop-refused", name, dependent)
        if kind in ("TABLE", "FOREIGN_TABLE"):
            _table(name, world, fx)
        elif kind in ("TRIGGER", "RULE", "POLICY"):
            _of_table(kind, item, world, fx)
        else:
            _other(kind, name, world, fx)


def _table(name: str, world: World, fx: Effects) -> None:
    table = world.table(name)
    fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    for constraint in table.constraints.values():
        fx.lock(constraint.references or "", Mode.ACCESS_EXCLUSIVE)
    fx.lock(table.parent or "", Mode.ACCESS_EXCLUSIVE)
    if world.used(name):
        fx.hit("drop-table", name)


def _of_table(kind: str, item: Any, world: World, fx: Effects) -> None:
    words = tuple(item) if isinstance(item, tuple) else (item,)
    name = world.joined(words[:-1])
    fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    if world.used(name):
        fx.hit("policy-changed" if kind == "POLICY" else "trigger-dropped", name, str(words[-1]))


def _other(kind: str, name: str, world: World, fx: Effects) -> None:
    what = f"{kind.lower().replace('_', ' ')} {name}"
    if kind == "SCHEMA":
        fx.hit("drop-schema", name)
    elif kind in ("VIEW", "MATVIEW", "SEQUENCE"):
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
        if world.used(name):
            fx.hit("object-dropped", what)
    elif kind not in ("STATISTIC_EXT", "CAST", "OPERATOR") and _old(kind, name, world):
        fx.hit("object-dropped", what)


def _dependents(kind: str, name: str, world: World) -> set[str]:
    """Return what is known to depend on an object, so that it can't be dropped alone."""
    if kind in ("TYPE", "DOMAIN"):
        known = world.type(name)
        columns = {column for table in world.all_tables().values() for column in _columns_of(table, name)}
        gone = {column for column in (known.columns if known else ()) if column.rpartition(".")[0] in world.tables}
        return columns | (set(known.columns if known else ()) - gone)
    if kind in ("FUNCTION", "PROCEDURE", "ROUTINE", "SEQUENCE"):
        return _needing("sequence" if kind == "SEQUENCE" else "function", name, world)
    if kind not in ("TABLE", "VIEW", "MATVIEW"):
        return set()
    views = {view for view in world.table(name).read_by if world.exists(view)}
    keys = {
        table.name
        for table in world.all_tables().values()
        if table.name != name and any(c.references == name for c in table.constraints.values())
    }
    return views | keys


def _needing(kind: str, name: str, world: World) -> set[str]:
    """Return who needs a function or a sequence; of a relation that the script has touched it isn't known any more."""
    users = world.catalogue.needed.get((kind, name), ()) if world.catalogue is not None else ()
    return {user for user, relation in users if relation not in world.tables and relation not in world.gone}


def _columns_of(table: Table, kind: str) -> list[str]:
    return [f"{table.name}.{c.name}" for c in table.columns.values() if c.type is not None and c.type.name == kind]


def _old(kind: str, name: str, world: World) -> bool:
    if kind in ("TYPE", "DOMAIN"):
        known = world.type(name)
        return known is None or not known.fresh
    if kind in ("FUNCTION", "PROCEDURE", "ROUTINE"):
        return name not in world.routines
    return world.used(name)


def _indexes(node: Node, world: World, fx: Effects) -> None:
    names = [name_of(item, world) for item in node.objects or ()]
    owners = {name: owner for name in names if (owner := world.owner_of(name)) is not None}
    tables = {owner.name for owner in owners.values()}
    if node.concurrent:
        _concurrently(node, names, world, fx)
        if any(owner.kind == "p" for owner in owners.values()):
            fx.hit("concurrently-on-partitioned", names[0])
    elif len(owners) < len(names) or any(map(world.used, tables)):
        fx.hit("index-drop-blocks", ", ".join(names))
        for table in tables or {"the index's table"}:
            fx.lock(table, Mode.ACCESS_EXCLUSIVE)
    for name, owner in owners.items():
        if name in owner.constraints and node.behavior != "DROP_CASCADE":
            fx.hit("drop-refused", name, f"constraint {name} of {owner.name}")
        if world.used(owner.name) and owner.indexes[name].valid and not node.missing_ok:
            fx.hit("index-dropped", name)


def _concurrently(node: Node, names: list[str], world: World, fx: Effects) -> None:
    if world.in_transaction:
        fx.hit("concurrently-in-transaction", ", ".join(names), "DROP INDEX CONCURRENTLY")
    if len(names) > 1:
        fx.hit("concurrent-drop-refused", names[0], "DROP INDEX CONCURRENTLY takes one index at a time")
    if node.behavior == "DROP_CASCADE":
        fx.hit("concurrent-drop-refused", names[0], "DROP INDEX CONCURRENTLY doesn't take CASCADE")


def name_of(item: Any, world: World) -> str:
    """Return the name that a DROP or a RENAME gives."""
    if isinstance(item, Node):
        if item.tag == "ObjectWithArgs":
            return world.joined(item.objname)
        if item.tag == "TypeName":
            return world.joined(tuple(part for part in item.names or () if part != "pg_catalog"))
        return world.name(item)
    return world.joined(item)


def drop_database(node: Node, world: World, fx: Effects) -> None:
    """DROP DATABASE."""
    fx.hit("drop-database", node.dbname or "")
    if world.in_transaction:
        fx.hit("not-in-transaction", node.dbname or "", "DROP DATABASE")


def drop_owned(node: Node, _: World, fx: Effects) -> None:
    """DROP OWNED and REASSIGN OWNED."""
    fx.hit("drop-owned", ", ".join(role.rolename or "the current role" for role in node.roles or ()))


def drop_role(node: Node, _: World, fx: Effects) -> None:
    """DROP ROLE."""
    fx.hit("role-changed", ", ".join(role.rolename or "" for role in node.roles or ()))


def drop_subscription(node: Node, world: World, fx: Effects) -> None:
    """DROP SUBSCRIPTION."""
    fx.hit("publication-changed", node.subname or "")
    if world.in_transaction:
        fx.hit("not-in-transaction", node.subname or "", "DROP SUBSCRIPTION with a slot")


def drop_tablespace(node: Node, world: World, fx: Effects) -> None:
    """DROP TABLESPACE."""
    fx.hit("object-dropped", f"tablespace {node.tablespacename}")
    if world.in_transaction:
        fx.hit("not-in-transaction", node.tablespacename or "", "DROP TABLESPACE")


CHECKS = {
    "DropStmt": drop,
    "DropdbStmt": drop_database,
    "DropOwnedStmt": drop_owned,
    "ReassignOwnedStmt": drop_owned,
    "DropRoleStmt": drop_role,
    "DropSubscriptionStmt": drop_subscription,
    "DropTableSpaceStmt": drop_tablespace,
}

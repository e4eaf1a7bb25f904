"""What a statement leaves behind: the world as the next statement meets it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from chanuka_ops.migrator.lint import altered
from chanuka_ops.migrator.lint.catalogue import (
    Column,
    RelationKind,
    Routine,
    Table,
    UserType,
    type_of,
)
from chanuka_ops.migrator.lint.checks import session
from chanuka_ops.migrator.lint.checks.bounds import few
from chanuka_ops.migrator.lint.checks.dropping import name_of
from chanuka_ops.migrator.lint.checks.indexes import made_index
from chanuka_ops.migrator.lint.tree import Node, found, literal
from chanuka_ops.migrator.lint.world import World

FRESH_ENUM_SINCE = 17  # a value added to an enum of the same transaction may be used in it


def apply(node: Node, world: World, sql: str) -> None:
    """Note what the statement changes. `sql` is its text."""
    if node.tag == "CreateFunctionStmt":
        _create_function(node, world, sql)
    change = _CHANGES.get(node.tag)
    if change is not None:
        change(node, world)


def _create_table(node: Node, world: World) -> None:
    relation, name = node.relation, world.name(node.relation, new=True)
    if node.if_not_exists and world.exists(name):
        return
    spec = node.partspec
    key = tuple(part.name for part in spec.part_params or () if part.name) if spec is not None else ()
    parent = world.name(node.inh_relations[0]) if node.partbound is not None else None
    table = Table(
        name, "p" if spec is not None else "r", whole=True, fresh=True, temporary=relation.relpersistence == "t",
        parent=parent, partition_key=key, unlogged=relation.relpersistence == "u",
    )  # fmt: skip
    for element in node.table_elts or ():
        table = altered.with_element(table, element, world)
    world.keep(table)
    if parent is not None:
        altered.parted(world.table(parent), node.partbound, name, world)


def _create_as(node: Node, world: World) -> None:
    relation = node.into.rel
    name = world.name(relation, new=True)
    if node.if_not_exists and world.exists(name):
        return
    kind: RelationKind = "m" if node.objtype == "OBJECT_MATVIEW" else "r"
    filled = not node.into.skip_data and bool(found(node.query, "RangeVar"))
    temporary, populated = relation.relpersistence == "t", not node.into.skip_data
    world.keep(Table(name, kind, fresh=True, temporary=temporary, filled=filled, populated=populated))


def _refresh(node: Node, world: World) -> None:
    view = world.table(world.name(node.relation))
    if view.populated is not (not node.skip_data):
        world.keep(replace(view, populated=not node.skip_data))


def _select(node: Node, world: World) -> None:
    for call in found(node.target_list, "FuncCall"):
        if (call.funcname or ("",))[-1] == "set_config" and len(call.args or ()) == 3:  # noqa: PLR2004 - name, value, is_local
            _configure(call, world)
    if node.into_clause is not None:
        relation = node.into_clause.rel
        filled = bool(found(node.from_clause, "RangeVar"))
        name = world.name(relation, new=True)
        world.keep(Table(name, fresh=True, temporary=relation.relpersistence == "t", filled=filled))


def _insert(node: Node, world: World) -> None:
    table = world.table(world.name(node.relation))
    if table.fresh and found(node.select_stmt, "RangeVar") and not few(node.select_stmt):
        world.keep(replace(table, filled=True))


def _copy(node: Node, world: World) -> None:
    table = world.table(world.name(node.relation))
    if table.fresh and node.is_from:
        world.keep(replace(table, filled=True))


def _truncate(node: Node, world: World) -> None:
    for relation in node.relations or ():
        table = world.table(world.name(relation))
        if table.filled:
            world.keep(replace(table, filled=False))


def _prepare(node: Node, world: World) -> None:
    world.prepared[node.name] = node.query


def _create_view(node: Node, world: World) -> None:
    name = world.name(node.view)
    world.covered |= {name} & world.renamed
    if world.exists(name) is not True:
        world.keep(Table(name, "v", fresh=True))
    # which columns it reads isn't known without its tables; each that it names is taken for one of each table
    names = {parts[-1] for ref in found(node.query, "ColumnRef") if isinstance((parts := ref.parts["fields"])[-1], str)}
    for relation in found(node.query, "RangeVar"):
        table = world.table(world.name(relation))
        world.keep(replace(table, read_by={**table.read_by, name: frozenset(names)}))


def _create_index(node: Node, world: World) -> None:
    table = world.table(world.name(node.relation))
    index = made_index(node)
    if not index.name:
        index = replace(index, name=f"{table.name}_{'_'.join(index.columns) or 'expr'}_idx")
    if not node.if_not_exists or index.name not in table.indexes:
        world.keep(table.with_index(index))
    world.dropped_indexes.discard(index.name)


def _drop(node: Node, world: World) -> None:
    for item in node.objects or ():
        name = name_of(item, world)
        if node.remove_type == "OBJECT_INDEX":
            owner = world.owner_of(name)
            if owner is not None:
                world.keep(replace(owner, indexes={key: i for key, i in owner.indexes.items() if key != name}))
            world.dropped_indexes.add(name)
        elif node.remove_type in ("OBJECT_TRIGGER", "OBJECT_POLICY"):
            _unnamed(node.remove_type.removeprefix("OBJECT_").lower(), item, world)
        elif node.remove_type in ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW"):
            for part in world.partitions(name):
                world.drop(part.name)
            world.drop(name)
            if node.remove_type == "OBJECT_VIEW":
                _unread(name, world)


def _unnamed(kind: str, item: tuple[str, ...], world: World) -> None:
    """Note that a trigger or a policy is gone: what it named, it names no more."""
    table = world.table(world.joined(tuple(item[:-1])))
    users = {user: columns for user, columns in table.named_by.items() if user != f"{kind} {item[-1]}"}
    world.keep(replace(table, named_by=users))


def _unread(view: str, world: World) -> None:
    for table in world.all_tables().values():
        if view in table.read_by:
            world.keep(replace(table, read_by={key: c for key, c in table.read_by.items() if key != view}))


def _rename(node: Node, world: World) -> None:
    name = world.name(node.relation)
    if node.rename_type in ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW"):
        table = world.table(name)
        world.drop(name)
        world.keep(replace(table, name=node.newname))
        world.renamed.add(name)
    elif node.rename_type == "OBJECT_COLUMN":
        table = world.table(name)
        columns = dict(table.columns)
        column = columns.pop(node.subname, Column(node.subname))
        world.keep(replace(table, columns={**columns, node.newname: replace(column, name=node.newname)}))
    elif node.rename_type == "OBJECT_TYPE":
        old = name_of(node.object, world)
        known = world.type(old) or UserType(old, "e")
        world.types[node.newname] = replace(known, name=node.newname)
    elif node.rename_type == "OBJECT_TABCONSTRAINT":
        table = world.table(name)
        kept = {key: c for key, c in table.constraints.items() if key != node.subname}
        constraint = table.constraints.get(node.subname)
        if constraint is not None:
            kept[node.newname] = replace(constraint, name=node.newname)
        world.keep(replace(table, constraints=kept))


def _create_type(node: Node, world: World) -> None:
    name = world.joined(node.domainname or node.type_name)
    checks = [c for c in node.constraints or () if c.contype in ("CONSTR_CHECK", "CONSTR_NOTNULL")]
    kind = "d" if node.tag == "CreateDomainStmt" else "e"
    world.types[name] = UserType(name, kind, type_of(node.parts.get("type_name")) if kind == "d" else None,
                                 constrained=bool(checks), fresh=True)  # fmt: skip


def _alter_domain(node: Node, world: World) -> None:
    name = world.joined(node.type_name)
    known = world.type(name) or UserType(name, "d")
    if node.subtype in ("C", "O"):
        world.types[name] = replace(known, constrained=True)


def _alter_enum(node: Node, world: World) -> None:
    name = world.joined(node.type_name)
    known = world.type(name)
    usable = known is not None and known.fresh and world.version >= FRESH_ENUM_SINCE
    if node.old_val is None and world.in_transaction and not usable:
        world.transaction.enum_values.add(f"{name}\0{node.new_val}")


def _create_function(node: Node, world: World, sql: str) -> None:
    options = {option.defname: option.arg for option in node.options or ()}
    body: Any = options.get("as") or ("",)
    volatility = str(options.get("volatility") or "volatile")[0]
    guarded = options.get("security") is True or "set" in options
    name = world.joined(node.funcname)
    text = str(body[0]) if not isinstance(body, str) else body
    world.routines[name] = Routine(name, volatility, str(options.get("language") or "sql"), text, sql, guarded=guarded)


def _policy(node: Node, world: World) -> None:
    table = world.table(world.name(node.table))
    world.keep(replace(table, policies=table.policies + 1))


def _configure(call: Node, world: World) -> None:
    name, value, local = (literal(argument) for argument in call.args)
    settings = world.transaction.settings if local else world.settings
    settings[str(name).lower()] = str(value)  # one that is computed is "None", which is neither UTC nor off
    if not local:
        world.transaction.settings.pop(str(name).lower(), None)


def _set(node: Node, world: World) -> None:
    kind, name = node.parts.get("kind") or "", (node.name or "").lower()
    settings = world.transaction.settings if node.is_local else world.settings
    if kind == "VAR_SET_VALUE":
        value = session.value_of(node) or ""
        settings[name] = value
        if not node.is_local:
            world.transaction.settings.pop(name, None)
    elif kind == "VAR_RESET_ALL":
        world.settings.clear()
    else:
        settings.pop(name, None)


_CHANGES: dict[str, Callable[[Node, World], None]] = {
    "CreateStmt": _create_table,
    "CreateTableAsStmt": _create_as,
    "SelectStmt": _select,
    "InsertStmt": _insert,
    "CopyStmt": _copy,
    "TruncateStmt": _truncate,
    "PrepareStmt": _prepare,
    "RefreshMatViewStmt": _refresh,
    "ViewStmt": _create_view,
    "IndexStmt": _create_index,
    "AlterTableStmt": altered.alter_table,
    "DropStmt": _drop,
    "RenameStmt": _rename,
    "CreateDomainStmt": _create_type,
    "CreateEnumStmt": _create_type,
    "AlterDomainStmt": _alter_domain,
    "AlterEnumStmt": _alter_enum,
    "CreatePolicyStmt": _policy,
    "VariableSetStmt": _set,
}

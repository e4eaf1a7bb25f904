"""CREATE of tables, views, functions, triggers, rules, policies, sequences."""

from __future__ import annotations

from typing import Any

from chanuka_ops.migrator.lint.checks import habits, partitions
from chanuka_ops.migrator.lint.checks.data import read
from chanuka_ops.migrator.lint.checks.versions import since
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node, found
from chanuka_ops.migrator.lint.world import Effects, World


def create_table(node: Node, world: World, fx: Effects) -> None:
    """CREATE TABLE."""
    relation, name = node.relation, world.name(node.relation, new=True)
    _naming(node, name, fx)
    _columns(node, name, world, fx)
    for constraint in found(node.table_elts, "Constraint"):
        other = world.name(constraint.pktable)
        if other and other != name:
            fx.lock(other, Mode.SHARE_ROW_EXCLUSIVE)
            if world.used(other):
                fx.hit("foreign-key-locks-both", name, other)
        if constraint.fk_del_action == "c":
            fx.hit("foreign-key-cascades", name)
    if relation.relpersistence == "u":
        fx.hit("table-unlogged", name)
    if node.partbound is not None:
        partitions.partition_of(node, world, fx)
    elif node.inh_relations:
        fx.hit("table-inherits", name)


def _columns(node: Node, name: str, world: World, fx: Effects) -> None:
    columns = tuple(element for element in node.table_elts or () if element.tag == "ColumnDef")
    primary = [c for c in found(node.table_elts, "Constraint") if c.contype == "CONSTR_PRIMARY"]
    keys = {key for constraint in primary for key in constraint.parts.get("keys") or ()}
    for column in columns:
        habits.column(column, name, fx, key=column.colname in keys)
        _virtual(column, name, world, fx)
    lasting = node.relation.relpersistence != "t" and not node.inh_relations
    if columns and not primary and lasting:
        fx.hit("no-primary-key", name)


def _naming(node: Node, name: str, fx: Effects) -> None:
    habits.named(node.relation.relname, name, fx)
    if node.if_not_exists:
        fx.hit("table-if-not-exists", name)
    if node.relation.schemaname is None and node.relation.relpersistence != "t":
        fx.hit("schema-unqualified", name)


def _virtual(column: Node, table: str, world: World, fx: Effects) -> None:
    if any(constraint.generated_kind == "v" for constraint in column.constraints or ()):
        since(18, "a virtual generated column", table, world, fx)


def create_as(node: Node, world: World, fx: Effects) -> None:
    """CREATE TABLE AS and CREATE MATERIALIZED VIEW."""
    name = world.name(node.into.rel, new=True)
    habits.named(node.into.rel.relname, name, fx)
    if node.objtype == "OBJECT_MATVIEW":
        if not node.into.skip_data:
            fx.hit("matview-created", name)
    else:
        fx.hit("table-as-select", name)
    if not node.into.skip_data:
        read(node.query, world, fx)


def create_view(node: Node, world: World, fx: Effects) -> None:
    """CREATE VIEW."""
    name = world.name(node.view)
    habits.named(node.view.relname, name, fx)
    if node.replace and world.exists(name) is not False:
        fx.hit("view-replaced", name)
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    targets = node.query.target_list or () if isinstance(node.query, Node) else ()
    if any(part.tag == "A_Star" for target in targets for part in _fields(target.val)):
        fx.hit("view-select-star", name)


def _fields(value: Any) -> list[Node]:
    if not isinstance(value, Node) or value.tag != "ColumnRef":
        return []
    return [part for part in value.parts.get("fields") or () if isinstance(part, Node)]


def create_trigger(node: Node, world: World, fx: Effects) -> None:
    """CREATE TRIGGER."""
    name = world.name(node.relation)
    fx.lock(name, Mode.SHARE_ROW_EXCLUSIVE)
    if node.constrrel is not None:
        fx.lock(world.name(node.constrrel), Mode.SHARE_ROW_EXCLUSIVE)
    if world.used(name):
        fx.hit("trigger-created", name)


def create_rule(node: Node, world: World, fx: Effects) -> None:
    """CREATE RULE."""
    name = world.name(node.relation)
    fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    fx.hit("rule-created", name)


def policy(node: Node, world: World, fx: Effects) -> None:
    """CREATE POLICY and ALTER POLICY."""
    name = world.name(node.table)
    fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    if world.used(name) and (node.tag == "AlterPolicyStmt" or world.table(name).policies):
        fx.hit("policy-changed", name)


def alter_sequence(node: Node, world: World, fx: Effects) -> None:
    """ALTER SEQUENCE."""
    name = world.name(node.sequence)
    words = {option.defname for option in node.options or ()}
    changes = words & {"restart", "as", "increment", "maxvalue", "minvalue", "cycle", "start"}
    if changes:
        fx.lock(name, Mode.SHARE_ROW_EXCLUSIVE)
        fx.hit("sequence-changed", name, ", ".join(sorted(changes)))


def publication(node: Node, _: World, fx: Effects) -> None:
    """CREATE and ALTER PUBLICATION and SUBSCRIPTION."""
    fx.hit("publication-changed", node.pubname or node.subname or "")


def statistics(node: Node, world: World, fx: Effects) -> None:
    """CREATE STATISTICS: ANALYZE fills them later."""
    for relation in node.relations or ():
        fx.lock(world.name(relation), Mode.SHARE_UPDATE_EXCLUSIVE)


CHECKS = {
    "CreateStmt": create_table,
    "CreateTableAsStmt": create_as,
    "ViewStmt": create_view,
    "CreateTrigStmt": create_trigger,
    "RuleStmt": create_rule,
    "CreatePolicyStmt": policy,
    "AlterPolicyStmt": policy,
    "AlterSeqStmt": alter_sequence,
    "CreatePublicationStmt": publication,
    "AlterPublicationStmt": publication,
    "CreateSubscriptionStmt": publication,
    "AlterSubscriptionStmt": publication,
    "CreateStatsStmt": statistics,
}

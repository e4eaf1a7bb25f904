"""Partitions: ATTACH, DETACH, PARTITION OF, and what a parent and its partitions can only do together."""

from __future__ import annotations

from chanuka_ops.migrator.lint.catalogue import Table
from chanuka_ops.migrator.lint.checks import proofs
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node
from chanuka_ops.migrator.lint.world import Effects, World

_TOGETHER = {
    "AT_AddColumn": "a column is added to the partitions too",
    "AT_DropColumn": "a column is dropped from the partitions too",
    "AT_AlterColumnType": "the type of a column is that of the partitions too",
}


def attach(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """ATTACH PARTITION; of an index, it is of the catalogue only."""
    part = cmd.parts["def"]
    name = world.name(part.name)
    fx.lock(table.name, Mode.SHARE_UPDATE_EXCLUSIVE)
    if world.used(name):
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)
        proof = proofs.proven(world.table(name), table, part.bound)
        if proof != "yes":
            fx.hit("attach-scans" if proof == "no" else "attach-maybe-proven", name)
        _like_parent(world.table(name), table, fx)
        mine = {(index.columns, index.unique) for index in world.table(name).indexes.values() if not index.partial}
        for index in table.indexes.values():
            if (index.columns, index.unique) not in mine and index.valid:
                fx.hit("attach-builds-index", name, index.name)
    default(table, part.bound, world, fx)


def _like_parent(part: Table, parent: Table, fx: Effects) -> None:
    """A partition needs its parent's CHECKs and NOT NULLs, and gets its foreign keys, which are checked at once."""
    if not (part.whole and parent.whole):
        return
    mine = part.constraints.values()
    for constraint in parent.constraints.values():
        if constraint.kind == "c" and constraint.name not in part.constraints:
            fx.hit("attach-refused", part.name, f"CHECK {constraint.name}")
        same = {(c.columns, c.references) for c in mine if c.kind == "f" and c.valid}
        if constraint.kind == "f" and (constraint.columns, constraint.references) not in same:
            fx.lock(constraint.references or "", Mode.SHARE_ROW_EXCLUSIVE)
            fx.hit("foreign-key-scans", part.name, constraint.references or "")
    for column in parent.columns:
        if parent.not_null(column) and column in part.columns and not part.columns[column].not_null:
            fx.hit("attach-refused", part.name, f"NOT NULL of {column}")


def default(parent: Table, bound: Node | None, world: World, fx: Effects) -> None:
    """A new partition looks whether the default one holds rows of its own."""
    name = parent.default_partition
    if name is None or bound is None or bound.is_default or not world.used(name):
        return
    fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    outside = proofs.excluded(world.table(name), parent, bound)
    if outside != "yes":
        fx.hit("attach-maybe-proven" if outside == "maybe" else "default-partition-scanned", name)


def only_parent(node: Node, parent: Table, world: World, fx: Effects) -> None:
    """ALTER TABLE ONLY of a partitioned table that has partitions."""
    if parent.kind != "p" or not world.partitions(parent.name):
        return
    for cmd in node.cmds or ():
        if cmd.subtype in _TOGETHER:
            fx.hit("partition-alone-refused", parent.name, _TOGETHER[cmd.subtype])


def partition_of(node: Node, world: World, fx: Effects) -> None:
    """CREATE TABLE … PARTITION OF."""
    for relation in node.inh_relations or ():
        parent = world.name(relation)
        fx.lock(parent, Mode.ACCESS_EXCLUSIVE)
        if world.used(parent):
            fx.hit("partition-of-locks-parent", parent)
        default(world.table(parent), node.partbound, world, fx)


def detach(cmd: Node, table: Table, world: World, fx: Effects) -> None:
    """DETACH PARTITION."""
    part = cmd.parts["def"]
    name = world.name(part.name)
    if part.concurrent:
        if world.in_transaction:
            fx.hit("concurrently-in-transaction", table.name, "DETACH PARTITION CONCURRENTLY")
        if table.default_partition is not None:
            fx.hit("detach-with-default", table.name)
        fx.lock(table.name, Mode.SHARE_UPDATE_EXCLUSIVE)
        return
    fx.lock(table.name, Mode.ACCESS_EXCLUSIVE)
    fx.lock(name, Mode.ACCESS_EXCLUSIVE)
    if world.used(table.name):
        fx.hit("detach-locks-parent", table.name)

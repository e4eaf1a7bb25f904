"""Indexes, REINDEX, CLUSTER, VACUUM, REPACK, and materialized views."""

from __future__ import annotations

from chanuka_ops.migrator.lint.catalogue import Index
from chanuka_ops.migrator.lint.checks.versions import since
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node, column_of, found
from chanuka_ops.migrator.lint.world import Effects, World

MANY_COLUMNS = 3
REPACK_SINCE = 19


def create_index(node: Node, world: World, fx: Effects) -> None:
    """CREATE INDEX."""
    name = world.name(node.relation)
    table = world.table(name)
    _style(node, name, fx)
    if node.if_not_exists and not node.concurrent and world.owner_of(node.idxname or "") is not None:
        return  # a notice, and a lock for as long as it takes to write it
    if node.concurrent:
        _concurrent(node, world, fx, name)
        return
    if not world.used(name):
        return
    if world.in_transaction or not node.if_not_exists:
        fx.lock(name, Mode.SHARE)
    if node.unique and not node.concurrent:
        fx.hit("unique-index-may-fail", name)
    if node.relation.inh is None and (
        table.kind == "p" or not table.whole
    ):  # ON ONLY of a plain table is a plain build
        fx.hit("index-invalid-on-only", node.idxname or name)
        return
    if table.kind == "p":
        fx.hit("index-on-partitioned-blocks", name)
    else:
        fx.hit("index-build-blocks-writes", name)
    fx.lock(name, Mode.SHARE)


def _style(node: Node, name: str, fx: Effects) -> None:
    parts = node.index_params or ()
    if len(parts) > MANY_COLUMNS and not node.unique:
        fx.hit("index-many-columns", name, str(len(parts)))
    if node.access_method == "hash":
        fx.hit("index-hash", name)
    if not node.idxname and not node.concurrent:
        fx.hit("index-unnamed", name)


def _concurrent(node: Node, world: World, fx: Effects, name: str) -> None:
    if world.in_transaction:
        fx.hit("concurrently-in-transaction", name, "CREATE INDEX CONCURRENTLY")
    if world.table(name).kind == "p":
        fx.hit("concurrently-on-partitioned", name)
    if node.unique and world.used(name):
        fx.hit("unique-index-may-fail", name)
    if not node.idxname:
        fx.hit("concurrent-index-unnamed", name)
    elif node.if_not_exists:
        fx.hit("concurrent-index-if-not-exists", node.idxname)
    elif node.idxname not in world.dropped_indexes:
        fx.hit("concurrent-index-leftover", node.idxname)
    fx.lock(name, Mode.SHARE_UPDATE_EXCLUSIVE)


def made_index(node: Node) -> Index:
    """Return the index that CREATE INDEX makes."""
    columns = tuple(part.name or "" for part in node.index_params or ())
    partial = node.where_clause is not None
    named = (*(node.index_params or ()), *(node.index_including_params or ()))
    uses = {part.name for part in named if part.name}
    uses |= {column for ref in found((named, node.where_clause), "ColumnRef") if (column := column_of(ref))}
    return Index(node.idxname or "", columns, bool(node.unique), partial, uses=frozenset(uses))


def reindex(node: Node, world: World, fx: Effects) -> None:
    """REINDEX."""
    kind = (node.parts.get("kind") or "").removeprefix("REINDEX_OBJECT_")
    name = world.name(node.relation) or node.name or "the database"
    concurrent = has_option(node.params, "concurrently")
    whole = kind in ("SCHEMA", "DATABASE", "SYSTEM")
    if kind == "SYSTEM" and concurrent:
        fx.hit("reindex-refused", name, "the system catalogues can't be rebuilt concurrently")
    if whole and world.in_transaction:
        fx.hit("reindex-refused", name, f"REINDEX {kind} can't run inside a transaction")
    owner = world.owner_of(name) if kind == "INDEX" else world.table(name)
    if not whole and owner is not None and owner.kind == "p" and world.in_transaction and not concurrent:
        fx.hit("reindex-refused", name, f"{name} is partitioned: its REINDEX can't run inside a transaction")
    table = owner.name if owner is not None else name
    if concurrent:
        if world.in_transaction:
            fx.hit("concurrently-in-transaction", name, "REINDEX CONCURRENTLY")
        fx.lock(table, Mode.SHARE_UPDATE_EXCLUSIVE)
    elif whole or world.used(table):
        fx.hit("reindex-blocks", name)
        fx.lock(table, Mode.SHARE if kind != "INDEX" else Mode.ACCESS_EXCLUSIVE)


def cluster(node: Node, world: World, fx: Effects) -> None:
    """CLUSTER."""
    name = world.name(node.relation)
    if not name and world.in_transaction:
        fx.hit("not-in-transaction", "CLUSTER", "CLUSTER without a table")
    if world.used(name):
        fx.hit("cluster", name or "every table that was clustered before")
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)


def vacuum(node: Node, world: World, fx: Effects) -> None:
    """VACUUM and ANALYZE."""
    if not node.is_vacuumcmd:
        for part in node.rels or ():
            fx.lock(world.name(part.relation), Mode.SHARE_UPDATE_EXCLUSIVE)
            fx.scan(world.name(part.relation))
        return
    names = [world.name(part.relation) for part in node.rels or ()]
    if world.in_transaction:
        fx.hit("vacuum-in-transaction", ", ".join(names))
    if has_option(node.options, "full"):
        for name in names or ["every table"]:
            if world.used(name):
                fx.hit("vacuum-full", name)
                fx.lock(name, Mode.ACCESS_EXCLUSIVE)


def repack(node: Node, world: World, fx: Effects) -> None:
    """REPACK, which is of PostgreSQL 19."""
    name = node.name or "every table"
    since(REPACK_SINCE, "REPACK", name, world, fx)
    if node.concurrent and world.in_transaction:
        fx.hit("concurrently-in-transaction", name, "REPACK (CONCURRENTLY)")
    if not node.concurrent and world.used(name):
        fx.hit("repack-blocks", name)
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)


def refresh(node: Node, world: World, fx: Effects) -> None:
    """REFRESH MATERIALIZED VIEW."""
    name = world.name(node.relation)
    view = world.table(name)
    if node.concurrent and (node.skip_data or not view.populated):
        fx.hit("matview-refresh-refused", name, "WITH NO DATA" if node.skip_data else "a view that was never filled")
    elif node.concurrent:
        usable = any(i.unique and not i.partial and "" not in i.columns and i.valid for i in view.indexes.values())
        if not usable and view.kind == "m":  # else its indexes aren't known
            fx.hit("matview-refresh-needs-unique", name)
        fx.lock(name, Mode.EXCLUSIVE)
        fx.scan(name)
    elif world.used(name):
        fx.hit("matview-emptied" if node.skip_data else "matview-refresh-blocks", name)
        fx.lock(name, Mode.ACCESS_EXCLUSIVE)


def has_option(options: tuple[Node, ...] | None, name: str) -> bool:
    """Tell whether a list of options (FULL, CONCURRENTLY, …) holds one that isn't switched off."""
    off = ("false", "off", "0", 0, False)
    return any(option.defname == name and option.arg not in off for option in options or ())


CHECKS = {
    "IndexStmt": create_index,
    "ReindexStmt": reindex,
    "ClusterStmt": cluster,
    "VacuumStmt": vacuum,
    "RepackStmt": repack,
    "RefreshMatViewStmt": refresh,
}

"""What a script makes and doesn't finish: foreign keys without an index, constraints that nobody validated. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.migrator.lint.catalogue import Constraint, Table
from chanuka_ops.migrator.lint.model import Statement
from chanuka_ops.migrator.lint.world import Hit, World


class Made:
    """The constraints that a script makes, each with its statement."""

    def __init__(self, world: World) -> None:
        known = world.all_tables().values()
        self._before = {(table.name, name) for table in known for name in table.constraints}
        self._made: dict[tuple[str, str], Statement] = {}

    def look(self, statement: Statement, world: World) -> None:
        """Note what the statement has made."""
        if statement.node is None or statement.node.tag not in ("CreateStmt", "AlterTableStmt"):
            return
        table = world.table(world.name(statement.node.relation))
        for name in table.constraints:
            key = (table.name, name)
            if key not in self._before:
                self._made.setdefault(key, statement)

    def left(self, world: World) -> Iterator[tuple[Statement, Hit]]:
        """Yield what is left undone at the end."""
        for (name, constraint_name), statement in self._made.items():
            table = world.table(name)
            constraint = table.constraints.get(constraint_name)
            if constraint is None:
                continue
            if constraint.kind in ("c", "f", "n") and not constraint.valid:
                yield statement, Hit("constraint-not-validated", f"{constraint_name} of {name}")
            if constraint.kind == "f" and _unindexed(table, constraint):
                yield statement, Hit("foreign-key-unindexed", name, ", ".join(constraint.columns))


def _unindexed(table: Table, constraint: Constraint) -> bool:
    if not (table.whole or table.fresh) or not constraint.columns:
        return False
    width = len(constraint.columns)
    leading = {frozenset(index.columns[:width]) for index in table.indexes.values() if not index.partial}
    return frozenset(constraint.columns) not in leading

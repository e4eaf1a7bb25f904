"""SET and what else is of the session, or can't run inside a transaction."""

from __future__ import annotations

import re

from chanuka_ops.migrator.lint.tree import Node, literal
from chanuka_ops.migrator.lint.world import Effects, World

_UNITS_MS = {"": 1, "us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s|min|h|d)?\s*")
TIMEOUTS = ("lock_timeout", "statement_timeout", "transaction_timeout")


def set_variable(node: Node, world: World, fx: Effects) -> None:
    """SET, SET LOCAL, RESET."""
    name = (node.name or "all").lower()
    value = value_of(node)
    milliseconds = duration_ms(value) if value is not None else None
    if name in TIMEOUTS and milliseconds == 0:
        fx.hit("timeout-off", name)
    if name == "session_replication_role" and value != "origin" and node.parts.get("kind") == "VAR_SET_VALUE":
        fx.hit("session-replication-role")
    if not (node.parts.get("kind") or "").startswith("VAR_SET"):
        return
    if node.is_local and not world.in_transaction:
        fx.hit("local-outside-transaction", name)
    elif not node.is_local and (world.in_transaction or name not in TIMEOUTS):
        fx.hit("session-setting", name)


def value_of(node: Node) -> str | None:
    """Return what a SET sets, as text; None for DEFAULT and RESET."""
    values = [literal(argument) for argument in node.args or ()]
    return ", ".join(str(value) for value in values) if values else None


def duration_ms(text: str) -> float | None:
    """Return a setting's duration in milliseconds.

    >>> duration_ms("2s"), duration_ms("500"), duration_ms("soon")
    (2000.0, 500.0, None)
    """
    match = _DURATION.fullmatch(text)
    return None if match is None else float(match["number"]) * _UNITS_MS[match["unit"] or ""]


def create_database(node: Node, world: World, fx: Effects) -> None:
    """CREATE DATABASE."""
    fx.hit("database-created", node.dbname or "")
    if world.in_transaction:
        fx.hit("not-in-transaction", node.dbname or "", "CREATE DATABASE")


def create_tablespace(node: Node, world: World, fx: Effects) -> None:
    """CREATE TABLESPACE."""
    if world.in_transaction:
        fx.hit("not-in-transaction", node.tablespacename or "", "CREATE TABLESPACE")


def alter_database(node: Node, _: World, fx: Effects) -> None:
    """ALTER DATABASE … SET."""
    fx.hit("alter-system", node.dbname or "")


CHECKS = {
    "VariableSetStmt": set_variable,
    "CreatedbStmt": create_database,
    "CreateTableSpaceStmt": create_tablespace,
    "AlterDatabaseSetStmt": alter_database,
}

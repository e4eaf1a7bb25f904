"""Revisions that call the operations, and what is left in the database after them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in

IMPORT = "from sqlalchemy import text\nfrom chanuka_ops.migrator import operations as ops\n"


def body(source: str) -> str:
    """A revision's body, with what it imports."""
    return IMPORT + textwrap.dedent(source)


def up(database: DatabaseSettings, directory: Path, source: str, **settings: Any) -> None:
    """Run one revision with that body, in this process."""
    in_this_process(database, scripts_in(directory, a1=body(source)), **settings).move("up", "head")


def again(database: DatabaseSettings, directory: Path, source: str, **settings: Any) -> None:
    """Run it once more, as after a kill before its version was recorded."""
    in_this_process(database, directory).move("down", "base")
    up(database, directory, source, **settings)


def run(manager: ConnectionManager, *statements: str) -> None:
    """Run statements, each by itself."""
    with manager.autocommit(lock_timeout_s=30) as connection:
        for statement in statements:
            connection.execute(text(statement))


def ask(manager: ConnectionManager, query: str) -> list[tuple[Any, ...]]:
    """Return a query's rows."""
    with manager.autocommit() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def indexes(manager: ConnectionManager, table: str) -> dict[str, bool]:
    """A table's indexes, but its primary key, and whether each is valid."""
    query = f"select indexrelid::regclass::text, indisvalid from pg_index where indrelid = '{table}'::regclass"
    return {str(name): bool(valid) for name, valid in ask(manager, f"{query} and not indisprimary")}

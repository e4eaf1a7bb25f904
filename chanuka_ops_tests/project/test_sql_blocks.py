"""Each named block of SQL is understood by the live server: run on 15 and 18, that proves both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import chanuka_ops
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.postgres.server import Server
from chanuka_ops.sql.catalog import load

PREPARABLE = re.compile(r"^\s*(?:--[^\n]*\n\s*)*(select|with|insert|update|delete|values|merge)\b", re.IGNORECASE)
BIND = re.compile(r"(?<![:\\]):(?P<name>[a-z_]\w*)")
ROOMS = ("backup", "dataset", "db", "health", "health.sampling", "migrator", "optimisation")
NEED_THE_SCHEMA = {"dataset", "migrator"}


def as_prepared(sql: str) -> str:
    """Write SQLAlchemy's `:name` binds as the server's `$n`."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match["name"] not in names:
            names.append(match["name"])
        return f"${names.index(match['name']) + 1}"

    return BIND.sub(number, sql).replace("\\:", ":")


def test_every_room_with_sql_is_looked_at() -> None:
    root = Path(chanuka_ops.__file__).parent
    found = {".".join(path.parent.relative_to(root).parts) for path in root.rglob("queries.sql")}
    assert found == set(ROOMS)


@pytest.mark.postgres
@pytest.mark.parametrize("room", ROOMS)
def test_the_server_understands_each_block(room: str, manager: ConnectionManager, server: Server) -> None:
    if room in NEED_THE_SCHEMA:
        Migrator(manager, MigrationSettings()).up()
    catalog = load(f"chanuka_ops.{room}")
    refused, prepared = {}, 0
    for name in catalog.names():
        if catalog.since(name) > server.major:
            continue
        sql = catalog.sql(name, server.major)
        if not PREPARABLE.match(sql):
            continue
        prepared += 1
        with manager.autocommit() as connection:
            try:
                connection.exec_driver_sql(
                    f"prepare block as {as_prepared(sql)}", execution_options={"no_parameters": True}
                )
            except Exception as error:  # noqa: BLE001 - whatever the server says of it is the finding
                refused[name] = str(error).splitlines()[0]
    assert prepared > 0
    assert not refused


def test_binds_are_numbered() -> None:
    assert as_prepared("select :a::int, :b, :a, x[1\\:2]") == "select $1::int, $2, $1, x[1:2]"

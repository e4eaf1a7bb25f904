"""The same migration on many databases: one that is broken takes no other with it, and is named."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in
from chanuka_ops_tests.plugins.postgres import connect
from chanuka_ops_tests.plugins.processes import Cli, url_of

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

BROKEN = "t07"


class Tenants:
    """Databases by name, and a configuration of all of them."""

    def __init__(self, databases: dict[str, DatabaseSettings], config: Path) -> None:
        self.databases = databases
        self.config = config

    def migrated(self) -> set[str]:
        """Those that have the table of the second revision."""
        return {name for name, database in self.databases.items() if _has(database, "b2")}


def _has(database: DatabaseSettings, table: str) -> bool:
    with connect(database) as connection:
        return connection.execute("select to_regclass(%s) is not null", [table]).fetchone() == (True,)


@pytest.fixture
def tenants(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tenants]:
    """So many databases, of which one has a table already that a revision makes."""
    run = uuid.uuid4().hex[:6]
    where = scripts_in(tmp_path / "scripts", a1="op.execute('create table a1 (id int)')",
                       b2="op.execute('create table b1 (id int)')\nop.execute('create table b2 (id int)')")  # fmt: skip
    names = [f"t{n:02}" for n in range(getattr(request, "param", 20))]
    with ConnectionManager("admin", server.settings("postgres")) as admin:
        with admin.autocommit() as connection:
            for name in names:
                connection.execute(text(f"create database fleet_{run}_{name} template template0"))
        databases = {name: server.settings(f"fleet_{run}_{name}") for name in names}
        with connect(databases[BROKEN] if BROKEN in databases else databases["t01"]) as broken:
            broken.execute("create table b2 (other int)")
        config = tmp_path / "chanuka.toml"
        config.write_text(
            f"[operations.migration]\nscript_location = {json.dumps(str(where))}\n"
            + "".join(f"[databases.{name}]\nurl = {json.dumps(url_of(d))}\n" for name, d in databases.items())
        )
        yield Tenants(databases, config)
        with admin.autocommit() as connection:
            for name in names:
                connection.execute(text(f"drop database fleet_{run}_{name} with (force)"))


def env_of(tenants: Tenants) -> dict[str, str]:
    return {"CHANUKA_CONFIG": str(tenants.config)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_twenty_one_is_broken_and_nineteen_stand_at_head(tenants: Tenants, cli: Cli) -> None:
    ran = cli("migrate", "up", "--all-databases", "--max-parallel", "3", "--json", env=env_of(tenants))
    assert ran.status == 1
    members = {member["database"]: member for member in ran.json["databases"]}
    assert ran.json["counts"]["done"] == 19
    assert [name for name, member in members.items() if member["status"] != "done"] == [BROKEN]
    assert "42P07" in members[BROKEN]["error"]["message"]
    assert tenants.migrated() == set(members)  # the broken one's is the other table
    assert not _has(tenants.databases[BROKEN], "b1")  # its revision was undone as a whole
    assert {member["to"] for name, member in members.items() if name != BROKEN} == {"b2"}


@pytest.mark.slow
@pytest.mark.parametrize("tenants", [4], indirect=True)
def test_the_canary_goes_first_and_enough_is_enough(tenants: Tenants, cli: Cli) -> None:
    up = ["migrate", "up", "--all-databases", "--max-parallel", "1", "--json"]
    env = env_of(tenants)
    canary = cli(*up, "--canary", "t01", env=env)
    assert canary.status == 1
    assert [member["status"] for member in canary.json["databases"]] == ["not_started", "failed", *["not_started"] * 2]
    stopped = cli(*up, "--stop-after", "1", env=env)
    assert [member["status"] for member in stopped.json["databases"]] == ["done", "failed", *["not_started"] * 2]
    assert cli(*up, "--canary", "nobody", env=env).status == 2
    assert cli("migrate", "up", "--canary", "t00", env=env).status == 2

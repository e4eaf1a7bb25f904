"""The copy that `migrate rehearse` runs on is the source's twin: its tablespaces, its log, its heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import scratch
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in, write
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.desk import TABLES, Desk
from chanuka_ops_tests.plugins.postgres import SERVER_SETTINGS
from chanuka_ops_tests.plugins.processes import Cli

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

MOVED = "ALTER TABLE bills SET TABLESPACE side;\nSELECT count(*) FROM bills;"
BACK = "ALTER TABLE bills SET TABLESPACE pg_default;"
SLOT = "SELECT pg_create_logical_replication_slot('twin', 'pgoutput', true);"


def statements(desk: Desk, sql: str, *options: str, status: int = 0) -> list[dict[str, object]]:
    (desk.directory / "change.sql").write_text(sql, encoding="utf-8")
    answer = desk.answer("migrate", "rehearse", "--sql", "change.sql", *options, status=status)
    found: list[dict[str, object]] = answer["statements"]
    return found


@pytest.mark.parametrize("wal_level", ["replica", "logical"])
def test_what_the_source_can_do_and_no_more_its_twin_can_do(  # noqa: PLR0917 - a case and its fixtures
    wal_level: str, here: Cli, base_environment: dict[str, str], pg: Binaries, session_dir: Path, tmp_path: Path
) -> None:
    settings = {**SERVER_SETTINGS, "wal_level": wal_level}
    with scratch(session_dir, pg, superuser="postgres", settings=settings) as server:
        database = server.settings("postgres")
        execute(database, "set allow_in_place_tablespaces = on", "create tablespace side location ''")
        desk = Desk(tmp_path, here, base_environment, database)
        desk.write()
        execute(database, *TABLES)
        desk.create()
        (tmp_path / "back.sql").write_text(BACK, encoding="utf-8")
        moved, counted, back = statements(desk, MOVED, "--down-sql", "back.sql")
        for item in (moved, back):
            assert (item["error"], item["rewritten"], item["blocks"]) == (None, ["bills"], "rw")
            assert item["locks"] == {"bills": "AccessExclusiveLock"}
            assert item["impact"] == "rewrite-under-blocking-lock"
        assert (counted["locks"], counted["blocks"]) == ({}, "")
        assert scalars(database, "select reltablespace from pg_class where relname = 'bills'") == [0]

        [slot] = statements(desk, SLOT, status=0 if wal_level == "logical" else 1)
        if wal_level == "logical":
            assert slot["error"] is None
        else:
            assert "wal_level" in str(slot["error"])  # as it would be said there
        assert scalars(database, "select count(*) from pg_replication_slots") == [0]


def test_several_heads_are_rehearsed_where_all_are_meant(desk: Desk) -> None:
    where = scripts_in(desk.directory / "migrations", a1="op.execute('create table a1 (id int)')")
    for name, parent in (("b2", "a1"), ("c2", "a1"), ("b3", "b2"), ("c3", "c2")):
        write(where, name, parent, f"op.execute('alter table bills add column {name} int')")
        path = where / "versions" / f"{name}.py"
        path.write_text(path.read_text().replace("select 1", f"alter table bills drop column {name}"))
    for to in ("b2", "c2"):
        desk.answer("migrate", "up", "--to", to)
    desk.create()
    refused = desk("migrate", "rehearse")
    assert (refused.status, "2 heads" in refused.stderr) == (3, True)
    answer = desk.answer("migrate", "rehearse", "--to", "heads")
    assert [answer[leg] for leg in ("up", "down", "up_again", "schema_restored")] == [True] * 4
    legs = {leg["name"]: leg["revisions"] for leg in answer["legs"]}
    assert set(legs["up"]) == set(legs["down"]) == set(legs["up_again"]) == {"b3", "c3"}
    assert json.dumps(answer["pending"]).count("revision") == 2
    assert "b3" not in scalars(
        desk.database, "select attname::text from pg_attribute where attrelid = 'bills'::regclass"
    )

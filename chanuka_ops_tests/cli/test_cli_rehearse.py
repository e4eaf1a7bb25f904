"""`migrate rehearse` as a person and a script use it: a backup, a copy restored from it, and what remained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.desk import Desk

pytestmark = pytest.mark.postgres

FIXED = {"up", "down", "up_again", "schema_restored", "statements"}
FIXED_OF_STATEMENT = {
    "sql", "seconds", "locks", "blocks", "rewritten", "scanned_rows_while_blocking", "wal_bytes", "error",
}  # fmt: skip


def script(desk: Desk, sql: str, name: str = "change.sql") -> str:
    path = desk.directory / name
    path.write_text(sql, encoding="utf-8")
    return str(path)


def columns(desk: Desk) -> list[object]:
    return scalars(
        desk.database, "select attname::text from pg_attribute where attrelid = 'bills'::regclass and attnum > 0"
    )


def records(desk: Desk) -> list[Path]:
    return sorted(Path(desk.base["CHANUKA_STATE_DIR"]).glob("rehearsals/main/*.json"))


def test_a_script_is_rehearsed_on_a_copy(desk: Desk) -> None:
    refused = desk("migrate", "rehearse", "--sql", script(desk, "SELECT 1;"))
    assert (refused.status, "backup create" in refused.stderr) == (3, True)

    backup_id = desk.create()
    assert desk.answer("backup", "list")["backups"][0]["tier"] == "taken"
    rewriting = "BEGIN;\nALTER TABLE bills ADD COLUMN u uuid DEFAULT gen_random_uuid();\nCOMMIT;\n"
    sql = script(desk, rewriting + "CREATE INDEX CONCURRENTLY t ON bills (title);")
    answer = desk.answer("migrate", "rehearse", "--sql", sql)

    assert answer.keys() >= FIXED
    assert (answer["up"], answer["down"], answer["up_again"], answer["schema_restored"]) == (True, None, None, None)
    rewrite, index = answer["statements"]
    assert rewrite.keys() >= FIXED_OF_STATEMENT
    assert (rewrite["blocks"], rewrite["rewritten"]) == ("rw", ["bills", "bills_pkey"])
    assert rewrite["locks"] == {"bills": "AccessExclusiveLock", "bills_pkey": "AccessExclusiveLock"}
    assert rewrite["scanned_rows_while_blocking"] == 600
    assert rewrite["wal_bytes"] > 0
    assert (index["blocks"], index["locks"]) == ("", {"bills": "ShareUpdateExclusiveLock"})
    assert rewrite["prediction"]["low_s"] <= rewrite["seconds"] <= rewrite["prediction"]["high_s"]
    assert rewrite["delayed"] == "unknown"  # nobody counts the statements of this server
    assert (answer["backup_id"], answer["tier"]) == (backup_id, "proven")
    assert desk.answer("backup", "list")["backups"][0]["tier"] == "proven"
    assert "u" not in columns(desk)
    [record] = records(desk)
    assert json.loads(record.read_text())["plan_hash"] == answer["plan_hash"]


def test_an_error_ends_it(desk: Desk) -> None:
    desk.create()
    sql = script(
        desk, "BEGIN;\nALTER TABLE bills ADD COLUMN z int;\nALTER TABLE nobody ADD COLUMN z int;\nSELECT 1;\nCOMMIT;"
    )
    ran = desk("migrate", "rehearse", "--sql", sql)
    assert ran.status == 1
    assert 'line 3: relation "nobody" does not exist' in ran.stdout
    assert "bills: AccessExclusiveLock" in ran.stdout
    assert json.loads(records(desk)[-1].read_text())["impact"] == "error"
    assert desk("migrate", "rehearse", "--sql", script(desk, "\\copy bills from 'x'")).status == 2
    assert desk("migrate", "rehearse", "--down-sql", sql).status == 2


def test_revisions_go_up_down_and_up_again(desk: Desk) -> None:
    where = scripts_in(
        desk.directory / "migrations",
        a1="op.execute('alter table bills add column z int default 3')",
        b2="with op.get_context().autocommit_block():\n    op.execute('create index concurrently bz on bills (z)')",
    )
    for name, down in (("a1", "alter table bills drop column z"), ("b2", "drop index bz")):
        path = where / "versions" / f"{name}.py"
        path.write_text(path.read_text().replace("select 1", down))
    desk.create()
    answer = desk.answer("migrate", "rehearse")

    assert (answer["up"], answer["down"], answer["up_again"], answer["schema_restored"]) == (True, True, True, True)
    assert answer["untouched_tables_unchanged"] is True
    told = [(item["revision"], item["direction"], item["sampled"]) for item in answer["statements"]]
    assert told == [("a1", "up", False), ("b2", "up", True), ("b2", "down", False), ("a1", "down", False)]
    assert [item["revision"] for item in answer["pending"]] == ["a1", "b2"]
    assert answer["statements"][0]["locks"] == {"bills": "AccessExclusiveLock"}
    assert answer["statements"][1]["locks"] == {"bills": "ShareUpdateExclusiveLock"}
    assert "z" not in columns(desk)
    assert scalars(desk.database, "select to_regclass('alembic_version')::text") == [None]


@pytest.mark.slow
def test_a_way_down_that_does_not_lead_back(desk: Desk) -> None:
    scripts_in(desk.directory / "migrations", a1="op.execute('create table if not exists votes (id int)')")
    desk.create()
    ran = desk("migrate", "rehearse", "--json")
    assert ran.status == 1
    assert (ran.json["up"], ran.json["down"], ran.json["schema_restored"]) == (True, True, False)
    assert ran.json["schema_differences"] == [{"object": "TABLE public.votes", "kind": "appeared"}]


def test_what_is_no_full_copy_predicts_nothing(desk: Desk) -> None:
    execute(desk.database, "create table logs (id int)")
    desk.write('filter.exclude_table_data = ["public.logs"]')
    answer = desk.answer(
        "migrate", "rehearse", "--fresh-backup", "--sql", script(desk, "ALTER TABLE bills ADD COLUMN z int;")
    )
    [statement] = answer["statements"]
    assert statement["prediction"] is None
    assert "full size" in statement["no_prediction"]
    assert statement["delayed"] == "unknown"


def test_a_damaged_backup_is_none(desk: Desk) -> None:
    backup_id = desk.create()
    [directory] = Path(desk.base["CHANUKA_STATE_DIR"]).rglob(backup_id)
    largest = max((path for path in (directory / "dump").iterdir()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content)
    ran = desk("migrate", "rehearse", "--backup", backup_id, "--sql", script(desk, "SELECT 1;"))
    assert (ran.status, "isn't proven by its restore" in ran.stderr) == (3, True)
    assert records(desk) == []

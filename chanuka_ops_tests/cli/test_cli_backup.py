"""`chanuka-ops backup …` as a person uses it: what it answers, how it ends, and what of it is seen on a terminal."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.cli.test_cli_terminal import on_terminal
from chanuka_ops_tests.plugins.backup import execute, fresh_database
from chanuka_ops_tests.plugins.desk import KEEP_ONE, NOBODY, TABLES, Desk, cloud_store, two_stores
from chanuka_ops_tests.plugins.keys import ANOTHER_SECRET_KEY, RECIPIENT, SECRET_KEY, SECRET_NAME
from chanuka_ops_tests.plugins.processes import Cli, Guarded
from chanuka_ops_tests.plugins.s3 import SECRET, Bucket

pytestmark = pytest.mark.postgres

CREATED = {"backup_id", "kind", "tier", "bytes", "source_bytes", "seconds", "store", "tables"}
LISTED = {"backup_id", "kind", "tier", "created_at", "database", "bytes", "server_version"}
VERIFIED = {"backup_id", "tier", "files", "problems"}
DRILLED = {
    "backup_id", "tier", "restore_seconds", "tables_compared", "rows_compared", "coverage", "mismatches",
    "structure_problems", "rto_seconds", "rpo_seconds",
}  # fmt: skip


def ids(answer: dict[str, Any], key: str = "backups") -> list[str]:
    return [entry["backup_id"] for entry in answer[key]]


def data_file(desk: Desk, store: str, backup_id: str) -> Path:
    return next((desk.directory / store / "main" / backup_id / "dump").glob("*.dat*"))


# ------------------------------------------------------------------ one store


def test_with_nothing_configured_there_is_nothing_and_it_says_so(here: Cli, state_dir: Path) -> None:
    assert here("backup", "list").stdout == "Backups: none\n"
    assert here("backup", "list", "--json").json == {"backups": [], "problems": {}}
    assert here("backup", "expire", "--dry-run").stdout == "What the policy would do: none\n"
    drilled = here("backup", "drill")
    assert drilled.status == 2
    assert f"database 'main' has no backup in {state_dir / 'backups'}" in drilled.stderr


def test_every_document_has_the_keys_of_the_design(desk: Desk) -> None:
    desk.write(KEEP_ONE)
    created = desk.answer("backup", "create")
    backup_id = created["backup_id"]
    assert created.keys() >= CREATED
    assert (created["kind"], created["tier"], created["tables"], created["rows"]) == ("logical", "taken", 1, 300)
    assert (created["others"], created["failed"]) == ([], [])
    (listed,) = desk.answer("backup", "list")["backups"]
    assert listed.keys() >= LISTED
    verified = desk.answer("backup", "verify", backup_id)
    assert verified.keys() >= VERIFIED
    assert (verified["tier"], verified["problems"], verified["unread"]) == ("verified", [], {})
    drilled = desk.answer("backup", "drill", backup_id)
    assert drilled.keys() >= DRILLED
    assert (drilled["tier"], drilled["rows_compared"], drilled["coverage"]) == ("proven", 300, 1.0)
    assert (drilled["mismatches"], drilled["structure_problems"]) == ([], [])
    assert all(isinstance(drilled[key], float) for key in ("restore_seconds", "rto_seconds", "rpo_seconds"))
    shown = desk.answer("backup", "show", backup_id)
    assert shown.keys() >= {"files", "fingerprint", "tier", "evidence", "pin"}
    expired = desk.answer("backup", "expire", "--dry-run")
    ((kept,), gone) = expired["keep"], expired["expire"]
    assert kept.keys() >= {"backup_id", "reasons"}
    assert (kept["backup_id"], gone, expired["dry_run"]) == (backup_id, [], True)
    assert desk.answer("backup", "pin", backup_id, "--reason", "audit")["pinned"] == "audit"
    assert desk.answer("backup", "unpin", backup_id)["pinned"] is None


def test_what_expires_is_said_first_and_pinned_ones_stay(desk: Desk) -> None:
    desk.write(KEEP_ONE)
    oldest, middle, newest = (desk.create() for _ in range(3))
    assert desk("backup", "pin", oldest, "--reason", "before the move").status == 0

    dry = desk.answer("backup", "expire", "--dry-run")
    assert (ids(dry, "keep"), ids(dry, "expire"), dry["deleted"]) == ([newest, oldest], [middle], [])
    assert all(entry["reason"] for entry in dry["expire"])
    assert ids(desk.answer("backup", "list")) == [newest, middle, oldest], "nothing went"
    human = desk("backup", "expire", "--dry-run")
    assert [line.split()[:2] for line in human.stdout.splitlines()[2:]] == [
        ["stays", newest], ["stays", oldest], ["goes", middle],
    ]  # fmt: skip

    done = desk("backup", "expire")
    assert done.status == 0
    assert ["gone", middle] in [line.split()[:2] for line in done.stdout.splitlines()]
    assert ids(desk.answer("backup", "list")) == [newest, oldest]
    assert f"{oldest}: pinned: before the move" in desk("backup", "list").stdout

    assert desk("backup", "unpin", oldest).stdout == f"{oldest}: not pinned\n"
    assert ids(desk.answer("backup", "expire"), "deleted") == [oldest]


def test_a_pin_needs_a_reason(desk: Desk) -> None:
    backup_id = desk.create()
    assert desk("backup", "pin", backup_id).status == 2
    blank = desk("backup", "pin", backup_id, "--reason", " ")
    assert (blank.status, "a pin needs a reason" in blank.stderr) == (2, True)


@pytest.mark.parametrize("command", ["expire", "list"])
def test_a_database_that_nobody_knows_is_a_mistake(desk: Desk, command: str) -> None:
    ran = desk("backup", command, "--database", "mian")
    assert ran.status == 2
    assert "database 'mian' is not configured (configured: main)" in ran.stderr


def test_a_database_no_longer_configured_still_has_its_backups(desk: Desk) -> None:
    backup_id = desk.create()
    (desk.directory / "chanuka.toml").write_text(f"[databases.another]\nurl = '{NOBODY}'\n", encoding="utf-8")
    assert ids(desk.answer("backup", "list")) == [backup_id]
    assert desk.answer("backup", "verify", backup_id)["problems"] == []
    assert ids(desk.answer("backup", "expire", "--dry-run"), "keep") == [backup_id]


def test_a_copy_that_is_damaged_is_not_proven_and_the_file_is_named(desk: Desk) -> None:
    desk.write('store = "near"')
    backup_id = desk.create()
    victim = data_file(desk, "near", backup_id)
    victim.write_bytes(victim.read_bytes()[:-1])
    drilled = desk("backup", "drill")
    assert drilled.status == 1
    assert f"{backup_id}: NOT PROVEN, tier taken; FAILED: manifest; not reached: restores, structure" in drilled.stdout
    assert f"store default: dump/{victim.name}: size" in drilled.stdout
    assert "None" not in drilled.stdout
    verified = desk("backup", "verify", backup_id)
    assert verified.status == 1
    assert f"{backup_id} is damaged" in verified.stdout
    assert f"{backup_id}: its drill of" in desk("backup", "list").stdout


@pytest.mark.slow
def test_a_backup_without_a_fingerprint_of_its_content_is_not_proven_and_it_says_why(desk: Desk) -> None:
    desk.write('fingerprint = "structure"')
    desk.create()
    drilled = desk("backup", "drill")
    assert drilled.status == 1
    assert "NOT PROVEN" in drilled.stdout
    assert "not compared: content" in drilled.stdout


# ------------------------------------------------------------------ several stores


def test_each_backup_is_in_both_stores_and_a_list_says_where(desk: Desk) -> None:
    desk.write(two_stores("near", "far"))
    created = desk("backup", "create")
    assert created.stdout.endswith("tier taken, in near, far\n")
    (listed,) = desk.answer("backup", "list")["backups"]
    assert listed["stores"] == ["near", "far"]
    assert "near, far" in desk("backup", "list").stdout
    for store in ("near", "far"):
        assert ids(desk.answer("backup", "list", "--store", store)) == [listed["backup_id"]]
    verified = desk.answer("backup", "verify", listed["backup_id"])
    alone = desk.answer("backup", "verify", listed["backup_id"], "--store", "far")
    assert verified["files"] == 2 * alone["files"]
    unknown = desk("backup", "list", "--store", "fra")
    assert (unknown.status, "no backup store is called 'fra': there is near, far" in unknown.stderr) == (2, True)


@pytest.mark.parametrize("down", ["near", "far"])
def test_with_a_store_down_the_other_is_used_and_the_lack_is_an_exit_code(desk: Desk, down: str) -> None:
    other = {"near": "far", "far": "near"}[down]
    desk.write(two_stores("near", "far"))
    old = desk.create()
    desk.down(down)

    listed = desk("backup", "list")
    assert listed.status == 1
    assert old in listed.stdout
    assert f"store {down} is not in this list: " in listed.stderr
    answer = desk.answer("backup", "list", status=1)
    assert (ids(answer), list(answer["problems"])) == ([old], [down])

    created = desk("backup", "create")
    assert created.status == 1
    assert created.stdout.endswith(f"tier taken, in {other}\n")
    assert created.stderr.endswith(f"1 of 2 stores did not get its copy: {down}\n")
    assert created.stderr.count("Not a directory") == 1, "the log has said why, once"

    verified = desk.answer("backup", "verify", old, status=1)
    assert (verified["problems"], list(verified["unread"])) == ([], [down])
    pinned = desk("backup", "pin", old, "--reason", "audit")
    assert pinned.status == 1
    assert f"not told: store {down}" in pinned.stderr
    expired = desk.answer("backup", "expire", status=3)
    assert [refusal["store"] for refusal in expired["refused"]] == [down]
    assert "nothing expires: the listing may be partial" in expired["refused"][0]["reason"]
    assert desk("backup", "expire").stderr.count("nothing expires") == 1

    desk.up(down)
    assert len(desk.answer("backup", "list", "--store", other)["backups"]) == 2
    assert ids(desk.answer("backup", "list", "--store", down)) == [old]


def test_a_drill_takes_the_copy_that_can_be_read(desk: Desk) -> None:
    desk.write(two_stores("near", "far"))
    desk.create()
    desk.down("near")
    drilled = desk("backup", "drill")
    assert drilled.status == 0
    assert ": proven; holds: manifest, restores, structure, content, indexes; not asked: assertions" in drilled.stdout
    assert "store near: " in drilled.stderr


def test_with_no_store_within_reach_each_is_named(desk: Desk) -> None:
    desk.write(two_stores("near", "far"))
    backup_id = desk.create()
    desk.down("near")
    desk.down("far")
    for line in (["drill"], ["drill", backup_id], ["verify", backup_id], ["show", backup_id]):
        ran = desk("backup", *line)
        assert ran.status == 1, ran.output
        assert re.search("StoreError: store near: .*; store far: ", ran.stderr), ran.stderr
    assert desk("backup", "create").status == 1
    assert desk("backup", "list").status == 1
    assert desk("backup", "expire").status == 3


@pytest.mark.slow
def test_the_newest_is_that_of_the_store_that_is_named(desk: Desk) -> None:
    desk.write(two_stores("near", "far"))
    old = desk.create()
    desk.down("far")
    desk.answer("backup", "create", status=1)
    desk.up("far")
    assert desk.answer("backup", "drill", "--store", "far")["backup_id"] == old


# ------------------------------------------------------------------ a bucket, and keys


@pytest.mark.slow
def test_encrypted_in_a_bucket_and_in_a_directory(desk: Desk, cloud: Bucket) -> None:
    secrets = f'recipients = ["{RECIPIENT}"]\nidentity = {{ env = "{SECRET_NAME}" }}\n'
    desk.env[SECRET_NAME] = SECRET_KEY
    desk.write(secrets + two_stores("near") + cloud_store(cloud))
    created = desk.answer("backup", "create")
    backup_id = created["backup_id"]
    assert [place["problem"] for place in created["stores"]] == [None, None]
    assert any(key.endswith(f"{backup_id}/manifest.json") for key in cloud.data_keys())
    drilled = desk.answer("backup", "drill", "--store", "cloud")
    assert (drilled["tier"], drilled["rows_compared"]) == ("proven", 300)
    assert {"fetch", "decrypt", "restore", "check"} <= drilled["phases"].keys()
    assert desk.answer("backup", "verify", backup_id)["problems"] == []

    desk.env[SECRET_NAME] = ANOTHER_SECRET_KEY
    refused = desk("backup", "drill")
    assert refused.status == 1
    assert refused.stderr.count("DecryptionFailed: ") == 1
    assert ANOTHER_SECRET_KEY not in refused.output
    assert desk("backup", "verify", backup_id).status == 0, "bytes are compared without a key"

    verbose = desk("--verbose", "--log-json", "backup", "create")
    assert verbose.status == 0
    assert SECRET not in verbose.output
    assert ANOTHER_SECRET_KEY not in verbose.output


def test_a_bucket_that_is_down_does_not_keep_a_backup_from_the_directory(desk: Desk, cloud: Bucket) -> None:
    desk.write(two_stores("near") + cloud_store(cloud))
    cloud.fault(".*", ".*", "status", times=None, status=403)  # what is refused isn't tried again
    created = desk.answer("backup", "create", status=1)
    assert [place["store"] for place in created["stores"] if place["problem"]] == ["cloud"]
    listed = desk.answer("backup", "list", status=1)
    assert (ids(listed), list(listed["problems"])) == ([created["backup_id"]], ["cloud"])
    cloud.heal()
    assert ids(desk.answer("backup", "list")) == [created["backup_id"]]


# ------------------------------------------------------------------ several databases of a server


@pytest.fixture
def sibling(server: Server) -> Any:
    """Another database of the server."""
    with fresh_database(server, f"beside_{uuid.uuid4().hex[:8]}", TABLES) as made:
        yield made


def test_other_databases_of_the_server_are_backed_up_beside(desk: Desk, sibling: DatabaseSettings) -> None:
    name = str(sibling.sqlalchemy_url.database)
    desk.write(f'databases = ["{name}"]\n{KEEP_ONE}')
    created = desk.answer("backup", "create")
    (other,) = created["others"]
    assert other["tables"] == 1
    assert ids(desk.answer("backup", "list")) == [created["backup_id"]]
    assert ids(desk.answer("backup", "list", "--database", f"main.{name}")) == [other["backup_id"]]
    assert f"Backed up beside it: main.{name} (--database NAME)" in desk("backup", "list").stdout
    again = desk("backup", "create")
    assert len(again.stdout.splitlines()) == 2
    expired = desk.answer("backup", "expire")
    assert set(ids(expired, "deleted")) == {created["backup_id"], other["backup_id"]}
    assert {entry["database"] for entry in expired["keep"]} == {"main", f"main.{name}"}


@pytest.mark.slow
def test_a_sibling_is_drilled_by_its_name_and_by_its_id(desk: Desk, sibling: DatabaseSettings) -> None:
    name = str(sibling.sqlalchemy_url.database)
    desk.write(f'databases = ["{name}"]')
    (other,) = desk.answer("backup", "create")["others"]
    assert desk.answer("backup", "drill", "--database", f"main.{name}")["backup_id"] == other["backup_id"]
    with ConnectionManager("sibling", sibling) as manager, operation_lock(manager):
        refused = desk("backup", "drill", other["backup_id"])  # it's of `main.…`, whatever --database says
    assert refused.status == 3, refused.output


def test_a_pattern_that_matches_no_database_is_refused_before_anything_is_taken(desk: Desk) -> None:
    desk.write('databases = ["no_such_*"]')
    ran = desk("backup", "create")
    assert (ran.status, "no_such_*" in ran.stderr) == (3, True)
    assert ids(desk.answer("backup", "list")) == []


def test_one_database_that_fails_keeps_the_others_from_nothing(
    desk: Desk, sibling: DatabaseSettings, guarded: Guarded, server: Server
) -> None:
    hidden = f"beside_{uuid.uuid4().hex[:8]}"
    with fresh_database(server, hidden, ["create table secrets(id int)"]):
        for database in (desk.database, sibling):
            execute(database, "grant select on all tables in schema public to public")
        desk.write('databases = ["beside_*"]', url=guarded.of(desk.database).url.get_secret_value())
        answer = desk.answer("backup", "create", status=1)
        human = desk("backup", "create")
    (failed,) = answer["failed"]
    assert (failed["database"], failed["kind"]) == (f"main.{hidden}", "PermissionDenied"), failed["message"]
    assert "secrets" in failed["message"]
    assert len(answer["others"]) == 1
    assert human.status == 1
    assert len(human.stdout.splitlines()) == 2
    assert human.stderr.endswith(f"1 of 3 databases have no backup: main.{hidden}\n")
    assert guarded.password not in human.output


# ------------------------------------------------------------------ on a terminal


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 140])
def test_a_backup_is_one_line_of_the_terminal(desk: Desk, base_environment: dict[str, str], columns: int) -> None:
    desk.write(two_stores("near", "far"))
    backup_id = desk.create()
    assert desk("backup", "pin", backup_id, "--reason", "audit").status == 0
    env = {**base_environment, "TERM": "xterm"}
    seen = on_terminal(["backup", "list"], env, desk.directory, columns=columns, out=True)
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in seen.stderr.splitlines()]
    title, head, row, remark, *_ = lines
    assert (title, remark) == ("Backups", f"{backup_id}: pinned: audit")
    assert head.split() == [
        "backup", *(["kind"] if columns > 80 else []), "tier", "created", *(["database"] if columns > 80 else []),
        "size", *(["server"] if columns > 80 else []), "stores",
    ]  # fmt: skip
    assert row.startswith(backup_id)
    assert row.endswith("near, far")
    assert max(map(len, lines)) <= columns


def test_what_is_said_of_one_store_has_no_column_for_it(desk: Desk) -> None:
    desk.create()
    assert "stores" not in desk("backup", "list").stdout
    assert "store" not in desk("backup", "expire", "--dry-run").stdout.splitlines()[1]
    assert json.loads(desk("backup", "list", "--json").stdout)["backups"][0]["stores"] == ["default"]

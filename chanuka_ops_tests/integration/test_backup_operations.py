"""Backups as operations: one at a time per database, told to whoever wants to know, silence noticed from outside.

Each guard is seen at work between two processes. What stands still holds its locks; what is refused names it.
"""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from chanuka_ops import errors, notify
from chanuka_ops.backup.storing import flocks
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.notify import Delivery
from chanuka_ops.orchestrators import backups
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import execute, fresh_database
from chanuka_ops_tests.plugins.desk import KEEP_ONE, NOBODY, TABLES, Desk, cloud_store, two_stores
from chanuka_ops_tests.plugins.hooks import Receive, Receiver
from chanuka_ops_tests.plugins.processes import Ran, url_of
from chanuka_ops_tests.plugins.s3 import Bucket

pytestmark = pytest.mark.postgres

STORE = "/store"


def refused(ran: Ran, holder: str) -> None:
    """Assert that it was refused, and by whom."""
    assert ran.status == 3, ran.output
    assert "LockHeld: " in ran.stderr
    assert re.search(rf"another operation is under way: {holder}[0-9a-f]{{8}} \(pid \d+", ran.stderr), ran.stderr


@pytest.fixture
def shared(desk: Desk) -> Desk:
    """A desk whose store another host sees too."""
    desk.write(f'store = "{desk.directory}{STORE}"\n{KEEP_ONE}')
    return desk


@pytest.fixture
def away(shared: Desk, tmp_path: Path) -> Desk:
    """The same on another host: this machine's own locks are not there."""
    return shared.elsewhere(tmp_path / "other host")


# ------------------------------------------------------------------ one at a time


def test_while_a_backup_runs_here_nothing_else_begins(shared: Desk) -> None:
    """At `dumped` it needs the database no more, and has given back its lock there: this machine's own still holds."""
    old = shared.create()
    with shared.standing("backup", "create", at="dumped") as backup:
        for line in (["create"], ["drill"], ["drill", old], ["expire"]):
            refused(shared("backup", *line), "chanuka/backup/")
        refused(shared("migrate", "up"), "chanuka/backup/")
        dry = shared.answer("backup", "expire", "--dry-run")
        assert re.search(r"nothing expires: chanuka/backup/\w{8} \(pid \d+.*\) works on the database", str(dry))
        assert shared("backup", "verify", old).status == 0, "reading is free"
    assert backup.ran.status == 0
    assert len(shared.answer("backup", "list")["backups"]) == 2


@pytest.mark.slow
def test_without_this_machines_lock_it_would(shared: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.create()
    monkeypatch.setattr(flocks, "operation", lambda *_: nullcontext())
    with shared.standing("backup", "create", at="dumped"):
        assert shared("backup", "drill").status == 0


@pytest.mark.slow
def test_while_a_drill_runs_elsewhere_nothing_else_begins(shared: Desk, away: Desk) -> None:
    """The lock on the database is what both hosts see."""
    shared.create()
    with away.standing("backup", "drill", at="fetched") as drill:
        for line in (["create"], ["drill"], ["expire"]):
            refused(shared("backup", *line), "chanuka/drill/")
        refused(shared("migrate", "up"), "chanuka/drill/")
        dry = shared.answer("backup", "expire", "--dry-run")
        assert re.search(r"nothing expires: chanuka/drill/\w{8} \(pid \d+.*\) works on the database", str(dry))
        over = ["backup", "restore", "--into", "main", "--yes-replace", str(shared.database.sqlalchemy_url.database)]
        refused(shared(*over, shared.answer("backup", "list")["backups"][0]["backup_id"]), "chanuka/drill/")
    assert drill.ran.status == 0
    assert shared("backup", "create").status == 0


@pytest.mark.slow
def test_without_the_databases_lock_it_would(shared: Desk, away: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.create()
    with away.standing("backup", "drill", at="fetched"):
        monkeypatch.setattr(backups, "operation_lock_if_reachable", lambda _: nullcontext())
        assert shared("backup", "drill").status == 0


@pytest.mark.slow
def test_a_drill_while_the_database_dumps_elsewhere(shared: Desk, away: Desk) -> None:
    shared.create()
    with ConnectionManager("main", shared.database) as manager, operation_lock(manager):
        refused(away("backup", "drill"), "chanuka/-/")
    assert away("backup", "drill").status == 0


@pytest.mark.slow
def test_with_the_source_down_a_drill_works_and_is_still_alone(shared: Desk) -> None:
    shared.create()
    shared.write(f'store = "{shared.directory}{STORE}"', url=NOBODY)
    drilled = shared("backup", "drill")
    assert drilled.status == 0
    assert "can't be asked for its operation lock" in drilled.stderr
    assert "hunter2" not in drilled.output
    with shared.standing("backup", "drill", at="fetched") as drill:
        refused(shared("backup", "drill"), "chanuka/drill/")
        shared.write(f'store = "{shared.directory}{STORE}"')  # the server is back, and the drill has no lock there
        refused(shared("migrate", "up"), "chanuka/drill/")
        refused(shared("backup", "create"), "chanuka/drill/")
    assert drill.ran.status == 0


@pytest.mark.slow
def test_databases_do_not_wait_for_each_other(shared: Desk, server: Server) -> None:
    name = f"{shared.database.sqlalchemy_url.database}_b"
    with fresh_database(server, name, TABLES) as other:
        rest = f"[databases.b]\nurl = '{url_of(other)}'\n"
        shared.write(f'store = "{shared.directory}{STORE}"', rest=rest)
        with shared.standing("backup", "create", at="dumped"):
            assert shared("backup", "create", "--database", "b").status == 0


# ------------------------------------------------------------------ what is in use never expires


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["directory", "bucket"])
def test_what_is_drilled_elsewhere_does_not_expire(
    kind: str, desk: Desk, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the source down neither host sees the other's lock: the store's own is what is left."""
    bucket: Bucket | None = request.getfixturevalue("cloud") if kind == "bucket" else None
    stores = cloud_store(bucket) if bucket else f'store = "{desk.directory}{STORE}"\n'
    desk.write(stores)
    old, new = desk.create(), desk.create()
    desk.write(stores + KEEP_ONE, url=NOBODY)
    away = desk.elsewhere(tmp_path / "other host")
    with away.standing("backup", "drill", old, at="fetched") as drill:
        expired = desk.answer("backup", "expire")
        assert [entry["backup_id"] for entry in expired["expire"]] == [old]
        assert [entry["backup_id"] for entry in expired["in_use"]] == [old]
        assert expired["deleted"] == []
        human = desk("backup", "expire")
        assert ["in", "use"] in [line.split()[:2] for line in human.stdout.splitlines()]
        assert human.status == 0
    assert drill.ran.status == 0, drill.ran.output
    kept = desk.answer("backup", "expire")["keep"]
    assert [entry["backup_id"] for entry in kept] == [new, old], "and now it's the last proven one"


@pytest.mark.slow
def test_what_is_being_taken_elsewhere_does_not_expire(shared: Desk, away: Desk) -> None:
    old, new = shared.create(), shared.create()
    with away.standing("backup", "create", at="dumped") as backup:
        deleted = shared.answer("backup", "expire")["deleted"]
        assert [entry["backup_id"] for entry in deleted] == [old]
    assert backup.ran.status == 0, backup.ran.output
    listed = shared.answer("backup", "list")["backups"]
    assert [entry["backup_id"] for entry in listed][1:] == [new]
    assert shared.answer("backup", "verify", listed[0]["backup_id"])["problems"] == []


@pytest.mark.slow
def test_a_sibling_that_is_drilled_waits_while_the_others_expire(shared: Desk, server: Server) -> None:
    name = f"{shared.database.sqlalchemy_url.database}_beside"
    with fresh_database(server, name, TABLES):
        shared.write(f'store = "{shared.directory}{STORE}"\ndatabases = ["{name}"]\n{KEEP_ONE}')
        first, second = shared.answer("backup", "create"), shared.answer("backup", "create")
        beside = [created["others"][0]["backup_id"] for created in (first, second)]
        with shared.standing("backup", "drill", beside[0], at="fetched"):
            done = shared.answer("backup", "expire", status=3)
    assert [entry["backup_id"] for entry in done["deleted"]] == [first["backup_id"]]
    (refusal,) = done["refused"]
    assert refusal["database"] == f"main.{name}"
    assert "chanuka/drill/" in refusal["reason"]


# ------------------------------------------------------------------ who is told


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """What a route was told: title, and the last line, which is the event."""
    messages = [json.loads(request.body) for request in receiver.requests]
    return [(message["title"], message["message"].splitlines()[-1]) for message in messages]


def events(receiver: Receiver) -> list[str]:
    return [event.removeprefix("event: ") for _, event in told(receiver)]


ROUTE = '[operations.notify.routes.{name}]\nurl = {{ env = "ROUTE_{name}" }}\n'


@pytest.fixture
def ops(desk: Desk, receive: Receive) -> Receiver:
    """Somebody who is told everything; the heartbeat is a file."""
    receiver = receive(200)
    desk.env["ROUTE_ops"] = receiver.url("json")
    desk.write('heartbeat.file = "beat"', rest=ROUTE.format(name="ops"))
    return receiver


def test_a_backup_and_its_proof_are_told_and_the_proof_is_a_heartbeat(desk: Desk, ops: Receiver) -> None:
    backup_id = desk.create()
    assert told(ops) == [(f"[info] main: backup {backup_id} taken", "event: backup.taken")]
    assert not (desk.directory / "beat").exists()
    assert desk("backup", "verify", backup_id).status == 0
    assert desk("backup", "drill").status == 0
    assert told(ops)[1:] == [(f"[info] main: backup {backup_id} proven", "event: backup.proven")]
    beat = json.loads((desk.directory / "beat").read_text())
    assert (beat["database"], beat["backup_id"]) == ("main", backup_id)


@pytest.mark.slow
def test_a_backup_that_is_not_proven_is_told_and_is_no_heartbeat(desk: Desk, ops: Receiver, state_dir: Path) -> None:
    backup_id = desk.create()
    victim = next((state_dir / "backups" / "main" / backup_id / "dump").glob("*.dat*"))
    victim.write_bytes(b"not gzip")
    assert desk("backup", "drill").status == 1
    assert desk("backup", "verify", backup_id).status == 1
    assert events(ops) == ["backup.taken", "drill.failed", "backup.damaged"]
    (_, drill, damage) = ops.requests
    assert json.loads(drill.body)["type"] == "failure"
    assert victim.name in json.loads(drill.body)["message"]
    assert victim.name in json.loads(damage.body)["message"]
    assert not (desk.directory / "beat").exists()


def test_a_store_without_its_copy_is_told(desk: Desk, ops: Receiver) -> None:
    desk.write(two_stores("near", "far"), rest=ROUTE.format(name="ops"))
    desk.down("far")
    assert desk("backup", "create").status == 1
    assert desk("backup", "expire").status == 3
    assert events(ops) == ["backup.incomplete", "expire.refused"]
    assert all("far: " in json.loads(request.body)["message"] for request in ops.requests)


def test_a_failure_is_told_without_a_secret(desk: Desk, ops: Receiver) -> None:
    desk.write(rest=ROUTE.format(name="ops"), url=NOBODY)
    ran = desk("backup", "create")
    assert ran.status == 1
    assert told(ops) == [("[critical] main: backup of main failed", "event: backup.failed")]
    body = ops.requests[0].body.decode()
    assert "nobody listens there" in body
    assert "hunter2" not in body


def test_that_there_is_no_backup_at_all_is_told(desk: Desk, ops: Receiver) -> None:
    assert desk("backup", "drill").status == 2
    assert events(ops) == ["drill.failed"]


def test_a_refusal_and_a_mistyped_id_are_nobodys_business_but_the_callers(desk: Desk, ops: Receiver) -> None:
    with ConnectionManager("main", desk.database) as manager, operation_lock(manager):
        assert desk("backup", "create").status == 3
    for command in ("drill", "verify"):
        assert desk("backup", command, "main-20260101T000000Z-abcdef").status == 2
    assert ops.requests == []


def test_a_restore_is_told(desk: Desk, ops: Receiver, server: Server) -> None:
    backup_id = desk.create()
    name = f"{desk.database.sqlalchemy_url.database}_new"
    assert desk("backup", "restore", backup_id, "--into", url_of(server.settings(name))).status == 0
    execute(server.settings("postgres"), f"drop database {name}")
    assert events(ops)[1:] == ["restore.done"]


def test_a_route_that_is_down_fails_nothing_and_shows(desk: Desk, nobody: int) -> None:
    desk.env["ROUTE_ops"] = f"json://user:hunter2@127.0.0.1:{nobody}/"
    desk.write(rest=f"{ROUTE.format(name='ops')}\n[operations.notify]\nattempts = 1\n")
    ran = desk("backup", "create")
    assert ran.status == 0
    assert "route ops not told of backup.taken" in ran.stderr
    assert "hunter2" not in ran.output


@pytest.mark.slow
def test_what_is_of_a_sibling_goes_where_its_databases_notices_go(
    desk: Desk, receive: Receive, server: Server, tmp_path: Path
) -> None:
    gold, other = receive(200), receive(200)
    desk.env |= {"ROUTE_gold": gold.url("json"), "ROUTE_other": other.url("json")}
    routes = (
        f'{ROUTE.format(name="gold")}databases = ["main"]\ntags = {{ tier = "gold" }}\n'
        f'{ROUTE.format(name="other")}tags = {{ tier = "silver" }}\n'
    )
    name = f"{desk.database.sqlalchemy_url.database}_beside"
    with fresh_database(server, name, TABLES):
        desk.write(f'databases = ["{name}"]\nheartbeat.file = "beat"', rest=routes, tags='{ tier = "gold" }')
        beside = desk.answer("backup", "create")["others"][0]["backup_id"]
        assert desk("backup", "drill", beside).status == 0
        assert not (tmp_path / "beat").exists(), "a sibling keeps nobody else's heartbeat going"
        desk.write(f'databases = ["{name}"]\nheartbeat.file = "beat-{{database}}"')
        assert desk("backup", "drill", beside).status == 0
    assert events(gold) == ["backup.taken", "backup.taken", "backup.proven"]
    assert f"backup {beside} proven" in told(gold)[-1][0]
    assert other.requests == []
    assert [path.name for path in tmp_path.glob("beat*")] == [f"beat-main.{name}"]


def test_nobody_is_told_while_a_lock_is_held(desk: Desk, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route that doesn't answer takes a minute, and a migration must not wait for it."""
    free: list[str] = []

    def send(notice: notify.Notice, *_: object, **__: object) -> tuple[Delivery, ...]:
        with (
            flocks.operation(state_dir, "main"),
            ConnectionManager("main", desk.database) as manager,
            operation_lock(manager),
        ):
            free.append(notice.event)
        return ()

    monkeypatch.setattr(notify, "send", send)
    desk.write(two_stores("near", "far"))
    desk.down("far")
    assert desk("backup", "create").status == 1
    assert desk("backup", "drill").status == 0
    assert desk("backup", "expire").status == 3
    desk.down("near")
    assert desk("backup", "create").status == 1
    assert free == ["backup.incomplete", "backup.proven", "expire.refused", "backup.failed"]


def test_a_defect_of_ours_is_told_like_any_failure(desk: Desk, ops: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("postgresql://ops:hunter2@h/d")

    monkeypatch.setattr("chanuka_ops.backup.service.BackupService.create", broken)
    assert desk("backup", "create").status == 1
    (request,) = ops.requests
    assert "ZeroDivisionError" in request.body.decode()
    assert "hunter2" not in request.body.decode()


@pytest.mark.parametrize("error", [errors.LockHeld("held"), errors.Interrupted("stopped")])
def test_what_was_stopped_or_refused_is_no_failure(
    desk: Desk, ops: Receiver, monkeypatch: pytest.MonkeyPatch, error: errors.ChanukaError
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("chanuka_ops.backup.service.BackupService.create", stopped)
    assert desk("backup", "create").status == error.exit_code
    assert ops.requests == []

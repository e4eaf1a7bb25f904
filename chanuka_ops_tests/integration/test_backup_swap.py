"""An existing database is replaced in one step: at any moment it is the old one, whole, or the new one, whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from chanuka_ops import errors
from chanuka_ops.backup.restoring import restore, swap, target
from chanuka_ops.backup.restoring.restored import Restored
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import as_role, execute, quoted, scalars
from chanuka_ops_tests.plugins.postgres import connect
from chanuka_ops_tests.plugins.processes import url_of
from chanuka_ops_tests.plugins.restoring import Backup, Spot

pytestmark = pytest.mark.postgres

At = Callable[[str, Callable[[], object]], None]
OLD = ("create table old as select 'as it was' as v",)


@pytest.fixture
def there(spot: Spot) -> Spot:
    """A name that a database has, with data and settings of its own."""
    spot.make(*OLD)
    spot.run(f"alter database {spot.name} set work_mem to '9MB'", f"comment on database {spot.name} is 'the old one'")
    return spot


def is_old(spot: Spot) -> bool:
    """Whether the database of that name is exactly the old one."""
    facts = scalars(spot.database, "select v from old union all select current_setting('work_mem')")
    facts += scalars(spot.database, f"select shobj_description('{oid(spot)}', 'pg_database')")
    return facts == ["as it was", "9MB", "the old one"]


def is_new(spot: Spot) -> bool:
    return scalars(spot.database, "select count(*) from bills") == [1000]


def oid(spot: Spot) -> object:
    (found,) = scalars(spot.server.settings("template1"), f"select oid from pg_database where datname = '{spot.name}'")
    return found


def replaced(backup: Backup, spot: Spot, **options: object) -> Restored:
    return backup.into(spot.database, replace=spot.name, **options)


def test_the_old_database_stays_beside_the_new_one(plain: Backup, there: Spot) -> None:
    before = oid(there)
    answer = replaced(plain, there)
    assert (answer.restored, answer.way) == (True, "replace")
    assert is_new(there)
    assert answer.old_database is not None
    assert answer.old_database.startswith(f"{there.name}_before_20")
    assert there.databases() == [there.name, answer.old_database]
    old = Spot(there.server, answer.old_database)
    assert (oid(old), is_old(old)) == (before, True)
    assert scalars(there.database, f"select shobj_description('{oid(there)}', 'pg_database')") == [None]
    again = replaced(plain, there)
    assert len({answer.old_database, again.old_database}) == 2


def test_settings_owner_grants_and_comment_are_the_dumps(
    everything: tuple[DatabaseSettings, Backup], there: Spot
) -> None:
    replaced(everything[1], there)
    facts = (
        "select pg_get_userbyid(datdba) || ' ' || datconnlimit || ' ' || shobj_description(oid, 'pg_database')"
        f" from pg_database where datname = '{there.name}'"
    )
    assert scalars(there.database, facts) == ['app_owner 44 a database\'s %comment; "quoted"\\']
    assert scalars(there.database, "show work_mem") != ["9MB"]
    assert scalars(there.database, "show search_path") == ['app, "S p%a:ce", ext']


@pytest.mark.parametrize("name", [None, "another"])
def test_without_the_right_name_it_is_refused(plain: Backup, there: Spot, name: str | None) -> None:
    words = "is not empty" if name is None else "the name 'another' was given"
    with pytest.raises(errors.RefusedError, match=words):
        plain.into(there.database, replace=name)
    assert there.databases() == [there.name]
    assert is_old(there)


def test_a_part_can_not_take_the_place_of_the_whole(plain: Backup, there: Spot) -> None:
    with pytest.raises(errors.RefusedError, match="a part of a backup can't take the place"):
        replaced(plain, there, tables=("public.bills",))
    assert is_old(there)


def test_who_is_in_the_old_database_is_ended_at_the_swap_and_named(plain: Backup, there: Spot, at: At) -> None:
    with connect(there.database) as session:
        session.execute("begin; insert into old values ('not committed')")
        pid = session.info.backend_pid
        seen: list[bool] = []
        at("restore: ready", lambda: seen.append(session.execute("select true").fetchone() == (True,)))
        answer = replaced(plain, there)
        assert seen == [True]
        assert [(ended.pid, ended.role) for ended in answer.ended_sessions] == [(pid, "postgres")]
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    assert is_new(there)


def test_clients_that_come_back_at_once_do_not_hold_it_up(plain: Backup, there: Spot) -> None:
    stop = threading.Event()
    kinds: set[str] = set()
    others: list[str] = []

    def come_back() -> None:
        while not stop.is_set():
            try:
                with connect(there.database) as session:
                    kinds.add(
                        str(
                            session.execute(
                                "select string_agg(relname, ',' order by relname) from pg_class"
                                " where relname in ('old', 'bills')"
                            ).fetchone()
                        )
                    )
                    session.execute("select pg_sleep(0.01)")
            except psycopg.Error as error:
                if error.sqlstate not in {"57P01", "3D000", None}:
                    others.append(f"{error.sqlstate} {error}")

    threads = [threading.Thread(target=come_back) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        answer = replaced(plain, there)
        assert wait_until(lambda: "('bills',)" in kinds, timeout_s=10)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answer.restored
    assert kinds == {"('old',)", "('bills',)"}
    assert others == []
    assert answer.phases["swap"] < 5


def test_nobody_else_gets_the_operation_lock_before_the_swap(plain: Backup, there: Spot, at: At) -> None:
    outcomes: list[str] = []

    def try_it() -> None:
        with ConnectionManager("main", there.database) as manager:
            try:
                with operation_lock(manager):
                    outcomes.append("got it")
            except errors.LockHeld:
                outcomes.append("held")

    at("restore: ready", try_it)
    replaced(plain, there)
    assert outcomes == ["held"]


def test_prepared_transactions_are_refused_at_once(plain: Backup, there: Spot) -> None:
    name = f"prepared_{uuid.uuid4().hex[:8]}"
    with connect(there.database) as session:
        session.execute("insert into old values ('held')")
        session.execute(f"prepare transaction '{name}'")
    try:
        with pytest.raises(errors.RefusedError, match="1 prepared transactions"):
            replaced(plain, there)
        assert is_old(there)
    finally:
        execute(there.database, f"rollback prepared '{name}'")


def test_who_does_not_own_it_does_not_replace_it(plain: Backup, there: Spot) -> None:
    role = f"ordinary_{uuid.uuid4().hex[:8]}"
    there.run(f"create role {role} login createdb")
    try:
        with pytest.raises(errors.RefusedError, match="must own it and have CREATEDB"):
            plain.into(as_role(there.database, role), replace=there.name, roles="skip")
        there.run(f"alter database {there.name} owner to {role}")
        with connect(there.database), pytest.raises(errors.RefusedError, match="may not end 1 of the sessions"):
            plain.into(as_role(there.database, role), replace=there.name, roles="skip")
        assert is_old(there)
        assert plain.into(as_role(there.database, role), replace=there.name, roles="skip").restored
    finally:
        there.drop()
        there.run(f"drop role {role}")


def test_a_failed_restore_leaves_the_old_one_exactly_as_it_was(plain: Backup, there: Spot, tmp_path: Path) -> None:
    before = oid(there)
    backup = plain.damaged(tmp_path / "torn")
    backup.data_file("public.votes").write_bytes(b"no table's rows")
    with connect(there.database) as session:
        with pytest.raises(errors.ToolFailed):
            replaced(backup, there)
        assert session.execute("select v from old").fetchall() == [("as it was",)]
    assert there.databases() == [there.name]
    assert (oid(there), is_old(there)) == (before, True)


def test_an_interrupt_leaves_the_old_one(plain: Backup, there: Spot, at: At) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    at("restore: restored", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replaced(plain, there)
    assert there.databases() == [there.name]
    assert is_old(there)


@pytest.fixture
def killed(plain: Backup, there: Spot, base_environment: dict[str, str], tmp_path: Path) -> Callable[[str], None]:
    """Have a process restore over the old database, and kill itself at a boundary."""
    store = plain.directory.parents[1]
    env = {**base_environment, "CHANUKA__OPERATIONS__BACKUP__STORE": str(store)}

    def run(boundary: str) -> None:
        args = ["--json", "backup", "restore", plain.manifest.backup_id, "--into", url_of(there.database)]
        order = json.dumps({"boundary": boundary, "args": [*args, "--yes-replace", there.name]})
        argv = [sys.executable, "-m", "chanuka_ops_tests.plugins.restoring", order]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=env, cwd=Path.cwd())
        gone = "select count(*) from pg_stat_activity where datname ~ '^spot_' and backend_type = 'client backend'"
        assert wait_until(lambda: scalars(there.server.settings("template1"), gone) == [0], timeout_s=10), done.stderr
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr

    return run


UNFINISHED = ("restore: planned", "restore: created", "restore: marked", "restore: restored")
READY = ("restore: ready", "swap: begun", "swap: old renamed", "swap: renamed")


@pytest.mark.slow
@pytest.mark.parametrize("boundary", UNFINISHED)
def test_killed_before_it_was_whole_the_next_run_starts_anew(
    plain: Backup, there: Spot, killed: Callable[[str], None], boundary: str
) -> None:
    killed(boundary)
    assert is_old(there)
    left = [name for name in there.databases() if name != there.name]
    assert len(left) == (0 if boundary == "restore: planned" else 1)
    answer = replaced(plain, there)
    assert is_new(there)
    assert answer.warnings == tuple(f"dropped what a killed restore had left: {name}" for name in left)
    assert len(there.databases()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "boundary", [*(pytest.param(one, marks=pytest.mark.slow) for one in READY if "old" not in one), "swap: old renamed"]
)
def test_killed_before_the_swap_was_committed_the_old_one_is_there_and_the_swap_can_be_finished(
    plain: Backup, there: Spot, killed: Callable[[str], None], boundary: str
) -> None:
    before = oid(there)
    killed(boundary)
    assert (oid(there), is_old(there)) == (before, True)
    (ready,) = (name for name in there.databases() if name != there.name)
    with pytest.raises(errors.RefusedError) as refused:
        replaced(plain, there)
    assert f"database '{ready}' is a finished restore of backup {plain.manifest.backup_id}" in str(refused.value)
    assert "--finish" in str(refused.value)
    assert f"drop database {ready}" in str(refused.value)
    with pytest.raises(errors.RefusedError, match="no name was given"):
        restore.finish(there.database, replace=None)
    assert is_old(there)
    done = restore.finish(there.database, replace=there.name)
    assert is_new(there)
    assert done.backup_id == plain.manifest.backup_id
    assert there.databases() == [there.name, done.old_database]
    with pytest.raises(errors.RefusedError, match="there is none"):
        restore.finish(there.database, replace=there.name)


@pytest.mark.slow
def test_killed_after_the_commit_the_new_one_is_there(there: Spot, killed: Callable[[str], None]) -> None:
    killed("swap: committed")
    assert is_new(there)
    assert len(there.databases()) == 2
    with target.seen(there.database) as seen:
        assert swap.siblings(seen) == []


@pytest.mark.slow
def test_a_session_that_can_not_be_ended_keeps_the_old_one_and_the_restored_one_waits(
    plain: Backup, there: Spot, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"ordinary_{uuid.uuid4().hex[:8]}"
    there.run(f"create role {role} login createdb", f"alter database {there.name} owner to {role}")
    monkeypatch.setattr(swap, "SWAP_TRIES", 1)
    sessions: list[psycopg.Connection[object]] = []
    at("restore: ready", lambda: sessions.append(connect(there.database)))  # a superuser, whom the role can't end
    try:
        with pytest.raises(errors.RefusedError, match="could not be renamed") as refused:
            plain.into(as_role(there.database, role), replace=there.name, roles="skip")
        (ready,) = (name for name in there.databases() if name != there.name)
        assert f"The restored data is whole, in database '{ready}'" in str(refused.value)
        assert sessions[0].execute("select v from old").fetchall() == [("as it was",)]
        sessions[0].close()
        restore.finish(as_role(there.database, role), replace=there.name)
        assert is_new(there)
    finally:
        there.drop()
        there.run(f"drop role {role}")


def test_a_name_that_somebody_took_meanwhile(plain: Backup, spot: Spot, at: At) -> None:
    at("restore: ready", lambda: spot.make(*OLD))
    with pytest.raises(errors.RefusedError, match="somebody else made a database"):
        plain.into(spot.database)
    assert scalars(spot.database, "select v from old") == ["as it was"]
    assert len(spot.databases()) == 2


def test_a_sibling_that_somebody_works_in_is_not_dropped(plain: Backup, spot: Spot) -> None:
    running = Spot(spot.server, f"{spot.name}_restore_0a1b2c3d")
    running.make()
    mark = {"backup_id": "x", "into": spot.name, "state": "unfinished", "at": "2026-01-01T00:00:00Z"}
    spot.run(f"comment on database {running.name} is 'chanuka-ops restore: {json.dumps(mark)}'")
    with connect(running.database) as session:
        with pytest.raises(errors.LockHeld, match=f"pid {session.info.backend_pid} "):
            plain.into(spot.database)
        assert running.name in spot.databases()
    inside = f"select 1 from pg_stat_activity where datname = '{running.name}'"
    assert wait_until(lambda: not scalars(spot.server.settings("template1"), inside), timeout_s=5)
    assert plain.into(spot.database).warnings == (f"dropped what a killed restore had left: {running.name}",)


def test_databases_that_only_look_like_leftovers_are_not_touched(plain: Backup, spot: Spot) -> None:
    full, empty, marked = (
        Spot(spot.server, f"{spot.name}_restore_{tail}") for tail in ("0a1b2c3d", "test", "0badcafe")
    )
    full.make(*OLD)
    empty.make()
    marked.make()
    spot.run(f"comment on database {quoted(marked.name)} is 'mine'")
    answer = plain.into(spot.database)
    assert answer.warnings == ()
    assert {full.name, empty.name, marked.name} <= set(spot.databases())


@pytest.mark.parametrize("name", ["ü" * 31, pytest.param("x" * 63, marks=pytest.mark.slow)])
def test_the_longest_names(plain: Backup, there: Spot, name: str) -> None:
    long = Spot(there.server, name)
    try:
        long.make(*OLD)
        answer = replaced(plain, long)
        assert is_new(long)
        assert answer.old_database is not None
        assert scalars(there.server.settings(answer.old_database), "select v from old") == ["as it was"]
        execute(there.server.settings("template1"), f"drop database {quoted(answer.old_database)}")
    finally:
        long.drop()

"""A restore brings back what the source held, or leaves everything as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from chanuka_ops import errors
from chanuka_ops.backup.model import Fingerprint, Manifest
from chanuka_ops.backup.restoring import archive, entries, preflight, properties, swap, target
from chanuka_ops.backup.restoring.archive import Entry
from chanuka_ops.backup.restoring.entries import Pick
from chanuka_ops.backup.restoring.restored import Options
from chanuka_ops.backup.taking import fingerprint
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.plugins import nodes
from chanuka_ops_tests.plugins.backup import Serve, as_role, execute, scalars
from chanuka_ops_tests.plugins.restoring import Backup, Spot

pytestmark = pytest.mark.postgres
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")

At = Callable[[str, Callable[[], object]], None]
Everything = tuple[DatabaseSettings, Backup]


def held(database: DatabaseSettings) -> Fingerprint:
    """What a database holds."""
    with (
        ConnectionManager("look", database) as manager,
        manager.transaction(isolation="REPEATABLE READ", read_only=True, profile=Profile.MAINTENANCE) as connection,
    ):
        fingerprint.fix_settings(connection, deadline_s=60)
        return fingerprint.take(connection, label="look")


def about(server: Server, name: str) -> list[object]:
    """What a server says of a database itself: all of it but its name and its numbers."""
    query = f"""select pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datconnlimit,
        (select array_agg(a::text order by a::text) from unnest(datacl) a)::text, shobj_description(oid, 'pg_database'),
        (select array_agg(coalesce(r.rolname, '') || s.setconfig::text order by r.rolname) from pg_db_role_setting s
           left join pg_roles r on r.oid = s.setrole where s.setdatabase = d.oid)::text
        from pg_database d where datname = '{name}'"""
    with ConnectionManager("look", server.settings("template1")) as manager, manager.read() as connection:
        (row,) = connection.exec_driver_sql(query.replace("%", "%%")).all()
    return list(row)


@contextmanager
def nothing_changes(spot: Spot) -> Iterator[None]:
    """The databases are afterwards those that were before, and so are the roles."""
    roles = "select rolname from pg_roles order by 1"
    before = spot.databases(), scalars(spot.server.settings("template1"), roles)
    yield
    assert (spot.databases(), scalars(spot.server.settings("template1"), roles)) == before


@pytest.mark.parametrize("name", [None, pytest.param('Od"d %41 :x?y=ü', marks=pytest.mark.slow)])
def test_a_new_database_holds_all_and_is_set_as_the_source_was(
    everything: Everything, home: Server, name: str | None
) -> None:
    source, backup = everything
    spot = Spot(home, name or f"new_{uuid.uuid4().hex[:8]}")
    try:
        answer = backup.into(spot.database)
        assert (answer.restored, answer.way, answer.mismatches, answer.left_out) == (True, "new", (), ())
        assert answer.checks["rows"] == answer.checks["roles"] == "ok"
        assert held(spot.database) == held(source)
        assert about(home, spot.name) == about(home, "every thing")
        assert spot.databases() == [spot.name]
        assert {"restore", "analyze", "check", "swap"} <= answer.phases.keys()
    finally:
        spot.drop()


def test_the_statistics_are_there(plain: Backup, spot: Spot) -> None:
    plain.into(spot.database)
    assert scalars(spot.database, "select reltuples::int from pg_class where relname = 'bills'") == [1000]


def test_an_empty_database_keeps_its_owner_and_encoding(everything: Everything, spot: Spot) -> None:
    source, backup = everything
    spot.make(options="encoding 'UTF8' owner app_reader")
    answer = backup.into(spot.database)
    assert (answer.restored, answer.way) == (True, "empty")
    assert held(spot.database).tables == held(source).tables
    owner, *_, settings = about(spot.server, spot.name)
    assert owner == "app_reader"
    assert settings == about(spot.server, "every thing")[-1]


def test_the_settings_of_an_empty_database_do_not_stop_its_restore(plain: Backup, spot: Spot) -> None:
    spot.make()
    for setting in ("default_transaction_read_only to on", "statement_timeout to 1", "search_path to nowhere"):
        spot.run(f"alter database {spot.name} set {setting}")
    assert plain.into(spot.database).restored
    assert scalars(spot.database, "show search_path") == ["nowhere"]


NOT_EMPTY = {
    "table": ("create table public.t()", "table t"),
    "view": ("create view v as select 1 as one", "view v"),
    "schema": ("create schema s", "schema s"),
    "function": ("create function f() returns int language sql as 'select 1'", "function f()"),
    "type": ("create type mood as enum ('ok')", "type mood"),
    "sequence": ("create sequence q", "sequence q"),
    "large object": ("select lo_create(4711)", "large object 4711"),
    "publication": ("create publication p", "publication p"),
    "default privileges": ("alter default privileges grant select on tables to public", "default privileges"),
    "cast": ("create cast (int as bool) without function", None),
    "collation": ('create collation c from "C"', "collation c"),
    "operator": (
        "create operator === (leftarg = int, rightarg = int, function = int4eq)",
        "operator ===(integer,integer)",
    ),
}


@pytest.mark.parametrize("what", NOT_EMPTY)
def test_a_database_that_holds_anything_is_refused(plain: Backup, spot: Spot, what: str) -> None:
    statement, named = NOT_EMPTY[what]
    if what == "cast":
        statement = "create domain d as int; create cast (text as d) with inout"
    spot.make(statement)
    with nothing_changes(spot), pytest.raises(errors.RefusedError, match="is not empty") as refused:
        plain.into(spot.database)
    assert refused.value.exit_code == 3
    assert named is None or named in str(refused.value)
    assert "Nothing was changed" in str(refused.value)


def test_what_an_extension_brought_is_not_content(plain: Backup, spot: Spot) -> None:
    spot.make("create extension hstore")
    assert plain.into(spot.database).restored


def test_an_older_server_is_refused(plain: Backup, spot: Spot) -> None:
    newer = plain.manifest.source.model_copy(update={"server_version_num": 990001, "server_version": "99.1"})
    with (
        nothing_changes(spot),
        pytest.raises(errors.RefusedError, match=r"of PostgreSQL 99\.1, and the target server is"),
    ):
        plain.stating(source=newer).into(spot.database)


@pytest.mark.slow
def test_a_newer_server_takes_it(pg_15: Binaries, pg: Binaries, session_dir: Path, spot: Spot, home: Server) -> None:
    from chanuka_ops_tests.plugins.restoring import backup_of  # noqa: PLC0415

    with scratch(session_dir, pg_15, superuser="postgres") as old:
        execute(old.settings("postgres"), "create table t as select g as id from generate_series(1, 99) g")
        backup = backup_of(old.settings("postgres"), pg_15, session_dir / "old")
        answer = replace(backup, tools=pg).into(spot.database)
    assert (answer.restored, answer.rows) == (True, 99)


@pytest.mark.root
@needs_root
@pytest.mark.slow
def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(
    plain: Backup, pg: Binaries, state_dir: Path
) -> None:
    place = state_dir / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m,mode=0711", "tmpfs", place], check=False)
    if mounted.returncode:
        pytest.skip("this account can't mount")
    try:
        with scratch(place, pg, superuser="postgres") as server:
            spot = Spot(server, "spot")
            free = os.statvfs(place)
            much = plain.manifest.source.model_copy(update={"source_bytes": free.f_bavail * free.f_frsize})
            with nothing_changes(spot), pytest.raises(errors.RefusedError, match="bytes free where it keeps its data"):
                plain.stating(source=much).into(spot.database)
            little = plain.into(spot.database)
            assert little.checks["disk"].startswith("ok")
    finally:
        subprocess.run(["umount", place], check=True)


def test_room_that_can_not_be_known_is_unknown_and_never_ok(plain: Backup, spot: Spot) -> None:
    role = f"ordinary_{uuid.uuid4().hex[:8]}"
    spot.run(f"create role {role} login createdb")
    try:
        answer = plain.into(as_role(spot.database, role), roles="skip")
        assert answer.checks["disk"].startswith("unknown")
    finally:
        spot.drop()
        spot.run(f"drop role {role}")


@pytest.mark.slow
def test_missing_roles_are_named_with_the_two_ways_out(everything: Everything, pg: Binaries, session_dir: Path) -> None:
    source, backup = everything
    with scratch(session_dir, pg, superuser="postgres") as other:
        spot = Spot(other, "spot")
        with nothing_changes(spot), pytest.raises(errors.RefusedError) as refused:
            backup.into(spot.database)
        assert 'Odd "Role%, app_owner, app_reader' in str(refused.value)
        assert "--roles create" in str(refused.value)
        assert "--roles skip" in str(refused.value)

        failing = backup.damaged(session_dir / f"torn-{uuid.uuid4().hex[:8]}")
        failing.data_file("app.wide").write_bytes(b"no table's rows")
        with nothing_changes(spot), pytest.raises(errors.ToolFailed):
            failing.into(spot.database, roles="create")

        skipped = backup.into(spot.database, roles="skip")
        assert skipped.restored
        assert held(spot.database).tables == held(source).tables
        assert set(scalars(spot.database, "select pg_get_userbyid(relowner)::text from pg_class")) == {"postgres"}
        assert any("POLICY app.secret own" in line for line in skipped.left_out)
        spot.drop()

        made = backup.into(spot.database, roles="create")
        assert made.roles_made == ('Odd "Role%', "app_owner", "app_reader")
        assert held(spot.database) == held(source)
        assert about(other, "spot") == about(source_server(everything), "every thing")
        members = (
            "select count(*) from pg_auth_members where member in ('app_owner'::regrole, '\"Odd \"\"Role%\"'::regrole)"
        )
        assert scalars(spot.database, members) == [2]
        assert scalars(spot.database, "select rolconfig::text from pg_roles where rolname = 'app_reader'") == [
            "{search_path=nowhere}"
        ]


def source_server(everything: Everything) -> Server:
    """The server of the session's source, by its settings."""
    url = everything[0].sqlalchemy_url
    return Server(everything[1].tools, Path(str(url.query["host"])), "postgres", 0)


@pytest.mark.slow
def test_a_role_that_was_a_superuser_is_made_an_ordinary_one(plain: Backup, spot: Spot, tmp_path: Path) -> None:
    role = f"boss_{uuid.uuid4().hex[:8]}"
    backup = plain.damaged(tmp_path / "copy")
    roles = backup.directory / "globals" / "roles.sql"
    roles.write_text(
        f"{roles.read_text()}\nCREATE ROLE {role};\nALTER ROLE {role} WITH SUPERUSER LOGIN PASSWORD 'x';\n"
    )
    spot.run(f"create role {role}")
    spot.make("create table owned as select 1 as id", f"alter table owned owner to {role}")
    from chanuka_ops_tests.plugins.restoring import backup_of  # noqa: PLC0415

    of_spot = backup_of(spot.database, plain.tools, tmp_path / "state")
    (of_spot.directory / "globals" / "roles.sql").write_text(roles.read_text())
    spot.drop()
    spot.run(f"drop role {role}")
    try:
        answer = of_spot.into(spot.database, roles="create")
        assert answer.roles_made == (role,)
        assert any(role in warning and "superuser" in warning for warning in answer.warnings)
        facts = "rolsuper::int + 2 * rolcanlogin::int + 4 * (rolpassword is not null)::int"
        who = f"select {facts} from pg_authid where rolname = '{role}'"
        assert scalars(spot.database, who) == [2]
    finally:
        spot.drop()
        spot.run(f"drop role if exists {role}")


def test_an_extension_that_the_server_lacks_is_refused(spot: Spot) -> None:
    needed = Entry(
        id=1, kind="EXTENSION", schema=None, name="no_such_extension", owner="", tablespace="", definition="", copy="",
        needs=(), file=None, catalog=(0, 0),
    )  # fmt: skip
    with target.seen(spot.database) as there, pytest.raises(errors.RefusedError, match="no_such_extension: install"):
        preflight._extensions(there, Pick((needed,)), "new")


@pytest.mark.parametrize("makes_databases", [True, False])
def test_an_ordinary_role_restores(plain: Backup, spot: Spot, *, makes_databases: bool) -> None:
    role = f"ordinary_{uuid.uuid4().hex[:8]}"
    spot.run(f"create role {role} login {'createdb' if makes_databases else ''}")
    try:
        if not makes_databases:
            with pytest.raises(errors.RefusedError, match="may not create one"):
                plain.into(as_role(spot.database, role), roles="skip")
            spot.make(options=f"owner {role}")
        with pytest.raises(errors.RefusedError, match="can't be given objects by this role: postgres"):
            plain.into(as_role(spot.database, role))
        answer = plain.into(as_role(spot.database, role), roles="skip")
        assert (answer.restored, answer.way) == (True, "new" if makes_databases else "empty")
        assert answer.rows == 1500
        assert held(spot.database).large_objects.rows == 1
    finally:
        spot.drop()
        spot.run(f"drop role {role}")


def test_one_table_comes_with_what_is_its_own(everything: Everything, spot: Spot) -> None:
    source, backup = everything
    answer = backup.into(spot.database, tables=("app.triggered",))
    there, here = held(source), held(spot.database)
    assert list(here.tables) == ["app.triggered"]
    assert here.tables["app.triggered"] == there.tables["app.triggered"]
    own = {name for name in there.objects if "app.triggered" in name}
    assert {name: here.objects.get(name) for name in own} == {name: there.objects[name] for name in own}
    assert {
        "trigger touch on app.triggered",
        "rule quiet on app.triggered",
        "routine app.touch()",
    } <= here.objects.keys()
    assert (answer.tables, answer.rows) == (1, 1)


def test_a_table_with_any_name(everything: Everything, spot: Spot) -> None:
    source, backup = everything
    name = '"S p%a:ce"."T:""1%"'
    assert backup.into(spot.database, tables=('S p%a:ce.T:"1%',)).rows == 2
    assert held(spot.database).tables == {name: held(source).tables[name]}
    read = archive.read(backup.directory / "dump", backup.tools)
    assert entries.table(read, name) == entries.table(read, 'S p%a:ce.T:"1%')


def test_a_partitioned_table_comes_with_its_partitions_and_its_identity_with_its_sequence(
    everything: Everything, spot: Spot
) -> None:
    source, backup = everything
    answer = backup.into(spot.database, tables=("app.parts", "app.everything"))
    there, here = held(source), held(spot.database)
    assert {name for name in here.tables if ".parts" in name} == {name for name in there.tables if ".parts" in name}
    assert all(there.tables[name] == content for name, content in here.tables.items())
    assert here.sequences == {"app.everything_id_seq": there.sequences["app.everything_id_seq"]}
    assert scalars(spot.database, "select count(*) from app.parts") == [501]
    assert any("large objects" in line for line in answer.left_out)


def test_one_partition_alone_is_a_table(everything: Everything, spot: Spot) -> None:
    answer = everything[1].into(spot.database, tables=("app.parts_late",))
    assert any(line.startswith("TABLE ATTACH app.parts_late") for line in answer.left_out)
    assert "index app.parts_late_id_idx" in held(spot.database).objects


def test_a_foreign_key_to_what_is_not_restored_is_left_out_and_said(plain: Backup, spot: Spot) -> None:
    answer = plain.into(spot.database, tables=("public.votes",))
    assert answer.left_out[0] == (
        "FK CONSTRAINT public.votes votes_bill_fkey: it needs TABLE public.bills, which isn't restored"
    )
    assert answer.rows == 500
    spot.drop()
    answer = plain.into(spot.database, tables=("public.votes", "public.bills"))
    assert not any("FK" in line for line in answer.left_out)
    assert "constraint votes_bill_fkey on public.votes" in held(spot.database).objects


def test_a_child_comes_with_the_bare_definition_of_its_parent(everything: Everything, spot: Spot) -> None:
    answer = everything[1].into(spot.database, tables=("app.child",))
    assert answer.added == ("TABLE app.parent",)
    assert scalars(spot.database, "select count(*) from only app.parent") == [0]
    assert answer.rows == 1


@pytest.mark.slow
def test_one_schema(everything: Everything, spot: Spot) -> None:
    source, backup = everything
    answer = backup.into(spot.database, schemas=("S p%a:ce", "ext"))
    assert list(held(spot.database).tables) == ['"S p%a:ce"."T:""1%"']
    assert answer.restored
    spot.drop()
    backup.into(spot.database, schemas=("app",))
    there, here = held(source), held(spot.database)
    assert {name: content for name, content in there.tables.items() if name.startswith("app.")} == here.tables
    ours = {n: d for n, d in there.objects.items() if " app." in n and not n.startswith("publication")}
    assert {name: here.objects.get(name) for name in ours} == ours


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tables": ("app.tt",)}, "did you mean app.t"),
        ({"tables": ("t",)}, "public.t"),
        ({"tables": ("app.shown",)}, "is a view"),
        ({"tables": ("app.counted",)}, "is a materialized view"),
        ({"schemas": ("apb",)}, "did you mean app"),
        ({"schemas": ("app",), "tables": ("app.t",)}, "not both"),
    ],
)
def test_what_is_not_in_the_backup_is_an_error_of_the_caller(
    everything: Everything, spot: Spot, options: dict[str, tuple[str, ...]], said: str
) -> None:
    with nothing_changes(spot), pytest.raises(errors.ConfigurationError, match=said):
        everything[1].into(spot.database, **options)


def test_rows_that_differ_from_the_manifest_put_nothing_in_place(plain: Backup, spot: Spot) -> None:
    stated = plain.manifest.fingerprint
    tables = {**stated.tables, "public.bills": stated.tables["public.bills"].model_copy(update={"rows": 1001})}
    moved = stated.sequences["public.numbers"].model_copy(update={"before": 8, "after": 9})
    lying = stated.model_copy(update={"tables": tables, "sequences": {"public.numbers": moved}})
    with nothing_changes(spot):
        answer = plain.stating(fingerprint=lying).into(spot.database)
    assert not answer.restored
    assert [(one.object, one.source, one.restored) for one in answer.mismatches] == [
        ("public.bills", "1001 rows", "1000 rows"),
        ("public.numbers", "value 8 to 9", "value 7"),
    ]
    assert plain.stating(fingerprint=lying).into(spot.database, check=False).checks["rows"] == "not looked at"
    spot.drop()
    spot.make()
    in_place = plain.stating(fingerprint=lying).into(spot.database)
    assert (in_place.restored, len(in_place.mismatches)) == (False, 2)
    assert f"database {spot.name} holds what was restored, though it differs" in in_place.warnings


@pytest.mark.parametrize("exists", [False, True])
def test_a_restore_that_fails_leaves_what_was_there(plain: Backup, spot: Spot, tmp_path: Path, *, exists: bool) -> None:
    backup = plain.damaged(tmp_path / "torn")
    backup.data_file("public.votes").write_bytes(b"no table's rows")
    if exists:
        spot.make()
    with nothing_changes(spot), pytest.raises(errors.ToolFailed, match="pg_restore"):
        backup.into(spot.database)
    if exists:
        assert held(spot.database).objects == held(spot.server.settings("template1")).objects
        assert plain.into(spot.database).restored


def killing(pattern: str) -> threading.Thread:
    """Kill pg_restore as soon as one works on a database whose name has that in it."""

    def look() -> bool:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"pg_restore" in words and pattern.encode() in words:
                time.sleep(0.3)
                os.kill(int(entry.name), signal.SIGKILL)
                return True
        return False

    thread = threading.Thread(target=lambda: wait_until(look, timeout_s=20, poll_s=0.01))
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("exists", [False, True])
def test_pg_restore_killed(heavy: Backup, spot: Spot, *, exists: bool) -> None:
    if exists:
        spot.make()
    killer = killing(spot.name)
    with nothing_changes(spot), pytest.raises(errors.ToolFailed, match="killed by signal 9"):
        heavy.into(spot.database)
    killer.join()
    if exists:
        wait_until(
            lambda: not scalars(spot.database, "select 1 from pg_class where relname like 'heavy%'"), timeout_s=10
        )
        assert heavy.into(spot.database).restored


@pytest.mark.slow
def test_a_server_killed_in_mid_restore_and_the_next_run(
    heavy: Backup, pg: Binaries, state_dir: Path, at: At, session_dir: Path
) -> None:
    with (
        nodes.cluster_template(state_dir / "template", pg, {}) as (data, programs),
        nodes.opened(nodes.Node, state_dir / "node", data, programs) as node,
    ):
        node.start()
        spot = Spot(node.server, "spot")
        at("restore: marked", lambda: threading.Timer(0.4, node.kill).start())
        with pytest.raises((errors.ToolFailed, errors.DatabaseError)):
            heavy.into(node.settings("spot"))
        node.start()
        (left,) = spot.databases()
        assert left.startswith("spot_restore_")
        at("none", lambda: None)
        answer = heavy.into(node.settings("spot"))
        assert answer.warnings == (f"dropped what a killed restore had left: {left}",)
        assert spot.databases() == ["spot"]


@pytest.mark.slow
def test_past_the_deadline_nothing_is_left(heavy: Backup, spot: Spot) -> None:
    with nothing_changes(spot), pytest.raises(errors.ChanukaError, match="deadline"):
        heavy.with_settings(deadline_s=0.3).into(spot.database)


def test_no_other_operation_works_on_the_database_meanwhile(plain: Backup, spot: Spot, at: At) -> None:
    spot.make()
    with (
        ConnectionManager("main", spot.database) as manager,
        operation_lock(manager),
        nothing_changes(spot),
        pytest.raises(errors.LockHeld, match="another operation is under way"),
    ):
        plain.into(spot.database)
    tried: list[errors.ChanukaError] = []

    def migrate() -> None:
        with ConnectionManager("main", spot.database) as manager:
            try:
                with operation_lock(manager):
                    pass
            except errors.LockHeld as held_by:
                tried.append(held_by)

    at("restore: planned", migrate)
    plain.into(spot.database)
    assert len(tried) == 1


def test_two_restores_towards_one_name(plain: Backup, spot: Spot) -> None:
    with (
        target.seen(spot.database) as there,
        swap.exclusively(there),
        nothing_changes(spot),
        pytest.raises(errors.LockHeld, match=r"is being restored by another run: chanuka/.*\(pid \d+, role postgres"),
    ):
        plain.into(spot.database)


def test_a_locale_that_the_server_does_not_know_is_said(plain: Backup, spot: Spot) -> None:
    read = archive.read(plain.directory / "dump", plain.tools)
    (about_it,) = (entry for entry in read.entries if entry.kind == "DATABASE")
    foreign = replace(
        about_it,
        definition="CREATE DATABASE plain WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE = 'xx_YY.UTF-8';\n",
    )
    strange = replace(read, entries=tuple(foreign if entry is about_it else entry for entry in read.entries))
    with target.seen(spot.database) as there:
        said = properties.create(there, strange, spot.name, tablespaces=True)
    assert said is not None
    assert "doesn't know the source's locale" in said
    assert scalars(spot.database, "show server_encoding") == ["UTF8"]


def test_tablespaces_that_are_not_there(plain: Backup, spot: Spot) -> None:
    read = archive.read(plain.directory / "dump", plain.tools)
    pick = entries.whole(read)
    elsewhere = replace(pick, entries=(replace(pick.entries[0], tablespace="fast"), *pick.entries[1:]))
    with target.seen(spot.database) as there:
        usable, said = preflight._tablespaces(there, read, elsewhere)
    assert (usable, said) == (False, ("tablespaces that aren't there: fast; all went into the default one",))


def test_subscriptions_are_left_out_and_said(pg: Binaries, spot: Spot, tmp_path: Path, session_dir: Path) -> None:
    from chanuka_ops_tests.plugins.restoring import backup_of  # noqa: PLC0415

    name = f"sub_{uuid.uuid4().hex[:8]}"
    spot.make(
        "create table t(id int primary key)",
        f"create subscription {name} connection 'host=nowhere.invalid dbname=x' publication p"
        " with (connect = false, slot_name = none)",
    )
    backup = backup_of(spot.database, pg, session_dir / name)
    execute(spot.database, f"drop subscription {name}")
    spot.drop()
    answer = backup.into(spot.database)
    assert any(line.startswith(f"SUBSCRIPTION {name}") for line in answer.left_out)
    assert scalars(spot.database, "select count(*) from pg_subscription") == [0]


def test_a_manifest_of_an_unreadable_dump(plain: Backup, spot: Spot, tmp_path: Path) -> None:
    backup = plain.damaged(tmp_path / "copy")
    toc = backup.directory / "dump" / "toc.dat"
    toc.write_bytes(toc.read_bytes()[:-100])
    with nothing_changes(spot), pytest.raises((errors.BackupDamaged, errors.ToolFailed)):
        backup.into(spot.database)
    toc.unlink()
    with nothing_changes(spot), pytest.raises(errors.BackupDamaged, match="can't be read"):
        backup.into(spot.database)


def test_the_disk_check_knows_a_part_from_the_whole(plain: Backup, spot: Spot) -> None:
    read = archive.read(plain.directory / "dump", plain.tools)
    manifest: Manifest = plain.manifest
    part = preflight._share(read, manifest, entries.tables(read, ("public.votes",)))
    assert 0 < part < 0.5
    assert preflight._share(read, manifest, entries.whole(read)) == 1.0


def test_an_encrypted_backup_is_restored_and_extracted(serve: Serve, spot: Spot, tmp_path: Path) -> None:
    key, other = (pyrage.x25519.Identity.generate() for _ in range(2))
    for name, identity in (("key", key), ("other", other)):
        (tmp_path / name).write_text(str(identity))
    spot.make("create table t as select g as id from generate_series(1, 99) g", "create table u()")
    service = serve(recipients=[str(key.to_public())], identity={"file": str(tmp_path / "key")})
    with ConnectionManager("main", spot.database) as manager:
        backup_id = service.create(manager).backup_id
    spot.drop()
    wrong = serve(recipients=[str(key.to_public())], identity={"file": str(tmp_path / "other")})
    with nothing_changes(spot), pytest.raises(errors.DecryptionFailed):
        wrong.restore(backup_id, spot.database, Options())
    answer = service.restore(backup_id, spot.database, Options())
    assert (answer.rows, answer.checks["bytes"]) == (99, "ok")
    assert answer.phases["decrypt"] > 0
    taken = service.extract(backup_id, "public.t", to=tmp_path / "t.csv", form="csv")
    assert (taken.rows, (tmp_path / "t.csv").read_bytes()[:7]) == (99, b"id\r\n1\r\n")
    assert list((service._settings.state_dir / "fetched").iterdir()) == []


def test_a_damaged_table_of_contents_is_nothing_but_damaged(everything: Everything) -> None:
    content = (everything[1].directory / "dump" / "toc.dat").read_bytes()
    whole = archive.parse(content)
    for length in (*range(64), *range(64, len(content), 4999)):
        with pytest.raises(errors.BackupDamaged):
            archive.parse(content[:length])
    for position in (*range(5, 60), *range(60, len(content), 4999)):
        flipped = bytearray(content)
        flipped[position] ^= 0x55
        try:
            other = archive.parse(bytes(flipped))
        except (errors.BackupDamaged, errors.RefusedError):
            continue
        assert len(other.entries) == len(whole.entries)


def test_an_archive_format_of_tomorrow_is_refused(plain: Backup) -> None:
    content = bytearray((plain.directory / "dump" / "toc.dat").read_bytes())
    content[6] = 99
    with pytest.raises(errors.RefusedError, match=r"archive format is 1\.99"):
        archive.parse(bytes(content))


def test_a_table_of_contents_that_pg_restore_reads_otherwise_is_refused(plain: Backup) -> None:
    read = archive.read(plain.directory / "dump", plain.tools)
    listing = [entry.line for entry in read.entries]
    archive._confirm(read, listing)
    with pytest.raises(errors.RefusedError, match="otherwise than this program"):
        archive._confirm(read, [line.replace("votes", "voters") for line in listing])
    with pytest.raises(errors.RefusedError, match="otherwise than this program"):
        archive._confirm(read, [*listing, "99999; 0 0 TABLE public unseen postgres"])

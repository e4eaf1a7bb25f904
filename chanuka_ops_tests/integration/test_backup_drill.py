"""What a drill looks at in the copy beside its data: indexes, the user's assertions; and where the copy may lie."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup.answers import Comparison
from chanuka_ops.backup.model import ROW_TEXT, Manifest
from chanuka_ops.backup.proving.drill import RestoredCopy, compare
from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings, DrillSettings, PostgresSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.integration.fingerprint_cases import retaken
from chanuka_ops_tests.plugins.backup import SMALL, Serve, as_role, execute, fresh_database, scalars

pytestmark = pytest.mark.postgres

MORE = (
    "create function bent(x int) returns int immutable language sql as 'select x'",
    "create index bills_bent on bills(bent(id))",
    "create function forbid() returns event_trigger language plpgsql as $$ begin raise 'no %', tg_tag; end $$",
    "create table rare(id int primary key)",
    "create event trigger no on ddl_command_start when tag in ('CREATE EXTENSION') execute function forbid()",
)


@pytest.fixture(scope="module")
def restored(server: Server, pg: Binaries, session_dir: Path) -> Iterator[tuple[Manifest, RestoredCopy]]:
    """A backup and a copy restored from it, as the drill has them; each test puts back what it changed."""
    state = session_dir / "drilled"
    state.mkdir(exist_ok=True)
    state.chmod(0o711)
    service = BackupService(Settings(state_dir=state, source=None, postgres=PostgresSettings(bin_dir=pg.bin_dir)))
    with (
        fresh_database(server, "drilled", (*SMALL, *MORE)) as database,
        ConnectionManager("main", database) as manager,
    ):
        backup_id = service.create(manager).backup_id
    with service.restored_copy(backup_id) as copy:
        yield service.show(backup_id)[0], copy


def looked_at(restored: tuple[Manifest, RestoredCopy], **settings: object) -> Comparison:
    manifest, copy = restored
    return compare(manifest, copy, deadline_s=60, drill=DrillSettings.model_validate(settings))


def test_a_sound_copy_passes_and_stays_as_it_was(restored: tuple[Manifest, RestoredCopy]) -> None:
    found = looked_at(restored)
    assert found.equal
    assert (found.index_problems, found.assertion_problems) == ((), None)
    assert found.warnings == ()
    copy = restored[1].manager.settings
    assert scalars(copy, "select count(*) from pg_extension where extname = 'amcheck'") == [0]


def test_an_index_that_lacks_rows_is_named(restored: tuple[Manifest, RestoredCopy]) -> None:
    copy = restored[1].manager.settings
    execute(copy, "create or replace function bent(x int) returns int immutable language sql as 'select x + 1'")
    try:
        problems = looked_at(restored).index_problems
    finally:
        execute(copy, "create or replace function bent(x int) returns int immutable language sql as 'select x'")
    assert problems is not None
    assert [problem.object for problem in problems] == ["index public.bills_bent"]
    assert "lacks matching index tuple" in problems[0].restored
    assert looked_at(restored).index_problems == ()


def test_a_table_that_is_not_well_formed_is_named(restored: tuple[Manifest, RestoredCopy]) -> None:
    copy = restored[1].manager.settings
    (was,) = scalars(copy, "select relfrozenxid::text from pg_class where relname = 'votes'")
    execute(copy, "update pg_class set relfrozenxid = pg_current_xact_id()::xid where relname = 'votes'")
    try:
        problems = looked_at(restored).index_problems
    finally:
        execute(copy, f"update pg_class set relfrozenxid = '{was}' where relname = 'votes'")
    assert problems is not None
    assert [problem.object for problem in problems] == ["table public.votes"]
    assert "freeze threshold" in problems[0].restored


def test_it_can_be_switched_off(restored: tuple[Manifest, RestoredCopy]) -> None:
    assert looked_at(restored, amcheck=False).index_problems is None


def test_a_role_that_cannot_have_amcheck_is_told(restored: tuple[Manifest, RestoredCopy]) -> None:
    manifest, copy = restored
    execute(copy.manager.settings, "create role weak login", "grant pg_read_all_data to weak")
    weak = as_role(copy.manager.settings, "weak")
    weak = weak.model_copy(update={"url": type(weak.url)(weak.url.get_secret_value().partition("&options")[0])})
    execute(copy.manager.settings, "grant select on large object 4711 to weak")
    try:
        with ConnectionManager("main", weak) as manager:
            found = compare(manifest, replace(copy, manager=manager), deadline_s=60, drill=DrillSettings())
    finally:
        execute(copy.manager.settings, "drop owned by weak", "drop role weak")
    assert found.index_problems is None
    assert "amcheck can't be had" in found.warnings[0]
    assert found.mismatches == ()


ASSERTIONS = {
    "select count(*) = 1000 from bills": None,
    "select '100%' like '%\\%' and ':x' = ':x'": None,
    "select count(*) = 999 from bills": "false",
    "select max(id) > 0 from rare": "null",
    "select true from bills where id < 3": "more than one row",
    "select true from bills where id < 0": "no row",
    "select true, true": "2 columns",
    "select count(*) from bills": "'1000'",
    "select title from bills where id = 1": "'bill 1'",
    "select 1 / (id - id) = 0 from bills where id = 1": "an error: division by zero",
    "select from nowhere": 'an error: relation "nowhere" does not exist',
    "with told as (select 1) select count(*) = 1 from told -- the end": None,
    "delete from bills returning true": "an error: syntax error",
    "set statement_timeout to 0": "an error: syntax error",
    "select true; select false": "an error: syntax error",
    "select nextval('numbers') > 0": "an error: cannot execute nextval() in a read-only transaction",
}


def test_each_assertion_has_to_return_one_true(restored: tuple[Manifest, RestoredCopy]) -> None:
    asked = {f"{number}": query for number, query in enumerate(ASSERTIONS)}
    problems = looked_at(restored, amcheck=False, assertions=asked).assertion_problems
    assert problems is not None
    came = {problem.object: problem.restored.partition(" at or near")[0] for problem in problems}
    assert came == {
        f"assertion '{number}'": said for number, said in enumerate(ASSERTIONS.values()) if said is not None
    }


def test_an_assertion_that_takes_too_long_fails(restored: tuple[Manifest, RestoredCopy]) -> None:
    slow = {"slow": "select pg_sleep(30) is not null"}
    problems = looked_at(restored, amcheck=False, assertions=slow, assertion_timeout="100ms").assertion_problems
    assert problems is not None
    assert "statement timeout" in problems[0].restored


def test_a_manifest_of_the_first_algorithm_can_be_proved(restored: tuple[Manifest, RestoredCopy]) -> None:
    manifest, copy = restored
    first = retaken(copy.manager.settings, manifest.fingerprint.model_copy(update={"algorithm": ROW_TEXT}))
    without_rights = {name: value.partition(":")[0] for name, value in first.objects.items()}
    known = {name: value for name, value in without_rights.items() if not name.startswith("event trigger ")}
    written = manifest.model_copy(update={"fingerprint": first.model_copy(update={"objects": known})})
    again = Manifest.model_validate_json(written.model_dump_json(exclude={"source": {"system_identifier"}}))
    found = compare(again, copy, deadline_s=60)
    assert found.equal
    assert "first algorithm" in found.warnings[0]
    execute(copy.manager.settings, "update bills set title = 'Bill 500' where id = 500", "drop index bills_title")
    try:
        found = compare(again, copy, deadline_s=60)
    finally:
        execute(copy.manager.settings, "create index bills_title on bills(title)")
        execute(copy.manager.settings, "update bills set title = 'bill 500' where id = 500")
    assert [mismatch.object for mismatch in found.mismatches] == ["public.bills"]
    assert [problem.object for problem in found.structure_problems] == ["index public.bills_title"]


LADDER = {"manifest": True, "restores": True, "structure": True, "content": True, "indexes": True, "assertions": True}


# --- on a server that the settings name


@pytest.fixture(scope="module")
def elsewhere(pg: Binaries, session_dir: Path) -> Iterator[Server]:
    """Another server of the same version."""
    with scratch(session_dir, pg, superuser="postgres") as running:
        yield running


def url_of(database: DatabaseSettings) -> str:
    return database.url.get_secret_value()


@pytest.fixture
def borrowing(serve: Serve, elsewhere: Server, monkeypatch: pytest.MonkeyPatch) -> BackupService:
    """A service whose drills go to that other server."""
    monkeypatch.setenv("SCRATCH_URL", url_of(elsewhere.settings("postgres")))
    return serve(drill={"scratch_url": {"env": "SCRATCH_URL"}})


def databases(server: Server) -> set[object]:
    return set(scalars(server.settings("postgres"), "select datname from pg_database"))


def test_a_drill_on_a_named_server_leaves_nothing_there(
    borrowing: BackupService, elsewhere: Server, taken: str
) -> None:
    before = databases(elsewhere)
    late = f"chanuka_drill_{datetime.now(UTC) - timedelta(days=2):%Y%m%dt%H%M%Sz}_{secrets.token_hex(4)}"
    underway = f"chanuka_drill_{datetime.now(UTC):%Y%m%dt%H%M%Sz}_{secrets.token_hex(4)}"
    for name in (late, underway):
        execute(elsewhere.settings("postgres"), f"create database {name}")
    try:
        drilled = borrowing.drill(taken)
        left = databases(elsewhere)
    finally:
        execute(elsewhere.settings("postgres"), f"drop database {underway}", f"drop database if exists {late}")
    assert drilled.proven
    assert (drilled.ladder["indexes"], drilled.warnings) == (True, ())
    assert left == before | {underway}, "what a killed drill left is swept, what may be under way is not"


def test_a_drill_on_the_source_itself_is_refused(
    serve: Serve, server: Server, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_URL", url_of(server.settings("postgres")))
    service = serve(drill={"scratch_url": {"env": "SCRATCH_URL"}})
    before = databases(server)
    with pytest.raises(errors.RefusedError, match="the server that the backup was taken from"):
        service.drill(taken)
    assert databases(server) == before


def test_a_failed_restore_leaves_nothing_on_a_named_server(
    borrowing: BackupService, elsewhere: Server, small: DatabaseSettings
) -> None:
    execute(small, "create role only_here", "create policy p on bills to only_here using (true)")
    try:
        with ConnectionManager("main", small) as manager:
            backup_id = borrowing.create(manager).backup_id
    finally:
        execute(small, "drop owned by only_here", "drop role only_here")
    before = databases(elsewhere)
    with pytest.raises(errors.ToolFailed, match="only_here"):  # a policy can't be restored without its role
        borrowing.drill(backup_id)
    assert databases(elsewhere) == before


def test_without_the_roles_owners_and_grants_are_left_out_and_said(
    borrowing: BackupService, elsewhere: Server, small: DatabaseSettings
) -> None:
    execute(
        small,
        "create role only_here",
        "alter table bills owner to only_here",
        "grant select on votes to only_here",
        "alter default privileges grant select on tables to only_here",
    )
    try:
        with ConnectionManager("main", small) as manager:
            backup_id = borrowing.create(manager).backup_id
    finally:
        execute(small, "alter table bills owner to postgres", "drop owned by only_here", "drop role only_here")
    with borrowing.restored_copy(backup_id) as copy:
        manifest = borrowing.show(backup_id)[0]
        found = compare(manifest, copy, deadline_s=60)
        assert found.equal
        assert found.warnings == ("owners and grants were left out: the scratch server has no role only_here",)
        execute(copy.manager.settings, "drop index bills_title")
        assert not compare(manifest, copy, deadline_s=60).equal
    assert "only_here" not in scalars(elsewhere.settings("postgres"), "select rolname from pg_roles")


def test_a_named_server_that_is_older_is_refused(
    serve: Serve, pg_15: Binaries, session_dir: Path, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if serve().show(taken)[0].source.major == 15:
        pytest.skip("the source is a 15 itself")
    with scratch(session_dir, pg_15, superuser="postgres") as old:
        monkeypatch.setenv("SCRATCH_URL", url_of(old.settings("postgres")))
        with pytest.raises(errors.RefusedError, match="PostgreSQL 15 and the backup's source was"):
            serve(drill={"scratch_url": {"env": "SCRATCH_URL"}}).drill(taken)


def test_a_scratch_url_that_is_none_says_so_and_not_what_it_was(
    serve: Serve, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_URL", "mysql://u:s3cret@h/d")
    with pytest.raises(errors.ConfigurationError, match="scratch_url") as raised:
        serve(drill={"scratch_url": {"env": "SCRATCH_URL"}}).drill(taken)
    assert "s3cret" not in str(raised.value)


# --- whole drills of backups that are not of everything


@pytest.mark.slow
@pytest.mark.parametrize(
    "filters",
    [
        {"tables": ["app.bills"]},
        {"schemas": ["app"]},
        {"exclude_schemas": ["other"], "exclude_table_data": ["app.votes"]},
    ],
)
def test_a_backup_with_a_filter_is_proved_as_it_is(
    serve: Serve, database: DatabaseSettings, filters: dict[str, list[str]]
) -> None:
    execute(
        database,
        "create schema app",
        "create schema other",
        "create table app.bills(id serial primary key, title text)",
        "insert into app.bills(title) values ('one'), ('two')",
        "create table app.votes(id int primary key)",
        "insert into app.votes values (1)",
        "create table other.secret as select 1 as x",
        "create function other.f() returns int language sql as 'select 1'",
    )
    service = serve(filter=filters)
    with ConnectionManager("main", database) as manager:
        backup_id = service.create(manager).backup_id
    drilled = service.drill(backup_id)
    assert (drilled.mismatches, drilled.structure_problems) == ((), ())
    assert drilled.proven
    assert drilled.rows_compared == 2 + ("schemas" in filters)
    assert (drilled.tables.get("app.votes"), "exclude_table_data" in filters) in [
        ((0, 0, True), True),
        ((1, 1, True), False),
        (None, False),
    ]


@pytest.mark.slow
def test_a_backup_whose_structure_alone_is_known_is_never_proven(serve: Serve, small: DatabaseSettings) -> None:
    service = serve(fingerprint="structure")
    with ConnectionManager("main", small) as manager:
        backup_id = service.create(manager).backup_id
    drilled = service.drill(backup_id)
    assert drilled.ladder == {**LADDER, "content": None, "assertions": None}
    assert (drilled.proven, drilled.coverage, drilled.tables) == (False, 0.0, {})
    assert drilled.tier == "verified"


@pytest.mark.slow
def test_drills_of_one_database_take_turns_with_the_parts(serve: Serve, small: DatabaseSettings) -> None:
    service = serve(drill={"sample_above": 0, "sample_parts": 2})
    with ConnectionManager("main", small) as manager:
        first, second = (service.create(manager).backup_id for _ in range(2))
    drills = [service.drill(first), service.drill(second)]
    assert all(drill.proven for drill in drills)
    assert [drill.part for drill in drills] == [0, 1]
    assert sum(drill.rows_compared for drill in drills) == 1000 + 2 * 500  # the one without a key each time

"""One thing that differs in the restored copy is found and named: what the drill is for."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup import documents, files
from chanuka_ops.backup.answers import Comparison
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.model import Manifest, Tier
from chanuka_ops.backup.proving.drill import RestoredCopy, compare
from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.taking import dump
from chanuka_ops.config import DatabaseSettings, PostgresSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.plugins.backup import SMALL, Serve, execute, fresh_database, local
from chanuka_ops_tests.plugins.processes import Cli

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def restored(server: Server, pg: Binaries, session_dir: Path) -> Iterator[tuple[Manifest, RestoredCopy]]:
    """A backup and a copy restored from it, as the drill has them; each test puts back what it changed."""
    state = session_dir / "compared"
    state.mkdir(exist_ok=True)
    state.chmod(0o711)
    service = BackupService(Settings(state_dir=state, source=None, postgres=PostgresSettings(bin_dir=pg.bin_dir)))
    more = (
        "create view titles as select title from bills",
        "create function double(x int) returns int language sql as 'select x * 2'",
        "create role compare_reader",
        "grant select on bills to compare_reader",
        "create type mood as enum ('sad', 'happy')",
        "create type feeling as enum ('sad', 'happy')",
        "create table days(d date) partition by range (d)",
        "create table days_rest partition of days default",
        "insert into days values ('2026-11-22')",
        "comment on table bills is 'bills'",
        "create function seen() returns event_trigger language plpgsql as 'begin end'",
        "create event trigger seen on ddl_command_end when tag in ('CREATE SEQUENCE') execute function seen()",
        "create function level(mood) returns int language sql immutable as 'select 1'",
        "create cast (mood as int) with function level(mood)",
        "create foreign data wrapper files",
        "create server away foreign data wrapper files options (host 'here')",
        "create foreign table far(x int) server away options (path 'there')",
        "create operator === (leftarg = int, rightarg = int, function = int4eq)",
        'create collation mine from "C"',
    )
    with (
        fresh_database(server, "compared", (*SMALL, *more)) as database,
        ConnectionManager("main", database) as manager,
    ):
        backup_id = service.create(manager).backup_id
    execute(server.settings("postgres"), "drop role compare_reader")
    manifest = service.store.manifest(backup_id)
    with service.restored_copy(backup_id) as copy:
        yield manifest, copy


def after(restored: tuple[Manifest, RestoredCopy], *statements: str) -> Comparison:
    manifest, copy = restored
    if statements:
        execute(copy.manager.settings, *statements)
    return compare(manifest, copy, deadline_s=60)


DATA = {
    "one value": (
        "update bills set title = 'Bill 500' where id = 500",
        "update bills set title = 'bill 500' where id = 500",
        "public.bills",
    ),
    "one null": (
        "update votes set vote = null where bill = 7",
        "update votes set vote = 'aye' where bill = 7",
        "public.votes",
    ),
    "one row less": ("delete from votes where bill = 9", "insert into votes values (9, 'aye')", "public.votes"),
    "one row more": ("insert into votes values (null, 'no')", "delete from votes where vote = 'no'", "public.votes"),
    "one row twice, another missing": (
        "update votes set bill = 4 where bill = 3",
        "update votes set bill = 3 where ctid = (select max(ctid) from votes where bill = 4)",
        "public.votes",
    ),
    "two values swapped": (
        "update bills set title = 'bill ' || (3 - id) where id in (1, 2)",
        "update bills set title = 'bill ' || id where id in (1, 2)",
        "public.bills",
    ),
    "a row of a partition": ("update days set d = d + 1", "update days set d = d - 1", "public.days_rest"),
    "a sequence": ("select nextval('numbers')", "select setval('numbers', 1)", "public.numbers"),
    "a sequence not yet used": ("select setval('numbers', 1, false)", "select setval('numbers', 1)", "public.numbers"),
    "a byte of a large object": ("select lo_put(4711, 0, 'L')", "select lo_put(4711, 0, 'l')", "large objects"),
    "one large object more": ("select lo_create(4712)", "select lo_unlink(4712)", "large objects"),
}


@pytest.mark.parametrize("change", DATA)
def test_a_change_of_data_names_where(restored: tuple[Manifest, RestoredCopy], change: str) -> None:
    spoil, mend, named = DATA[change]
    comparison = after(restored, spoil)
    assert [mismatch.object for mismatch in comparison.mismatches] == [named]
    assert comparison.structure_problems == ()
    assert not comparison.equal
    assert after(restored, mend).equal


STRUCTURE = {
    "an index": ("drop index bills_title", "create index bills_title on bills(title)", {"index public.bills_title"}),
    "an index's definition": (
        "drop index bills_title; create index bills_title on bills(title desc)",
        "drop index bills_title; create index bills_title on bills(title)",
        {"index public.bills_title"},
    ),
    "a key": (
        "alter table votes drop constraint votes_bill_fkey",
        "alter table votes add foreign key (bill) references bills",
        {"constraint votes_bill_fkey on public.votes"},
    ),
    "a view's text": (
        "create or replace view titles as select upper(title) as title from bills",
        "create or replace view titles as select title from bills",
        {"view public.titles"},
    ),
    "a function's body": (
        "create or replace function double(x int) returns int language sql as 'select x * 3'",
        "create or replace function double(x int) returns int language sql as 'select x * 2'",
        {"routine public.double(x integer)"},
    ),
    "a privilege": (
        "revoke select on bills from compare_reader",
        "grant select on bills to compare_reader",
        {"relation public.bills"},
    ),
    "a default": (
        "alter table votes alter vote set default 'no'",
        "alter table votes alter vote drop default",
        {"column public.votes.vote"},
    ),
    "a comment": (
        "comment on table bills is null",
        "comment on table bills is 'bills'",
        {"comment table public.bills"},
    ),
    "row security": (
        "alter table bills enable row level security",
        "alter table bills disable row level security",
        {"relation public.bills"},
    ),
    "an owner": (
        "alter table days owner to compare_reader",
        "alter table days owner to postgres",
        {"relation public.days"},
    ),
    "an owner of a type": (
        "alter type mood owner to compare_reader",
        "alter type mood owner to postgres",
        {"type public.mood"},
    ),
    "a column's grant": (
        "grant update (title) on bills to compare_reader",
        "revoke update (title) on bills from compare_reader",
        {"column public.bills.title"},
    ),
    "an event trigger that is off": (
        "alter event trigger seen disable",
        "alter event trigger seen enable",
        {"event trigger seen"},
    ),
    "a cast": (
        "drop cast (mood as int)",
        "create cast (mood as int) with function level(mood)",
        {"cast public.mood as integer"},
    ),
    "a foreign server's option": (
        "alter server away options (set host 'elsewhere')",
        "alter server away options (set host 'here')",
        {"foreign server away"},
    ),
    "a foreign table's option": (
        "alter foreign table far options (set path 'elsewhere')",
        "alter foreign table far options (set path 'there')",
        {"relation public.far"},
    ),
    "an operator": (
        "drop operator ===(int, int)",
        "create operator === (leftarg = int, rightarg = int, function = int4eq)",
        {"operator public.===(integer,integer)"},
    ),
    "a collation": ("drop collation mine", 'create collation mine from "C"', {"collation public.mine"}),
    "the order of an enum": (
        "alter type feeling rename to m; create type feeling as enum ('happy', 'sad'); drop type m",
        "drop type feeling; create type feeling as enum ('sad', 'happy')",
        {"type public.feeling"},
    ),
}


@pytest.mark.parametrize("change", STRUCTURE)
def test_a_change_of_structure_names_the_object(restored: tuple[Manifest, RestoredCopy], change: str) -> None:
    spoil, mend, named = STRUCTURE[change]
    owner = "set role postgres;"  # what is made again belongs to whom it belonged
    try:
        comparison = after(restored, *(f"{owner}{spoil}".split(";")))
        assert {problem.object for problem in comparison.structure_problems} == named
        assert comparison.mismatches == ()
    finally:
        mended = after(restored, *(f"{owner}{mend}".split(";")))
    assert mended.structure_problems == ()


def reseal(service: BackupService, backup_id: str) -> None:
    """Let the manifest state the files as they are now: a backup that was wrong from the start."""
    directory = local(service).directory(backup_id)
    found = files.inventory(directory, label="test", fsync=False, but={MANIFEST, STATUS})
    manifest = service.store.manifest(backup_id)
    changed = manifest.model_copy(update={"files": tuple(file for file in found.values() if file)})
    (directory / MANIFEST).write_bytes(documents.seal(changed.model_dump(mode="json")))
    assert service.verify(backup_id).problems == ()


@pytest.mark.slow
def test_a_copy_with_one_other_value_is_not_proven(service: BackupService, cli: Cli, taken: str) -> None:
    assert service.drill(taken).tier is Tier.PROVEN
    for path in (local(service).directory(taken) / dump.DUMP).glob("*.dat.gz"):
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"bill 500\n", b"bill 5OO\n")))
    reseal(service, taken)
    ran = cli("--json", "backup", "drill", taken)
    assert ran.status == 1
    assert [mismatch["object"] for mismatch in ran.json["mismatches"]] == ["public.bills"]
    assert ran.json["tier"] == "verified"
    assert ran.json["ladder"] == {
        "manifest": True, "restores": True, "structure": True, "content": False, "indexes": True, "assertions": None,
    }  # fmt: skip
    assert service.show(taken)[1].tier is Tier.VERIFIED


@pytest.mark.slow
def test_a_dump_that_cannot_be_restored_is_recorded_and_said(service: BackupService, taken: str) -> None:
    (local(service).directory(taken) / dump.DUMP / "toc.dat").write_bytes(b"nonsense")
    reseal(service, taken)
    with pytest.raises(errors.ToolFailed, match="pg_restore"):
        service.drill(taken)
    status = service.store.status(taken)
    assert status.tier is Tier.VERIFIED
    assert not status.evidence[-1].passed
    assert "pg_restore" in status.evidence[-1].figures["error"]


@pytest.mark.slow
def test_a_dump_by_newer_tools_is_proved_on_their_major(
    serve: Serve, pg: Binaries, pg_15: Binaries, state_dir: Path
) -> None:
    if pg.major == 15:
        pytest.skip("the tools under test are not newer than 15")
    service = serve(bin_dir=pg.bin_dir)
    with scratch(state_dir, pg_15, superuser="postgres") as old:
        execute(old.settings("postgres"), *SMALL)
        with ConnectionManager("main", old.settings("postgres")) as manager:
            backup_id = service.create(manager).backup_id
    drilled = service.drill(backup_id)
    assert drilled.proven
    assert drilled.warnings[0].startswith("another major version")
    assert str(drilled.scratch_version).startswith(str(pg.major))


def test_the_fingerprint_is_the_same_whatever_the_session_is_set_to(
    service: BackupService, database: DatabaseSettings
) -> None:
    plant = (
        "create table t(f float8, d timestamptz, b bytea, i interval)",
        "insert into t values (0.1::float8 + 0.2, '2026-11-22 10:00+02', '\\x00ff', '1 day 2 hours')",
    )
    execute(database, *plant)
    hashes = []
    for setting in (
        "DateStyle to 'SQL, DMY'",
        "TimeZone to 'Asia/Tokyo'",
        "extra_float_digits to -10",
        "bytea_output to 'escape'",
    ):
        execute(database, f"alter database {database.sqlalchemy_url.database} set {setting}")
        with ConnectionManager("main", database) as manager:
            backup_id = service.create(manager).backup_id
        hashes.append(service.store.manifest(backup_id).fingerprint.tables["public.t"].hash)
    assert len(set(hashes)) == 1

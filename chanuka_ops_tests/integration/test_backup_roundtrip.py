"""A copy restored from a backup holds what the source held, whatever that was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chanuka_ops.backup.answers import Drilled
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.integration.backup_cases import NASTY, ODD_SETTINGS, ROLES
from chanuka_ops_tests.plugins.backup import VERBATIM, Serve, execute, fresh_database
from chanuka_ops_tests.plugins.postgres import SERVER_SETTINGS

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def source(pg: Binaries, session_dir: Path) -> Iterator[Server]:
    """A server of this file's own: its tests make roles, and take the name `postgres` for a database."""
    with scratch(session_dir, pg, superuser="postgres", settings=SERVER_SETTINGS) as running:
        execute(running.settings("postgres"), *ROLES)
        yield running


def proved(service: BackupService, database: DatabaseSettings) -> Drilled:
    with ConnectionManager("main", database) as manager:
        created = service.create(manager)
    assert created.tier is Tier.TAKEN
    drilled = service.drill(created.backup_id)
    assert (drilled.mismatches, drilled.structure_problems, drilled.problems) == ((), (), ())
    assert drilled.tier is Tier.PROVEN
    assert drilled.coverage == 1.0
    assert service.show(created.backup_id)[1].tier is Tier.PROVEN
    return drilled


OBJECTS = NASTY[len(ROLES) :]
RARE = (
    "create function app.seen() returns event_trigger language plpgsql as 'begin end'",
    "create event trigger app_seen on sql_drop execute function app.seen()",
    "create function app.level(app.mood) returns int language sql immutable as 'select 1'",
    "create cast (app.mood as int) with function app.level(app.mood) as assignment",
    "create foreign data wrapper files options (debug 'true')",
    "create server away type 'disk' foreign data wrapper files options (host 'a ''b')",
    "grant usage on foreign server away to app_reader",
    "create foreign table app.far(x int options (name 'y')) server away options (path 'p')",
    "create operator app.=== (leftarg = int, rightarg = int, function = int4eq, commutator = operator(app.===))",
    "create function app.backwards(int, int) returns int language sql immutable strict as 'select btint4cmp($2, $1)'",
    """create operator class app.turned for type int using btree as operator 1 >, operator 2 >=, operator 3 =,
       operator 4 <=, operator 5 <, function 1 app.backwards(int, int)""",
    "create index backwards on app.dropped (a app.turned)",
    'create collation app.plain from "C"',
    "create text search dictionary app.words (template = simple, accept = false)",
    "alter table app.dropped alter a set (n_distinct = 7), alter a set statistics 42",
    "grant usage on type app.mood to app_reader",
    'create table app.kinds(m app.mood[], e app.email, p app.positive, c char(3), b bpchar, k "char", es app.email[])',
    "insert into app.kinds values ('{ok,NULL}', 'a@b', 5, 'a', 'a ', 'c', '{a@b,b@a}')",
    "insert into app.kinds(e) values ('c@d')",
)


def test_one_of_everything(service: BackupService, source: Server) -> None:
    with fresh_database(source, "everything", (*OBJECTS, *RARE)) as database:
        drilled = proved(service, database)
    assert drilled.tables['"S p%a:ce"."T:""1%"'] == (2, 2, True)
    assert drilled.tables["app.nothing"] == (2, 2, True)
    assert drilled.rows_compared > 600


@pytest.mark.slow
@pytest.mark.parametrize("name", ["postgres", 'Od"d %41 :x?y=ü', "template9"])
def test_any_name_of_a_database(service: BackupService, source: Server, name: str) -> None:
    with fresh_database(source, name, OBJECTS) as database:
        proved(service, database)


@pytest.mark.slow
def test_odd_settings_of_the_database_change_nothing(service: BackupService, source: Server) -> None:
    with fresh_database(source, "odd", OBJECTS) as database:
        for setting in ODD_SETTINGS:
            execute(source.settings("template1"), f"alter database odd set {setting}")
            execute(source.settings("template1"), f"alter role postgres in database odd set {setting}")
        proved(service, database)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_other_encodings(service: BackupService, source: Server, encoding: str) -> None:
    options = f"encoding '{encoding}' locale_provider libc locale 'C'"
    if source.major < 17:
        options = f"encoding '{encoding}' locale 'C'"
    plant = (
        "create table words(w text)",
        "insert into words values ('caf\u00e9'), ('na\u00efve')",
        "comment on table words is '\u00fc'",
    )
    with fresh_database(source, f"enc_{encoding.lower()}", plant, options) as database:
        assert proved(service, database).rows_compared == 2


@contextmanager
def under_load(database: DatabaseSettings) -> Iterator[None]:
    """Write from two sessions for as long as the block lasts: rows, and sequences of every kind."""
    ended = threading.Event()
    work = (
        "insert into busy select g, '100%' from generate_series(1, 50) g;"
        "select nextval('up'), nextval('down'), nextval('around') from generate_series(1, 20)"
    )

    def write() -> None:
        with ConnectionManager("load", database) as manager, manager.autocommit() as connection:
            while not ended.is_set():
                for statement in work.split(";"):
                    connection.exec_driver_sql(statement, execution_options=VERBATIM)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        ended.set()
        for writer in writers:
            writer.join()


@pytest.mark.slow
def test_a_database_that_is_written_to_while_it_is_dumped(service: BackupService, source: Server) -> None:
    plant = (
        "create table busy(id int, v text)",
        "create table slow as select g as id, repeat(md5(g::text), 20) as v from generate_series(1, 100000) g",
        "create sequence up",
        "create sequence down increment -1",
        "create sequence around maxvalue 7 cycle",
    )
    with fresh_database(source, "busy", plant) as database:
        with under_load(database), ConnectionManager("main", database) as manager:
            backup_id = service.create(manager).backup_id
        sequences = service.store.manifest(backup_id).fingerprint.sequences
        assert sequences["public.up"].before < sequences["public.up"].after, "the load must have moved it"
        assert sequences["public.down"].before > sequences["public.down"].after
        assert service.drill(backup_id).tier is Tier.PROVEN


def test_a_copy_is_proven_with_the_other_once_its_bytes_were_read(
    serve: Serve, small: DatabaseSettings, state_dir: Path
) -> None:
    service = serve(stores={name: {"url": str(state_dir / name)} for name in ("first", "second")})
    with ConnectionManager("main", small) as manager:
        backup_id = service.create(manager).backup_id
    assert service.drill(backup_id).proven
    second = service.stores["second"]
    assert second.status(backup_id).tier is Tier.TAKEN, "nobody has read it yet"
    service.verify(backup_id)
    assert second.status(backup_id).tier is Tier.PROVEN

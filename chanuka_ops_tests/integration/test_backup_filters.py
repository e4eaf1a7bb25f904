"""What pg_dump writes under a filter is exactly what the selection says, on a schema that is as nasty as they come."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.backup.restoring import archive
from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.taking import dump, picking
from chanuka_ops.backup.taking.selection import EVERYTHING, LONGEST_ARGUMENTS, Selection
from chanuka_ops.config import BackupSettings, DatabaseSettings
from chanuka_ops.config.backup import FilterSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import Serve, execute, fresh_database, scalars

pytestmark = pytest.mark.postgres

NASTY = (
    "create schema app", 'create schema "Odd.One"', 'create schema "päss"', "create schema parts",
    "create table public.bills(id serial primary key, title text)",
    "insert into public.bills(title) select 'x' from generate_series(1, 10)",
    "create table public.bills_old(id int)",
    'create table public."bil?s"(id int)', 'create table public."a|b*c"(id int)', 'create table public."$100%"(id int)',
    'create table public."has ""quotes"" and.dots"(id int generated always as identity)',
    'create table public."UPPER"(id int)', 'create table public."новая таблица"(id int)',
    'create table "Odd.One"."t.u"(id int primary key)', 'create table "Odd.One".t(id int)',
    'create table "päss"."ü"(id int)',
    "create table app.parent(id int, note text)", "create table app.child() inherits (app.parent)",
    "create table app.measures(at date, v int) partition by range (at)",
    "create table app.measures_1 partition of app.measures for values from ('2026-01-01') to ('2026-02-01')",
    "create table parts.measures_2(at date, v int) partition by range (at)",
    "alter table app.measures attach partition parts.measures_2 for values from ('2026-02-01') to ('2026-03-01')",
    "create table parts.measures_2a partition of parts.measures_2 for values from ('2026-02-01') to ('2026-02-15')",
    "insert into app.measures values ('2026-01-05', 1), ('2026-02-05', 2)",
    "create sequence app.free", "create view app.seen as select * from app.parent",
    "create materialized view app.kept as select count(*) from app.child",
    "create type app.pair as (a int, b int)", "create type app.mood as enum ('good', 'bad')",
    "create function app.one() returns int language sql as 'select 1'",
    "create unlogged table app.scratch(id int)",
    "create foreign data wrapper nowhere", "create server nowhere foreign data wrapper nowhere",
    "create foreign table app.far(id int) server nowhere",
    "select lo_from_bytea(4711, 'large')",
    "create publication p for table public.bills",
)  # fmt: skip


@pytest.fixture(scope="module")
def nasty(server: Server) -> Iterator[DatabaseSettings]:
    with fresh_database(server, f"nasty_{uuid.uuid4().hex[:8]}", NASTY) as database:
        yield database


@pytest.fixture(scope="module")
def extension(nasty: DatabaseSettings) -> str | None:
    """An extension with a table of its own, where the server has one."""
    found = scalars(nasty, "select name from pg_available_extensions where name in ('hstore', 'pg_trgm') order by 1")
    if found:
        execute(nasty, f"create extension {found[0]} schema app")
    return str(found[0]) if found else None


@dataclass(frozen=True)
class Taken:
    """A dump under a filter: what it was to hold, and what it holds."""

    selection: Selection
    toc: archive.Archive

    def dumped(self, kind: str) -> set[str]:
        return {f"{entry.schema}.{entry.name}" for entry in self.toc.entries if entry.kind == kind}


def take(database: DatabaseSettings, pg: Binaries, directory: Path, filters: Mapping[str, object]) -> Taken:
    options = BackupSettings.model_validate({"filter": filters, "compression": "none"})
    with ConnectionManager("main", database) as manager, context.scope(operation="backup"):
        taken = dump.dump(manager, pg, options, directory)
        assert (taken.filters is None) == options.filter.keeps_all
        with manager.read() as connection:
            selection = picking.resolved(connection, options.filter).selection
    return Taken(selection, archive.read(directory / dump.DUMP, pg))


def there(database: DatabaseSettings, kinds: str = "r") -> dict[str, str]:
    """Every relation of these kinds: its name as the server quotes it, and as it is stored."""
    query = (
        "select format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace where c.relkind::text = any(:kinds) and c.relpersistence <> 't'"
        " and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')"
    )
    with ConnectionManager("look", database) as manager, manager.read() as connection:
        return {str(q): str(n) for q, n in connection.execute(text(query), {"kinds": list(kinds)})}


FILTERS: dict[str, dict[str, object]] = {
    "everything": {},
    "one_schema": {"schemas": ["app"]},
    "schemas_by_pattern": {"schemas": ["*d*", "p?ss"]},
    "schemas_but_some": {"schemas": ["*"], "exclude_schemas": ["pub*"]},
    "all_but_a_schema": {"exclude_schemas": ["Odd.One", "päss"]},
    "one_table": {"tables": ["public.bills"]},
    "names_with_pattern_characters": {"tables": ["public.bil[?]s", "public.a|b[*]c", "public.$100%"]},
    "quotes_and_dots": {"tables": ['public.has "quotes" and.dots', "Odd.One.t.u"]},
    "case_counts": {"tables": ["public.UPPER", "public.новая*"]},
    "partitions_with_their_parent": {"tables": ["app.measures"]},
    "inheritance_parent_alone": {"tables": ["app.parent"]},
    "views_and_sequences": {"tables": ["app.seen", "app.kept", "app.free", "app.far"]},
    "all_but_tables": {"exclude_tables": ["public.*", "app.measures"]},
    "tables_within_schemas": {"schemas": ["app"], "tables": ["*.measures*", "*.bills"]},
    "a_schema_but_tables": {"schemas": ["public", "app"], "exclude_tables": ["public.bills", "app.kept"]},
    "no_rows_of_some": {"exclude_table_data": ["app.measures", "public.bills"]},
    "everything_at_once": {
        "schemas": ["public", "app", "parts"], "exclude_schemas": ["parts"], "tables": ["public.*", "app.*"],
        "exclude_tables": ["public.bills_*", "app.child"], "exclude_table_data": ["public.UPPER"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FILTERS)
def test_what_is_dumped_is_what_was_selected(
    name: str, nasty: DatabaseSettings, extension: str | None, pg: Binaries, tmp_path: Path
) -> None:
    taken = take(nasty, pg, tmp_path, FILTERS[name])
    tables = there(nasty)
    assert taken.dumped("TABLE DATA") == {n for quoted, n in tables.items() if taken.selection.has_rows(quoted)}
    definitions = {n for quoted, n in there(nasty, "rp").items() if taken.selection.has_object(None, quoted)}
    assert taken.dumped("TABLE") == definitions
    for kind, letter in (("VIEW", "v"), ("MATERIALIZED VIEW", "m"), ("FOREIGN TABLE", "f")):
        selected = {n for quoted, n in there(nasty, letter).items() if taken.selection.has_object(None, quoted)}
        assert taken.dumped(kind) == selected
    # an identity's sequence is a part of its table; what the dump has of each is where it continues
    selected = {n for quoted, n in there(nasty, "S").items() if taken.selection.has_object(None, quoted)}
    assert taken.dumped("SEQUENCE SET") == selected
    # what belongs to no relation goes by its schema
    app, outside = taken.selection.has_object("app", None), taken.selection.has_object(None, None)
    assert (taken.dumped("FUNCTION") == {"app.one()"}) == app
    assert ("app.mood" in taken.dumped("TYPE"), "app.pair" in taken.dumped("TYPE")) == (app, app)
    assert any(entry.kind == "PUBLICATION" for entry in taken.toc.entries) == outside
    assert any(entry.kind.startswith("BLOB") for entry in taken.toc.entries) == outside
    if extension is not None:  # it goes with the schema that it is installed in
        assert any(entry.kind == "EXTENSION" for entry in taken.toc.entries) == app


def test_a_partition_and_an_owned_sequence_follow(nasty: DatabaseSettings) -> None:
    with ConnectionManager("main", nasty) as manager, manager.read() as connection:

        def chosen(**filters: object) -> Selection:
            return picking.resolved(connection, FilterSettings.model_validate(filters)).selection

        assert chosen() is EVERYTHING
        picked = chosen(tables=["app.measures"])
        assert all(map(picked.has_rows, ("app.measures_1", "parts.measures_2a")))
        assert not picked.has_rows("app.parent")
        emptied = chosen(exclude_table_data=["app.measures"])
        assert not emptied.has_rows("parts.measures_2a")
        assert emptied.has_object("parts", "parts.measures_2a")
        assert chosen(tables=["public.bills"]).has_object(None, "public.bills_id_seq")
        assert chosen(tables=["public.bills"]).has_object(None, "public.bills_pkey")
        assert not chosen(exclude_tables=["public.bills"]).has_object("public", "public.bills_id_seq")
        # as pg_dump has it: a sequence goes with the table that owns it, whatever is said of it alone
        assert chosen(exclude_tables=["public.bills_id_seq"]).has_object(None, "public.bills_id_seq")


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"schemas": ["apps"]}, r"filter\.schemas: 'apps' matches nothing; there are Odd\.One, app, parts"),
        ({"exclude_tables": ["public.Bills"]}, r"filter\.exclude_tables: 'public\.Bills' matches nothing; .* \d+ more"),
        ({"exclude_table_data": ["app.seen"]}, r"filter\.exclude_table_data: 'app\.seen'"),
        ({"schemas": ["app"], "tables": ["public.bills"]}, "leave nothing to back up"),
        ({"schemas": ["app"], "exclude_schemas": ["a*"]}, "leave nothing to back up"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(
    filters: dict[str, object], told: str, nasty: DatabaseSettings, pg: Binaries, tmp_path: Path
) -> None:
    with pytest.raises(errors.RefusedError, match=told):
        take(nasty, pg, tmp_path, filters)
    assert not (tmp_path / dump.DUMP).exists()


def test_a_long_list_goes_by_a_filter_file_where_pg_dump_takes_one(
    server: Server, pg: Binaries, tmp_path: Path
) -> None:
    name = "t" * 50
    tables = [f'create table "{name}{n}*?""."(id int)' for n in range(900)]
    with fresh_database(server, f"long_{uuid.uuid4().hex[:8]}", tables) as database:
        taken = take(database, pg, tmp_path, {"tables": [f"public.{name}[1-8]*"]})
        assert sum(len(name) + 20 for _ in taken.selection.relations or ()) > LONGEST_ARGUMENTS / 1.5
        assert taken.dumped("TABLE DATA") == {n for q, n in there(database).items() if taken.selection.has_rows(q)}
        assert 700 < len(taken.dumped("TABLE DATA")) < 900


def test_names_in_the_databases_own_encoding(server: Server, pg: Binaries, tmp_path: Path) -> None:
    with fresh_database(
        server, f"latin_{uuid.uuid4().hex[:8]}",
        ('create schema "grün"', 'create table "grün"."äh"(id int)', "create table public.t(id int)"),
        "encoding 'LATIN1' locale 'C'",
    ) as database:  # fmt: skip
        taken = take(database, pg, tmp_path, {"tables": ["grün.*"]})
        assert len(taken.dumped("TABLE DATA")) == 1
        assert taken.selection.has_rows('"grün"."äh"')


def proven(service: BackupService, database: DatabaseSettings) -> bool:
    with ConnectionManager("main", database) as manager, context.scope(operation="backup"):
        created = service.create(manager)
    return service.drill(created.backup_id).proven


def test_a_backup_of_the_schema_public_is_proven(nasty: DatabaseSettings, serve: Serve) -> None:
    """A new database has that schema already: a dump that made it would not restore."""
    service = serve(filter={"schemas": ["public"]})
    assert proven(service, nasty)
    (listed,) = service.catalogue()
    manifest, _ = service.show(listed.backup_id)
    assert manifest.filters is not None
    assert manifest.filters.schemas == ("public",)
    assert "public.bills" in manifest.fingerprint.tables
    assert "app.parent" not in manifest.fingerprint.tables


@pytest.mark.slow
@pytest.mark.parametrize(
    "filters",
    [
        {"schemas": ["public", "Odd*"]},
        {"tables": ["public.bills", 'public.has "*']},
        {"exclude_tables": ["public.a*", "app.measures"]},
        {"exclude_table_data": ["app.measures", "public.bills"]},
        {"exclude_schemas": ["Odd.One", "päss"]},
    ],
    ids=str,
)
def test_a_filtered_backup_is_proven_where_it_needs_nothing_that_was_left_out(
    filters: dict[str, object], nasty: DatabaseSettings, extension: str | None, serve: Serve
) -> None:
    assert proven(serve(filter=filters), nasty)


@pytest.mark.slow
def test_one_that_needs_what_was_left_out_is_not(nasty: DatabaseSettings, serve: Serve) -> None:
    """app's foreign table needs a server, which belongs to no schema."""
    with pytest.raises(errors.ToolFailed, match='server "nowhere" does not exist'):
        proven(serve(filter={"schemas": ["app", "parts"]}), nasty)

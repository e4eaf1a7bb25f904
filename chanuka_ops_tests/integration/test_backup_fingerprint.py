"""What a table's hash notices, and what it doesn't depend on: each type's values, where and how they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chanuka_ops.backup.model import ROW_TEXT
from chanuka_ops.backup.taking import fingerprint as fingerprints
from chanuka_ops.backup.taking.selection import Selection
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.integration.fingerprint_cases import retaken, taken
from chanuka_ops_tests.plugins.backup import as_role, execute, fresh_database, scalars

pytestmark = pytest.mark.postgres


TYPES = (
    "create type mood as enum ('sad', 'ok', 'happy')",
    "create type pair as (a int, b text)",
    "create domain positive as int check (value > 0)",
    "create domain word as text",
    "create domain feeling as mood",
    "create type floats as range (subtype = float8, subtype_diff = float8mi)",
)
# of each type values that differ, the more alike the better: some are equal to PostgreSQL, or to a careless hash
DISTINCT: dict[str, tuple[str, ...]] = {
    "smallint": ("null", "0", "1", "-1", "256"),
    "int": ("null", "0", "1", "-1", "65536", "2147483647"),
    "bigint": ("null", "0", "1", "-1", "4294967295", "4294967296", "4294967297", "-4294967297", "9223372036854775807"),
    "oid": ("null", "0", "1", "4294967295"),
    "boolean": ("null", "true", "false"),
    "text": (
        "null",
        "''",
        "' '",
        "'a'",
        "'A'",
        "'a '",
        "'é'",
        "'null'",
        r"'\N'",
        "repeat('a', 5000)",
        "repeat('a', 5001)",
    ),
    "varchar(9)": ("null", "''", "' '", "'a'", "'a '"),
    "char(5)": ("null", "''", "'a'", "' a'"),
    "bpchar": ("null", "''", "'a'", "'a '"),
    '"char"': ("null", "'a'", "'b'"),
    "name": ("null", "'a'", "'b'"),
    "bytea": ("null", r"'\x'", r"'\x00'", r"'\x0000'", r"'\xff'"),
    "uuid": ("null", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12'"),
    "real": ("null", "0", "'-0'", "1", "'NaN'", "'Infinity'", "'-Infinity'", "16777216", "16777218"),
    "float8": ("null", "0", "'-0'", "0.3", "0.1::float8 + 0.2", "'NaN'", "'Infinity'", "'-Infinity'"),
    "numeric": ("null", "0", "0.0", "1", "-1", "1.0", "1.00", "10", "'NaN'", "'Infinity'", "'-Infinity'", "1e400"),
    "money": ("null", "0", "1", "-1"),
    "date": ("null", "'2000-01-01'", "'2000-01-02'", "'infinity'", "'-infinity'"),
    "time": ("null", "'00:00'", "'24:00'", "'00:00:00.000001'"),
    "timetz": ("null", "'10:00+00'", "'11:00+01'", "'10:00+01'"),
    "timestamp": ("null", "'2000-01-01'", "'2000-01-01 01:11:34.967297'", "'infinity'", "'4713-01-01 BC'"),
    "timestamptz": (
        "null",
        "'2000-01-01Z'",
        "'2000-01-01 01:11:34.967297Z'",
        "'1999-12-31 23:59:59.999999Z'",
        "'infinity'",
    ),
    "interval": ("null", "'0'", "'24h'", "'1 day'", "'30 days'", "'1 month'", "'-1 day'", "'1 day -24h'"),
    "json": ("null", "'1'", "'[1]'", "'[ 1]'", """'{"a":1,"a":2}'""", """'{"a":2}'"""),
    "jsonb": ("null", "'1'", "'-1'", "'1.0'", "'null'", "'[]'", "'{}'", "'[1, [2]]'", "'[[1], 2]'", "'\"1\"'"),
    "int[]": ("null", "'{}'", "'{1,2,3,4}'", "'{{1,2},{3,4}}'", "'[0:3]={1,2,3,4}'", "'{1,null,3,4}'"),
    "text[]": ("null", "'{}'", "array['']", "array[null]::text[]", "array['null']", "array['a,b']", "array['a', 'b']"),
    "inet": ("null", "'10.0.0.1'", "'10.0.0.1/24'", "'10.0.0.0/24'"),
    "macaddr": ("null", "'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'"),
    "bit(3)": ("null", "b'101'", "b'100'"),
    "varbit": ("null", "b''", "b'0'", "b'00'"),
    "int4range": ("null", "'empty'", "'[1,5)'", "'(,5)'"),
    "tsvector": ("null", "''", "'a:1'", "'a:1A'", "'a:2'"),
    "xid": ("null", "'1'", "'2'"),
    "point": ("null", "'(0,0)'", "'(-0,0)'", "'(1,0)'"),
    "regclass": ("null", "'pg_class'", "'pg_type'"),
    "mood": ("null", "'sad'", "'ok'", "'happy'"),
    "mood[]": ("null", "'{}'", "'{sad}'", "'{ok,null}'"),
    "pair": ("null", "row(null, null)", "row(1, null)", "row(null, '1')", "row(1, '')"),
    "pair[]": ("null", "'{}'", "array[row(1, 'a')::pair]"),
    "positive": ("null", "1", "2"),
    "word": ("null", "''", "'a'"),
    "feeling": ("null", "'sad'", "'ok'"),
    "floats": ("null", "'empty'", "'[0,1)'", "'[-0,1)'"),
}


def plants() -> Iterator[str]:
    """Statements that make a table for each value: it twice in one row."""
    for number, (kind, values) in enumerate(DISTINCT.items()):
        for which, value in enumerate(values):
            cast = f"cast({value} as {kind})"
            yield f"create table v_{number}_{which} as select {cast} as a, {cast} as b"


@pytest.fixture(scope="module")
def typed(server: Server) -> Iterator[DatabaseSettings]:
    """A table of two columns for each type, with every value in a table of its own rows."""
    with fresh_database(server, "typed", (*TYPES, *plants())) as database:
        yield database


def test_each_value_of_a_type_has_a_hash_of_its_own(typed: DatabaseSettings) -> None:
    tables = taken(typed).tables
    alike = {
        kind: values
        for number, (kind, values) in enumerate(DISTINCT.items())
        if len({tables[f"public.v_{number}_{which}"].hash for which in range(len(values))}) < len(values)
    }
    assert not alike


def test_a_manifest_of_the_first_algorithm_is_hashed_by_it(typed: DatabaseSettings) -> None:
    now = taken(typed)
    first = retaken(typed, now.model_copy(update={"algorithm": ROW_TEXT}))
    assert first.algorithm == ROW_TEXT
    (stated,) = scalars(typed, 'select sum(hashtextextended((t.*)::text collate "C", 0))::text from public.v_1_2 t')
    assert first.tables["public.v_1_2"].hash == stated
    assert now.tables["public.v_1_2"].hash != stated


def hashes(database: DatabaseSettings, *statements: str) -> list[str | None]:
    execute(database, *statements)
    return [content.hash for _, content in sorted(taken(database).tables.items())]


def test_values_that_change_places_between_rows_are_noticed(database: DatabaseSettings) -> None:
    """In thirty tables, as a sum that misses it mostly does so only where two hashes happen to overflow alike.

    They have no columns but such as go into one record, whose hash is a sum by itself.
    """
    statements = []
    for number in range(30):
        for name, first, second in (("a", 1, 2), ("b", 2, 1)):
            days = (f"date '2026-01-01' + {10 * number + day}" for day in (first, second))
            rows = (f"({day}, timestamptz '2026-02-0{row} 10:00Z')" for row, day in enumerate(days, 1))
            statements.append(f"create table {name}{number}(d, at) as values {', '.join(rows)}")
    execute(database, *statements)
    tables = taken(database).tables
    assert [n for n in range(30) if tables[f"public.a{n}"].hash == tables[f"public.b{n}"].hash] == []


def test_values_that_change_places_between_columns_are_noticed(database: DatabaseSettings) -> None:
    first, second, *_ = hashes(
        database,
        "create table a as select 1 as x, 2 as y, null::int as z",
        "create table b as select 2 as x, 1 as y, null::int as z",
    )
    assert first != second
    third, fourth, *_ = hashes(
        database,
        "drop table a, b",
        "create table a as select 5 as x, 5 as y",
        "create table b as select 6 as x, 6 as y",
    )
    assert third != fourth, "equal values in two columns must not cancel out"


SAME: dict[str, tuple[str, ...]] = {
    "the order of rows": (
        "create table a as select g, 'v' || g as v from generate_series(1, 100) g",
        "create table b as select * from a order by g desc",
    ),
    "a column that was dropped": (
        "create table a(x int, y text)",
        "insert into a values (1, 'one')",
        "create table b(gone int, x int, later bigint, y text)",
        "insert into b values (7, 1, 8, 'one')",
        "alter table b drop column gone, drop column later",
    ),
    "how an array came about": (
        "create table a(x int[])",
        "insert into a values ('{1,2,3}')",
        "create table b(x int[])",
        "insert into b values ('{1,null,3}')",
        "update b set x[2] = 2",
    ),
    "which not-a-number it is": (
        "create table a(x float8, y real)",
        "insert into a values ('NaN', 'NaN')",
        "create table b(x float8, y real)",
        "insert into b select 'inf'::float8 - v, ('inf'::float8 - v)::real from (values ('inf'::float8)) i(v)",
    ),
    "an enum's OIDs": (
        "create type m1 as enum ('sad', 'ok')",
        "create type m2 as enum ('x', 'ok', 'sad')",
        "create table a as select 'sad'::m1 as x, array['ok']::m1[] as y",
        "create table b as select 'sad'::m2 as x, array['ok']::m2[] as y",
    ),
    "how large values are kept": (
        "create table a(x text, y jsonb, z bytea)",
        "create table b(x text, y jsonb, z bytea)",
        "alter table b alter x set storage external, alter y set storage external, alter z set storage external",
        "insert into a select repeat(md5('1'), 1000), to_jsonb(repeat('v', 9000)), decode(repeat('00ff', 9000), 'hex')",
        "insert into b select * from a",
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_a_hash_does_not_depend_on(database: DatabaseSettings, what: str) -> None:
    first, second = hashes(database, *SAME[what])
    assert first == second


def test_columns_whose_order_a_restore_changes(database: DatabaseSettings) -> None:
    inherits = ("create table p(a int, b text)", "create table c(own int) inherits (p)", "alter table p add added int")
    execute(database, *inherits, "insert into c(a, b, own, added) values (1, 'x', 2, 3)")
    was = taken(database).tables["public.c"]
    execute(
        database,
        "drop table p cascade",
        "create table p(a int, b text, added int)",
        "create table c(own int) inherits (p)",
        "insert into c(a, b, own, added) values (1, 'x', 2, 3)",
    )
    assert taken(database).tables["public.c"] == was


def test_no_columns_and_a_great_many(database: DatabaseSettings) -> None:
    many = ", ".join(f"c{n} int" for n in range(1600))
    execute(
        database,
        "create table bare()",
        "insert into bare default values",
        "insert into bare default values",
        f"create table many({many})",
        "insert into many(c0, c1599) values (1, 2)",
    )
    tables = taken(database).tables
    assert (tables["public.bare"].rows, tables["public.many"].rows) == (2, 1)
    execute(database, "update many set c1599 = 0")
    assert taken(database).tables["public.many"] != tables["public.many"]


def test_a_column_that_is_computed_when_it_is_read_is_not_read(database: DatabaseSettings, server: Server) -> None:
    if server.major < 18:
        pytest.skip("virtual generated columns come with PostgreSQL 18")
    execute(
        database,
        "create table t(a int, b int generated always as (1 / a) virtual)",
        "insert into t values (0)",  # whoever reads b divides by zero
    )
    assert taken(database).tables["public.t"].rows == 1


def test_another_major_version_hashes_alike(
    typed: DatabaseSettings, pg: Binaries, pg_15: Binaries, state_dir: Path
) -> None:
    if pg.major == 15:
        pytest.skip("the server under test is a 15 itself")
    with (
        scratch(state_dir, pg_15, superuser="postgres") as old,
        fresh_database(old, "typed", (*TYPES, *plants())) as database,
    ):
        there = taken(database)
    assert there.tables == taken(typed).tables


def test_only_what_is_selected_is_read(database: DatabaseSettings) -> None:
    execute(
        database,
        "create schema other",
        "create table a as select 1 as x",
        "create table other.b as select 1 as x",
        "create table big as select g as x from generate_series(1, 9) g",
        "create sequence s",
        "create sequence other.s",
        "create function other.f() returns int language sql as 'select 1'",
        "select lo_from_bytea(0, 'x')",
    )
    selection = Selection(
        schemas=frozenset({"public"}),
        relations=frozenset({"public.a", "public.big", "public.s"}),
        without_rows=frozenset({"public.big"}),
        outside=False,
    )
    found = taken(database, selection=selection)
    assert {name: content.rows for name, content in found.tables.items()} == {"public.a": 1, "public.big": 0}
    assert set(found.sequences) == {"public.s"}
    assert not [name for name in found.objects if "other" in name]
    assert (found.large_objects.rows, found.extensions) == (0, {})


def test_structure_alone_reads_no_row(database: DatabaseSettings, server: Server) -> None:
    execute(database, "create role blind login", "create table t as select 1 as x")
    try:
        found = taken(as_role(database, "blind"), content=False)
        assert not found.has_content
        assert found.tables["public.t"].rows is None
        assert "relation public.t" in found.objects
    finally:
        execute(server.settings("postgres"), "drop role blind")


def test_a_large_object_is_read_in_chunks(database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_CHUNK_BYTES", 1000)
    execute(
        database,
        "select lo_from_bytea(1, '')",
        "select lo_from_bytea(2, decode(repeat('ab', 999), 'hex'))",
        "select lo_from_bytea(3, decode(repeat('ab', 1000), 'hex'))",
        "select lo_from_bytea(4, decode(repeat('ab', 2500), 'hex'))",
    )
    was = taken(database).large_objects
    assert was.rows == 4
    execute(database, "select lo_put(4, 2499, 'x')")
    changed = taken(database).large_objects
    assert (changed.rows, changed.hash != was.hash) == (4, True)

"""Which names a filter chooses, and what pg_dump is told of them."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import errors
from chanuka_ops.backup.taking import selection
from chanuka_ops.backup.taking.selection import ALL, EVERYTHING, LONGEST_ARGUMENTS, Names, Relation, Resolved, Selection
from chanuka_ops.config.backup import FilterSettings

NAMES = Names(
    schemas={"public": "public", "app": "app", "a.b": '"a.b"'},
    relations=[
        Relation("public.bills", "public", "bills", "r"),
        Relation("public.bills_id_seq", "public", "bills_id_seq", "S", "public.bills"),
        Relation("public.bills_pkey", "public", "bills_pkey", "i", "public.bills"),
        Relation("app.events", "app", "events", "p"),
        Relation("app.events_1", "app", "events_1", "r", "app.events"),
        Relation("app.events_1_pkey", "app", "events_1_pkey", "i", "app.events_1"),
        Relation("app.pair", "app", "pair", "c"),
        Relation('"a.b"."c.d"', "a.b", "c.d", "r"),
        Relation('app."B"', "app", "B", "r"),
    ],
    extensions={"hstore": "app", "plpgsql": "pg_catalog"},
)


def resolve(**filters: list[str]) -> Resolved:
    return selection.resolve(FilterSettings.model_validate(filters), NAMES)


def tables(resolved: Resolved) -> set[str]:
    return {one.quoted for one in NAMES.relations if one.kind == "r" and resolved.selection.has_rows(one.quoted)}


def test_the_examples_hold() -> None:
    assert doctest.testmod(selection).failed == 0


def test_without_a_filter_everything_is_in_it() -> None:
    assert resolve() is ALL
    assert selection.arguments(ALL, 18) == ([], None)
    assert EVERYTHING.has_rows("any.thing")
    assert EVERYTHING.has_object(None, None)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"schemas": ["app"]}, {"app.events_1", 'app."B"'}),
        ({"schemas": ["*"], "exclude_schemas": ["app"]}, {"public.bills", '"a.b"."c.d"'}),
        ({"exclude_schemas": ["a*"]}, {"public.bills"}),
        ({"tables": ["app.[A-Z]"]}, {'app."B"'}),
        ({"tables": ["app.b"], "schemas": ["*"]}, None),
        ({"tables": ["a.b.c.d"]}, {'"a.b"."c.d"'}),
        ({"tables": ["a.*"]}, None),  # a star doesn't reach over the dot: there is no schema called a
        ({"tables": ["*.*"], "exclude_tables": ["app.events"]}, {"public.bills", '"a.b"."c.d"', 'app."B"'}),
        ({"exclude_table_data": ["app.events"]}, {"public.bills", '"a.b"."c.d"', 'app."B"'}),
    ],
)
def test_patterns(filters: dict[str, list[str]], expected: set[str] | None) -> None:
    if expected is None:
        with pytest.raises(errors.RefusedError, match="matches nothing"):
            resolve(**filters)
    else:
        assert tables(resolve(**filters)) == expected


@pytest.mark.parametrize(
    ("filters", "major", "told"),
    [
        ({"schemas": ["app"]}, 15, ["--strict-names", '--schema="app"', '--extension="hstore"']),
        ({"exclude_schemas": ["app"]}, 17, ['--exclude-schema="app"', '--exclude-extension="hstore"']),
        ({"exclude_schemas": ["app"]}, 16, ['--exclude-schema="app"']),  # it can't leave out an extension
        ({"tables": ["public.bills"]}, 18,
         ["--strict-names", '--table="public"."bills"', '--table="public"."bills_id_seq"']),
        ({"exclude_tables": ["public.bills", "app.B"]}, 18,
         ['--exclude-table="app"."B"', '--exclude-table="public"."bills"', '--exclude-table="public"."bills_id_seq"']),
        # CREATE SCHEMA public is not to be written: see _schemas_alone
        ({"schemas": ["public"], "exclude_tables": ["app.B"], "exclude_table_data": ["public.bills"]}, 18,
         ["--strict-names", '--extension="plpgsql"', '--exclude-schema="a.b"', '--exclude-schema="app"',
          '--exclude-table-data="public"."bills"']),
        ({"schemas": ["public", "app"]}, 15, ["--strict-names", '--extension="hstore"', '--exclude-schema="a.b"']),
    ],
)  # fmt: skip
def test_what_pg_dump_is_told(filters: dict[str, list[str]], major: int, told: list[str]) -> None:
    assert selection.arguments(resolve(**filters), major) == (told, None)


def many(name: str) -> Resolved:
    count = LONGEST_ARGUMENTS // 20
    return Resolved(EVERYTHING, exclude=tuple(("table", selection.quoted(f"{name}{n:020}")) for n in range(count)))


def test_a_long_list_is_read_from_a_file_where_pg_dump_does() -> None:
    words, listing = selection.arguments(many("t"), 17)
    assert words == ["--filter=-"]
    assert listing is not None
    assert listing.startswith('exclude table "t00000000000000000000"\n')
    assert selection.arguments(many("t"), 16)[1] is None
    assert selection.arguments(many("ü"), 17)[1] is None, "its encoding would have to be the file's"


def test_without_any_extension_public_is_picked_like_any_schema() -> None:
    bare = Names(NAMES.schemas, NAMES.relations)
    assert selection.resolve(FilterSettings(schemas=("public",)), bare).include == (("schema", '"public"'),)


@given(st.text(min_size=1))
def test_no_name_is_a_pattern(name: str) -> None:
    """Within quotes pg_dump takes each character for itself, and two quotes for one."""
    quoted = selection.quoted(name)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace('""', "") == name.replace('"', "")
    assert quoted[1:-1].replace('""', '"') == name


def test_what_belongs_to_nothing_goes_when_only_some_is_picked() -> None:
    assert not resolve(schemas=["app"]).selection.has_object(None, None)
    assert not resolve(tables=["app.B"]).selection.has_object(None, None)
    assert resolve(exclude_schemas=["app"]).selection.has_object(None, None)
    assert Selection().has_object(None, None)


def test_with_tables_nothing_but_tables_is_picked() -> None:
    assert not resolve(tables=["app.B"]).selection.has_object("app", None)
    assert resolve(schemas=["app"]).selection.has_object("app", None)
    assert resolve(schemas=["app"]).selection.has_object("app", "app.pair")


def test_databases_of_a_server() -> None:
    there = ["app_1", "app_2", "postgres"]
    assert selection.databases(["app*", "app_1"], there) == ["app_1", "app_2"]
    assert selection.databases([], there) == []
    with pytest.raises(errors.RefusedError, match="'App\\*' matches no database of the server; there are app_1, app_2"):
        selection.databases(["App*"], there)

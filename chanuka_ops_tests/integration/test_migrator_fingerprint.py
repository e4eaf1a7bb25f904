"""The fingerprint of a schema tells what a model doesn't see, and keeps quiet about what is no difference."""

from __future__ import annotations

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.migrator import fingerprint
from chanuka_ops.migrator.fingerprint import SchemaFingerprint
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.plugins.backup import execute

pytestmark = pytest.mark.postgres

SCHEMA = (
    "create table bills (id bigint generated always as identity primary key, title text default 'none', note text)",
    "create index bills_title on bills (title)",
    "create view titles as select title from bills",
    "create function twice(n int) returns int language plpgsql as $$\nbegin\n\n  -- doubled\n  return 2 * n;\nend $$",
    "comment on table bills is 'what is voted on'",
)


def take(database: DatabaseSettings, pg: Binaries) -> SchemaFingerprint:
    return fingerprint.take(database, pg, server_major=pg.major, own_schema="chanuka_ops", lock_timeout_s=5)


CHANGES = (
    ("alter table bills alter column title set default 'untitled'", "TABLE public.bills"),
    ("create function leaked() returns int language sql as 'select 1'", "FUNCTION public.leaked()"),
    (
        "create or replace function twice(n int) returns int language sql as 'select 3'",
        "FUNCTION public.twice(integer)",
    ),
    ("grant select on bills to public", "ACL public.TABLE bills"),
    ("alter table bills enable row level security", "ROW SECURITY public.bills"),
    ("drop index bills_title", "INDEX public.bills_title"),
    ("alter table bills add constraint titled check (title <> '') not valid", "CHECK CONSTRAINT public.bills titled"),
)


def test_a_change_of_any_kind_of_object_is_named(database: DatabaseSettings, pg: Binaries) -> None:
    execute(database, *SCHEMA)
    before = take(database, pg)
    for change, named in CHANGES:
        execute(database, change)

        after = take(database, pg)

        assert after.sha256 != before.sha256
        assert [difference.object for difference in fingerprint.differences(before, after)] == [named]
        before = after


def test_what_is_no_difference_is_none(database: DatabaseSettings, pg: Binaries) -> None:
    execute(database, *SCHEMA, "grant select, insert on titles to public")
    before = take(database, pg)

    execute(
        database,
        "insert into bills (title) values ('one')",
        "analyze bills",
        "alter table bills drop column note",
        "alter table bills add column note text",
        "create schema chanuka_ops",
        "create table chanuka_ops.journal (id int)",
        "create table alembic_version (version_num text)",
        "revoke all on titles from public",
        "grant insert, select on titles to public",
    )

    after = take(database, pg)
    assert fingerprint.differences(before, after) == ()
    assert after == before
    assert SchemaFingerprint.from_json(after.to_json()) == after


def test_the_place_of_a_column_and_a_tablespace() -> None:
    lines = ["SET default_tablespace = side;", "", "-- Name: a; Type: TABLE; Schema: public; Owner: me", "--", "",
             "CREATE TABLE public.a (", "    x integer,", "    y integer", ");", "", "SET default_tablespace = '';", "",
             "-- Name: b; Type: TABLE; Schema: public; Owner: me", "CREATE TABLE public.b ();"]  # fmt: skip
    cut = fingerprint.sections(lines)
    assert cut["TABLE public.a"].splitlines()[-1] == "default_tablespace side"
    assert "tablespace" not in cut["TABLE public.b"]
    swapped = [*lines[:6], "    y integer,", "    x integer", *lines[8:]]
    assert fingerprint.sections(swapped) == cut

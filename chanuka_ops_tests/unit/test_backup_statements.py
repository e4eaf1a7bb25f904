"""What a dump says of roles and of its database: split, renamed, and without what isn't to be given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops.backup.restoring import statements
from chanuka_ops.backup.restoring.archive import Entry
from chanuka_ops.backup.restoring.entries import split

ROLES = r"""--
-- PostgreSQL database cluster dump
--
\restrict it's a key

SET default_transaction_read_only = off;

CREATE ROLE "o'dd ""one";
ALTER ROLE "o'dd ""one" WITH NOSUPERUSER LOGIN PASSWORD 'md5;''x' VALID UNTIL 'infinity';
COMMENT ON ROLE "o'dd ""one" IS 'a; b -- c';
-- User Config "o'dd"
ALTER ROLE "o'dd ""one" SET search_path TO 'a', 'b;c';
ALTER ROLE "o'dd ""one" IN DATABASE d SET work_mem TO '1MB';
CREATE ROLE boss;
ALTER ROLE boss WITH SUPERUSER INHERIT NOLOGIN;
GRANT boss TO "o'dd ""one" WITH ADMIN OPTION, INHERIT TRUE GRANTED BY postgres;
GRANT other TO boss GRANTED BY postgres;
\unrestrict it's a key
"""


def entry(kind: str, definition: str, owner: str = "") -> Entry:
    return Entry(
        id=1, kind=kind, schema=None, name="x", owner=owner, tablespace="", definition=definition, copy="", needs=(),
        file=None, catalog=(0, 0),
    )  # fmt: skip


def test_roles_are_made_without_password_and_nobody_a_superuser() -> None:
    found = statements.roles(ROLES)
    assert found == {
        "o'dd \"one": [
            'CREATE ROLE "o\'dd ""one"',
            'ALTER ROLE "o\'dd ""one" WITH NOSUPERUSER LOGIN VALID UNTIL \'infinity\'',
            'COMMENT ON ROLE "o\'dd ""one" IS \'a; b -- c\'',
            "ALTER ROLE \"o'dd \"\"one\" SET search_path TO 'a', 'b;c'",
        ],
        "boss": ["CREATE ROLE boss", "ALTER ROLE boss WITH NOSUPERUSER INHERIT NOLOGIN"],
    }
    assert statements.superusers(ROLES) == {"boss"}


def test_memberships_are_those_of_the_roles_that_are_made_without_their_grantors() -> None:
    assert statements.memberships(ROLES, {"o'dd \"one"}) == [
        'GRANT boss TO "o\'dd ""one" WITH ADMIN OPTION, INHERIT TRUE'
    ]
    assert statements.memberships(ROLES, {"boss"}) == ["GRANT other TO boss"]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_whatever_stands_in_a_literal_or_a_name_ends_no_statement(words: list[str]) -> None:
    written = ["COMMENT ON ROLE \"{}\" IS '{}'".format(w.replace('"', '""'), w.replace("'", "''")) for w in words]
    assert list(statements.parts("".join(f"{one};\n" for one in written))) == [one.strip() for one in written]


@pytest.mark.parametrize(
    ("statement", "renamed"),
    [
        ('CREATE DATABASE "a b" WITH TEMPLATE = template0', "CREATE DATABASE {} WITH TEMPLATE = template0"),
        ('ALTER DATABASE "a b" SET search_path TO \'"a b"\'', "ALTER DATABASE {} SET search_path TO '\"a b\"'"),
        ('ALTER ROLE "a b" IN DATABASE "a b" SET x TO \'1\'', 'ALTER ROLE "a b" IN DATABASE {} SET x TO \'1\''),
        ("COMMENT ON DATABASE \"a b\" IS 'DATABASE \"a b\"'", "COMMENT ON DATABASE {} IS 'DATABASE \"a b\"'"),
        ('GRANT CONNECT ON DATABASE "a b" TO "a b"', 'GRANT CONNECT ON DATABASE {} TO "a b"'),
        ('ALTER DATABASE "a  b" SET x TO 1', None),
        ("GRANT x TO y", None),
    ],
)  # fmt: skip
def test_a_statement_is_written_for_a_database_of_another_name(statement: str, renamed: str | None) -> None:
    wanted = renamed.replace("{}", '"n""w"') if renamed else None
    assert statements.for_database(statement, "a b", '"n""w"') == wanted


def test_what_the_server_does_not_have_is_left_out_of_the_creation() -> None:
    stated = (
        "CREATE DATABASE x WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = icu LOCALE = 'C'"
        " ICU_LOCALE = 'en-US' TABLESPACE = \"fast disk\""
    )
    without = stated.removesuffix(' TABLESPACE = "fast disk"')
    assert statements.creation(stated, tablespace=False, locale=True) == without
    bare = "CREATE DATABASE x WITH TEMPLATE = template0 ENCODING = 'UTF8'"
    assert statements.creation(stated, tablespace=True, locale=False) == bare


def test_roles_are_found_where_they_are_named_and_nowhere_else() -> None:
    known = {"reader", 'O "d', "app", "postgres"}
    grant = entry(
        "ACL", 'GRANT USAGE ON SCHEMA app TO reader;\nGRANT ALL ON SCHEMA app TO "O ""d" WITH GRANT OPTION;\n'
    )
    assert statements.named(grant, known) == {"reader", 'O "d'}
    assert statements.named(entry("COMMENT", "COMMENT ON TABLE t IS 'GRANT x TO reader'"), known) == set()
    literal = entry("POLICY", "CREATE POLICY p ON t FOR SELECT TO reader USING ((v = 'TO app'::text))")
    assert statements.named(literal, known) == {"reader"}
    default = entry(
        "DEFAULT ACL", "ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA app GRANT SELECT ON TABLES TO reader"
    )
    assert statements.named(default, known) == {"postgres", "reader"}
    assert statements.owners([entry("TABLE", "", "me"), entry("EXTENSION", "")]) == {"me"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [("a.b", ("a", "b")), ('"a.b".c', ("a.b", "c")), ('"a""b"."c d"', ('a"b', "c d")), ("Ü.ß", ("Ü", "ß"))],
)
def test_a_qualified_name_is_taken_apart(words: str, parts: tuple[str, ...]) -> None:
    assert split(words) == parts

"""Named SQL: blocks, versions, and what is refused."""

from __future__ import annotations

import pytest

from chanuka_ops.sql import catalog
from chanuka_ops.sql.catalog import Catalog, CatalogError, parse

FILE = """-- About the file.

-- name: one
-- what: the first
select 1;

-- name: one
-- what: the first, as 16 can say it
-- since: 16
select 16
  -- a comment of its own: kept
 where true;

-- name: two
-- what: the second
-- since: 18
select 2 as "-- name: not one"
"""


def test_the_newest_block_that_the_server_understands() -> None:
    found = Catalog("f", parse(FILE, origin="f"))
    assert found.names() == ["one", "two"]
    assert found.sql("one", 14) == found.sql("one", 15) == "select 1"
    assert found.sql("one", 16) == found.sql("one", 18) == "select 16\n  -- a comment of its own: kept\n where true"
    assert found.sql("one") == found.sql("one", catalog.NEWEST_MAJOR)
    assert (found.since("one"), found.since("two")) == (catalog.OLDEST_MAJOR, 18)
    assert found.sql("two") == 'select 2 as "-- name: not one"'


@pytest.mark.parametrize(("name", "major"), [("two", 17), ("three", 18), ("", 18)])
def test_a_block_that_is_not_there(name: str, major: int) -> None:
    with pytest.raises(CatalogError, match=f"f: no block {name!r} for PostgreSQL {major}"):
        Catalog("f", parse(FILE, origin="f")).sql(name, major)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("select 1", "a statement stands before the first"),
        ("-- name: a\nselect 1", "'a' needs a name, a what and a statement"),
        ("-- name: a\n-- what: b\n", "'a' needs a name, a what and a statement"),
        ("-- name: a\n-- what: b\n;\n", "'a' needs a name, a what and a statement"),
        ("-- name: a\n-- what: b\nselect 1\n-- name: a\n-- what: c\nselect 2", "stands twice"),
        (
            "-- name: a\n-- what: b\n-- since: 16\nselect 1\n-- name: a\n-- what: c\n-- since: 16\nselect 2",
            "stands twice",
        ),
    ],
)
def test_what_is_malformed_is_named(text: str, words: str) -> None:
    with pytest.raises(CatalogError, match=words) as failure:
        parse(text, origin="some/queries.sql")
    assert str(failure.value).startswith("some/queries.sql: ")


def test_nothing_is_no_block() -> None:
    assert parse("", origin="f") == ()
    assert parse("-- only a comment\n", origin="f") == ()


def test_a_file_is_read_once() -> None:
    assert catalog.load("chanuka_ops.backup") is catalog.load("chanuka_ops.backup")

"""What `migrate new` writes: names, numbers, what each kind needs."""

from __future__ import annotations

import pytest

from chanuka_ops.errors import ConfigurationError
from chanuka_ops.migrator import forms, naming
from chanuka_ops.migrator.forms import Kind, Request


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([], ("0001_title", True)),
        (["0001_users", "0012_proved"], ("0013_title", True)),
        (["001_users"], ("002_title", True)),
        (["9999_users"], ("10000_title", True)),
        (["0001_users", "ae1027a6acf"], ("made", False)),
    ],
)
def test_the_id_follows_the_directorys_own(existing: list[str], expected: tuple[str, bool]) -> None:
    assert naming.identify("title", existing, "made") == expected


def test_an_id_that_the_version_table_cannot_hold_is_refused() -> None:
    assert len(naming.identify("a" * 27, [], "made")[0]) == naming.VERSION_CHARACTERS
    with pytest.raises(ConfigurationError, match="1 characters longer than the 32"):
        naming.identify("a" * 28, [], "made")


@pytest.mark.parametrize("name", ["", "1st", "Add", "a-b", "a b", "a__b", "a_", "../a", "a/b", "ä"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a revision"):
        forms.form(Request(name))


@pytest.mark.parametrize(
    ("request_", "option"),
    [
        (Request("x", "index"), "--table"),
        (Request("x", "index", "t"), "--column"),
        (Request("x", "column", "t", columns=("a",)), "--type"),
        (Request("x", "not-null", "t", columns=("a", "b")), "one --column, not 2"),
        (Request("x", "foreign-key", "t", columns=("a",)), "--references"),
        (Request("x", "foreign-key", "t", columns=("a", "b"), references="o"), "--referenced-column"),
        (Request("x", "check", "t"), "--condition"),
        (Request("x", "backfill", "t", columns=("a",)), "--value"),
        (Request("x", "drop-column", "t", columns=("a",)), "--type"),
        (Request("x", "drop-table"), "--table"),
        (Request("x", "unique", "t"), "--column"),
        (Request("x", "enum-value", type_="t"), "--value"),
        (Request("x", "index", "t", columns=("a",), completes="0001_a"), "--completes"),
    ],
)
def test_what_a_kind_needs_is_named(request_: Request, option: str) -> None:
    with pytest.raises(ConfigurationError, match=option):
        forms.form(request_)


@pytest.mark.parametrize("kind", forms.KINDS)
def test_lines_are_as_long_as_the_formatter_has_them(kind: Kind) -> None:
    long = "a_rather_long_name_of_a_thing_that_has_many_letters_in_it"
    written = forms.form(
        Request(
            "x", kind, long, schema=long, columns=(long,), type_=f"varchar({30})", value="'b'", condition="a > 0",
            references=long,
        )
    )  # fmt: skip
    lines = [line for part in (*written.upgrade, *written.downgrade) for line in part.splitlines()]
    assert all(len(line) <= forms.LINE for line in lines if "op.execute" not in line and '"alter' not in line)


def test_names_are_quoted_where_sql_needs_it() -> None:
    written = forms.form(Request("x", "drop-column", "Bill's", schema="app", columns=('a"b',), type_="text"))
    assert written.upgrade == ('op.execute("alter table app.\\"Bill\'s\\" drop column \\"a\\"\\"b\\"")',)
    assert written.phase == "contract"

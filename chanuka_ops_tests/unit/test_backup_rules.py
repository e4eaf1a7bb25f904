"""The decisions about backups, as tables of cases and as properties."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import errors
from chanuka_ops.backup import rules
from chanuka_ops.backup.model import (
    Evidence,
    File,
    Fingerprint,
    Problem,
    SequenceState,
    Status,
    TableContent,
    Tier,
)

NOW = datetime(2026, 11, 22, 17, 5, 9, tzinfo=UTC)


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(rules).failed == 0


@pytest.mark.parametrize(
    ("database", "slug"),
    [("main", "main"), ("Bills & Votes", "bills-votes"), ("a_b", "a_b"), ("--", "db"), ("é", "db"), ("é9", "9")],
)
def test_an_id_says_the_database_and_the_second(database: str, slug: str) -> None:
    made = rules.new_id(database, NOW, "0a1b2c")
    assert made == f"{slug}-20261122T170509Z-0a1b2c"
    assert rules.checked_id(made) == made


@given(database=st.text(), random_hex=st.from_regex(r"[0-9a-f]{6}", fullmatch=True))
def test_every_id_that_is_made_is_one(database: str, random_hex: str) -> None:
    made = rules.new_id(database, NOW, random_hex)
    assert rules.checked_id(made) == made


def test_an_id_is_in_utc() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-9)))
    assert rules.new_id("main", elsewhere, "0a1b2c") == rules.new_id("main", NOW, "0a1b2c")


GOOD = "main-20261122T170509Z-0a1b2c"


@pytest.mark.parametrize(
    "hostile",
    ["", ".", "..", "main", f"../{GOOD}", f"/{GOOD}", f"{GOOD}/..", f"{GOOD}/../../etc", f"a/{GOOD}", f"{GOOD}\n",
     f"{GOOD} ",
     f"\n{GOOD}", f"{GOOD}\0", f".{GOOD}", GOOD.upper(), GOOD[:-1], f"{GOOD}0", GOOD.replace("2", "\u0662", 1)],
)  # fmt: skip
def test_what_is_no_id_names_no_path(hostile: str) -> None:
    with pytest.raises(errors.BackupNotFound, match="is not a backup id"):
        rules.checked_id(hostile)


@given(text=st.text())
def test_an_id_never_leaves_the_store(text: str) -> None:
    try:
        accepted = rules.checked_id(text)
    except errors.BackupNotFound:
        return
    assert not {"/", "\\", "\0", "."} & set(accepted)


@pytest.mark.parametrize("name", ["", ".", "..", ".partial", "a/b", "../x", "a\0b"])
def test_a_database_name_that_would_leave_the_store(name: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="directory"):
        rules.checked_name(name)


def test_ordinary_database_names() -> None:
    for name in ("main", "Bills & Votes", "é", "a.b", "-"):
        assert rules.checked_name(name) == name


documents = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "document_sha256"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(document=documents)
def test_a_sealed_document_reads_back(document: dict[str, Any]) -> None:
    assert rules.unseal(rules.seal(document)) == document


@given(document=documents, data=st.data())
def test_any_changed_byte_of_a_sealed_document_shows(document: dict[str, Any], data: st.DataObject) -> None:
    content = rules.seal(document)
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    damaged = data.draw(
        st.sampled_from(
            [
                content[:place] + bytes([other]) + content[place + 1 :],
                content[:place] + content[place + 1 :],
                content[:place] + bytes([other]) + content[place:],
                content[:place],
                content + bytes([other]),
                b"\xef\xbb\xbf" + content,
            ]
        )
    )
    with pytest.raises(errors.BackupDamaged):
        rules.unseal(damaged)


def test_every_single_bit_of_a_sealed_document() -> None:
    content = rules.seal({"backup_id": GOOD, "tier": "proven", "bytes": 123, "é": [1.5, None]})
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(errors.BackupDamaged):
                rules.unseal(bytes(damaged))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'"x"', b"1", b"\xff", b'{"document_sha256":1}', b"[" * 100_000]
)
def test_what_was_never_sealed(content: bytes) -> None:
    with pytest.raises(errors.BackupDamaged):
        rules.unseal(content)


def file(path: str, size: int = 1, sha256: str = "x") -> File:
    return File(path=path, bytes=size, sha256=sha256)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"a": file("a")}, None),
        ({}, ("a", "missing")),
        ({"a": None}, ("a", "unreadable")),
        ({"a": file("a", 2)}, ("a", "size")),
        ({"a": file("a", 1, "y")}, ("a", "checksum")),
        ({"a": file("a"), "b": file("b")}, ("b", "extra")),
        ({"a": file("a"), "b": None}, ("b", "extra")),
    ],
)
def test_each_way_a_file_can_differ(found: dict[str, File | None], problem: tuple[str, Any] | None) -> None:
    expected = (Problem(file=problem[0], kind=problem[1]),) if problem else ()
    assert rules.file_problems([file("a")], found) == expected


def look(step: Literal["verify", "drill"], *, passed: bool) -> Evidence:
    return Evidence(at=NOW, step=step, passed=passed, figures={})


@pytest.mark.parametrize(
    ("tier", "step", "passed", "after"),
    [
        (Tier.TAKEN, "verify", True, Tier.VERIFIED),
        (Tier.VERIFIED, "verify", True, Tier.VERIFIED),
        (Tier.PROVEN, "verify", True, Tier.PROVEN),
        (Tier.TAKEN, "verify", False, Tier.TAKEN),
        (Tier.VERIFIED, "verify", False, Tier.TAKEN),
        (Tier.PROVEN, "verify", False, Tier.TAKEN),
        (Tier.TAKEN, "drill", True, Tier.PROVEN),
        (Tier.VERIFIED, "drill", True, Tier.PROVEN),
        (Tier.TAKEN, "drill", False, Tier.TAKEN),
        (Tier.VERIFIED, "drill", False, Tier.VERIFIED),
        (Tier.PROVEN, "drill", False, Tier.VERIFIED),
    ],
)
def test_what_a_look_does_to_the_tier(tier: Tier, step: Literal["verify", "drill"], passed: bool, after: Tier) -> None:  # noqa: FBT001 - a column of the table
    seen = look(step, passed=passed)
    status = rules.after_look(Status(backup_id=GOOD, tier=tier, evidence=(look("verify", passed=True),)), seen)
    assert status.tier is after
    assert status.evidence[-1] is seen
    assert len(status.evidence) == 2


def test_the_rungs_are_in_order() -> None:
    assert [tier.rank for tier in (Tier.TAKEN, Tier.VERIFIED, Tier.PROVEN)] == [0, 1, 2]


def state(
    before: int, after: int | None = None, *, called: bool = True, step: int = 1, cycle: bool = False
) -> SequenceState:
    return SequenceState(
        before=before, after=before if after is None else after, called_before=called,
        called_after=True if after else called, increment=step, cycle=cycle,
    )  # fmt: skip


TABLES = {"public.a": TableContent(rows=3, hash="77"), "public.b": TableContent(rows=1, hash="5")}
SOURCE = Fingerprint(
    tables=TABLES,
    large_objects=TableContent(rows=0, hash="0"),
    sequences={"public.s": state(5)},
    extensions={"plpgsql": "1.0"},
    objects={"index public.i": "aa", "relation public.a": "bb"},
    schema_hash="cc",
)


def changed(**fields: Any) -> Fingerprint:
    return SOURCE.model_copy(update=fields)


def without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def test_equal_is_equal() -> None:
    comparison = rules.compare(SOURCE, SOURCE, same_major=True)
    assert comparison.equal
    assert (comparison.tables_compared, comparison.rows_compared, comparison.coverage) == (2, 4, 1.0)
    assert comparison.tables == {"public.a": (3, 3, True), "public.b": (1, 1, True)}
    assert comparison.warnings == ()


@pytest.mark.parametrize(
    ("restored", "named", "said"),
    [
        (changed(tables=without(TABLES, "public.a")), "public.a", ("3 rows", "no such table")),
        (changed(tables={**TABLES, "public.a": TableContent(rows=2, hash="77")}), "public.a", ("3 rows", "2 rows")),
        (changed(tables={**TABLES, "public.a": TableContent(rows=4, hash="77")}), "public.a", ("3 rows", "4 rows")),
        (
            changed(tables={**TABLES, "public.b": TableContent(rows=1, hash="6")}),
            "public.b",
            ("content hash 5", "content hash 6"),
        ),
        (
            changed(tables={**TABLES, "public.c": TableContent(rows=9, hash="6")}),
            "public.c",
            ("no such table", "9 rows"),
        ),
        (
            changed(large_objects=TableContent(rows=0, hash="1")),
            "large objects",
            ("0 objects, hash 0", "0 objects, hash 1"),
        ),
        (
            changed(large_objects=TableContent(rows=1, hash="0")),
            "large objects",
            ("0 objects, hash 0", "1 objects, hash 0"),
        ),
        (changed(sequences={"public.s": state(6)}), "public.s", ("value 5", "value 6")),
        (changed(sequences={"public.s": state(5, called=False)}), "public.s", ("value 5", "value 5, not yet given")),
        (changed(sequences={}), "public.s", ("a sequence", "no such sequence")),
    ],
)
def test_each_kind_of_lost_data_names_its_object(restored: Fingerprint, named: str, said: tuple[str, str]) -> None:
    comparison = rules.compare(SOURCE, restored, same_major=True)
    assert not comparison.equal
    assert [(m.object, (m.source, m.restored)) for m in comparison.mismatches] == [(named, said)]
    assert comparison.structure_problems == ()


def test_coverage_is_the_share_of_rows_that_could_be_compared() -> None:
    comparison = rules.compare(SOURCE, changed(tables=without(TABLES, "public.a")), same_major=True)
    assert (comparison.tables_compared, comparison.rows_compared, comparison.coverage) == (1, 1, 0.25)
    empty = changed(tables={})
    assert rules.compare(empty, empty, same_major=True).coverage == 1.0


@pytest.mark.parametrize(
    ("restored", "named", "said"),
    [
        (changed(objects=without(SOURCE.objects, "index public.i")), "index public.i", ("present", "missing")),
        (changed(objects={**SOURCE.objects, "view public.v": "dd"}), "view public.v", ("missing", "present")),
        (
            changed(objects={**SOURCE.objects, "index public.i": "ab"}),
            "index public.i",
            ("definition aa", "definition ab"),
        ),
        (changed(extensions={}), "extension plpgsql", ("1.0", "missing")),
    ],
)
def test_each_kind_of_lost_structure_names_its_object(restored: Fingerprint, named: str, said: tuple[str, str]) -> None:
    comparison = rules.compare(SOURCE, restored, same_major=True)
    assert not comparison.equal
    assert [(m.object, (m.source, m.restored)) for m in comparison.structure_problems] == [(named, said)]


def test_across_major_versions_objects_are_compared_by_name_and_a_warning_says_so() -> None:
    other = rules.compare(SOURCE, changed(objects={**SOURCE.objects, "index public.i": "ab"}), same_major=False)
    assert other.equal
    assert "by name, not by definition" in other.warnings[0]
    lost = rules.compare(SOURCE, changed(objects=without(SOURCE.objects, "index public.i")), same_major=False)
    assert not lost.equal


def test_another_version_of_an_extension_is_a_warning() -> None:
    comparison = rules.compare(SOURCE, changed(extensions={"plpgsql": "1.1"}), same_major=True)
    assert comparison.equal
    assert comparison.warnings == ("extension plpgsql: 1.0 at the source, 1.1 in the copy",)


@pytest.mark.parametrize(
    ("source", "copy", "equal"),
    [
        (state(5), state(5), True),
        (state(5), state(4), False),
        (state(5, 9), state(5), True),
        (state(5, 9), state(7), True),
        (state(5, 9), state(9), True),
        (state(5, 9), state(10), False),
        (state(5, 9), state(4), False),
        (state(-5, -20, step=-5), state(-10, step=-5), True),
        (state(-5, -20, step=-5), state(-25, step=-5), False),
        (state(-5, -20, step=-5), state(0, step=-5), False),
        (state(6, 2, cycle=True), state(7, cycle=True), True),
        (state(2, 6, cycle=True), state(7, cycle=True), True),
        (state(6, cycle=True), state(7, cycle=True), False),
        (state(1, called=False), state(1, called=False), True),
        (state(1, called=False), state(1), False),
    ],
)
def test_a_sequence_lies_where_it_was_while_it_was_dumped(
    source: SequenceState,
    copy: SequenceState,
    equal: bool,  # noqa: FBT001 - a column of the table
) -> None:
    comparison = rules.compare(changed(sequences={"s": source}), changed(sequences={"s": copy}), same_major=True)
    assert comparison.equal is equal


def test_a_first_value_taken_while_it_was_dumped_may_or_may_not_be_in_the_copy() -> None:
    source = SequenceState(before=1, after=1, called_before=False, called_after=True, increment=1, cycle=False)
    for called in (True, False):
        assert rules.compare(
            changed(sequences={"s": source}), changed(sequences={"s": state(1, called=called)}), same_major=True
        ).equal


def test_a_schema_hash_depends_on_names_and_definitions_and_not_on_order() -> None:
    assert rules.schema_hash({"a": "1", "b": "2"}) == rules.schema_hash({"b": "2", "a": "1"})
    assert (
        len({rules.schema_hash(objects) for objects in ({}, {"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": ""})})
        == 5
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('GRANT a TO b WITH INHERIT TRUE GRANTED BY "o""x y";', "GRANT a TO b WITH INHERIT TRUE;"),
        ("GRANT a TO b GRANTED BY postgres;", "GRANT a TO b;"),
        ('GRANT " GRANTED BY x;" TO b GRANTED BY c;', 'GRANT " GRANTED BY x;" TO b;'),
        ("GRANT a TO b;", "GRANT a TO b;"),
        ("ALTER ROLE a SET x TO ' GRANTED BY y';", "ALTER ROLE a SET x TO ' GRANTED BY y';"),
    ],
)
def test_memberships_without_their_grantors(line: str, expected: str) -> None:
    assert rules.without_grantors(f"CREATE ROLE a;\n{line}\n") == f"CREATE ROLE a;\n{expected}\n"

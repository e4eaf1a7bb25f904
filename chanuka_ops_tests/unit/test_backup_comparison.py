"""How a restored copy is compared with its source: each kind of difference, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops.backup import rules
from chanuka_ops.backup.answers import RUNGS, Drilled
from chanuka_ops.backup.model import ROW_TEXT, Fingerprint, Part, SequenceState, TableContent, Tier
from chanuka_ops.backup.proving import comparing


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
    comparison = comparing.compare(SOURCE, SOURCE, same_major=True)
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
    comparison = comparing.compare(SOURCE, restored, same_major=True)
    assert not comparison.equal
    assert [(m.object, (m.source, m.restored)) for m in comparison.mismatches] == [(named, said)]
    assert comparison.structure_problems == ()


def test_coverage_is_the_share_of_rows_that_could_be_compared() -> None:
    comparison = comparing.compare(SOURCE, changed(tables=without(TABLES, "public.a")), same_major=True)
    assert (comparison.tables_compared, comparison.rows_compared, comparison.coverage) == (1, 1, 0.25)
    empty = changed(tables={})
    assert comparing.compare(empty, empty, same_major=True).coverage == 1.0


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
    comparison = comparing.compare(SOURCE, restored, same_major=True)
    assert not comparison.equal
    assert [(m.object, (m.source, m.restored)) for m in comparison.structure_problems] == [(named, said)]


def test_across_major_versions_objects_are_compared_by_name_and_a_warning_says_so() -> None:
    other = comparing.compare(SOURCE, changed(objects={**SOURCE.objects, "index public.i": "ab"}), same_major=False)
    assert other.equal
    assert "by name, not by definition" in other.warnings[0]
    lost = comparing.compare(SOURCE, changed(objects=without(SOURCE.objects, "index public.i")), same_major=False)
    assert not lost.equal


def test_another_version_of_an_extension_is_a_warning() -> None:
    comparison = comparing.compare(SOURCE, changed(extensions={"plpgsql": "1.1"}), same_major=True)
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
    comparison = comparing.compare(changed(sequences={"s": source}), changed(sequences={"s": copy}), same_major=True)
    assert comparison.equal is equal


def test_a_first_value_taken_while_it_was_dumped_may_or_may_not_be_in_the_copy() -> None:
    source = SequenceState(before=1, after=1, called_before=False, called_after=True, increment=1, cycle=False)
    for called in (True, False):
        assert comparing.compare(
            changed(sequences={"s": source}), changed(sequences={"s": state(1, called=called)}), same_major=True
        ).equal


def test_a_schema_hash_depends_on_names_and_definitions_and_not_on_order() -> None:
    assert rules.schema_hash({"a": "1", "b": "2"}) == rules.schema_hash({"b": "2", "a": "1"})
    assert (
        len({rules.schema_hash(objects) for objects in ({}, {"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": ""})})
        == 5
    )


def test_without_owners_only_definitions_are_compared_and_default_privileges_not_at_all() -> None:
    source = changed(objects={"relation public.a": "bb:11", "view public.v": "cc", "default privileges a public r": ""})
    copy = changed(objects={"relation public.a": "bb:22", "view public.v": "cc"})
    assert comparing.compare(source, copy, same_major=True, rights=False).equal
    told = comparing.compare(source, copy, same_major=True).structure_problems
    assert [(m.object, m.source, m.restored) for m in told] == [
        ("relation public.a", "owner and grants 11", "owner and grants 22"),
        ("default privileges a public r", "present", "missing"),
    ]
    other = changed(objects={"relation public.a": "b0:11", "view public.v": "cc"})
    assert not comparing.compare(source, other, same_major=True, rights=False).equal


def test_what_a_filter_did_not_ask_for_is_a_warning() -> None:
    copy = changed(objects={**SOURCE.objects, "schema public": "ee"})
    assert not comparing.compare(SOURCE, copy, same_major=True).equal
    found = comparing.compare(SOURCE, copy, same_major=True, filtered=True)
    assert found.equal
    assert found.warnings == ("beyond the filter: schema public",)
    lacking = changed(objects={})
    assert len(comparing.compare(SOURCE, lacking, same_major=True, filtered=True).structure_problems) == 2


def test_a_fingerprint_of_the_first_algorithm_compares_objects_by_name_and_only_the_kinds_it_knew() -> None:
    first = changed(algorithm=ROW_TEXT)
    copy = changed(objects={"index public.i": "a9:77", "relation public.a": "bb:1", "event trigger e": "dd"})
    found = comparing.compare(first, copy, same_major=True)
    assert found.equal
    assert "first algorithm" in found.warnings[0]
    more = copy.model_copy(update={"objects": {**copy.objects, "view public.v": "dd"}})
    assert [m.object for m in comparing.compare(first, more, same_major=True).structure_problems] == ["view public.v"]


def test_another_version_of_a_collation_is_a_warning() -> None:
    source = changed(collations={"default": "c 2.36", "de": "i 153.14"})
    copy = changed(collations={"default": "c 2.41"})
    found = comparing.compare(source, copy, same_major=True)
    assert found.equal
    assert [warning.partition(" at the source")[0] for warning in found.warnings] == [
        "collation default: version c 2.36",
        "collation de: version i 153.14",
    ]
    assert "2.41 in the copy" in found.warnings[0]
    assert comparing.compare(source, source, same_major=True).warnings == ()


UNREAD = TableContent(rows=None, hash=None)


def test_a_fingerprint_of_the_structure_proves_no_content() -> None:
    structure = changed(tables=dict.fromkeys(TABLES, UNREAD), large_objects=UNREAD)
    found = comparing.compare(structure, structure, same_major=True)
    assert found.equal
    assert (found.has_content, found.coverage, found.rows_compared, found.tables) == (False, 0.0, 0, {})
    lost = structure.model_copy(update={"tables": {"public.a": UNREAD}})
    (mismatch,) = comparing.compare(structure, lost, same_major=True).mismatches
    assert (mismatch.object, mismatch.source, mismatch.restored) == ("public.b", "a table", "no such table")


PARTED = TableContent(
    rows=30, hash="60", key="k", parts=(Part(rows=12, hash="10"), Part(rows=8, hash="20"), Part(rows=10, hash="30"))
)


def read(part: Part, rows: int = 30) -> Fingerprint:
    """A copy of which one part was read."""
    return changed(tables={**TABLES, "public.p": TableContent(rows=rows, hash=None, key="k", parts=(part,))})


@pytest.mark.parametrize(
    ("copy", "said"),
    [
        (read(Part(rows=8, hash="20")), None),
        (read(Part(rows=8, hash="21")), ("part 1 of 3: content hash 20", "part 1 of 3: content hash 21")),
        (read(Part(rows=9, hash="20")), ("part 1 of 3: 8 rows", "part 1 of 3: 9 rows")),
        (read(Part(rows=8, hash="20"), rows=31), ("30 rows", "31 rows")),
        (changed(tables={**TABLES, "public.p": TableContent(rows=30, hash="60")}), None),
        (
            changed(tables={**TABLES, "public.p": TableContent(rows=30, hash="61")}),
            ("content hash 60", "content hash 61"),
        ),
    ],
)
def test_one_part_of_a_table_is_compared(copy: Fingerprint, said: tuple[str, str] | None) -> None:
    source = changed(tables={**TABLES, "public.p": PARTED})
    found = comparing.compare(source, copy, same_major=True, part=1)
    assert [(m.source, m.restored) for m in found.mismatches] == ([] if said is None else [said])
    assert (found.rows_compared, found.coverage, found.part) == (12, 12 / 34, 1)


@given(parts=st.integers(1, 60), before=st.lists(st.integers(0, 100), max_size=100))
def test_as_many_drills_as_parts_cover_all_whatever_came_before(parts: int, before: list[int]) -> None:
    seen = list(before)
    chosen = []
    for _ in range(parts):
        chosen.append(comparing.next_part(seen, parts))
        seen.append(chosen[-1])
    assert sorted(chosen) == list(range(parts))
    assert comparing.next_part(seen, parts) == chosen[0]


LADDER: dict[str, bool | None] = dict.fromkeys(RUNGS, True)


@pytest.mark.parametrize(
    ("changed", "proven"),
    [
        ({}, True),
        ({"indexes": None}, True),
        ({"assertions": None}, True),
        ({"indexes": False}, False),
        ({"assertions": False}, False),
        ({"content": None}, False),
        ({"content": False}, False),
        ({"structure": False}, False),
        ({"restores": None, "structure": None, "content": None}, False),
        ({"manifest": False}, False),
    ],
)
def test_what_it_takes_to_be_proven(
    changed: dict[str, bool | None],
    proven: bool,  # noqa: FBT001 - a column of the table
) -> None:
    drilled = Drilled(
        backup_id="b", tier=Tier.TAKEN, restore_seconds=1.0, tables_compared=1, rows_compared=1, coverage=1.0,
        mismatches=(), structure_problems=(), rto_seconds=1.0, rpo_seconds=1.0, ladder={**LADDER, **changed},
        warnings=(), scratch_version="18.6", problems=(), tables={},
    )  # fmt: skip
    assert drilled.proven is proven

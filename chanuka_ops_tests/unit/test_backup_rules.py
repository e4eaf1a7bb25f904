"""The decisions about backups, as tables of cases and as properties."""

from __future__ import annotations

import doctest
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import errors
from chanuka_ops.backup import documents, rules
from chanuka_ops.backup.answers import Problem
from chanuka_ops.backup.model import Evidence, File, Status, Tier

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


any_document = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "document_sha256"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(document=any_document)
def test_a_sealed_document_reads_back(document: dict[str, Any]) -> None:
    content = documents.seal(document)
    assert documents.unseal(content) == document
    assert content == (json.dumps(json.loads(content), sort_keys=True, indent=1) + "\n").encode()  # as it's documented


@given(document=any_document, data=st.data())
def test_any_changed_byte_of_a_sealed_document_shows(document: dict[str, Any], data: st.DataObject) -> None:
    content = documents.seal(document)
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
        documents.unseal(damaged)


def test_every_single_bit_of_a_sealed_document() -> None:
    content = documents.seal({"backup_id": GOOD, "tier": "proven", "bytes": 123, "é": [1.5, None]})
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(errors.BackupDamaged):
                documents.unseal(bytes(damaged))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'"x"', b"1", b"\xff", b'{"document_sha256":1}', b"[" * 100_000]
)
def test_what_was_never_sealed(content: bytes) -> None:
    with pytest.raises(errors.BackupDamaged):
        documents.unseal(content)


looks = st.builds(
    Evidence,
    at=st.datetimes(timezones=st.just(UTC)),
    step=st.sampled_from(["verify", "drill"]),
    passed=st.booleans(),
    figures=any_document
    | st.just({"figures": {"x": {"figures": {}}}, "y": '\n   "figures": {\n   }', "z": [{"figures": {"a": 1}}]}),
)


@given(evidence=st.lists(looks, max_size=4), tier=st.sampled_from(Tier))
def test_a_glimpse_at_a_status_leaves_out_the_figures_and_nothing_else(evidence: list[Evidence], tier: Tier) -> None:
    status = Status(backup_id=GOOD, tier=tier, evidence=tuple(evidence))
    content = documents.seal(status.model_dump(mode="json"))
    whole = Status.model_validate(documents.unseal(content))
    bare = tuple(look.model_copy(update={"figures": {}}) for look in whole.evidence)
    assert documents.opened(content, Status, GOOD, "status.json") == whole
    assert documents.glimpsed(content, GOOD) == whole.model_copy(update={"evidence": bare})


def test_every_single_byte_counts_at_a_glimpse_too() -> None:
    look = Evidence(at=datetime(2026, 11, 22, tzinfo=UTC), step="drill", passed=True, figures={"rows": 123})
    content = documents.seal(Status(backup_id=GOOD, evidence=(look,)).model_dump(mode="json"))
    for place in range(len(content)):
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with pytest.raises(errors.BackupDamaged):
            documents.glimpsed(damaged, GOOD)


def test_a_document_that_only_the_slower_parser_reads() -> None:
    pin = {"reason": "\ud800", "at": "2026-11-22T00:00:00Z", "actor": "me"}
    content = documents.seal({"backup_id": GOOD, "pin": pin})
    for status in (documents.opened(content, Status, GOOD, "status.json"), documents.glimpsed(content, GOOD)):
        assert status.pin is not None
        assert status.pin.reason == "\ud800"


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

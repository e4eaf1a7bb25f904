"""What is pending, what stands in the way, which steps to take, and whether to try again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import errors
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Direction, Nature, Plan, Script

SAFE = Nature(destructive=False, transactional=True)
WHERE = "somewhere/migrations"


def script(revision: str, *parents: str, sha256: str = "0" * 64) -> Script:
    return Script(revision, parents, f"about {revision}", sha256, SAFE, SAFE)


LINE = (script("a1"), script("b2", "a1"), script("c3", "b2"))
FORK = (script("a1"), script("b2", "a1"), script("c3", "a1"))
DIAMOND = (*FORK, script("d4", "b2", "c3"), script("e5", "d4"))


def plan(scripts: tuple[Script, ...], *current: str) -> Plan:
    return rules.build_plan(scripts, current, directory=WHERE)


@pytest.mark.parametrize(
    ("scripts", "current", "pending", "heads"),
    [
        (LINE, (), ["a1", "b2", "c3"], ("c3",)),
        (LINE, ("b2",), ["c3"], ("c3",)),
        (LINE, ("c3",), [], ("c3",)),
        (DIAMOND, ("b2",), ["c3", "d4", "e5"], ("e5",)),
        (DIAMOND, ("b2", "c3"), ["d4", "e5"], ("e5",)),
    ],
)
def test_what_is_pending(
    scripts: tuple[Script, ...], current: tuple[str, ...], pending: list[str], heads: tuple[str, ...]
) -> None:
    made = plan(scripts, *current)
    assert [revision.revision for revision in made.pending] == pending
    assert made.heads == heads
    assert made.current == (", ".join(current) or None)
    assert [problem for problem in made.problems if problem.refuses] == []
    assert rules.refusal(made) is None


@pytest.mark.parametrize(
    ("made", "kind", "error", "words"),
    [
        (plan(FORK), "several_heads", errors.HeadsConflict, ["b2", "c3"]),
        (plan(LINE, "z9"), "unknown_revision", errors.RefusedError, ["z9", WHERE]),
        (plan(()), "no_revisions", errors.ConfigurationError, [WHERE]),
        (
            rules.build_plan((), (), directory=WHERE, unreadable=["no!"]),
            "unreadable",
            errors.ConfigurationError,
            ["no!"],
        ),
    ],
)
def test_what_stands_in_the_way(made: Plan, kind: str, error: type[errors.ChanukaError], words: list[str]) -> None:
    assert made.problems[0].kind == kind
    refused = rules.refusal(made)
    assert type(refused) is error
    assert "Nothing was changed" in str(refused)
    assert all(word in str(refused) for word in words)


@pytest.mark.parametrize(
    ("scripts", "current", "direction", "to", "steps"),
    [
        (LINE, (), "up", "head", ["a1", "b2", "c3"]),
        (LINE, (), "up", "b2", ["a1", "b2"]),
        (LINE, (), "up", "b", ["a1", "b2"]),
        (LINE, ("c3",), "up", "head", []),
        (LINE, ("b2",), "up", "b2", []),
        (LINE, ("c3",), "down", "a1", ["c3", "b2"]),
        (LINE, ("c3",), "down", "base", ["c3", "b2", "a1"]),
        (LINE, ("c3",), "down", "c3", []),
        (LINE, (), "down", "base", []),
        (DIAMOND, ("b2",), "up", "head", ["c3", "d4", "e5"]),
        (DIAMOND, ("e5",), "down", "d4", ["e5"]),
        (DIAMOND, ("e5",), "down", "b2", ["e5", "d4"]),
        (DIAMOND, ("e5",), "down", "a1", ["e5", "d4", "c3", "b2"]),
    ],
)
def test_the_steps_to_a_target(
    scripts: tuple[Script, ...], current: tuple[str, ...], direction: Direction, to: str, steps: list[str]
) -> None:
    assert [step.revision for step in rules.steps(scripts, current, direction, to)] == steps


@pytest.mark.parametrize(
    ("current", "direction", "to", "error"),
    [
        (("c3",), "up", "a1", errors.RefusedError),
        (("a1",), "down", "c3", errors.RefusedError),
        (("a1",), "up", "zz", errors.ConfigurationError),
        (("a1",), "down", "", errors.ConfigurationError),
    ],
)
def test_a_target_that_makes_no_sense(
    current: tuple[str, ...], direction: Direction, to: str, error: type[errors.ChanukaError]
) -> None:
    with pytest.raises(error):
        rules.steps(LINE, current, direction, to)


def test_the_plan_hash_names_the_content_of_the_plan() -> None:
    edited = (*LINE[:2], script("c3", "b2", sha256="1" * 64))
    hashes = [plan(LINE).plan_hash, plan(LINE, "a1").plan_hash, plan(LINE[:2]).plan_hash, plan(edited).plan_hash]
    assert len(set(hashes)) == 4
    assert plan(LINE).plan_hash == plan(LINE).plan_hash


def test_the_steps_end_before_what_takes_something_away() -> None:
    expand = replace(script("b2", "a1"), phase="expand")
    contract = replace(script("c3", "b2"), phase="contract", completes="b2")
    later = script("d4", "c3")
    scripts = (LINE[0], expand, contract, later)
    assert rules.before_contract(plan(scripts)) == "b2"
    assert rules.before_contract(plan(scripts, "b2")) is None
    assert rules.before_contract(plan(LINE)) == "c3"
    assert rules.before_contract(plan(LINE, "c3")) is None


@pytest.mark.parametrize(("completes", "fine"), [("a1", True), ("b2", True), ("c3", False), ("gone", False)])
def test_a_contract_comes_after_its_expand(completes: str, *, fine: bool) -> None:
    made = plan((*LINE[:2], replace(script("c3", "b2"), phase="contract", completes=completes)))
    assert [problem.kind for problem in made.problems] == ([] if fine else ["contract_without_expand"])
    assert made.pending[-1].phase == "contract"
    assert type(rules.refusal(made)) is (type(None) if fine else errors.ConfigurationError)


def test_a_plan_survives_its_json() -> None:
    made = plan(FORK, "a1")
    document = made.to_json()
    assert Plan.from_json(document) == made
    assert set(document) == {"current", "heads", "pending", "problems", "plan_hash"}
    assert set(document["pending"][0]) == {"revision", "doc", "sha256", "destructive", "transactional", "phase"}
    assert set(document["problems"][0]) == {"kind", "revision", "message", "refuses"}


@pytest.mark.parametrize(
    ("sqlstate", "elapsed_s", "tried"),
    [("55P03", 0.0, True), ("40P01", 0.0, True), ("42P07", 0.0, False), (None, 0.0, False), ("55P03", 60.0, False)],
)
def test_what_is_tried_again(sqlstate: str | None, elapsed_s: float, tried: bool) -> None:  # noqa: FBT001 - a column
    wait_s = rules.retry_after(sqlstate, attempt=1, elapsed_s=elapsed_s, deadline_s=60.0, roll=0.5)
    assert (wait_s is not None) is tried


@given(
    attempt=st.integers(min_value=1, max_value=10_000),
    elapsed_s=st.floats(min_value=0, max_value=1e6),
    deadline_s=st.floats(min_value=0.1, max_value=1e6),
    roll=st.floats(min_value=0, max_value=1),
)
def test_no_retry_begins_past_the_deadline(attempt: int, elapsed_s: float, deadline_s: float, roll: float) -> None:
    wait_s = rules.retry_after("55P03", attempt=attempt, elapsed_s=elapsed_s, deadline_s=deadline_s, roll=roll)
    if wait_s is not None:
        assert 0 <= wait_s <= rules.BACKOFF.most_s
        assert elapsed_s + wait_s < deadline_s


def test_a_file_that_was_edited_after_it_was_applied() -> None:
    recorded = {script.revision: script.sha256 for script in LINE}
    made = rules.build_plan(LINE, ["b2"], directory="d", recorded=recorded)
    assert made.problems == ()
    made = rules.build_plan(LINE, ["b2"], directory="d", recorded={**recorded, "a1": "1" * 64, "c3": "1" * 64})
    assert [(p.kind, p.revision, p.refuses) for p in made.problems] == [("edited", "a1", True)], "c3 isn't applied"
    assert isinstance(rules.refusal(made), errors.RefusedError)
    assert rules.refusal(rules.for_the_way_back(made)) is None


def test_a_branch_that_comes_late_is_told_of_and_let_through() -> None:
    made = rules.build_plan(DIAMOND, ["b2"], directory="d")
    assert [(p.kind, p.revision, p.refuses) for p in made.problems] == [("out_of_order", "c3", False)]
    assert rules.refusal(made) is None
    assert rules.build_plan(DIAMOND, ["b2", "c3"], directory="d").problems == ()

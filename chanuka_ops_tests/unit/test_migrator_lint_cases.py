"""The measured cases again, without a server: what lint says of a script alone, and how often it is right."""

from __future__ import annotations

import re
from dataclasses import replace

from chanuka_ops.migrator.lint import judge, script
from chanuka_ops.migrator.lint.rulebook import RULES
from chanuka_ops.migrator.lint.world import World
from chanuka_ops_tests.integration.lint_adversary import ADVERSARY
from chanuka_ops_tests.integration.lint_cases import CASES, Case
from chanuka_ops_tests.integration.lint_traps import TRAPS

EVERY = (*CASES, *ADVERSARY, *TRAPS)
UNKNOWN_TYPES = {"column-type-unknown", "column-type-rewrites"}


def dangers(case: Case) -> set[str]:
    world = World(max(14, case.since), version_known=case.since > 14)
    findings = judge.judge(script.read(case.sql, name="case").statements, world)
    return {finding.rule.id for finding in findings if finding.severity == "danger"}


def as_psql(marked: str) -> str:
    """Return a script with BEGIN and COMMIT in the place of its marks."""
    _, *parts = re.split(r"(?m)^-- @(tx|autocommit)$", marked)
    sections = zip(parts[::2], parts[1::2], strict=True)
    return "\n".join(f"BEGIN;\n{sql}\nCOMMIT;" if mark == "tx" else sql for mark, sql in sections)


def test_begin_and_commit_are_as_good_as_marks() -> None:
    said = {case.id: dangers(case) for case in EVERY}
    assert {case.id: dangers(replace(case, sql=as_psql(case.sql))) for case in EVERY} == said


def test_a_script_alone_is_judged_with_care() -> None:
    expected = {case.id: case.blocks if case.offline is None else case.offline for case in EVERY}
    assert {case.id: bool(dangers(case)) for case in EVERY} == expected


def test_without_a_database_most_dangers_are_seen_and_few_are_imagined() -> None:
    """Beside changes of a type that nobody knows: those are called dangers, since most of them rewrite."""
    bad, safe = [case for case in EVERY if case.blocks], [case for case in EVERY if not case.blocks]
    assert sum(bool(dangers(case)) for case in bad) / len(bad) > 0.9
    assert sum(bool(dangers(case) - UNKNOWN_TYPES) for case in safe) / len(safe) < 0.12


def test_each_rule_that_speaks_of_a_case_is_one_of_the_book() -> None:
    assert {rule for case in EVERY for rule in dangers(case)} <= RULES.keys()

"""What the page says first, as tables of cases."""

from __future__ import annotations

import doctest
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from chanuka_ops.report import rules
from chanuka_ops.report.model import FindingRow, Health, Proof, Report, Step, TableProof

BASE = Report("demo", datetime(2026, 11, 22, tzinfo=UTC), "chanuka", "18.6", "ok")
PROVEN = Proof("b1", "proven", tables_compared=2, rows_compared=10, coverage=1.0)
GOOD = replace(BASE, steps=(Step("backup", "done", 1.0),), health=Health("ok", (), {}, 19), proof=PROVEN)


def finding(status: str, check: str = "x.y") -> FindingRow:
    return FindingRow(check, status, "public.t", 1, "", None, f"a {status}", "do this")


def with_finding(status: str) -> Report:
    return replace(GOOD, health=Health(status, (finding(status),), {}, 19))


@pytest.mark.parametrize(
    ("report", "tone", "headline"),
    [
        (GOOD, "good", "All is well"),
        (with_finding("info"), "info", "All is well"),
        (with_finding("warning"), "warn", "It works; something wants attention soon"),
        (with_finding("unknown"), "unknown", "Something could not be looked at"),
        (with_finding("critical"), "bad", "Something needs attention now"),
        (replace(GOOD, health=Health("ok", (), {}, 18, 1)), "unknown", "Something could not be looked at"),
        (replace(GOOD, steps=(Step("drill", "failed", 1.0),)), "bad", "Failed: drill"),
        (replace(GOOD, status="a new word"), "unknown", "Something could not be looked at"),
        (replace(GOOD, proof=replace(PROVEN, tier="taken")), "warn", "It works; something wants attention soon"),
        (replace(GOOD, proof=replace(PROVEN, tier="bogus")), "unknown", "Something could not be looked at"),
        (
            replace(GOOD, proof=replace(PROVEN, mismatches=("t differs",))),
            "bad",
            "The restored copy does not hold the source's data",
        ),
        (
            replace(GOOD, proof=replace(PROVEN, tables=(TableProof("t", 1, 1, equal=False),))),
            "bad",
            "The restored copy does not hold the source's data",
        ),
    ],
)
def test_the_page_is_as_grave_as_the_gravest_part(report: Report, tone: str, headline: str) -> None:
    verdict = rules.verdict(report)
    assert (verdict.tone, verdict.headline) == (tone, headline)
    assert rules.tone(verdict.status) == tone


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (PROVEN, "is proven: a copy restored from it held the same 10 rows in 2 tables"),
        (replace(PROVEN, coverage=0.5), "Only 50.0% of the tables"),
        (replace(PROVEN, tier="verified"), "is verified, not proven"),
        (replace(PROVEN, mismatches=("t",)), "not to be relied on"),
        (None, "No backup was taken"),
    ],
)
def test_a_backup_is_called_proven_only_when_it_is(proof: Proof | None, words: str) -> None:
    facts = " ".join(rules.verdict(replace(GOOD, proof=proof)).facts)
    assert words in facts
    assert ("is proven" in facts) == (proof is not None and proof.tier == "proven" and not proof.mismatches)


def test_what_to_do_has_the_gravest_first_and_leaves_information_out() -> None:
    rows = tuple(finding(status) for status in ("info", "warning", "unknown", "critical", "ok"))
    report = replace(GOOD, steps=(Step("verify", "failed", 1.0, "why"),), health=Health("critical", rows, {}, 19))
    assert [todo.status for todo in rules.todos(report)] == ["failed", "critical", "unknown", "warning"]


def test_counts_by_status() -> None:
    rows = (finding("warning"), finding("critical"), finding("warning"))
    assert rules.counts(Health("critical", rows)) == [("critical", 1), ("warning", 2)]
    assert rules.counts(Health("critical", rows, {"ok": 3, "warning": 9, "info": 0})) == [("warning", 9), ("ok", 3)]


def test_steps_follow_each_other_unless_they_say_when_they_began() -> None:
    chart = rules.chart((Step("a", "done", 1.0), Step("b", "done", 3.0), Step("c", "done", 1.0, started_s=0.0)))
    assert [(bar.start, bar.width) for bar in chart.bars] == [(0.0, 25.0), (25.0, 75.0), (0.0, 25.0)]
    assert chart.total_s == 4.0
    assert chart.ticks == ((0.0, "0 s"), (25.0, "1 s"), (50.0, "2 s"), (75.0, "3 s"), (100.0, "4 s"))


@pytest.mark.parametrize("seconds", [(), (0.0,), (0.0, 0.0), (-1.0,), (1e-9, 1e6), (0.001,), (5.0, 0.0)])
def test_bars_stay_within_the_chart(seconds: tuple[float, ...]) -> None:
    chart = rules.chart(tuple(Step("s", "done", amount) for amount in seconds))
    assert all(bar.start >= 0 and bar.width > 0 and bar.start + bar.width <= 100.001 for bar in chart.bars)
    assert all(0 <= percent <= 100 for percent, _ in chart.ticks)
    assert len(chart.ticks) <= 6


def test_the_examples_of_the_formatters() -> None:
    assert doctest.testmod(rules).failed == 0

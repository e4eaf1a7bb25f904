"""The gate's decisions, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chanuka_ops.config import MigrationSettings
from chanuka_ops.migrator.gate import Approval, Backup, Facts, GatePolicy, Rehearsal, decide, move_hash
from chanuka_ops.migrator.model import Plan

HOUR_S = 3600.0
PRODUCTION = GatePolicy.of(MigrationSettings(), "production")
REHEARSED = Rehearsal("r", HOUR_S, None, 0.2, "b2")
GOOD = Facts(
    direction="up",
    move_hash="f" * 64,
    revisions=("b2",),
    destructive=(),
    fresh=False,
    backup=Backup(HOUR_S),
    rehearsal=REHEARSED,
    dangers=(),
    approval=None,
)
YES = Approval("f" * 64, "ada", "2026-11-28 12:00:00 UTC", "looked at")


def kinds(policy: GatePolicy, **changed: Any) -> list[str]:
    return [refusal.kind for refusal in decide(policy, replace(GOOD, **changed)).refusals]


def test_what_the_environments_ask_for() -> None:
    development = GatePolicy.of(MigrationSettings(), "development")
    assert (development.require_proven_backup, development.require_rehearsal) == ("never", "never")
    assert development.approval == frozenset()
    assert (PRODUCTION.require_proven_backup, PRODUCTION.require_rehearsal) == ("destructive", "always")
    assert PRODUCTION.approval == {"destructive", "blocking", "danger"}
    assert GatePolicy.of(MigrationSettings(), "staging").require_proven_backup == "destructive"
    set_by_hand = MigrationSettings(require_proven_backup="always", approval=frozenset())
    assert GatePolicy.of(set_by_hand, "production").require_proven_backup == "always"
    assert GatePolicy.of(set_by_hand, "production").approval == frozenset()


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, []),
        ({"rehearsal": None}, ["rehearsal"]),
        ({"rehearsal": replace(REHEARSED, problem="down: it failed")}, ["rehearsal"]),
        ({"rehearsal": replace(REHEARSED, age_s=25 * HOUR_S)}, ["rehearsal"]),
        ({"rehearsal": replace(REHEARSED, blocking_s=0.6)}, ["approval"]),
        ({"rehearsal": replace(REHEARSED, blocking_s=0.6), "approval": YES}, []),
        ({"dangers": ("b2: rewrite",)}, ["approval"]),
        ({"dangers": None}, ["approval"]),
        ({"destructive": ("b2",)}, ["approval"]),
        ({"destructive": ("b2",), "approval": YES}, []),
        ({"destructive": ("b2",), "approval": YES, "backup": Backup(None)}, ["backup"]),
        ({"destructive": ("b2",), "approval": YES, "backup": Backup(None, "store s3 is down")}, ["backup"]),
        ({"destructive": ("b2",), "approval": YES, "backup": Backup(37 * HOUR_S)}, ["backup"]),
        ({"destructive": ("b2",), "backup": Backup(None), "rehearsal": None}, ["backup", "rehearsal", "approval"]),
        ({"backup": Backup(None)}, []),  # nothing is lost, so none is asked for
        ({"fresh": True, "rehearsal": None, "destructive": ("b2",), "backup": Backup(None)}, []),
        ({"revisions": (), "rehearsal": None}, []),
        ({"direction": "down", "rehearsal": None, "dangers": None, "destructive": ("b2",), "approval": YES}, []),
        ({"direction": "down", "rehearsal": None, "destructive": ("b2",)}, ["approval"]),
    ],
)
def test_production(changed: dict[str, Any], refused: list[str]) -> None:
    assert kinds(PRODUCTION, **changed) == refused


def test_every_switch_off_lets_it_through() -> None:
    """Each guard is the one that refuses: without it the same facts pass."""
    bad: dict[str, Any] = {"destructive": ("b2",), "backup": Backup(None), "rehearsal": None, "dangers": ("b2: x",)}
    assert kinds(replace(PRODUCTION, require_proven_backup="never"), **bad) == ["rehearsal", "approval"]
    assert kinds(replace(PRODUCTION, require_rehearsal="never"), **bad) == ["backup", "approval"]
    assert kinds(replace(PRODUCTION, approval=frozenset()), **bad) == ["backup", "rehearsal"]


def test_every_reason_says_what_to_do() -> None:
    verdict = decide(PRODUCTION, replace(GOOD, destructive=("b2",), backup=Backup(None), rehearsal=None))
    assert "backup drill" in verdict.words()
    assert "migrate rehearse" in verdict.words()
    assert f"migrate approve {'f' * 64}" in verdict.words()
    assert "b2" in verdict.words()


def test_the_way_back_has_a_hash_of_its_own() -> None:
    plan = Plan("b2", ("b2",), (), (), "a" * 64)
    assert move_hash(plan, "up", "head") == plan.plan_hash
    assert len({plan.plan_hash, move_hash(plan, "down", "a1"), move_hash(plan, "down", "base")}) == 3

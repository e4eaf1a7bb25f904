"""Steps: what is recorded of them, and what ends a cycle."""

from __future__ import annotations

import doctest
import re

import pytest

from chanuka_ops import errors
from chanuka_ops.backup.answers import Drilled, Mismatch, Problem, Verified
from chanuka_ops.backup.model import Tier
from chanuka_ops.optimisation.model import Applied, OutcomeWord
from chanuka_ops.orchestrators import nightly
from chanuka_ops.orchestrators.steps import Step, Steps


def applied(outcome: OutcomeWord, name: str = "public.bills") -> Applied:
    return Applied("id", outcome, None, 0.1, name, f"VACUUM {name}", "the disk is full")


def drilled(*mismatches: Mismatch, problems: tuple[Problem, ...] = ()) -> Drilled:
    proven = not mismatches and not problems
    return Drilled(
        backup_id="main-1", tier=Tier.PROVEN if proven else Tier.TAKEN, restore_seconds=1.0, tables_compared=2,
        rows_compared=2000, coverage=1.0, mismatches=mismatches, structure_problems=(), rto_seconds=2.0,
        rpo_seconds=3.0, ladder=dict.fromkeys(("manifest", "restores", "structure", "content"), proven), warnings=(),
        scratch_version="18.6", problems=problems, tables={},
    )  # fmt: skip


def test_a_step_is_named_timed_described_and_told() -> None:
    told: list[Step] = []
    steps = Steps(told.append)
    assert steps.run("count", lambda: 3, lambda found: f"{found} found") == 3
    assert steps.run("rest", lambda: None) is None
    assert [(step.name, step.status, step.detail) for step in told] == [
        ("count", "done", "3 found"),
        ("rest", "done", ""),
    ]
    assert steps.done == told
    assert told[0].to_json().keys() == {"name", "status", "seconds", "detail"}
    assert 0 <= told[0].started_s <= told[1].started_s


@pytest.mark.parametrize("error", [errors.LockTimeout("postgresql://ops:hunter2@h/d"), KeyboardInterrupt()])
def test_a_failed_step_is_recorded_and_its_error_goes_on(error: BaseException) -> None:
    def fail() -> None:
        raise error

    steps = Steps()
    with pytest.raises(type(error)):
        steps.run("backup", fail)
    (step,) = steps.done
    assert step.status == "failed"
    assert step.detail
    assert "hunter2" not in step.detail


def test_a_damaged_backup_ends_the_cycle_naming_each_file() -> None:
    problems = (Problem(file="dump/1.dat", kind="checksum"), Problem(file="toc.dat", kind="missing"))
    verified = Verified(backup_id="main-1", tier=Tier.TAKEN, files=2, bytes=9, seconds=0.1, problems=problems)
    with pytest.raises(errors.BackupDamaged, match=re.escape("dump/1.dat (checksum), toc.dat (missing)")):
        nightly.require_whole(verified)
    whole = verified.model_copy(update={"problems": ()})
    assert nightly.require_whole(whole) is whole


def test_a_copy_that_differs_ends_the_cycle_naming_the_table() -> None:
    with pytest.raises(errors.DrillFailed, match=r"public\.bills: 3 rows at the source, 2 rows in the restored copy"):
        nightly.require_proven(drilled(Mismatch(object="public.bills", source="3 rows", restored="2 rows")))
    with pytest.raises(errors.DrillFailed, match=r"toc\.dat \(size\)"):
        nightly.require_proven(drilled(problems=(Problem(file="toc.dat", kind="size"),)))
    assert nightly.require_proven(drilled()).tier == Tier.PROVEN


def test_what_could_not_be_carried_out_ends_the_cycle_and_a_lock_does_not() -> None:
    fine = [applied("applied"), applied("lock_timeout"), applied("refused"), applied("gone")]
    assert nightly.require_applied(fine) is fine
    with pytest.raises(errors.DatabaseError, match=r"1 of 2 not carried out: public\.votes: the disk is full"):
        nightly.require_applied([applied("applied"), applied("failed", "public.votes")])


def test_sizes_are_written_in_the_unit_that_fits() -> None:
    assert doctest.testmod(nightly).failed == 0


def test_outcomes_are_counted_in_a_line() -> None:
    assert nightly.applied_said([]) == "nothing to do"
    assert nightly.applied_said([applied("applied"), applied("applied"), applied("refused")]) == "2 applied, 1 refused"

"""What the server reports done is not yet done: its counters decide."""

from __future__ import annotations

from dataclasses import replace

from chanuka_ops.optimisation.model import Advice
from chanuka_ops.optimisation.service import _Done, _judge, _Measure

VACUUM = Advice("1", "vacuum", "public.bills", "", "VACUUM (ANALYZE) public.bills", None, "low", "")
BEFORE = _Measure(bytes=8192, dead_tuples=10, vacuums=1, analyses=1, counted=True)
AFTER = replace(BEFORE, bytes=4096, dead_tuples=0, vacuums=2, analyses=2)


def test_done_and_counted() -> None:
    result = _judge(VACUUM, BEFORE, AFTER, _Done(0.5, None))
    assert (result.outcome, result.gained_bytes, result.reason) == ("applied", 4096, None)


def test_a_table_skipped_with_a_warning_is_not_done() -> None:
    result = _judge(VACUUM, BEFORE, BEFORE, _Done(0.5, 'permission denied to vacuum "bills", skipping it'))
    assert (result.outcome, result.gained_bytes) == ("failed", None)
    assert "skipping it" in (result.reason or "")


def test_a_server_that_does_not_count_is_believed() -> None:
    silent = replace(BEFORE, counted=False)
    assert _judge(VACUUM, silent, silent, _Done(0.5, None)).outcome == "applied"


def test_a_warning_of_a_done_statement_is_passed_on() -> None:
    assert _judge(VACUUM, BEFORE, AFTER, _Done(0.5, "one partition was skipped")).reason == "one partition was skipped"


def test_dropped_meanwhile() -> None:
    assert _judge(VACUUM, BEFORE, replace(AFTER, bytes=None), _Done(0.5, None)).outcome == "gone"


def test_a_table_that_grew_is_no_gain() -> None:
    assert _judge(VACUUM, BEFORE, replace(AFTER, bytes=16384), _Done(0.5, None)).gained_bytes == -8192

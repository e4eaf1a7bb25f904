"""The progress bars, told the steps and a clock."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from chanuka_ops import logs
from chanuka_ops.cli.showing import Bars
from chanuka_ops.context import Progress

Show = Callable[..., str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Show reports of progress, each with the seconds its step has taken, and return what the terminal would hold."""
    clock = 0.0
    monkeypatch.setattr(logs.Stopwatch, "seconds", property(lambda _: clock))

    def show(*reports: tuple[float, Progress]) -> str:
        nonlocal clock
        console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
        with Bars(console) as bars:
            for seconds, report in reports:
                clock = seconds
                bars.show(report)
            with console.capture() as capture:
                console.print(bars._progress.get_renderable())
        return capture.get()

    return show


def rows(label: str, done: int, total: int | None = 100) -> Progress:
    return Progress(label, done, total, "rows")


def test_a_step_under_a_second_has_no_bar(shown: Show) -> None:
    assert "dump" not in shown((0.0, rows("dump", 1)), (0.9, rows("dump", 99)))


def test_a_step_over_a_second_has_one_with_what_was_done(shown: Show) -> None:
    assert "50 of 100 rows" in shown((0.0, rows("dump", 1)), (1.1, rows("dump", 50)))


def test_it_goes_with_the_steps_end(shown: Show) -> None:
    assert "dump" not in shown((0.0, rows("dump", 1)), (1.1, rows("dump", 50)), (2.0, rows("dump", 100)))


def test_a_step_that_never_said_that_it_was_done_goes_when_the_next_begins(shown: Show) -> None:
    """pg_restore's total is a guess: its bar stood there through all that came after."""
    seen = shown((0.0, rows("restore", 1)), (1.1, rows("restore", 80)), (2.0, rows("compare", 10)))
    assert "restore" not in seen
    assert "compare" in seen


def test_bytes_are_shown_in_megabytes_and_an_unknown_total_is_left_out(shown: Show) -> None:
    assert "3 of 9 MB" in shown(
        (0.0, Progress("a", 1, 9_000_000, "bytes")), (2, Progress("a", 3_000_000, 9_000_000, "bytes"))
    )
    seen = shown((0.0, Progress("b", 1, None, "bytes")), (2, Progress("b", 3_000_000, None, "bytes")))
    assert "3 MB" in seen
    assert " of " not in seen


def test_the_time_left_and_what_else_there_is_to_say_stand_beside_it(shown: Show) -> None:
    step = Progress("dump", 40, 100, "rows", eta_s=40.0, detail="12.3 MB written")
    seen = shown((0.0, rows("dump", 1)), (5.0, step))
    assert "40 of 100 rows, 12.3 MB written" in seen
    assert "about 40 s left" in seen

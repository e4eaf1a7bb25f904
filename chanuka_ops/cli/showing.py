"""What the command line puts on a terminal or into a pipe: sentences, tables, a bar for what takes a while."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Self

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from chanuka_ops import context, logs

SHOW_PROGRESS_AFTER_S = 1.0
PIPE_WIDTH = 100_000  # rich folds at 80 columns where there is no terminal; a script wants one line for each row
# On a terminal too narrow for all, other columns are folded before these: an id is to be copied.
_WHOLE = frozenset({"backup", "check", "created", "id", "revision", "size", "status", "tier"})
_NUMERIC = frozenset({"seconds", "bytes", "size", "rows", "files", "attempts", "value", "threshold"})
STATUS_STYLES = {
    "ok": "green", "done": "green", "proven": "green", "applied": "green",
    "info": "cyan", "verified": "cyan",
    "warning": "yellow", "taken": "yellow", "refused": "yellow",
    "unknown": "magenta",
    "critical": "bold red", "failed": "bold red", "damaged": "bold red",
}  # fmt: skip


class Terminal:
    """Standard output and standard error, as a person sees them."""

    @functools.cached_property
    def out(self) -> Console:
        """Standard output."""
        return _console(stderr=False)

    @functools.cached_property
    def err(self) -> Console:
        """Standard error."""
        return _console(stderr=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table on standard output."""
        table = Table(
            title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
        )
        for column in columns:
            justify: JustifyMethod = "right" if column in _NUMERIC else "left"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=column in _WHOLE)
        for row in rows:
            table.add_row(*(styled(cell) for cell in row))
        self.out.print(table)

    def failed(self, kind: str, message: str) -> None:
        """Print an error on standard error."""
        self.err.print(Text.assemble((f"{kind}: ", "bold red"), message))


def _console(*, stderr: bool) -> Console:
    # asked of the stream itself: FORCE_COLOR makes rich take a pipe for a terminal
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if terminal else PIPE_WIDTH)


class Bars:
    """One bar at a time, that appears only where a step takes over a second."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console, transient=True,
            # rich would send standard output to the bar's own stream, out of the file or pipe that it's meant for
            redirect_stdout=sys.stdout.isatty(),
        )  # fmt: skip
        self._under_way: tuple[str, TaskID, logs.Stopwatch] | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: context.Progress) -> None:
        """Take how far a step is."""
        if self._under_way is None or self._under_way[0] != step.label:
            self._end()  # a step whose total was a guess never says that it's done: the next one says it
            task = self._progress.add_task(step.label, total=step.total, visible=False, amount="", left="")
            self._under_way = (step.label, task, logs.Stopwatch())
        _, task, watch = self._under_way
        if step.total is not None and step.done >= step.total:
            self._end()
            return
        self._progress.update(
            task,
            completed=step.done,
            total=step.total,
            amount=", ".join(word for word in (step.amount, step.detail) if word),
            left=step.left,
            visible=watch.seconds > SHOW_PROGRESS_AFTER_S,
        )

    def _end(self) -> None:
        if self._under_way is not None:
            self._progress.remove_task(self._under_way[1])
            self._under_way = None


def styled(cell: object) -> Text:
    """Return a table's cell; a status has its colour."""
    words = "" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell)
    return Text(words, style=STATUS_STYLES.get(words, ""))

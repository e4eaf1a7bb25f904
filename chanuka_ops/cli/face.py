"""What every command shares: its options, its output, its way to end.

With `--json` standard output holds exactly one JSON document, also after an error; all else goes to standard error.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from chanuka_ops import config, context, logs

if TYPE_CHECKING:
    from chanuka_ops.orchestrators.database import DatabaseOrchestrator

_F = TypeVar("_F", bound=Callable[..., Any])

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


@dataclass
class Face:
    """The command line's state: where output goes, and which database is meant."""

    as_json: bool = False
    as_nagios: bool = False  # then an error is told as a plugin tells it: a line, and unknown
    database: str = "main"
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))

    def settings(self) -> config.Settings:
        """Load the settings. Errors: `ConfigurationError`."""
        return config.load()

    @contextmanager
    def opened(self) -> Iterator[DatabaseOrchestrator]:
        """Open the database that is meant, with progress shown. Errors: see `DatabaseOrchestrator.open`."""
        # a fifth of what a command needs to start, and not every one opens a database
        from chanuka_ops.orchestrators.database import DatabaseOrchestrator  # noqa: PLC0415 - as said

        with self.watched(), DatabaseOrchestrator.open(self.settings(), self.database) as orchestrator:
            yield orchestrator

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Show a bar on the terminal for each step that takes over a second."""
        verbose = logging.getLogger("chanuka_ops").isEnabledFor(logging.INFO)  # its lines would go through the bar
        if verbose or not sys.stderr.isatty():
            yield
            return
        with _Bars(self.err) as bars, context.scope(on_progress=bars.show):
            yield

    def answer(self, document: dict[str, Any]) -> None:
        """Print the one JSON document."""
        click.echo(json.dumps(document, indent=2, default=str))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table for a person; where it has no rows, say so."""
        if not rows:
            self.say(f"{title}: none")
            return
        table = Table(
            title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
        )
        for column in columns:
            justify: JustifyMethod = "right" if column in _NUMERIC else "left"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=column in _WHOLE)
        for row in rows:
            table.add_row(*(styled(cell) for cell in row))
        self.out.print(table)

    def say(self, words: str) -> None:
        """Print a sentence for a person."""
        self.out.print(Text(words))

    def warn(self, words: str) -> None:
        """Print a sentence for a person that no script reads: on standard error."""
        self.err.print(Text(words, style="yellow"))


def _console(*, stderr: bool) -> Console:
    # asked of the stream itself: FORCE_COLOR makes rich take a pipe for a terminal
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if terminal else PIPE_WIDTH)


class _Bars:
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


def _set(attribute: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        if value:
            setattr(ctx.ensure_object(Face), attribute, value)
        return value

    return callback


def common(command: _F) -> _F:
    """Give a command `--database` and `--json`, and the `Face` as its first argument."""

    @click.option(
        "--database",
        metavar="NAME",
        expose_value=False,
        is_eager=True,
        callback=_set("database"),
        help="Which database of the settings (default: main).",
    )
    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_set("as_json"),
        help="Print one JSON document.",
    )
    @click.pass_context
    @functools.wraps(command)
    def with_face(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        return command(ctx.ensure_object(Face), *args, **kwargs)

    return with_face  # type: ignore[return-value]  # click's decorators return a plain callable of the same use

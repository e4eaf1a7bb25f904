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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chanuka_ops import config, context

if TYPE_CHECKING:
    from rich.console import Console

    from chanuka_ops.cli.showing import Terminal
    from chanuka_ops.orchestrators.database import DatabaseOrchestrator

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass
class Face:
    """The command line's state: where output goes, and which database is meant."""

    as_json: bool = False
    as_nagios: bool = False  # then an error is told as a plugin tells it: a line, and unknown
    database: str = "main"

    @functools.cached_property
    def terminal(self) -> Terminal:
        """Where words for a person go. A script's JSON goes there without the library that this needs."""
        from chanuka_ops.cli.showing import Terminal  # noqa: PLC0415 - as said

        return Terminal()

    @property
    def out(self) -> Console:
        """Standard output."""
        return self.terminal.out

    @property
    def err(self) -> Console:
        """Standard error."""
        return self.terminal.err

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
        from chanuka_ops.cli.showing import Bars  # noqa: PLC0415 - a script waits for no bars

        with Bars(self.err) as bars, context.scope(on_progress=bars.show):
            yield

    def answer(self, document: dict[str, Any]) -> None:
        """Print the one JSON document."""
        click.echo(json.dumps(document, indent=2, default=str))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table for a person; where it has no rows, say so."""
        if not rows:
            self.say(f"{title}: none")
            return
        self.terminal.table(title, columns, rows)

    def say(self, words: str) -> None:
        """Print a sentence for a person."""
        self.out.print(words, markup=False, emoji=False)

    def warn(self, words: str) -> None:
        """Print a sentence for a person that no script reads: on standard error."""
        self.err.print(words, style="yellow", markup=False, emoji=False)


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

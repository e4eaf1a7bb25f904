"""A command's module is imported when the command is called: whoever asks for one waits for no other's libraries."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group some of whose commands are named only: `elsewhere` is `module:attribute` by the command's name."""

    def __init__(self, *args: Any, elsewhere: Mapping[str, str], **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self._elsewhere = dict(elsewhere)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help."""
        return sorted({*super().list_commands(ctx), *self._elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now if it wasn't yet; None where there is none of that name."""
        if cmd_name not in self.commands and cmd_name in self._elsewhere:
            module, _, attribute = self._elsewhere[cmd_name].partition(":")
            self.add_command(getattr(import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)

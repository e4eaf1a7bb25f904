"""`chanuka-ops migrate …`: which commands there are, and which need the migration process.

That process and this one each need the better part of a second to import what they work with: they do so at the same
time.
"""

from __future__ import annotations

import click

from chanuka_ops.cli.lazy import LazyGroup
from chanuka_ops.migrator.running.ahead import ahead

_CLI = "chanuka_ops.cli"
_NEED_THE_PROCESS = frozenset({"plan", "up", "down", "validate", "gate", "approve", "accept", "resolve"})
_NEED_NONE = frozenset({"--help", "-h", "--all-databases"})


class _Migrate(LazyGroup):
    """Starts the migration process before it imports a command that needs it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name."""
        if args and args[0] in _NEED_THE_PROCESS and _NEED_NONE.isdisjoint(args) and not ctx.resilient_parsing:
            ctx.with_resource(ahead())
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Migrate,
    elsewhere={
        **{name: f"{_CLI}.migrate_run:{name}" for name in ("plan", "up", "down")},
        **{name: f"{_CLI}.migrate_gate:{name}" for name in ("validate", "gate", "approve", "accept")},
        **{name: f"{_CLI}.migrate_history:{name}" for name in ("history", "resolve")},
        **{name: f"{_CLI}.migrate_{name}:{name}" for name in ("lint", "new", "rehearse")},
    },
)
def migrate() -> None:
    """Plan and run migrations."""

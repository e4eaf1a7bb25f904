"""What only a later PostgreSQL understands."""

from __future__ import annotations

from chanuka_ops.migrator.lint.world import Effects, World


def since(major: int, what: str, where: str, world: World, fx: Effects) -> None:
    """Speak where the server is older, or may be."""
    if world.version >= major:
        return
    if world.version_known:
        fx.hit("needs-newer-server", where, f"{what} is of PostgreSQL {major}, and the server's is {world.version}")
    else:
        fx.hit("may-need-newer-server", where, f"{what} is of PostgreSQL {major}")

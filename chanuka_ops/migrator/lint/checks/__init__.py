"""What each kind of statement does: its locks, its scans, and the rules that speak of it. Pure."""

from __future__ import annotations

from collections.abc import Callable

from chanuka_ops.migrator.lint.checks import (
    altering,
    data,
    dropping,
    indexes,
    making,
    renaming,
    rights,
    session,
    usertypes,
)
from chanuka_ops.migrator.lint.tree import Node
from chanuka_ops.migrator.lint.world import Effects, World

Check = Callable[[Node, World, Effects], None]

CHECKS: dict[str, Check] = {
    **indexes.CHECKS,
    **altering.CHECKS,
    **data.CHECKS,
    **dropping.CHECKS,
    **making.CHECKS,
    **renaming.CHECKS,
    **rights.CHECKS,
    **session.CHECKS,
    **usertypes.CHECKS,
}

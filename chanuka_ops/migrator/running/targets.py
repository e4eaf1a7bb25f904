"""Where a run is to end: a revision, or Alembic's other ways to name one or several."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alembic.util import CommandError

from chanuka_ops import errors
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Direction, Script
from chanuka_ops.migrator.scripts import Scripts

# heads, label@head, revision@head, label@base, label@+1, +1, -1, revision+1
_ALEMBICS = re.compile(r"heads|.+@.+|(?:.*[^+-])?[+-]\d+")


def steps(files: Scripts, current: tuple[str, ...], direction: Direction, to: str) -> list[Script]:
    """Return the revisions to run, in order.

    Errors: `ConfigurationError` for a target that no file knows or that is ambiguous, `RefusedError` for one that lies
    the other way.
    """
    known = any(script.revision.startswith(to) for script in files.scripts)
    if known or not _ALEMBICS.fullmatch(to):
        return rules.steps(files.scripts, current, direction, to)
    try:
        found = _walked(files, current, direction, to)
    except CommandError as error:
        raise errors.ConfigurationError(f"target {to!r}: {error}. Nothing was changed.") from None
    done = rules.ancestry(files.scripts, current)
    return [files.script(name) for name in found if (name in done) is (direction == "down")]


def _walked(files: Scripts, current: tuple[str, ...], direction: Direction, to: str) -> Sequence[str]:
    # Alembic's own commands call these two; it has no public name for "the steps to there".
    if direction == "up":
        walked = files.directory._upgrade_revs(to, current)  # type: ignore[arg-type]  # noqa: SLF001 - it takes several
    else:
        walked = files.directory._downgrade_revs(to, current)  # type: ignore[arg-type]  # noqa: SLF001 - as above
    return [step.revision.revision for step in walked]

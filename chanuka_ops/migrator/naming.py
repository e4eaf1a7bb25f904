"""What a new revision is called. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chanuka_ops.errors import ConfigurationError

VERSION_CHARACTERS = 32  # Alembic's column alembic_version.version_num

_NUMBERED = re.compile(r"^(?P<number>\d{3,})_[a-z0-9_]+$")


def identify(name: str, existing: Sequence[str], made: str) -> tuple[str, bool]:
    """Return the new revision's id, and whether it is of the numbered kind, as the directory's others are.

    `made` is the id to use where they aren't. Errors: `ConfigurationError` for one that the version table can't hold.

    >>> identify("add_title", ["0001_users", "0002_bills"], "3f2a")
    ('0003_add_title', True)
    >>> identify("add_title", ["ae10"], "3f2a")
    ('3f2a', False)
    """
    numbered = [_NUMBERED.match(revision) for revision in existing]
    if not all(numbered):
        return made, False
    numbers = [match["number"] for match in numbered if match]
    width = max((len(number) for number in numbers), default=4)
    revision = f"{max((int(number) for number in numbers), default=0) + 1:0{width}}_{name}"
    if len(revision) > VERSION_CHARACTERS:
        over = len(revision) - VERSION_CHARACTERS
        raise ConfigurationError(
            f"revision {revision} is {over} characters longer than the {VERSION_CHARACTERS} that Alembic's version"
            " table holds: choose a shorter name"
        )
    return revision, True

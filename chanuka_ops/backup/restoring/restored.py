"""What a restore is asked for and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from chanuka_ops.backup.answers import Mismatch
from chanuka_ops.backup.model import Document

Roles = Literal["refuse", "create", "skip"]
Way = Literal["new", "empty", "replace"]


@dataclass(frozen=True, slots=True)
class Options:
    """What of a backup is restored, and how.

    `replace` is the name of the existing database that may be replaced: whoever asks has typed it. `roles` says what
    becomes of owners and grantees that the server doesn't have: the restore is refused; they are made, without
    passwords; or owners and grants are left out, and all belongs to the role that restores.
    """

    schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    replace: str | None = None
    roles: Roles = "refuse"
    analyze: bool = True
    check: bool = True

    @property
    def whole(self) -> bool:
        """Whether all of the backup is meant."""
        return not self.schemas and not self.tables


class Ended(Document):
    """A session that was ended for the swap."""

    pid: int
    role: str
    application: str
    address: str


class Restored(Document):
    """What `backup restore` answers.

    `way`: into a new database, an existing empty one, or in the place of another, which is `old_database` now. With
    mismatches `restored` is False: nothing was put in place, and what was there is there still; but an empty database
    was restored where it is, and holds what came, as a warning says then.
    `phases` are seconds; `checks` what was looked at before it began, and how that came out.
    """

    backup_id: str
    database: str
    seconds: float
    restored: bool
    way: Way
    server_version: str
    tables: int
    rows: int
    sequences: int
    phases: dict[str, float]
    checks: dict[str, str]
    mismatches: tuple[Mismatch, ...] = ()
    left_out: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    roles_made: tuple[str, ...] = ()
    old_database: str | None = None
    ended_sessions: tuple[Ended, ...] = ()
    warnings: tuple[str, ...] = ()


class Finished(Document):
    """What `backup restore --finish` answers: the swap that an earlier restore did not come to."""

    backup_id: str
    database: str
    old_database: str | None
    restored_at: datetime
    ended_sessions: tuple[Ended, ...] = ()


class Extracted(Document):
    """What `backup extract` answers; `columns` are those of the CSV, as generated ones are in no backup."""

    backup_id: str
    table: str
    format: Literal["csv", "sql"]
    file: str
    rows: int
    bytes: int
    columns: tuple[str, ...]
    encoding: str
    seconds: float
    warnings: tuple[str, ...] = ()

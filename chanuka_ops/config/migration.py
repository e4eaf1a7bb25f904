"""How migrations are run, and what has to be known before one is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from chanuka_ops.config.databases import Seconds, Section

BlockerPolicy = Literal["wait", "cancel_own_orphans", "end_idle_in_transaction"]
# A name that needs no quotes anywhere.
PlainName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]


class MigrationSettings(Section):
    """How migrations are run."""

    script_location: Path | None = None
    lock_timeout_s: Seconds = Field(1.0, alias="lock_timeout")
    retry_deadline_s: Seconds = Field(60.0, alias="retry_deadline")
    deadline_s: Seconds = Field(3600.0, alias="deadline")
    wait_s: Seconds = Field(60.0, alias="wait")  # for another operation on the database to end
    statement_timeout_s: Seconds | None = Field(None, alias="statement_timeout")  # none: the deadline bounds it all
    blockers: BlockerPolicy = "wait"
    blockers_idle_after_s: Seconds = Field(300.0, alias="blockers_idle_after")
    journal_schema: PlainName = "chanuka_ops"

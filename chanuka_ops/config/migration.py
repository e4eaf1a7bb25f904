"""How migrations are run, and what has to be known before one is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from chanuka_ops.config.databases import Seconds, Section

BlockerPolicy = Literal["wait", "cancel_own_orphans", "end_idle_in_transaction"]
Require = Literal["never", "destructive", "always"]
"""Before which migrations: none, those that can lose data, all."""
Approvable = Literal["destructive", "blocking", "danger", "always"]
"""What a person has to approve: what can lose data, blocks for longer than allowed, lint calls a danger; everything."""
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
    on_drift: Literal["off", "warn", "refuse"] = "warn"
    # What has to be known and said before a migration; None: by the environment, see `GatePolicy`.
    require_proven_backup: Require | None = None
    require_rehearsal: Require | None = None
    approval: frozenset[Approvable] | None = None
    max_blocking_s: Seconds = Field(0.5, alias="max_blocking")
    # A statement is cancelled past so many times its predicted upper bound, or when more sessions wait (None: not).
    abort_factor: Annotated[float, Field(ge=1)] | None = 3.0
    max_blocked_sessions: Annotated[int, Field(ge=0)] | None = 100
    max_rehearsal_age_s: Seconds = Field(86400.0, alias="max_rehearsal_age")
    max_backup_age_s: Seconds = Field(129600.0, alias="max_backup_age")
    on_failure: Literal["stop", "roll_back"] = "stop"

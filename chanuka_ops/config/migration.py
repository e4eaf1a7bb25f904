"""How migrations are run, and what has to be known before one is."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chanuka_ops.config.databases import Seconds, Section


class MigrationSettings(Section):
    """How migrations are run."""

    script_location: Path | None = None
    lock_timeout_s: Seconds = Field(1.0, alias="lock_timeout")
    retry_deadline_s: Seconds = Field(60.0, alias="retry_deadline")
    deadline_s: Seconds = Field(3600.0, alias="deadline")

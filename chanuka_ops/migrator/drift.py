"""Whether the live schema is still the one that the last migration left: somebody else may have been at it.

After each run the schema's fingerprint is recorded in the journal; each plan compares. What can't be compared (no
pg_dump, another version of it than then) is said, never taken for "no drift".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from chanuka_ops import errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import fingerprint, rules
from chanuka_ops.migrator.fingerprint import SchemaFingerprint
from chanuka_ops.migrator.model import Plan
from chanuka_ops.migrator.running.journal import Journal
from chanuka_ops.postgres.binaries import Binaries

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Recorded:
    """The schema as it was after a run. `tool_major`: pg_dump's, whose words change with it."""

    at: datetime
    revision: str | None
    tool_major: int
    schema: SchemaFingerprint


class Drift:
    """The schemas of one database, recorded and live."""

    def __init__(self, manager: ConnectionManager, settings: MigrationSettings, tools: Binaries) -> None:
        self._manager = manager
        self._settings = settings
        self._tools = tools

    def record(self, revision: str | None) -> None:
        """Write down what the schema is now. Errors: `ToolFailed`, `DatabaseError`."""
        live = self._live()
        with Journal(self._manager, self._settings) as journal:
            journal.record_schema(revision, self._tools.major, live.to_json())

    def compared(self, plan: Plan) -> Plan:
        """Return the plan with the live schema in its hash, and how that differs from the recorded one as a problem.

        Where nothing was recorded yet, the plan is as it was. Errors: `ToolFailed`, `DatabaseError`.
        """
        with Journal(self._manager, self._settings) as journal:
            row = journal.newest_schema()
        if row is None:
            return plan
        then = Recorded(row.at, row.revision, row.tool_major, SchemaFingerprint.from_json(row.fingerprint))
        live = self._live()
        said = self.said(then, live, plan.current, self._tools.major)
        return rules.drifted(plan, live_sha256=live.sha256, said=said, refuses=self._settings.on_drift == "refuse")

    def seen(self) -> str | None:
        """Say how the live schema differs from the recorded one: empty where it doesn't, None where none was recorded.

        Errors: `ToolFailed`, `DatabaseError`.
        """
        with Journal(self._manager, self._settings) as journal:
            row = journal.newest_schema()
        if row is None:
            return None
        then = Recorded(row.at, row.revision, row.tool_major, SchemaFingerprint.from_json(row.fingerprint))
        return self.said(then, self._live(), then.revision, self._tools.major) or ""

    @staticmethod
    def said(then: Recorded, live: SchemaFingerprint, current: str | None, tool_major: int) -> str | None:
        """Say how the live schema differs from the recorded one, or None. Pure."""
        when = f"{then.at:%Y-%m-%d %H:%M} UTC"
        if then.revision != current:
            return (
                f"the last run recorded the database at {then.revision or rules.BASE} ({when}), and it stands at"
                f" {current or rules.BASE}: something else has migrated it since"
            )
        if (then.tool_major, then.schema.server_major) != (tool_major, live.server_major):
            return (
                f"whether the schema has drifted isn't known: it was recorded on PostgreSQL {then.schema.server_major}"
                f" by pg_dump {then.tool_major}, and looked at now on {live.server_major} by {tool_major};"
                " the next run records it anew"
            )
        found = fingerprint.differences(then.schema, live)
        if not found:
            return None
        names = ", ".join(f"{item.object} {item.kind}" for item in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"the schema isn't as the last run left it ({when}): {names}{more}"

    def _live(self) -> SchemaFingerprint:
        return fingerprint.take(
            self._manager.target(),
            self._tools,
            server_major=self._manager.probe().major,
            own_schema=self._settings.journal_schema,
            lock_timeout_s=self._settings.lock_timeout_s,
        )


def unknown(plan: Plan, reason: errors.ChanukaError, settings: MigrationSettings) -> Plan:
    """Return a plan whose drift couldn't be looked at: it says so, and its hash is another than that of a seen one."""
    said = f"whether the schema has drifted isn't known: {reason}"
    return rules.drifted(plan, live_sha256="unknown", said=said, refuses=settings.on_drift == "refuse")

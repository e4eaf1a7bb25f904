"""Whether a session that keeps a migration waiting may be ended. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from chanuka_ops.config.migration import BlockerPolicy

# As OperationContext.application_name() writes it. The operation lock is ours, so another migration's session is one
# that nobody waits for any more.
_MIGRATION = re.compile(r"chanuka/(?:.*/)?(?:migrate|rollback)/\w{1,8}")
_BACKUPS = re.compile(
    r"pg_dump|pg_dumpall|pg_basebackup|pg_receivewal|barman|pgbackrest|chanuka/(?:.*/)?(?:backup|drill)/"
)


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that holds what a migration waits for. Ages in seconds; pid 0 is a prepared transaction."""

    pid: int
    application_name: str
    role: str
    superuser: bool
    backend_type: str
    state: str
    transaction_age_s: float
    state_age_s: float
    query: str

    def words(self) -> str:
        """Say who it is."""
        if not self.pid:
            return "a prepared transaction (see pg_prepared_xacts)"
        name = f"{self.application_name}, " if self.application_name else ""
        since = f"in its transaction for {self.transaction_age_s:.0f} s"
        return f"pid {self.pid} ({name}role {self.role}, {self.state}, {since}: {self.query})"


def act_on(
    blocker: Blocker, policy: BlockerPolicy, *, idle_after_s: float, own_name: str
) -> Literal["end_orphan", "end_idle"] | None:
    """Say what the policy does about a session: end it, and why; or None, to wait.

    Never the server's own workers (an autovacuum that prevents wraparound among them), never a backup. A superuser's
    session is left alone too, unless it's an orphan of this program.
    """
    if not blocker.pid or blocker.backend_type != "client backend" or _BACKUPS.match(blocker.application_name):
        return None
    orphan = _MIGRATION.fullmatch(blocker.application_name) and blocker.application_name != own_name
    if policy == "cancel_own_orphans":
        return "end_orphan" if orphan else None
    if policy == "end_idle_in_transaction" and not blocker.superuser:
        idle = blocker.state.startswith("idle in transaction") and blocker.state_age_s >= idle_after_s
        return "end_idle" if idle else None
    return None

"""Who keeps a migration waiting. Told while it waits: after a lock timeout the server no longer knows.

The same look, on the same connection, serves whoever else minds the migration's session.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Self

from sqlalchemy import text
from sqlalchemy.engine import Connection, Row

from chanuka_ops import context, errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator.running.blocking import Blocker, act_on
from chanuka_ops.migrator.running.journal import block
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

POLL_S = 0.1
LONGEST_POLL_S = 0.5
LOOKS_PER_TIMEOUT = 5
CLOSE_TIMEOUT_S = 5.0
SHOWN = 3
BLIND_S = 1.0  # until another connection is tried

Beside = Callable[[Connection, int], None]


class BlockerWatch:
    """Looks at one session's blockers, from a thread, on a connection of its own; and does what the policy says.

    Only a session that waits for a lock has any, so an undisturbed migration costs the server next to nothing.
    """

    def __init__(self, manager: ConnectionManager, settings: MigrationSettings, beside: Beside | None = None) -> None:
        self._beside = beside
        self._poll_s = min(LONGEST_POLL_S, max(POLL_S / 2, settings.lock_timeout_s / LOOKS_PER_TIMEOUT))
        blocks = catalog.load("chanuka_ops.migrator")
        self._sql, self._end = text(blocks.sql("blockers")), text(blocks.sql("end_session"))
        self._act = block("journal_act", settings.journal_schema)
        self._manager, self._settings = manager, settings
        self._pid: int | None = None
        self._revision = ""
        self._seen = ""
        self._own_name = context.current().application_name()  # context variables don't reach the thread
        self._run_id = context.current().run_id
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        opened, connection = self._open()
        # The operation's context, and so its name on the server, is this thread's: the other gets a copy of it.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._look_on, opened, connection), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def watch(self, pid: int, revision: str) -> None:
        """Look at the session of that server process from now on."""
        self._pid, self._revision, self._seen = pid, revision, ""

    def names(self) -> str:
        """Return who blocked the session, as last seen."""
        return self._seen or "a session that was gone before it could be seen"

    def _open(self) -> tuple[ExitStack, Connection]:
        opened = ExitStack()
        return opened, opened.enter_context(self._manager.autocommit(profile=Profile.QUERY))

    def _look_on(self, opened: ExitStack, connection: Connection) -> None:
        """Look until it's over; where that fails, again on another connection."""
        while not self._looked(opened, connection):
            while not self._stop.wait(BLIND_S):
                with suppress(errors.DatabaseError):  # it was said that it can't be seen
                    opened, connection = self._open()
                    break
            else:
                return

    def _looked(self, opened: ExitStack, connection: Connection) -> bool:
        try:
            with opened:
                self._look(connection)
        except errors.DatabaseError as error:
            log.warning("who blocks, and is blocked, can't be seen: %s", error, extra={"event": "migrate.blind"})
            return False
        return True

    def _look(self, connection: Connection) -> None:
        while not self._stop.wait(self._poll_s):
            if self._pid is None:
                continue
            if self._beside is not None:
                self._beside(connection, self._pid)
            found = [_blocker(row) for row in connection.execute(self._sql, {"pid": self._pid})]
            if found:
                self._seen = "; ".join(blocker.words() for blocker in found[:SHOWN])
            for blocker in found:
                self._do(connection, blocker)

    def _do(self, connection: Connection, blocker: Blocker) -> None:
        idle_after_s = self._settings.blockers_idle_after_s
        act = act_on(blocker, self._settings.blockers, idle_after_s=idle_after_s, own_name=self._own_name)
        if act is None:
            return
        written = {
            "run_id": self._run_id,
            "revision": self._revision,
            "act": act,
            "pid": blocker.pid,
            "application_name": blocker.application_name,
            "role": blocker.role,
            "state": blocker.state,
            "age_s": blocker.transaction_age_s,
            "query": blocker.query,
        }
        connection.execute(self._act, written)  # first: an act that nobody can look up is worse than none
        connection.execute(self._end, {"pid": blocker.pid, "application_name": blocker.application_name})
        log.warning("ended %s, which kept revision %s waiting", blocker.words(), self._revision,
                    extra={"event": "migrate.blocker_ended"})  # fmt: skip


def _blocker(row: Row[Any]) -> Blocker:
    return Blocker(
        row.pid, row.application_name, row.role, row.superuser, row.backend_type, row.state, row.transaction_age_s,
        row.state_age_s, row.query,
    )  # fmt: skip

"""Who keeps a migration waiting. Told while it waits: after a lock timeout the server no longer knows."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from typing import Any, Self

from sqlalchemy import text
from sqlalchemy.engine import Connection, Row

from chanuka_ops import errors
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

POLL_S = 0.1
LONGEST_POLL_S = 0.5
LOOKS_PER_TIMEOUT = 5
CLOSE_TIMEOUT_S = 5.0
SHOWN = 3


class BlockerWatch:
    """Looks at one session's blockers, from a thread, on a connection of its own.

    It looks only while that session waits for a lock, so an undisturbed migration costs the server next to nothing.
    """

    def __init__(self, manager: ConnectionManager, *, lock_timeout_s: float) -> None:
        self._poll_s = min(LONGEST_POLL_S, max(POLL_S / 2, lock_timeout_s / LOOKS_PER_TIMEOUT))
        self._sql = text(catalog.load("chanuka_ops.migrator").sql("blockers"))
        self._manager = manager
        self._pid: int | None = None
        self._seen = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        # Opened here, not in the thread: the operation's context, and so its name on the server, is this thread's.
        opened = ExitStack()
        connection = opened.enter_context(self._manager.autocommit(profile=Profile.QUERY))
        self._thread = threading.Thread(target=self._look, args=(connection, opened), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def watch(self, pid: int) -> None:
        """Look at the session of that server process from now on."""
        self._pid, self._seen = pid, ""

    def names(self) -> str:
        """Return who blocked the session, as last seen."""
        return self._seen or "a session that was gone before it could be seen"

    def _look(self, connection: Connection, opened: ExitStack) -> None:
        try:
            with opened:
                while not self._stop.wait(self._poll_s):
                    if self._pid is None:
                        continue
                    rows = connection.execute(self._sql, {"pid": self._pid}).all()
                    if rows:
                        self._seen = "; ".join(_describe(row) for row in rows[:SHOWN])
        except errors.DatabaseError as error:
            log.warning("who blocks can't be seen: %s", error, extra={"event": "migrate.blind"})


def _describe(row: Row[Any]) -> str:
    if not row.pid:
        return "a prepared transaction (see pg_prepared_xacts)"
    name = f"{row.application_name}, " if row.application_name else ""
    since = f"in its transaction for {row.transaction_age_s:.0f} s"
    return f"pid {row.pid} ({name}role {row.role}, {row.state}, {since}: {row.query})"

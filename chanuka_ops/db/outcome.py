"""Whether a transaction whose COMMIT got no answer was committed.

PostgreSQL keeps the status of recent transactions for just this question:
https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT (pg_xact_status)
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.sql import catalog

POLL_S = 0.02
Outcome = Literal["committed", "aborted"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A transaction, and the history that its number belongs to. `xid` is None where it wrote nothing."""

    xid: str | None
    pid: int
    system_id: int
    timeline: int
    crash_mark: str | None


def identify(connection: Connection) -> Identity:
    """Ask a transaction who it is, before its COMMIT: one round trip. Errors: the driver's."""
    return Identity(*connection.execute(_sql("transaction_identity")).one())


def resolve(identity: Identity, ask: Callable[[], AbstractContextManager[Connection]], *, give_up: float) -> Outcome:
    """Find out what became of a transaction by `give_up`, a moment of the monotonic clock.

    A session that still waits for the COMMIT which never arrived is ended; one that is at work on it, as while a
    synchronous standby is waited for, is not: that could leave it committed here and nowhere else.

    Errors: `OutcomeUnknown`.
    """
    why = "the time was up"
    while True:
        try:
            with ask() as connection:
                found, why = _look(identity, connection)
        except errors.DatabaseError as error:
            found, why = None, str(error)
            if not isinstance(error, errors.ConnectError | errors.ConnectionLost | errors.PoolExhausted):
                break
        if found is not None:
            return found
        if time.monotonic() + POLL_S >= give_up or why == _OTHER_HISTORY:
            break
        time.sleep(POLL_S)
    raise errors.OutcomeUnknown(
        f"the connection broke while COMMIT was under way, and whether transaction {identity.xid} was committed could"
        f" not be found out: {why}. Ask the server: select pg_xact_status('{identity.xid}')"
    )


_OTHER_HISTORY = "the server was failed over or crashed since, so that its transaction numbers may mean others"


def _look(identity: Identity, connection: Connection) -> tuple[Outcome | None, str]:
    now = identify(connection)
    if (now.system_id, now.timeline, now.crash_mark) != (identity.system_id, identity.timeline, identity.crash_mark):
        return None, _OTHER_HISTORY
    key = {"xid": identity.xid, "pid": identity.pid}
    row = connection.execute(_sql("transaction_outcome"), key).one()
    if row.status in {"committed", "aborted"}:
        return row.status, ""
    if row.abandoned:
        connection.execute(_sql("end_abandoned"), key)
    return None, f"it is {row.status or 'too long ago'}"


@functools.cache
def _sql(name: str) -> Any:
    return text(catalog.load("chanuka_ops.db").sql(name))

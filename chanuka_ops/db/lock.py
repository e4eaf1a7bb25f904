"""The mutex of operations: an advisory lock on the target database, on a connection of its own.

Session-level, polled with `pg_try_advisory_lock`: a *waiting* `pg_advisory_lock` would deadlock with CREATE INDEX
CONCURRENTLY, would be cut by lock_timeout, and on the working connection would break Alembic's autocommit blocks.
https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile

log = logging.getLogger(__name__)

# The pair that names our lock in pg_locks: "chan" in ASCII, and 1 for "one operation at a time".
LOCK_CLASS = 0x6368616E
LOCK_OBJECT = 1
POLL_S = 0.2

_TRY = text("select pg_try_advisory_lock(:class, :object)")
_RELEASE = text("select pg_advisory_unlock(:class, :object)")
_HOLDER = text(
    "select a.pid, a.application_name, a.usename, coalesce(a.client_addr::text, 'local'), a.backend_start"
    " from pg_locks l join pg_stat_activity a using (pid)"
    " where l.locktype = 'advisory' and l.granted and l.classid = :class and l.objid = :object"
    " and l.database = (select oid from pg_database where datname = current_database())"
)
_KEY = {"class": LOCK_CLASS, "object": LOCK_OBJECT}


@contextmanager
def operation_lock(manager: ConnectionManager, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the database's operation lock for the block; wait for it at most `wait_s` seconds.

    Errors: `LockHeld` naming the holder; `ConnectionLost` if the lock's connection broke before the block ended, for
    then another operation may have run beside this one.
    """
    with manager.autocommit(profile=Profile.MAINTENANCE) as connection:
        _acquire(connection, manager.name, wait_s)
        log.debug("operation lock taken", extra={"event": "lock.taken"})
        yield
        if not connection.execute(_RELEASE, _KEY).scalar_one():
            raise errors.ConnectionLost("the operation lock was lost while the operation ran")


@contextmanager
def operation_lock_if_reachable(manager: ConnectionManager) -> Iterator[bool]:
    """Hold the database's operation lock for the block; False where its server can't be reached, with a warning.

    For what doesn't touch the database, such as a drill of its backup: that has to work while the server is down, and
    its outcome stands though the lock's connection breaks.
    Errors: `LockHeld` naming the holder.
    """
    with ExitStack() as stack:
        held = True
        try:
            stack.enter_context(operation_lock(manager))
        except errors.ConnectError as error:
            held = False
            log.warning(
                "database %r can't be asked for its operation lock: %s", manager.name, error,
                extra={"event": "lock.unreachable"},
            )  # fmt: skip
        try:
            yield held
        finally:
            try:
                stack.close()
            except errors.ConnectionLost as lost:
                log.warning("database %r: %s", manager.name, lost, extra={"event": "lock.lost"})


def _acquire(connection: Connection, name: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not connection.execute(_TRY, _KEY).scalar_one():
        if time.monotonic() >= deadline:
            holder = connection.execute(_HOLDER, _KEY).first()
            who = "a session that has just ended"
            if holder:
                pid, application, role, address, since = holder
                who = f"{application or 'a session'} (pid {pid}, role {role}, from {address}, since {since:%F %T%z})"
            raise errors.LockHeld(
                f"database {name!r}: another operation is under way: {who}; waited {wait_s:.0f} s."
                " Nothing was changed.",
                holder=who,
            )
        time.sleep(POLL_S)

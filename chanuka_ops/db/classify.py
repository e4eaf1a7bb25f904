"""What a driver's failure means: pure decisions, told what was seen.

A failure to connect carries no SQLSTATE, so there the server's reachability decides first (libpq's `PQping`, which
reads no text) and the words of the message only tell apart why a server that answers said no. Within a session the
SQLSTATE decides: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from enum import Enum

from chanuka_ops import errors


class Reachability(Enum):
    """What `PQping` found."""

    ANSWERS = "answers"
    REJECTS = "rejects"
    SILENT = "silent"


_BY_SQLSTATE: dict[str, type[errors.DatabaseError]] = {
    "28000": errors.AuthenticationFailed,
    "28P01": errors.AuthenticationFailed,
    "3D000": errors.DatabaseMissing,
    "53300": errors.TargetSaturated,
    "57P03": errors.TargetStarting,
    "42501": errors.PermissionDenied,
    "55P03": errors.LockTimeout,
    "57014": errors.StatementTimeout,
    "57P01": errors.ConnectionLost,
    "57P02": errors.ConnectionLost,
}

# The English the server uses at connect time; a server that speaks another language is told apart no further than
# ConnectError, which is honest: it answered, and it said no.
_SAID: tuple[tuple[str, type[errors.ConnectError]], ...] = (
    ("password authentication failed", errors.AuthenticationFailed),
    ("no password supplied", errors.AuthenticationFailed),
    ("pg_hba.conf", errors.AuthenticationFailed),
    ("authentication failed", errors.AuthenticationFailed),
    ("too many", errors.TargetSaturated),
    ("connection slots are reserved", errors.TargetSaturated),
)


def of_connect(reachability: Reachability, message: str, database: str) -> type[errors.ConnectError]:
    """Say which connect failure this is."""
    if reachability is Reachability.SILENT:
        return errors.TargetUnavailable
    if reachability is Reachability.REJECTS:
        return errors.TargetStarting
    for words, kind in _SAID:
        if words in message:
            return kind
    if f'database "{database}" does not exist' in message:
        return errors.DatabaseMissing
    if 'role "' in message and "does not exist" in message:
        return errors.AuthenticationFailed
    return errors.ConnectError


def of_sqlstate(sqlstate: str | None, *, connection_closed: bool) -> type[errors.DatabaseError]:
    """Say what a failure within a session means."""
    kind = _BY_SQLSTATE.get(sqlstate or "")
    if kind is not None:
        return kind
    if connection_closed or (sqlstate or "").startswith("08"):
        return errors.ConnectionLost
    return errors.DatabaseError


def may_retry_transaction(sqlstate: str | None) -> bool:
    """Tell whether a whole transaction that failed so may run again: it was rolled back, and another try can differ.

    55P03 lock not available, 40P01 deadlock, 40001 serialisation failure.
    """
    return sqlstate in {"55P03", "40P01", "40001"}

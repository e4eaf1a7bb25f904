"""What a failure means: pure decisions over the phase it came in and what was seen. No text is read.

A failure to connect has a SQLSTATE only where the server said one (libpq is asked to show it, see `connecting`); where
the server said nothing, the stage that was reached tells. Within a session the SQLSTATE says what happened, and the
phase what may be done about it: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chanuka_ops import errors


class Stage(Enum):
    """How far an attempt to connect came before it failed without a word from the server."""

    NAME = "name"  # the host's name doesn't resolve, or not in time
    REFUSED = "refused"  # the host answers, nobody listens on that port or socket
    REACH = "reach"  # no answer to the first packet, or no way there
    SILENT = "silent"  # somebody accepts, and says nothing
    TLS = "tls"  # the handshake of TLS failed
    PASSWORD = "password"  # noqa: S105 - the server asks for a password and none is configured
    CLOSED = "closed"  # it hung up in mid-handshake: it is going down, or a proxy without a server


class Phase(Enum):
    """When a failure came: that, and not the SQLSTATE alone, decides what may be repeated."""

    CONNECT = "connect"
    IN_TRANSACTION = "in transaction"
    COMMIT = "commit"
    AUTOCOMMIT = "autocommit"


class FailureClass(Enum):
    """What a circuit breaker counts apart: a full server is not a dead one, and a wrong password is neither."""

    AVAILABILITY = "availability"
    SATURATION = "saturation"
    AUTHENTICATION = "authentication"


class Retry(Enum):
    """What may be done again."""

    NEVER = "never"
    CONNECT = "connect"  # nothing was sent: connect again
    NEW_SECRET = "new secret"  # noqa: S105 - once, if the secret has changed since
    TRANSACTION = "transaction"  # it was rolled back: the whole of it, with the logic that made its statements
    REDISCOVER = "rediscover"  # nothing was applied: find the primary, then the whole of it
    IF_IDEMPOTENT = "if idempotent"  # rolled back with the session; what else the caller did is the caller's to say
    RESOLVE = "resolve"  # it may have been committed: ask before anything else


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a failure is, what may be repeated, and which breaker counts it."""

    kind: type[errors.DatabaseError]
    retry: Retry = Retry.NEVER
    counts: FailureClass | None = None


_STAGES: dict[Stage, Meaning] = {
    **dict.fromkeys(
        (Stage.NAME, Stage.REFUSED, Stage.REACH, Stage.SILENT, Stage.CLOSED),
        Meaning(errors.TargetUnavailable, Retry.CONNECT, FailureClass.AVAILABILITY),
    ),
    Stage.TLS: Meaning(errors.TlsFailed),
    Stage.PASSWORD: Meaning(errors.AuthenticationFailed, Retry.NEW_SECRET, FailureClass.AUTHENTICATION),
}

_CONNECT: dict[str, Meaning] = {
    **dict.fromkeys(
        ("28000", "28P01"),
        Meaning(errors.AuthenticationFailed, Retry.NEW_SECRET, FailureClass.AUTHENTICATION),
    ),
    "53300": Meaning(errors.TargetSaturated, Retry.CONNECT, FailureClass.SATURATION),
    "57P03": Meaning(errors.TargetStarting, Retry.CONNECT, FailureClass.AVAILABILITY),
    # it is shutting down while we knock
    **dict.fromkeys(("57P01", "57P02"), Meaning(errors.TargetUnavailable, Retry.CONNECT, FailureClass.AVAILABILITY)),
    "3D000": Meaning(errors.DatabaseMissing),
}

_SESSION: dict[str, type[errors.DatabaseError]] = {
    "25006": errors.ReadOnlyServer,
    "25P03": errors.ConnectionLost,  # idle in transaction for too long: the session was ended
    "42501": errors.PermissionDenied,
    "55P03": errors.LockTimeout,
    "57014": errors.StatementTimeout,
    "57P01": errors.ConnectionLost,
    "57P02": errors.ConnectionLost,
    "57P05": errors.ConnectionLost,  # idle for too long
}
_ROLLED_BACK = frozenset({"40001", "40P01"})  # serialisation failure, deadlock
# ended for our own delay, or by somebody's command: no sign of a server in trouble (one that goes down says so next)
_ENDED = frozenset({"25P03", "57P01", "57P05"})


def of_stage(stage: Stage) -> Meaning:
    """Say what an attempt to connect means that failed without a SQLSTATE."""
    return _STAGES[stage]


def of_connect(sqlstate: str) -> Meaning:
    """Say what the server's own refusal of a connection means."""
    known = _CONNECT.get(sqlstate)
    if known is not None:
        return known
    if sqlstate.startswith("28"):
        return Meaning(errors.AuthenticationFailed, Retry.NEW_SECRET, FailureClass.AUTHENTICATION)
    if sqlstate.startswith("53"):  # out of memory, disk full: it answers, and has no room
        return Meaning(errors.TargetSaturated, Retry.NEVER, FailureClass.SATURATION)
    return Meaning(errors.ConnectError)


def of_session(sqlstate: str | None, *, lost: bool, phase: Phase) -> Meaning:
    """Say what a failure within a session means. `lost`: the connection is of no use any more."""
    kind = _SESSION.get(sqlstate or "", errors.DatabaseError)
    if sqlstate == "25006":
        return Meaning(kind, Retry.REDISCOVER)
    if sqlstate in _ROLLED_BACK:
        # a standby that cancels for a recovery conflict ends the session too: it is rolled back all the same
        return Meaning(kind, Retry.NEVER if phase is Phase.AUTOCOMMIT else Retry.TRANSACTION)
    in_doubt = sqlstate is not None and (sqlstate.startswith("08") or sqlstate == "40003")
    if lost or in_doubt or issubclass(kind, errors.ConnectionLost):
        kind = kind if issubclass(kind, errors.ConnectionLost) else errors.ConnectionLost
        counts = None if sqlstate in _ENDED else FailureClass.AVAILABILITY
        return Meaning(kind, _AFTER_LOSS[phase], counts)
    return Meaning(kind)


_AFTER_LOSS = {
    Phase.CONNECT: Retry.CONNECT,
    Phase.IN_TRANSACTION: Retry.IF_IDEMPOTENT,
    Phase.COMMIT: Retry.RESOLVE,
    Phase.AUTOCOMMIT: Retry.NEVER,  # DDL and VACUUM: whoever sent it looks what became of it
}

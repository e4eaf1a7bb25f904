"""The whole error tree. Each class knows its exit code; no driver is imported here.

::

    ChanukaError ............................ 1  failed
    ├── ConfigurationError .................. 2  a key, a value or an argument is wrong
    │   ├── ServerMissing                        no database is configured and none can be embedded
    │   ├── ToolMissing                          no PostgreSQL program of a fitting major was found
    │   └── BackupNotFound                       no backup of that id in the store
    ├── RefusedError ........................ 3  a guard said no; nothing was changed
    │   ├── LockHeld                             another operation works on that database
    │   ├── ToolTooOld                           pg_dump is older than the server
    │   ├── HeadsConflict                        several migration heads: which one is meant?
    │   ├── NestedTransaction                    a transaction in a transaction: a savepoint, or another manager?
    │   └── PoolerUnfit                          what was asked for can't work through a transaction pooler
    ├── OutcomeUnknown ...................... 4  it may or may not have happened; the message says how to find out
    ├── Interrupted ......................... 1  Ctrl-C or SIGTERM: stopped and cleaned up
    ├── DatabaseError ....................... 1  the server said no
    │   ├── ConnectError                         no connection came about
    │   │   ├── TargetUnavailable                nobody answers there
    │   │   ├── TargetStarting                   it starts up, shuts down or recovers
    │   │   ├── TargetSaturated                  no connection slot is free
    │   │   ├── AuthenticationFailed             wrong role or password
    │   │   ├── DatabaseMissing                  the server is there, the database isn't
    │   │   ├── TlsFailed                        no trustworthy encryption came about
    │   │   ├── CircuitOpen                      it failed just now, so it is left alone for a while
    │   │   └── NotPrimary                       no server that takes writes was found
    │   ├── ConnectionLost                       it broke in mid-work
    │   │   └── DeadlineExceeded                 the peer fell silent: given up at the client's own deadline
    │   ├── ReadOnlyServer                       a write met a standby: the primary is another by now
    │   ├── ReplicaTooStale                      no node could be proved to hold what was written before
    │   ├── PermissionDenied                     the role may not
    │   ├── LockTimeout                          a lock was not granted in time
    │   ├── StatementTimeout                     a statement ran past its limit, or was cancelled
    │   ├── PoolExhausted                        every connection of this process is in use
    │   └── ManagerClosed                        it is closing or closed: nothing new is begun
    ├── ToolFailed .......................... 1  pg_dump, pg_restore, initdb … ended badly
    ├── ServerError ......................... 1  an embedded or scratch server didn't start or stop
    ├── MigrationFailed ..................... 1
    │   └── MigrationAborted                     it did more harm than was allowed, so it was cancelled
    ├── KeepingError ........................ 1  a file of the state directory can't be read or written
    ├── StoreError .......................... 1  a backup store can't be read or written
    ├── BackupDamaged ....................... 1  a backup doesn't hold what its manifest says
    ├── DecryptionFailed .................... 1  no secret key fits, or what is encrypted isn't whole
    └── DrillFailed ......................... 1  the restored copy didn't hold the source's data
"""

from __future__ import annotations


class ChanukaError(Exception):
    """Something went wrong; the message says what, which object, which number, and what to do next."""

    exit_code = 1

    transient = False
    """Whether the same may go well by itself a little later: nothing was begun, or it was undone."""


class ConfigurationError(ChanukaError):
    """A key, a value or an argument is wrong."""

    exit_code = 2


class ServerMissing(ConfigurationError):
    """No database is configured and no embedded server can be started."""


class ToolMissing(ConfigurationError):
    """No PostgreSQL program of a fitting major version was found."""


class BackupNotFound(ConfigurationError):
    """No backup of that id is in the store."""


class RefusedError(ChanukaError):
    """A guard said no; nothing was changed."""

    exit_code = 3


class LockHeld(RefusedError):
    """Another operation works on that database; the message names the holder, and so does `holder`."""

    def __init__(self, message: str, *, holder: str = "another operation") -> None:
        super().__init__(message)
        self.holder = holder


class ToolTooOld(RefusedError):
    """The client program is older than the server, so its dump could not be trusted."""


class HeadsConflict(RefusedError):
    """The migrations have several heads; which one is meant is a person's decision."""


class NestedTransaction(RefusedError):
    """A transaction was begun within another of the same manager and thread."""


class PoolerUnfit(RefusedError):
    """What was asked for needs a session of its own, which a transaction pooler doesn't give."""


class OutcomeUnknown(ChanukaError):
    """It may or may not have happened."""

    exit_code = 4


class Interrupted(ChanukaError):
    """Ctrl-C or SIGTERM: everything started was stopped."""


class DatabaseError(ChanukaError):
    """The server said no.

    `sqlstate` is PostgreSQL's five-character code, where there was one; `retry_after_s` says when another try may be
    worth it, where that is known.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.retry_after_s = retry_after_s


class ConnectError(DatabaseError):
    """No connection came about."""


class TargetUnavailable(ConnectError):
    """Nobody answers at that address."""

    transient = True


class TargetStarting(ConnectError):
    """The server starts up, shuts down or recovers."""

    transient = True


class TargetSaturated(ConnectError):
    """No connection slot is free on the server."""

    transient = True


class AuthenticationFailed(ConnectError):
    """Wrong role or password, or no rule of pg_hba.conf fits."""


class DatabaseMissing(ConnectError):
    """The server is there, the database is not."""


class TlsFailed(ConnectError):
    """The server's certificate is not trusted, is another host's, or the server doesn't speak TLS."""


class CircuitOpen(ConnectError):
    """The target failed just now, here or in another process of this host, and is left alone until `retry_after_s`."""

    transient = True


class NotPrimary(ConnectError):
    """None of the configured servers takes writes."""

    transient = True


class ConnectionLost(DatabaseError):
    """The connection broke in mid-work."""


class DeadlineExceeded(ConnectionLost):
    """The peer fell silent, though its kernel may still acknowledge: the connection was given up."""


class ReadOnlyServer(DatabaseError):
    """A write reached a server that is read only: it is a standby, or was demoted."""


class ReplicaTooStale(DatabaseError):
    """No node could be proved to hold the data that the consistency token stands for."""


class PermissionDenied(DatabaseError):
    """The role may not do that."""


class LockTimeout(DatabaseError):
    """A lock was not granted in time."""


class StatementTimeout(DatabaseError):
    """A statement ran past its limit or was cancelled."""


class PoolExhausted(DatabaseError):
    """Every connection this process may open is in use; the message names the lines that hold them."""


class ManagerClosed(DatabaseError):
    """The manager is closing, or closed."""


class ToolFailed(ChanukaError):
    """A PostgreSQL program ended badly; carries its exit status and the end of what it said."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ServerError(ChanukaError):
    """An embedded or scratch server did not start or stop."""


class MigrationFailed(ChanukaError):
    """A migration did not go through."""


class MigrationAborted(MigrationFailed):
    """A migration's statement was cancelled: it ran far longer than predicted, or blocked too many sessions."""


class KeepingError(ChanukaError):
    """A file of the state directory can't be read or written."""


class StoreError(ChanukaError):
    """A backup store can't be read or written."""


class BackupDamaged(ChanukaError):
    """A backup doesn't hold what its manifest says."""


class DecryptionFailed(ChanukaError):
    """A backup's file can't be decrypted: no secret key fits, or what is encrypted isn't whole."""


class DrillFailed(ChanukaError):
    """The restored copy did not hold the source's data."""

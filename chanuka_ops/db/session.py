"""One transaction on one connection: begun as asked, ended whatever happens, its failures counted where they belong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from psycopg.pq import TransactionStatus
from sqlalchemy import text
from sqlalchemy.engine import Connection, RootTransaction

from chanuka_ops import errors
from chanuka_ops.db import classify, engines, parameters
from chanuka_ops.db.classify import Phase, Retry
from chanuka_ops.db.cluster import Cluster
from chanuka_ops.db.node import Borrowed
from chanuka_ops.db.parameters import Profile

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@dataclass(slots=True)  # frozen, it would take twice as long to make, for each transaction
class Options:
    """How a transaction is begun."""

    isolation: Isolation | None = None
    read_only: bool = False
    deferrable: bool = False
    profile: Profile = Profile.QUERY
    lock_timeout_s: float | None = None
    deadline_s: float | None = None


class work:  # noqa: N801 - used as a function; it is entered for each transaction, and a generator costs more
    """Get a connection, run a transaction on it, and give it back.

    Errors: `OutcomeUnknown` where COMMIT got no answer; `DatabaseError` and below.
    """

    __slots__ = ("_acquire", "_borrowed", "_cluster", "_doubt", "_options", "_transaction")

    _borrowed: Borrowed
    _transaction: RootTransaction

    def __init__(self, acquire: Callable[[], Borrowed], options: Options, cluster: Cluster) -> None:
        self._acquire, self._options, self._cluster = acquire, options, cluster
        self._doubt: errors.OutcomeUnknown | None = None

    def __enter__(self) -> Connection:
        self._borrowed = borrowed = self._acquire()
        begun = False
        try:
            with counted(borrowed, self._cluster), engines.translated():
                self._transaction = _opened(borrowed, self._options)
            begun = True
        finally:
            if not begun:
                borrowed.node.give_back(borrowed)
        return borrowed.connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        theirs = error if error is not None and engines.driver_error(error) is None else None
        try:
            with counted(self._borrowed, self._cluster), engines.translated():
                if error is not None:
                    self._roll_back(error)
                    raise error
                self._commit()
        except errors.ConnectionLost:
            if theirs is None and self._doubt is None:
                raise
        finally:
            self._borrowed.node.give_back(self._borrowed)
        if theirs is not None:  # the rollback got no answer, which must not hide why there was one
            raise theirs
        if self._doubt is not None:
            raise self._doubt

    def _roll_back(self, error: BaseException) -> None:
        stop_if_interrupted(self._borrowed, error)
        self._transaction.__exit__(type(error), error, error.__traceback__)

    def _commit(self) -> None:
        if self._options.read_only:
            self._transaction.__exit__(None, None, None)
            return
        try:
            _refuse_if_failed(self._borrowed)
        except errors.DatabaseError as refused:
            self._transaction.__exit__(type(refused), refused, refused.__traceback__)
            raise
        try:
            self._transaction.__exit__(None, None, None)
        except Exception as error:
            self._doubt = _doubt(self._borrowed, error)
            raise


def _refuse_if_failed(borrowed: Borrowed) -> None:
    """Commit nothing that failed: the server would answer that COMMIT with a ROLLBACK, and no error."""
    if borrowed.raw.pgconn.transaction_status == TransactionStatus.INERROR:
        raise errors.DatabaseError(
            "a statement failed and the block went on as if it had not: nothing was committed. For a part that may"
            " fail by itself, use savepoint()",
            sqlstate="25P02",
        )


def _doubt(borrowed: Borrowed, error: Exception) -> errors.OutcomeUnknown | None:
    """Say that nobody knows what became of a COMMIT, where the failure leaves that open."""
    driven = engines.driver_error(error)
    if driven is None or engines.meaning_of(driven, Phase.COMMIT).retry is not Retry.RESOLVE:
        return None
    borrowed.node.metrics.count("commits_in_doubt")
    return errors.OutcomeUnknown(
        f"COMMIT on {borrowed.node.name} got no answer ({engines.translate(driven)}): the transaction may or may not"
        " have been committed"
    )


def _opened(borrowed: Borrowed, options: Options) -> RootTransaction:
    borrowed.raw.block_deadline = moment(options.deadline_s)
    # None and not False: READ WRITE is refused by a standby for another reason (0A000), and outvotes an administrator's
    # default_transaction_read_only; it stays so, as whoever has the connection next says for himself
    wanted = True if options.read_only else None
    if borrowed.raw.read_only is not wanted:
        borrowed.raw.read_only = wanted
    stated: dict[str, object] = {}
    if options.isolation is not None:
        stated["isolation_level"] = options.isolation
    if options.deferrable:
        stated["postgresql_deferrable"] = True
    if stated:  # undone by SQLAlchemy when the connection is given back; it costs as much as all the rest
        borrowed.connection.execution_options(**stated)
    transaction = borrowed.connection.begin()
    transaction.__enter__()  # from here on SQLAlchemy refuses work after a commit() or rollback() of the block's own
    if borrowed.node.settings.pooler == "transaction":
        borrowed.raw.statement_s = parameters.statement_s(borrowed.node.settings, options.profile) or None
        settings = parameters.session_settings(
            borrowed.node.settings, options.profile, lock_timeout_s=options.lock_timeout_s
        )
        named = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
        borrowed.connection.execute(text(f"select {named}"))
    return transaction


def moment(deadline_s: float | None) -> float | None:
    """Return the moment of the monotonic clock that many seconds from now."""
    return None if deadline_s is None else time.monotonic() + deadline_s


class counted:  # noqa: N801 - used as a function
    """Have a failure of the server within the block count against it, and a demoted primary be forgotten."""

    __slots__ = ("_borrowed", "_cluster")

    def __init__(self, borrowed: Borrowed, cluster: Cluster) -> None:
        self._borrowed, self._cluster = borrowed, cluster

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        node, closed = self._borrowed.node, error is not None and self._borrowed.raw.closed
        if isinstance(error, errors.ReadOnlyServer) and not self._borrowed.raw.read_only:
            self._cluster.forget_writer(node)
        elif isinstance(error, errors.DeadlineExceeded) and closed:  # where it isn't, it was another server's
            node.metrics.count("deadlines")
            node.failed(classify.FailureClass.AVAILABILITY)
            self._cluster.forget_writer(node)
        elif isinstance(error, errors.ConnectionLost) and closed:
            node.metrics.count("lost")
            node.failed(classify.of_session(error.sqlstate, lost=True, phase=Phase.IN_TRANSACTION).counts)


def stop_if_interrupted(borrowed: Borrowed, error: BaseException) -> None:
    """Cancel what an interrupt left running, before anything else is asked of the connection.

    SQLAlchemy's own statements were cancelled by their engine; this is for what runs beside it, as COPY does.
    """
    interrupted = not isinstance(error, Exception) and not borrowed.connection.invalidated
    if interrupted and engines.cancel(borrowed.raw):
        borrowed.connection.invalidate()

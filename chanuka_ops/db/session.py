"""One transaction on one connection: begun as asked, ended whatever happens, its failures counted where they belong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import text
from sqlalchemy.engine import Connection, RootTransaction

from chanuka_ops import errors
from chanuka_ops.db import classify, engines, parameters
from chanuka_ops.db.classify import Phase, Retry
from chanuka_ops.db.cluster import Cluster
from chanuka_ops.db.node import CLEAN_UP_S, Borrowed
from chanuka_ops.db.parameters import Profile

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a transaction is begun."""

    isolation: Isolation | None = None
    read_only: bool = False
    deferrable: bool = False
    profile: Profile = Profile.QUERY
    lock_timeout_s: float | None = None
    deadline_s: float | None = None


@contextmanager
def work(borrowed: Borrowed, options: Options, cluster: Cluster) -> Iterator[Connection]:
    """Run a transaction on a connection, and give the connection back.

    Errors: `OutcomeUnknown` where COMMIT got no answer; `DatabaseError` and below.
    """
    doubt: errors.OutcomeUnknown | None = None
    committing = False
    try:
        with counted(borrowed, cluster), engines.translated():
            try:
                with _opened(borrowed, options):
                    try:
                        yield borrowed.connection
                    except BaseException as error:
                        stop_if_interrupted(borrowed, error)
                        borrowed.raw.block_deadline = time.monotonic() + CLEAN_UP_S  # for the rollback
                        raise
                    committing = True
            except Exception as error:
                if committing and not options.read_only:
                    doubt = _doubt(borrowed, error)
                raise
    except errors.ConnectionLost:
        if doubt is None:
            raise
    finally:
        borrowed.node.give_back(borrowed)
    if doubt is not None:
        raise doubt


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
    stated: dict[str, object] = {"postgresql_readonly": options.read_only}
    if options.isolation is not None:
        stated["isolation_level"] = options.isolation
    if options.deferrable:
        stated["postgresql_deferrable"] = True
    transaction = borrowed.connection.execution_options(**stated).begin()
    if borrowed.node.settings.pooler == "transaction":
        settings = parameters.session_settings(
            borrowed.node.settings, options.profile, lock_timeout_s=options.lock_timeout_s
        )
        named = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
        borrowed.connection.execute(text(f"select {named}"))
    return transaction


def moment(deadline_s: float | None) -> float | None:
    """Return the moment of the monotonic clock that many seconds from now."""
    return None if deadline_s is None else time.monotonic() + deadline_s


@contextmanager
def counted(borrowed: Borrowed, cluster: Cluster) -> Iterator[None]:
    """Have a failure of the server count against it, and a demoted primary be forgotten."""
    try:
        yield
    except errors.DeadlineExceeded:
        if not borrowed.raw.closed:  # another server's
            raise
        borrowed.node.metrics.count("deadlines")
        borrowed.node.failed(classify.FailureClass.AVAILABILITY)
        cluster.forget_writer(borrowed.node)
        raise
    except errors.ConnectionLost as error:
        if not borrowed.raw.closed:
            raise
        borrowed.node.metrics.count("lost")
        borrowed.node.failed(classify.of_session(error.sqlstate, lost=True, phase=Phase.IN_TRANSACTION).counts)
        raise
    except errors.ReadOnlyServer:
        cluster.forget_writer(borrowed.node)
        raise


def stop_if_interrupted(borrowed: Borrowed, error: BaseException) -> None:
    """Cancel what an interrupt left running, before anything else is asked of the connection.

    SQLAlchemy's own statements were cancelled by their engine; this is for what runs beside it, as COPY does.
    """
    interrupted = not isinstance(error, Exception) and not borrowed.connection.invalidated
    if interrupted and engines.cancel(borrowed.raw):
        borrowed.connection.invalidate()

"""What a revision sends to the server, statement by statement, as it is sent.

Alembic's operations, `op.execute` and a revision's own `op.get_bind().execute` all pass here: SQLAlchemy tells of each.
What isn't told by it (a COMMIT that a revision sends as text) is a statement like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, ExceptionContext, ExecutionContext

log = logging.getLogger(__name__)

HELPER = "chanuka_helper"  # in Connection.info while one of migrator.operations is at work


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement on its way. `step` counts from 1 within the attempt; `autocommit`: it commits by itself.

    `helper`: one of `migrator.operations` sends it, which looks itself what is done already. So a rerun sends all of
    them again, in whatever number that takes: a resume leaves them alone.
    """

    step: int
    sql: str
    parameters: Any
    autocommit: bool
    helper: bool = False


class Observer(Protocol):
    """Who is told. Each is told in the order it was given; what it raises ends the revision."""

    def before(self, statement: Sent) -> str | None:
        """Look before it is sent; return what is to be sent in its place, or None to leave it."""

    def after(self, statement: Sent, rows: int) -> None:
        """Look after it succeeded. `rows` is the server's count, -1 where it gave none."""

    def failed(self, statement: Sent, error: BaseException) -> None:
        """Look after it failed. Not told when the connection was never reached."""

    def committing(self) -> None:
        """Look before the open transaction commits (not at each statement of an autocommit block)."""

    def committed(self) -> None:
        """Look after it committed."""

    def rolled_back(self) -> None:
        """Look after it was rolled back."""


@contextmanager
def wired(connection: Connection) -> Iterator[Wire]:
    """Listen to the connection for the block; `Wire.told` says who is told."""
    wire = Wire(connection)
    listeners: tuple[tuple[Connection | Dialect, str, Callable[..., Any], dict[str, bool]], ...] = (
        (connection, "before_cursor_execute", wire.before, {"retval": True}),
        (connection, "after_cursor_execute", wire.after, {}),
        (connection.dialect, "handle_error", wire.failed, {}),  # no connection has one of its own
        (connection, "commit", wire.committing, {}),
        (connection, "rollback", wire.rolled_back, {}),
    )
    for target, name, function, options in listeners:
        event.listen(target, name, function, **options)
    try:
        yield wire
    finally:
        for target, name, function, _ in listeners:
            event.remove(target, name, function)


class Wire:
    """Counts what a connection sends, and passes it on to whoever is told at the time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._observers: Sequence[Observer] = ()
        self._step = 0
        self._under_way: Sent | None = None
        self._committing = False

    @contextmanager
    def told(self, observers: Sequence[Observer]) -> Iterator[None]:
        """Tell the observers of every statement for the block, the first of which is its step 1."""
        self._observers, self._step, self._under_way, self._committing = observers, 0, None, False
        try:
            yield
            self.settle()
        finally:
            self._observers = ()

    def before(
        self,
        connection: Connection,
        _cursor: Any,
        sql: str,
        parameters: Any,
        _ctx: ExecutionContext | None,
        _many: bool,  # noqa: FBT001 - SQLAlchemy's signature
    ) -> tuple[str, Any]:
        """Tell of a statement; return what is to be sent, with its values."""
        self.settle()
        self._step += 1
        helper = bool(connection.info.get(HELPER))
        statement = Sent(self._step, sql, parameters, _commits_by_itself(connection), helper)
        for observer in self._observers:
            replacement = observer.before(statement)
            if replacement is not None:
                sql, parameters = replacement, ()
        self._under_way = statement
        return sql, parameters

    def after(
        self,
        _connection: Connection,
        cursor: Any,
        _sql: str,
        _parameters: Any,
        _ctx: ExecutionContext | None,
        _many: bool,  # noqa: FBT001 - SQLAlchemy's signature
    ) -> None:
        """Tell that it succeeded."""
        statement, self._under_way = self._under_way, None
        if statement is not None:
            for observer in self._observers:
                observer.after(statement, cursor.rowcount)

    def failed(self, failure: ExceptionContext) -> None:
        """Tell that it failed."""
        if failure.connection is not self._connection:
            return
        self._committing = False
        statement, self._under_way = self._under_way, None
        if statement is not None:
            for observer in self._observers:
                observer.failed(statement, failure.original_exception)

    def committing(self, _: Connection) -> None:
        """Tell that the transaction is about to be committed."""
        for observer in self._observers:
            observer.committing()
        self._committing = True

    def rolled_back(self, _: Connection) -> None:
        """Tell that it was rolled back."""
        self._committing = False
        for observer in self._observers:
            observer.rolled_back()

    def settle(self) -> None:
        """Tell that a commit succeeded: SQLAlchemy tells of one only before; if it fails, `failed` comes."""
        if self._committing:
            self._committing = False
            for observer in self._observers:
                observer.committed()


def _commits_by_itself(connection: Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"

"""Running a plain SQL script as psql would, with each statement traced.

BEGIN … COMMIT is one transaction, all else runs statement by statement, and so do sections that `-- @tx` and
`-- @autocommit` begin. A statement by itself runs in a transaction of its own, so that its locks are still there to be
seen, unless the server says that it can't. The first error ends it: what psql would go on to do isn't what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.db import engines
from chanuka_ops.db.classify import Phase
from chanuka_ops.migrator.lint.lexer import pieces
from chanuka_ops.migrator.rehearsal.tracer import Tracer
from chanuka_ops.migrator.running.statements import Sent

_MARK = re.compile(r"^--\s*@(?P<mark>tx|autocommit)\s*$", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+", re.IGNORECASE)
_CONTROL = {"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"}
_NEEDS_TRANSACTION = {"lock", "declare"}  # by themselves they fail, and so they should here
_HARMLESS = {"\\echo", "\\timing", "\\set", "\\pset", "\\restrict", "\\unrestrict", "\\encoding", "\\x", "\\a", "\\t"}
_COPY = re.compile(r"^copy\b.*\bfrom\s+stdin\b", re.IGNORECASE | re.DOTALL)
_NOT_IN_TRANSACTION = {"25001", "2D000", "0A000"}  # active transaction, invalid termination, not supported in one
_IDLE = 0


@dataclass(frozen=True, slots=True)
class Order:
    """One thing to do: a statement, or the begin ("@tx") or end ("@end") of a section's transaction."""

    sql: str
    line: int

    @property
    def is_statement(self) -> bool:
        """Whether it's neither a section's mark nor about transactions."""
        return not self.control and not self.sql.startswith("@")

    @property
    def control(self) -> bool:
        """Whether it begins or ends a transaction, or marks a place in one."""
        found = _WORD.match(self.sql)
        word = found[0].lower() if found else ""
        return word in _CONTROL and not (word == "prepare" and not self.sql.lower().startswith("prepare transaction"))


def read(text: str) -> list[Order]:
    """Cut a script into what is to be done.

    Errors: `ConfigurationError` for what only psql can do, naming the line.
    """
    orders: list[Order] = []
    managed = False
    for piece in pieces(text):
        if piece.kind == "comment":
            mark = _MARK.match(piece.text)
            if mark is not None:
                orders += [Order("@end", piece.line)] if managed else []
                managed = mark["mark"].lower() == "tx"
                orders += [Order("@tx", piece.line)] if managed else []
        elif piece.kind == "command":
            if piece.text.split()[0] not in _HARMLESS:
                raise errors.ConfigurationError(
                    f"line {piece.line}: {piece.text.split()[0]} is a command of psql, which a rehearsal can't run:"
                    " rehearse the SQL that it stands for"
                )
        elif _COPY.match(piece.text):
            raise errors.ConfigurationError(f"line {piece.line}: COPY … FROM STDIN can't be rehearsed: use INSERT")
        else:
            orders.append(Order(piece.text, piece.line))
    return [*orders, Order("@end", 0)] if managed else orders


class Script:
    """Runs a script's orders on one connection, which has no transaction open; each may take `limit_s`."""

    def __init__(self, connection: Connection, tracer: Tracer, *, limit_s: float) -> None:
        self._connection = connection
        self._raw = engines.driver_connection(connection)
        self._raw.autocommit = True
        self._raw.prepare_threshold = None
        self._tracer = tracer
        self._step = 0
        self._send(f"set statement_timeout = {round(limit_s * 1000)}")

    def run(self, orders: Sequence[Order]) -> tuple[str | None, int]:
        """Run them; return the error that ended it, if one did, and how many statements were not come to.

        Errors: `ConnectError`, `ConnectionLost`: the copy's server is gone.
        """
        for number, order in enumerate(orders):
            try:
                self._one(order)
            except errors.ConnectionLost:
                raise
            except errors.DatabaseError as error:
                if not self._idle:
                    self._send("rollback")
                left = [later for later in orders[number + 1 :] if later.is_statement]
                return f"line {order.line}: {error}", len(left)
        if not self._idle:  # psql's end of input: the transaction is given up
            self._send("rollback")
        return None, 0

    @property
    def _idle(self) -> bool:
        return int(self._raw.info.transaction_status) == _IDLE

    def _one(self, order: Order) -> None:
        self._tracer.line = order.line
        if order.sql == "@tx":
            self._send("begin")
        elif order.sql == "@end":
            if not self._idle:
                self._send("commit")
                self._tracer.committed()
        elif order.control:
            self._control(order)
        elif self._idle:
            self._alone(order)
        else:
            self._traced(order, autocommit=False)

    def _control(self, order: Order) -> None:
        try:
            self._send(order.sql)
        except errors.DatabaseError as error:
            self._step += 1
            sent = Sent(self._step, order.sql, None, autocommit=False)
            self._tracer.refused(sent, error)
            raise
        if self._idle:
            self._tracer.committed()

    def _alone(self, order: Order) -> None:
        word = _WORD.match(order.sql)
        if word is not None and word[0].lower() in _NEEDS_TRANSACTION:
            self._traced(order, autocommit=True)
            return
        self._send("begin")
        try:
            self._traced(order, autocommit=True, quiet=_NOT_IN_TRANSACTION)
        except errors.DatabaseError as error:
            self._send("rollback")
            if error.sqlstate not in _NOT_IN_TRANSACTION:
                raise
            self._step -= 1
            self._traced(order, autocommit=True)
        else:
            self._send("commit")
        self._tracer.committed()

    def _traced(self, order: Order, *, autocommit: bool, quiet: frozenset[str] | set[str] = frozenset()) -> None:
        self._step += 1
        sent = Sent(self._step, order.sql, None, autocommit=autocommit)
        self._tracer.before(sent)
        try:
            rows = self._send(order.sql)
        except errors.DatabaseError as error:
            if error.sqlstate in quiet:
                self._tracer.forget()
            else:
                self._tracer.failed(sent, error)
            raise
        self._tracer.after(sent, rows)

    def _send(self, sql: str) -> int:
        with engines.translated(Phase.AUTOCOMMIT):
            return int(self._raw.execute(sql.encode(self._raw.info.encoding)).rowcount)

"""A client's own deadline, which frees the thread from a peer that is frozen.

statement_timeout is the server's, and a frozen server keeps none; TCP's keepalives and user timeout see only a peer
whose kernel is silent too. So the client counts for itself, in the wait that every exchange with the server goes
through: at the deadline it asks the server to cancel, and, where nothing comes of that, gives the connection up.
No thread and no timer is needed: psycopg's wait wakes up by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import waiting
from psycopg.errors import _WaitTimeout  # the one signal of Connection.wait(timeout=…), which is public

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import deadline

log = logging.getLogger(__name__)

# A server that lives ends the statement itself at its own statement_timeout: it gets that much longer to say so.
SERVER_FIRST_S = 0.1
CANCEL_S = 0.15
GRACE_S = 0.1
POLL_S = 0.1
CLEAN_UP_S = 2.0  # for a rollback: what can't be rolled back by then is closed


class PeerSilent(psycopg.OperationalError):
    """The peer said nothing until the deadline, and nothing to a request to cancel."""


class WatchedConnection(psycopg.Connection[Any]):
    """A connection whose every wait ends. `statement_s` bounds each exchange; None leaves it to the server.

    `block_deadline`, a moment of the monotonic clock, bounds all exchanges of a block together.
    """

    statement_s: float | None = None
    block_deadline: float | None = None
    ping_s: float = 3.0
    retires_at: float = float("inf")  # of the monotonic clock
    applied_name: str = ""  # the application_name in force
    applied_for: object = None  # the operation that it was made of
    target: DatabaseSettings | None = None  # the server it goes to
    server_pid: int | None = None  # the server's process, where a pooler gave a number of its own
    _given_up: str = ""  # why, once it was
    _cancel_ends: float | None = None  # the moment by which what was cancelled has to be over

    def _limit_s(self) -> float | None:
        ends = deadline.acquiring.get()
        if ends is not None:  # the pool's ping: half of what is left stays for connecting anew
            return min(self.ping_s, max(0.0, ends - time.monotonic()) / 2)
        if self._cancel_ends is not None:
            if self.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                return max(0.0, self._cancel_ends - time.monotonic())
            self._cancel_ends = None
        if self.block_deadline is None:
            return None if self.statement_s is None else self.statement_s + SERVER_FIRST_S
        left_s = max(0.0, self.block_deadline - time.monotonic())
        return left_s if self.statement_s is None else min(left_s, self.statement_s + SERVER_FIRST_S)

    def wait(self, gen: Generator[Any, Any, Any], interval: float = POLL_S, timeout: float | None = None) -> Any:
        """Run an exchange to its end, or to the deadline.

        Errors: `PeerSilent`, and what the exchange itself raises.
        """
        if self._given_up:  # what ends a COPY asks once more, and must not hide why it ended
            raise PeerSilent(self._given_up)
        if self.block_deadline is not None and time.monotonic() >= self.block_deadline and not deadline.acquiring.get():
            return self._refuse(gen)
        limit_s = self._limit_s()
        # not psycopg's own wait: at Ctrl-C, and there only, that waits for the server for ten seconds; see session.py
        if limit_s is None or (timeout is not None and timeout < limit_s):
            return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        try:
            return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=limit_s)
        except _WaitTimeout:
            return self._give_up(gen, limit_s)

    def _refuse(self, gen: Generator[Any, Any, Any]) -> Any:
        """Begin nothing more when the block's time is up: what is quick would never meet a limit of its own."""
        if self.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:  # in the midst of a COPY
            return self._give_up(gen, 0.0)
        gen.close()
        raise psycopg.errors.QueryCanceled("the time of the block was up: nothing more was sent")

    def cancel_safe(self, *, timeout: float = CLEAN_UP_S) -> None:
        """Ask the server to cancel. So does a COPY that is left early, and waits: that has an end of its own."""
        self._cancel_ends = time.monotonic() + CLEAN_UP_S
        super().cancel_safe(timeout=min(timeout, CLEAN_UP_S))

    def rollback(self) -> None:
        """Roll back. That has a time of its own: the block's may be up."""
        if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE:  # as the pool does at each return
            return
        ends, self.block_deadline = self.block_deadline, time.monotonic() + CLEAN_UP_S
        try:
            super().rollback()
        finally:
            self.block_deadline = ends

    def rename(self, name: str) -> bool:
        """Have the server show that application_name; false where the session has ended."""
        try:
            self.autocommit = True
            self.execute("select set_config('application_name', %s, false)", (name,))
            self.autocommit = False
        except psycopg.OperationalError:
            return False
        self.applied_name = name
        return True

    def _give_up(self, gen: Generator[Any, Any, Any], limit_s: float) -> Any:
        try:
            if psycopg.capabilities.has_cancel_safe():  # an older libpq's cancel may block for as long as it likes
                self.cancel_safe(timeout=CANCEL_S)
        except psycopg.Error:
            pass
        else:
            with suppress(_WaitTimeout):  # the exchange ends as the server says: with its own error
                return waiting.wait(gen, self.pgconn.socket, interval=GRACE_S, timeout=GRACE_S)
        self.pgconn.finish()
        log.warning("the server said nothing for %.1f s: given up", limit_s, extra={"event": "db.silent"})
        self._given_up = f"the server said nothing for {limit_s:.1f} s, and nothing to a request to cancel"
        raise PeerSilent(self._given_up)

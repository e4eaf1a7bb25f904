"""How far pg_dump is, while it runs: rows by the server's own progress view, bytes by the files it has written.

https://www.postgresql.org/docs/current/progress-reporting.html#COPY-PROGRESS-REPORTING
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors, interrupts
from chanuka_ops.backup.taking.selection import Selection
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.context import Progress
from chanuka_ops.db.engines import translated
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.sql.catalog import load

log = logging.getLogger(__name__)

LABEL = "dump"
EVERY_S = 1.0
SHARE = 1 / 200  # of a core is spent on looking, at most
REACH_S = 1.0  # for a connection to look with: a server that has none left is not waited for
LOCK_S = 0.1
ROW_BYTES = 100  # of a table that was never analysed


class Rows:
    """How many rows are dumped, and about how many there will be. Pure; `see` takes in what the view shows.

    A table that isn't being read any more is counted as it was expected, or as it was seen where that is more: its last
    rows went by between two looks.
    """

    def __init__(self, expected: Mapping[int, int]) -> None:
        self._expected = dict(expected)
        self._seen: dict[tuple[int, int], int] = {}
        self._finished: set[int] = set()
        self._under_way: set[int] = set()

    def expect(self, table: int, rows: int) -> None:
        """Learn about how many rows a table has."""
        self._expected[table] = max(rows, self._expected.get(table, 0))

    def unknown(self) -> list[int]:
        """Return the tables being read of which nobody knows how many rows they have."""
        return [table for table in sorted(self._under_way) if not self._expected.get(table)]

    def see(self, copying: Iterable[tuple[int, int, int]]) -> None:
        """Take in (session, table, rows) of each session that is reading a table out."""
        now = list(copying)
        for session, table, rows in now:
            self._seen[session, table] = max(rows, self._seen.get((session, table), 0))
        tables = {table for _, table, _ in now}
        self._finished |= self._under_way - tables
        self._under_way = tables

    @property
    def any_seen(self) -> bool:
        """Whether the view has shown anything at all."""
        return bool(self._seen)

    @property
    def done(self) -> int:
        """Rows that are dumped; it never falls."""
        seen = self._by_table()
        return sum(
            max(rows, self._expected.get(table, 0) if table in self._finished else 0) for table, rows in seen.items()
        )

    @property
    def total(self) -> int:
        """Rows that there will be, about; never less than `done`, and it never falls."""
        seen = self._by_table()
        return sum(
            max(seen.get(table, 0), self._expected.get(table, 0)) for table in seen.keys() | self._expected.keys()
        )

    def _by_table(self) -> dict[int, int]:
        seen: dict[int, int] = {}
        for (_, table), rows in self._seen.items():
            seen[table] = seen.get(table, 0) + rows
        return seen


class Watch:
    """Reports a dump's progress, once a second at most. What it can't see fails no backup: then it tells bytes."""

    def __init__(
        self, database: DatabaseSettings, selection: Selection, directory: Path, application_name: str
    ) -> None:
        # a manager of its own: it gives up soon, and no failure of it counts against the server
        pool = database.pool.model_copy(update={"acquire_timeout_s": REACH_S})
        self._manager = ConnectionManager("watch", database.model_copy(update={"pool": pool}))
        self._selection = selection
        self._directory = directory
        self._name = application_name
        self._next_s = time.monotonic() + EVERY_S
        self._connection: Connection | None = None
        self._rows: Rows | None = None
        self._blind = False
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(errors.DatabaseError):  # a connection that is broken can be closed no better
            self._opened.close()
        self._manager.close()

    def look(self, beside: Progress | None) -> None:
        """Look, if it's time to, and report; `beside` is what runs at the same time."""
        if time.monotonic() < self._next_s:
            return
        if not self._blind:
            self._seeing(self._connect)
        start_s = time.thread_time()
        if not self._blind:
            self._seeing(self._look_at_server)
        self._tell(_bytes_below(self._directory), beside)
        spent_s = time.thread_time() - start_s
        self._next_s = time.monotonic() + max(EVERY_S, spent_s / SHARE)

    def _seeing(self, look: Callable[[], None]) -> None:
        try:
            # an interrupt waits for the look, which is short: in its midst it could be taken for the server's failure
            with interrupts.held(), translated():
                look()
        except errors.ChanukaError as failure:  # how far it is, is not worth a backup
            log.debug("the dump's rows can't be watched: %s", failure, extra={"event": "backup.blind"})
            self._blind = True

    def _connect(self) -> None:
        if self._connection is None:
            reached = self._manager.autocommit(profile=Profile.PROBE, lock_timeout_s=LOCK_S)
            connection = self._opened.enter_context(reached)
            expected = connection.execute(text(load("chanuka_ops.backup").sql("expected_rows"))).all()
            self._rows = Rows({oid: rows for oid, name, rows in expected if self._selection.has_rows(name)})
            self._connection = connection

    def _look_at_server(self) -> None:
        connection, rows, catalog = self._connection, self._rows, load("chanuka_ops.backup")
        if connection is None or rows is None:
            return
        copying = connection.execute(text(catalog.sql("copying")), {"application_name": self._name})
        rows.see((pid, oid, seen) for pid, oid, seen in copying)
        if unknown := rows.unknown():
            for oid, size in connection.execute(text(catalog.sql("table_bytes")), {"oids": unknown}):
                rows.expect(oid, max(1, (size or 0) // ROW_BYTES))

    def _tell(self, size: int, beside: Progress | None) -> None:
        also = f"{beside.label} at {100 * beside.done // beside.total} %" if beside and beside.total else ""
        eta_s = beside.eta_s if beside else None
        if self._rows is None or not self._rows.any_seen:
            context.progress(LABEL, size, None, "bytes", detail=also, not_before_s=eta_s)
            return
        done, total = self._rows.done, self._rows.total
        detail = ", ".join(word for word in (f"{size / 1e6:.1f} MB written", also) if word)
        # rows without an end: their number was a guess, and the bar of a step that is done goes away
        context.progress(LABEL, done, total if total > done else None, "rows", detail=detail, not_before_s=eta_s)


def _bytes_below(directory: Path) -> int:
    with suppress(FileNotFoundError), os.scandir(directory) as entries:  # before pg_dump has made it
        return sum(entry.stat().st_size for entry in entries)
    return 0

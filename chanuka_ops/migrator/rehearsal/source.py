"""What a prediction needs of the source, and of the copy beside it: sizes, pace, and how often tables are asked."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.rehearsal import contents
from chanuka_ops.migrator.rehearsal.looking import PACKAGE
from chanuka_ops.migrator.rehearsal.model import TableSize
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

ENOUGH_PAGES = 250  # 2 MB: with less, it's the round trip that is timed
READS = 3  # the first finds the pages on the disk; the best of them counts
_VERBATIM = {"no_parameters": True}
_WORD = re.compile(r"[\w$]+|\"(?:[^\"]|\"\")+\"")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found.

    `seconds_per_page` of reading is None where no table is large enough; `calls_per_second` where nobody counts.
    """

    sizes: Mapping[str, TableSize]
    seconds_per_page: float | None = None
    calls_per_second: Mapping[str, float] | None = None
    tablespaces: tuple[str, ...] = field(default=())
    wal_level: str = "replica"


def facts(manager: ConnectionManager, own_schema: str) -> Facts:
    """Ask a database. Takes well under a second of its time: 4000 pages are read, three times.

    Errors: `DatabaseError`.
    """
    with manager.read() as connection:
        sizes = contents.sizes(connection, own_schema)
        spaces = connection.execute(text(catalog.load(PACKAGE).sql("source_tablespaces"))).scalars().all()
        wal_level = connection.execute(text(catalog.load(PACKAGE).sql("source_wal_level"))).scalar_one()
    return Facts(sizes, _pace(manager), _calls(manager, sizes), tuple(spaces), str(wal_level))


def _pace(manager: ConnectionManager) -> float | None:
    """Time the reading of a sample of the largest table, in seconds for a page."""
    with manager.read() as connection:
        found = connection.execute(text(catalog.load(PACKAGE).sql("source_pace"))).first()
        if found is None or found.pages < ENOUGH_PAGES:
            return None
        return min(_timed(connection, found.query) for _ in range(READS)) / int(found.pages)


def _timed(connection: Connection, query: str) -> float:
    started = time.perf_counter()
    connection.exec_driver_sql(query, execution_options=_VERBATIM).all()
    return time.perf_counter() - started


def _calls(manager: ConnectionManager, sizes: Mapping[str, TableSize]) -> dict[str, float] | None:
    """Count calls a second by table, from pg_stat_statements; None where there is none, or it may not be read."""
    try:
        with manager.read() as connection:
            query = connection.execute(text(catalog.load(PACKAGE).sql("source_calls_query"))).scalar_one_or_none()
            if query is None:
                return None
            rows = connection.exec_driver_sql(query, execution_options=_VERBATIM).all()
    except errors.DatabaseError as error:  # not in shared_preload_libraries, or not for this role
        log.info("calls aren't counted: %s", error, extra={"event": "rehearsal.calls"})
        return None
    return calls_by_table(((str(sql), int(calls), float(seconds)) for sql, calls, seconds in rows), sizes)


def calls_by_table(rows: Iterable[tuple[str, int, float]], tables: Iterable[str]) -> dict[str, float]:
    """Sum calls a second by table, from (statement, calls, seconds that they were counted for).

    >>> calls_by_table([("select * from bills where id = $1", 100, 50.0)], ["bills", "votes"])
    {'bills': 2.0, 'votes': 0.0}
    """
    plain = {name: name.rpartition(".")[2].strip('"') for name in tables}
    found = dict.fromkeys(plain, 0.0)
    for sql, calls, seconds in rows:
        words = {word.strip('"') for word in _WORD.findall(sql)}
        for name, last in plain.items():
            if last in words:
                found[name] += calls / seconds
    return found


def make_tablespaces(copy: ConnectionManager, names: Iterable[str]) -> tuple[str, ...]:
    """Make the source's tablespaces on the copy's server, in its own directory; return those that couldn't be made."""
    left: list[str] = []
    for name in names:
        try:
            with copy.autocommit() as connection:
                engines.execute_verbatim(connection, "set allow_in_place_tablespaces = on")
                quoted = connection.execute(
                    text("select quote_ident(cast(:name as text))"), {"name": name}
                ).scalar_one()
                engines.execute_verbatim(connection, f"create tablespace {quoted} location ''")
        except errors.DatabaseError as error:
            log.warning("tablespace %s isn't on the copy: %s", name, error, extra={"event": "rehearsal.tablespace"})
            left.append(name)
    return tuple(left)

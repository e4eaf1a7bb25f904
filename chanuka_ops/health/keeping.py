"""What health remembers: one SQLite file in the state directory, for the daemon and the command line at once.

Samples are what counters stood at, so that the next look knows how much was added; measurements are the numbers of
each look, for the plots. SQLite keeps both whole through a SIGKILL (https://www.sqlite.org/atomiccommit.html). A file
that is no database any more is set aside, and a new one begun: health has then no baseline, which it says.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from chanuka_ops.errors import KeepingError
from chanuka_ops.health.model import Status
from chanuka_ops.health.sampling.model import Measurement, Sample

log = logging.getLogger(__name__)

FILE: Final = "health.sqlite"
BUSY_TIMEOUT_S: Final = 5.0
WHOLE_FOR_S: Final = 24 * 3600.0  # each look of the last day is kept
KEPT_FOR_S: Final = 90 * 24 * 3600.0  # of older ones the highest of each hour, and none beyond that
_PRUNE_EVERY_S: Final = 3600.0
_PRUNE_MOST: Final = 50_000  # rows looked at in one go: a look at health must not wait for the cleaning

_SCHEMA = """
create table if not exists samples(
    database text not null, query text not null, at real not null, incarnation text not null, rows text not null,
    primary key (database, query)) without rowid;
create table if not exists measurements(
    id integer primary key, database text not null, check_id text not null, object text, at real not null,
    value real not null, unit text not null, status text not null, thinned integer not null default 0);
create index if not exists measurements_at on measurements(database, at);
create index if not exists measurements_whole on measurements(at) where thinned = 0;
create table if not exists cleaned(id integer primary key check (id = 1), at real not null);
"""
_THINNED = """
select id, row_number() over (
    partition by database, check_id, object, cast(at / 3600 as integer) order by value desc, id) as place
  from (select * from measurements where thinned = 0 and at < :whole order by at limit :most)
"""


@contextmanager
def opened(state_dir: Path) -> Iterator[sqlite3.Connection]:
    """Open the file for the block, in autocommit: who writes several things says `begin immediate`.

    Errors: `KeepingError` where it can't be opened, read or written; a file that is no database is set aside first.
    """
    path = state_dir / FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        connection = _connected(path)
    except (sqlite3.Error, OSError) as error:
        raise KeepingError(f"{path}: {error}") from None
    try:
        yield connection
    except sqlite3.Error as error:
        raise KeepingError(f"{path}: {error}") from None
    finally:
        connection.close()


def _connected(path: Path) -> sqlite3.Connection:
    try:
        return _prepared(path)
    except sqlite3.OperationalError:  # locked, full, not ours to open: the file itself is sound
        raise
    except sqlite3.DatabaseError as error:
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        for tail in ("-wal", "-shm"):
            path.with_name(path.name + tail).unlink(missing_ok=True)
        log.warning("%s is damaged (%s): set aside as %s, and begun anew", path, error, aside.name,
                    extra={"event": "health.state_damaged"})  # fmt: skip
        return _prepared(path)


def _prepared(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


class Keeper:
    """Samples and measurements, by database."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def samples(self, database: str) -> dict[str, Sample]:
        """Return what was counted last, by query. Errors: `KeepingError`."""
        with opened(self._state_dir) as connection:
            found = connection.execute(
                "select query, at, incarnation, rows from samples where database = ?", (database,)
            ).fetchall()
        return {
            query: Sample(_moment(at), incarnation, tuple(json.loads(rows))) for query, at, incarnation, rows in found
        }

    def keep(self, database: str, samples: Mapping[str, Sample], measurements: Iterable[Measurement]) -> None:
        """Keep what a look found: all of it, or nothing. Errors: `KeepingError`."""
        counted = [
            (database, query, one.at.timestamp(), one.incarnation, json.dumps(one.rows, default=str))
            for query, one in samples.items()
        ]
        measured = [
            (database, one.check, one.object, one.at.timestamp(), one.value, one.unit, str(one.status))
            for one in measurements
        ]
        with opened(self._state_dir) as connection:
            connection.execute("begin immediate")
            connection.executemany("insert or replace into samples values (?, ?, ?, ?, ?)", counted)
            connection.executemany(
                "insert into measurements(database, check_id, object, at, value, unit, status)"
                " values (?, ?, ?, ?, ?, ?, ?)",
                measured,
            )
            _clean(connection, time.time())
            connection.execute("commit")

    def history(self, database: str, since: datetime) -> Sequence[Measurement]:
        """Return what was measured since then, the oldest first. Errors: `KeepingError`."""
        with opened(self._state_dir) as connection:
            found = connection.execute(
                "select at, check_id, object, value, unit, status from measurements"
                " where database = ? and at >= ? order by at, id",
                (database, since.timestamp()),
            ).fetchall()
        return [
            Measurement(_moment(at), database, check, object_, value, unit, Status(status))
            for at, check, object_, value, unit, status in found
        ]


def _clean(connection: sqlite3.Connection, now_s: float) -> None:
    """Thin out what is old, now and then and never much at once."""
    last = connection.execute("select at from cleaned").fetchone()
    if last is not None and 0 <= now_s - last[0] < _PRUNE_EVERY_S:
        return
    found = connection.execute(_THINNED, {"whole": now_s - WHOLE_FOR_S, "most": _PRUNE_MOST}).fetchall()
    connection.executemany("delete from measurements where id = ?", [(id_,) for id_, place in found if place > 1])
    connection.executemany(
        "update measurements set thinned = 1 where id = ?", [(id_,) for id_, place in found if place == 1]
    )
    connection.execute("delete from measurements where at < ?", (now_s - KEPT_FOR_S,))
    if len(found) < _PRUNE_MOST:  # else the next look goes on
        connection.execute("insert or replace into cleaned values (1, ?)", (now_s,))


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)

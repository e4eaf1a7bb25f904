"""What health remembers: one SQLite file in the state directory, for the daemon and the command line at once.

Samples are what counters stood at, so that the next look knows how much was added; measurements are the numbers of
each look, for the plots. SQLite keeps both whole through a SIGKILL (https://www.sqlite.org/atomiccommit.html). A file
that is no database any more is set aside, and a new one begun: health has then no baseline, which it says.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
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
KEPT_FOR_S: Final = 90 * 24 * 3600.0  # of older ones the worst of each hour, and none beyond that
# Each has samples of its own: a look by hand must not take from the daemon what was counted since its last tick.
BY_HAND, DAEMON = "by hand", "daemon"
_PRUNE_EVERY_S: Final = 3600.0
_PRUNE_MOST: Final = 50_000  # rows looked at in one go: a look at health must not wait for the cleaning
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_SCHEMA = """
create table if not exists samples(
    reader text not null, database text not null, query text not null, at real not null, incarnation text not null,
    rows text not null, primary key (reader, database, query)) without rowid;
create table if not exists measurements(
    id integer primary key, database text not null, check_id text not null, object text, at real not null,
    value real not null, unit text not null, status text not null, thinned integer not null default 0);
create index if not exists measurements_at on measurements(database, at);
create index if not exists measurements_whole on measurements(at) where thinned = 0;
create table if not exists cleaned(database text primary key, at real not null) without rowid;
create table if not exists losses(at real not null, reason text not null);
"""
_THINNED = """
select id, row_number() over (
    partition by check_id, object, cast(at / 3600 as integer)
    order by instr('critical unknown warning info ok', status), value desc, id) as place
  from (select * from measurements where database = :database and thinned = 0 and at < :whole order by at limit :most)
"""
_TOO_OLD = """
delete from measurements
 where id in (select id from measurements where database = :database and at < :old order by at limit :most)
"""


@contextmanager
def opened(state_dir: Path) -> Iterator[sqlite3.Connection]:
    """Open the file for the block, in autocommit: who writes several things says `begin immediate`.

    A damaged file is set aside, at opening or where it shows in the block.

    Errors: `KeepingError` where it can't be opened, read or written.
    """
    path = state_dir / FILE
    connection, inode = _sound(path)
    try:
        yield connection
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise  # a defect of the statement, not of the file
    except sqlite3.Error as error:
        if _is_damage(error):
            connection.close()
            _set_aside(path, inode, error)
        raise KeepingError(f"{path}: {error}") from None
    finally:
        connection.close()


def _sound(path: Path) -> tuple[sqlite3.Connection, int]:
    """Return a connection to the file, or to a new one where it is damaged; and the file's inode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # it names tables and roles: nobody else's to read
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        inode = path.stat().st_ino
        try:
            return _prepared(path), inode
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise  # locked, full, not ours to open: the file itself is sound
            _set_aside(path, inode, error)
            return _prepared(path), path.stat().st_ino
    except (sqlite3.Error, OSError) as error:
        raise KeepingError(f"{path}: {error}") from None


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _set_aside(path: Path, inode: int, reason: sqlite3.Error) -> None:
    """Put a new file in the place of a damaged one, in one step.

    Several processes may meet the damage at once: who comes second sees by the inode that it was dealt with. One
    damaged file is kept, the last.

    Errors: `KeepingError`.
    """
    aside, fresh = path.with_name(f"{path.name}.damaged"), path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with path.with_name(f"{path.name}.lock").open("wb") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino != inode:
                return
            os.close(os.open(fresh, os.O_RDWR | os.O_CREAT, 0o600))
            with closing(_prepared(fresh)) as connection:
                connection.execute("insert into losses values (?, ?)", (time.time(), str(reason)))
            aside.unlink(missing_ok=True)
            os.link(path, aside)
            for tail in ("-wal", "-shm"):  # another file's: SQLite would play them back into the new one
                path.with_name(path.name + tail).unlink(missing_ok=True)
            fresh.replace(path)
    except (sqlite3.Error, OSError) as failure:
        raise KeepingError(f"{path} is damaged ({reason}), and can't be set aside: {failure}") from None
    log.warning("%s is damaged (%s): set aside as %s, and begun anew", path, reason, aside.name,
                extra={"event": "health.state_damaged"})  # fmt: skip


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
    """Samples of one reader, by database; and measurements, which are everybody's."""

    def __init__(self, state_dir: Path, *, reader: str = BY_HAND) -> None:
        self._state_dir = state_dir
        self._reader = reader

    def samples(self, database: str) -> dict[str, Sample]:
        """Return what this reader counted last, by query. Errors: `KeepingError`."""
        with opened(self._state_dir) as connection:
            found = connection.execute(
                "select query, at, incarnation, rows from samples where reader = ? and database = ?",
                (self._reader, database),
            ).fetchall()
        return {
            query: Sample(_moment(at), incarnation, tuple(json.loads(rows))) for query, at, incarnation, rows in found
        }

    def keep(self, database: str, samples: Mapping[str, Sample], measurements: Iterable[Measurement]) -> None:
        """Keep what a look found: all of it, or nothing. Errors: `KeepingError`."""
        counted = [
            (self._reader, database, query, one.at.timestamp(), one.incarnation, json.dumps(one.rows))
            for query, one in samples.items()
        ]
        measured = [
            (database, one.check, one.object, one.at.timestamp(), one.value, one.unit, str(one.status))
            for one in measurements
        ]
        with opened(self._state_dir) as connection:
            connection.execute("begin immediate")
            connection.executemany("insert or replace into samples values (?, ?, ?, ?, ?, ?)", counted)
            connection.executemany(
                "insert into measurements(database, check_id, object, at, value, unit, status)"
                " values (?, ?, ?, ?, ?, ?, ?)",
                measured,
            )
            _clean(connection, database, time.time())
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

    def losses(self, since: datetime) -> list[tuple[datetime, str]]:
        """Say when a damaged file was set aside, and why. Errors: `KeepingError`."""
        with opened(self._state_dir) as connection:
            found = connection.execute("select at, reason from losses where at >= ?", (since.timestamp(),)).fetchall()
        return [(_moment(at), reason) for at, reason in found]


def _clean(connection: sqlite3.Connection, database: str, now_s: float) -> None:
    """Thin out what is old, now and then and never much at once."""
    last = connection.execute("select at from cleaned where database = ?", (database,)).fetchone()
    if last is not None and 0 <= now_s - last[0] < _PRUNE_EVERY_S:
        return
    of_it = {"database": database, "most": _PRUNE_MOST}
    found = connection.execute(_THINNED, {**of_it, "whole": now_s - WHOLE_FOR_S}).fetchall()
    connection.executemany("delete from measurements where id = ?", [(id_,) for id_, place in found if place > 1])
    connection.executemany(
        "update measurements set thinned = 1 where id = ?", [(id_,) for id_, place in found if place == 1]
    )
    connection.execute(_TOO_OLD, {**of_it, "old": now_s - KEPT_FOR_S})
    if len(found) < _PRUNE_MOST:  # else the next look goes on
        connection.execute("insert or replace into cleaned values (?, ?)", (database, now_s))


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)

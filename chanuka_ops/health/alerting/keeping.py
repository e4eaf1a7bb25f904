"""What alerts remember, in health's own file: their state, silences, and what is to be told and isn't yet.

The new state and what is to be told of it are written together: who is killed between that and the telling tells it
later, rather than never. What two processes do at once they do one after the other.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from chanuka_ops.health.alerting.model import Alert, Key, Silence
from chanuka_ops.health.keeping import opened

_SCHEMA = """
create table if not exists alerts(
    database text not null, check_id text not null, object text not null, document text not null,
    primary key (database, check_id, object)) without rowid;
create table if not exists silences(
    id integer primary key, database text not null, check_id text not null, object text not null,
    begins real not null, ends real not null, reason text not null, actor text not null);
create table if not exists outbox(
    id integer primary key, made_at real not null, document text not null, tries integer not null default 0,
    next_at real not null, problem text not null default '', delivered_at real);
"""
DELIVERED_KEPT_S: Final = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A notice that is to be told: `document` is what the orchestrator wrote; `tries` so far, and what went wrong."""

    id: int
    made_at: datetime
    document: dict[str, Any]
    tries: int
    problem: str


class AlertKeeper:
    """The alerts of all databases. Each method's errors: `KeepingError`."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Give one process at a time the alerts, for the block; what it writes is written as a whole, or not at all."""
        with _ready(self._state_dir) as connection:
            connection.execute("begin immediate")
            try:
                yield Turn(connection)
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")

    def alerts(self) -> list[Alert]:
        """Return all alerts that are kept."""
        with _ready(self._state_dir) as connection:
            return _alerts(connection)

    def silences(self, now: datetime) -> list[Silence]:
        """Return the silences that are not over."""
        with _ready(self._state_dir) as connection:
            return _silences(connection, now)

    def silence(self, silence: Silence) -> int:
        """Keep a silence; return its number."""
        with _ready(self._state_dir) as connection:
            cursor = connection.execute(
                "insert into silences(database, check_id, object, begins, ends, reason, actor) values (?,?,?,?,?,?,?)",
                (silence.database, silence.check, silence.object, silence.begins.timestamp(), silence.ends.timestamp(),
                 silence.reason, silence.actor),
            )  # fmt: skip
            return int(cursor.lastrowid or 0)

    def unsilence(self, number: int, now: datetime) -> bool:
        """End a silence now; tell whether there was one."""
        with _ready(self._state_dir) as connection:
            changed = connection.execute(
                "update silences set ends = ? where id = ? and ends > ?", (now.timestamp(), number, now.timestamp())
            )
            return changed.rowcount > 0

    def claim(self, now: datetime, lease_s: float) -> list[Undelivered]:
        """Take what is due to be told; nobody else gets it for `lease_s`."""
        with _ready(self._state_dir) as connection:
            connection.execute("begin immediate")
            found = connection.execute(
                "select id, made_at, document, tries, problem from outbox"
                " where delivered_at is null and next_at <= ? order by id",
                (now.timestamp(),),
            ).fetchall()
            connection.executemany(
                "update outbox set next_at = ? where id = ?", [(now.timestamp() + lease_s, row[0]) for row in found]
            )
            connection.execute("delete from outbox where delivered_at < ?", (now.timestamp() - DELIVERED_KEPT_S,))
            connection.execute("commit")
        return [_undelivered(row) for row in found]

    def delivered(self, number: int, now: datetime) -> None:
        """Note that everybody was told."""
        with _ready(self._state_dir) as connection:
            connection.execute(
                "update outbox set delivered_at = ?, tries = tries + 1, problem = '' where id = ?",
                (now.timestamp(), number),
            )

    def failed(self, number: int, document: dict[str, Any], problem: str, next_at: datetime) -> None:
        """Note that somebody was not told, and when it is tried again."""
        with _ready(self._state_dir) as connection:
            connection.execute(
                "update outbox set document = ?, tries = tries + 1, problem = ?, next_at = ? where id = ?",
                (json.dumps(document), problem, next_at.timestamp(), number),
            )

    def put_back(self, number: int, now: datetime) -> None:
        """Note that nobody tried: whoever comes next may."""
        with _ready(self._state_dir) as connection:
            connection.execute("update outbox set next_at = ? where id = ?", (now.timestamp(), number))

    def undelivered(self) -> list[Undelivered]:
        """Return what was to be told and wasn't yet."""
        with _ready(self._state_dir) as connection:
            found = connection.execute(
                "select id, made_at, document, tries, problem from outbox where delivered_at is null order by id"
            ).fetchall()
        return [_undelivered(row) for row in found]


class Turn:
    """The alerts, while nobody else has them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def alerts(self) -> dict[str, dict[Key, Alert]]:
        """Return the alerts, by database."""
        found: dict[str, dict[Key, Alert]] = {}
        for alert in _alerts(self._connection):
            found.setdefault(alert.key.database, {})[alert.key] = alert
        return found

    def silences(self, now: datetime) -> list[Silence]:
        """Return the silences that are not over."""
        return _silences(self._connection, now)

    def replace(self, database: str, alerts: Iterable[Alert]) -> None:
        """Keep these as the database's alerts, and no others."""
        self._connection.execute("delete from alerts where database = ?", (database,))
        rows = [(a.key.database, a.key.check, a.key.object, json.dumps(a.to_json())) for a in alerts]
        self._connection.executemany("insert into alerts values (?, ?, ?, ?)", rows)

    def tell(self, documents: Sequence[dict[str, Any]], now: datetime) -> None:
        """Have these told."""
        rows = [(now.timestamp(), json.dumps(document), now.timestamp()) for document in documents]
        self._connection.executemany("insert into outbox(made_at, document, next_at) values (?, ?, ?)", rows)


@contextmanager
def _ready(state_dir: Path) -> Iterator[sqlite3.Connection]:
    with opened(state_dir) as connection:
        connection.executescript(_SCHEMA)
        yield connection


def _alerts(connection: sqlite3.Connection) -> list[Alert]:
    sql = "select document from alerts order by database, check_id, object"
    return [Alert.from_json(json.loads(row[0])) for row in connection.execute(sql)]


def _silences(connection: sqlite3.Connection, now: datetime) -> list[Silence]:
    sql = "select id, database, check_id, object, begins, ends, reason, actor from silences where ends > ? order by id"
    return [
        Silence(number, database, check, object_, _moment(begins), _moment(ends), reason, actor)
        for number, database, check, object_, begins, ends, reason, actor in connection.execute(sql, (now.timestamp(),))
    ]


def _undelivered(row: Sequence[Any]) -> Undelivered:
    number, made_at, document, tries, problem = row
    return Undelivered(number, _moment(made_at), json.loads(document), tries, problem)


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)

"""What a server is asked about itself, on a connection that is in no transaction."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from psycopg import pq
from psycopg.rows import dict_row

from chanuka_ops.db import engines
from chanuka_ops.db.budget import Room
from chanuka_ops.db.router import Observation, Role
from chanuka_ops.db.watchdog import WatchedConnection
from chanuka_ops.sql import catalog


@dataclass(frozen=True, slots=True)
class Probe:
    """What one round trip told about a server. `server_version` is PostgreSQL's number, 180006 for 18.6."""

    role: Role
    server_version: int
    latency_ms: float

    @property
    def major(self) -> int:
        """The major version, 18 for 18.6."""
        return self.server_version // 10000


def probe(raw: WatchedConnection) -> Probe:
    """Ask what it is, and time the answer. Errors: `DatabaseError`."""
    start = time.perf_counter()
    row = _ask(raw, "probe")
    latency_ms = round((time.perf_counter() - start) * 1000, 3)
    return Probe("standby" if row["standby"] else "primary", row["server_version"], latency_ms)


def observation(raw: WatchedConnection) -> Observation:
    """Ask where it stands: one round trip. Errors: `DatabaseError`."""
    row = _ask(raw, "observe")
    return Observation(
        at_s=time.monotonic(),
        role="standby" if row["standby"] else "primary",
        system_id=row["system_id"],
        timeline=row["timeline"],
        lsn=row["lsn"] or 0,
        behind_s=row["behind_s"],
        waits=row["waits"],
        flushed=row["flushed"],
    )


def room(raw: WatchedConnection) -> Room:
    """Ask how many connections it takes. Errors: `DatabaseError`."""
    row = _ask(raw, "room")
    limits = tuple(limit for limit in (row["role_limit"], row["database_limit"]) if limit >= 0)
    return Room(row["max_connections"], row["reserved"], limits)


def _ask(raw: WatchedConnection, name: str) -> dict[str, Any]:
    with engines.translated():
        raw.autocommit = True
        try:
            with raw.cursor(row_factory=dict_row) as cursor:
                row = cursor.execute(catalog.load("chanuka_ops.db").sql(name)).fetchone()
        finally:
            if raw.info.transaction_status == pq.TransactionStatus.IDLE:  # not where it broke, or was interrupted
                raw.autocommit = False
    return row or {}

"""What the tests of faults share: a table to count rows in, sessions to end, a hook right before COMMIT."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Connection

from chanuka_ops.config import DatabaseSettings, PoolSettings, TimeoutSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.node import Node
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import execute, scalars

INSERT = text("insert into tokens values (:token)")


def plant(database: DatabaseSettings) -> None:
    """Make a table that doesn't mind a token which comes twice: it's to be counted."""
    execute(database, "create table tokens(token text)")


def tokens(database: DatabaseSettings) -> list[object]:
    return scalars(database, "select token from tokens order by token")


def insert(connection: Connection, token: str) -> int:
    """Insert a token; return the session that did."""
    connection.execute(INSERT, {"token": token})
    return engines.backend_pid(connection)


def end(database: DatabaseSettings, pids: Iterable[int]) -> None:
    """End sessions, and wait until they're gone."""
    those = f"pg_stat_activity where pid in ({', '.join(map(str, pids))})"
    execute(database, f"select pg_terminate_backend(pid) from {those}")
    with ConnectionManager("look", database) as manager, manager.autocommit() as connection:
        left = text(f"select count(*) from {those}")
        assert wait_until(lambda: connection.execute(left).scalar_one() == 0, timeout_s=10, poll_s=0.002)


def before_commit(connection: Connection, what: Callable[[], object]) -> None:
    """Have something happen when all is done but COMMIT."""
    event.listen(connection, "commit", lambda _: what(), once=True)


def pooled(database: DatabaseSettings, size: int, **changed: Any) -> DatabaseSettings:
    return database.model_copy(update={"pool": PoolSettings(size=size, overflow=0, **changed)})


def limited(database: DatabaseSettings, **limits: float) -> DatabaseSettings:
    return database.model_copy(update={"timeouts": TimeoutSettings(**limits)})


def pids_of(manager: ConnectionManager, number: int) -> set[int]:
    """Have so many connections of the pool in use at once; return their sessions."""
    with ExitStack() as stack:
        return {engines.backend_pid(stack.enter_context(manager.read())) for _ in range(number)}


def node_of(manager: ConnectionManager) -> Node:
    """The one server."""
    (node,) = manager._cluster.nodes
    return node


def counts(manager: ConnectionManager) -> dict[str, int]:
    """What was counted of the one server."""
    (node,) = manager.snapshot()["nodes"]
    found: dict[str, int] = node["counts"]
    return found


def seconds(what: Callable[[], object]) -> float:
    start = time.monotonic()
    what()
    return time.monotonic() - start


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()

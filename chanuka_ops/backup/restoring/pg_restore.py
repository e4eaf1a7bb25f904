"""Runs pg_restore: none of its errors is ignored, and it ends in time, whatever becomes of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import credentials, parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.sql.catalog import load

EVERY_S = 1.0  # the server looks at every file of the database
# A restored database, or a role, may bring settings that would stop its own restore; and a pg_restore that is SIGKILLed
# must leave no statement on the server.
SESSION: Mapping[str, str] = {
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "client_connection_check_interval": str(parameters.CONNECTION_CHECK_MS),
}


def run(
    dump: Path,
    target: DatabaseSettings,
    tools: Binaries,
    *,
    options: Sequence[str],
    deadline_s: float,
    listing: str | None = None,
    session: Mapping[str, str] = SESSION,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Restore a dump's directory into the database that `target` names, and call `meanwhile` four times a second.

    `listing` are the entries to restore (its `--use-list`), all by default.
    Errors: `ToolFailed` with pg_restore's own words.
    """
    argv: list[str | Path] = [
        tools.path("pg_restore"),
        "--exit-on-error",
        "--no-password",
        *options,
        *(["--use-list=/dev/stdin"] if listing is not None else []),
        f"--dbname={parameters.conninfo(target)}",
        dump,
    ]
    stated = [f"-c {name}={value}" for name, value in session.items()]
    with process.password_file(credentials.password_of(target)) as (secret, fds):
        env = {**secret, "PGOPTIONS": " ".join([parameters.stated_options(target), *stated]).strip()}
        with process.started(argv, env=env, stdin=listing, pass_fds=fds) as running:
            running.wait(deadline_s=deadline_s, meanwhile=meanwhile)


def growth(watcher: ConnectionManager, dbname: str, expected_bytes: int) -> Callable[[], None]:
    """Return what tells how far a restore is: the database's size, of that of its source, once a second."""
    looked_at = float("-inf")

    def report() -> None:
        nonlocal looked_at
        if time.monotonic() < looked_at + EVERY_S:
            return
        looked_at = time.monotonic()
        try:
            with watcher.transaction(read_only=True) as connection:
                size = connection.execute(
                    text(load("chanuka_ops.backup").sql("database_size")), {"name": dbname}
                ).scalar_one()
        except errors.DatabaseError:  # how far it is, is not worth a restore
            return
        context.progress("restore", size, max(size, expected_bytes), "bytes")

    return report

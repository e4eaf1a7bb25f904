"""Takes a logical backup: pg_dump and the fingerprint read one exported snapshot, so they saw the same data.

https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from chanuka_ops import context
from chanuka_ops.backup import fingerprint as fingerprints
from chanuka_ops.backup.model import Fingerprint, Source
from chanuka_ops.config import BackupSettings, DatabaseSettings
from chanuka_ops.db import credentials, engines, parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import Running

log = logging.getLogger(__name__)

DUMP = "dump"
GLOBALS = "globals"
ROLES = f"{GLOBALS}/roles.sql"
TABLESPACES = f"{GLOBALS}/tablespaces.sql"


@dataclass(frozen=True, slots=True)
class Dumped:
    """What was written and what it was read from."""

    source: Source
    fingerprint: Fingerprint


@contextmanager
def tool_environment(database: DatabaseSettings) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Give a client program what it needs beside its arguments: (environment, descriptors to pass)."""
    with process.password_file(credentials.password_of(database)) as (env, fds):
        # a tool that is SIGKILLed must leave no query on the server either
        check = f"-c client_connection_check_interval={parameters.CONNECTION_CHECK_MS}"
        yield {**env, "PGOPTIONS": f"{parameters.stated_options(database)} {check}".strip()}, fds


def dump(manager: ConnectionManager, tools: Binaries, settings: BackupSettings, directory: Path) -> Dumped:
    """Write `dump/` and `globals/` into a directory, and fingerprint the source in the same snapshot.

    Errors: `ToolFailed` (the disk is full, the dump was cut off), `PermissionDenied` naming a table, `DatabaseError`.
    """
    deadline = time.monotonic() + settings.deadline_s
    target = manager.target()
    with tool_environment(target) as (env, fds):
        for argv in _pg_dumpall(target, tools, directory):
            process.run(argv, env=env, pass_fds=fds, deadline_s=settings.deadline_s)
        with manager.transaction(
            isolation="REPEATABLE READ", read_only=True, profile=Profile.MAINTENANCE
        ) as connection:
            snapshot = str(connection.execute(text("select pg_export_snapshot()")).scalar_one())
            fingerprints.fix_settings(connection, deadline_s=settings.deadline_s)
            source = fingerprints.source(connection)
            before = fingerprints.sequences(connection)
            argv = _pg_dump(engines.settings_of(connection), tools, settings, directory, snapshot)
            with process.started(argv, env=env, pass_fds=fds) as running:
                seen = fingerprints.take(
                    connection, label="backup", still_worthwhile=lambda: _still_dumps(running, deadline)
                )
                running.wait(
                    deadline_s=max(0.0, deadline - time.monotonic()),
                    meanwhile=lambda: _report(directory / DUMP),
                )
            seen = fingerprints.with_sequences(seen, before, fingerprints.sequences(connection))
    return Dumped(source, seen)


def _pg_dump(
    database: DatabaseSettings, tools: Binaries, settings: BackupSettings, directory: Path, snapshot: str
) -> list[str | Path]:
    return [
        tools.path("pg_dump"),
        "--format=directory",
        f"--jobs={settings.jobs}",
        f"--compress={settings.compression_level}",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={round(database.timeouts.lock_s * 1000)}",
        "--no-password",
        "--no-sync",  # every file is fsynced when it's hashed
        f"--file={directory / DUMP}",
        f"--dbname={parameters.conninfo(database)}",
    ]


def _pg_dumpall(database: DatabaseSettings, tools: Binaries, directory: Path) -> Iterator[list[str | Path]]:
    """Yield the commands for roles (without passwords, which only a superuser may read) and tablespaces."""
    (directory / GLOBALS).mkdir()
    for what, file in (("--roles-only", ROLES), ("--tablespaces-only", TABLESPACES)):
        yield [
            tools.path("pg_dumpall"),
            what,
            "--no-role-passwords",
            "--no-password",
            f"--file={directory / file}",
            f"--dbname={parameters.conninfo(database)}",
            f"--database={parameters.dbname_only(database)}",
        ]


def _still_dumps(running: Running, deadline: float) -> None:
    """Stop fingerprinting where the dump has already failed, its own words saying why, or where the time is up."""
    if running.ended() or time.monotonic() > deadline:
        running.wait(deadline_s=0)


def _report(directory: Path) -> None:
    """Tell how many bytes the dump has; how many it will have is not known, as they're compressed."""
    with suppress(FileNotFoundError):  # before it has made its directory
        context.progress("dump", sum(file.stat().st_size for file in directory.glob("*")), None, "bytes")

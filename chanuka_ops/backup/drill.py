"""The drill: restore a backup into a scratch server and compare the copy with the source's fingerprint.

The scratch server listens on a private socket only, archives nothing and is destroyed afterwards; the copy's
subscriptions are left out, so nothing of it can reach another system.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.backup import dump, fingerprint, rules
from chanuka_ops.backup.answers import Comparison
from chanuka_ops.backup.model import Manifest
from chanuka_ops.config import BackupSettings
from chanuka_ops.db import parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops.sql.catalog import load

log = logging.getLogger(__name__)

# The copy may bring settings of its database that would stop its own restore; and none of this environment's is meant.
_ENVIRONMENT = {"PGOPTIONS": "-c default_transaction_read_only=off -c statement_timeout=0", "PGCLIENTENCODING": "UTF8"}


@dataclass(frozen=True, slots=True)
class RestoredCopy:
    """A restored database on a scratch server."""

    manager: ConnectionManager
    server_version: str
    same_major: bool
    restore_seconds: float


@contextmanager
def restored_copy(
    directory: Path, manifest: Manifest, binaries: Binaries, settings: BackupSettings, state_dir: Path
) -> Iterator[RestoredCopy]:
    """Restore a backup into a scratch server that lives for the block.

    Errors: `ServerError`; `ToolFailed` with pg_restore's own words: none of its errors is ignored.
    """
    with scratch(state_dir, binaries) as server:
        watch = Stopwatch()
        admin = _admin_database(server, manifest.source.dbname)
        _restore_roles(directory, server, admin, settings)
        _restore_database(directory, manifest, server, admin, settings)
        watch.stop()
        with ConnectionManager(manifest.database, server.settings(manifest.source.dbname)) as manager:
            yield RestoredCopy(manager, server.binaries.version, server.major == manifest.source.major, watch.seconds)


def compare(manifest: Manifest, copy: RestoredCopy, *, deadline_s: float) -> Comparison:
    """Fingerprint the copy as the source was, and compare. Errors: `DatabaseError`."""
    with copy.manager.transaction(
        isolation="REPEATABLE READ", read_only=True, profile=Profile.MAINTENANCE
    ) as connection:
        fingerprint.fix_settings(connection, deadline_s=deadline_s)
        restored = fingerprint.take(connection, label="compare")
    return rules.compare(manifest.fingerprint, restored, same_major=copy.same_major)


def _admin_database(server: Server, dbname: str) -> str:
    """Make a database to connect to while the copy is made, and drop initdb's `postgres` if that is the copy's name."""
    name = server.superuser  # random, so no database of the source has it
    for where, statement in (("postgres", "create_admin_database"), (name, "drop_database")):
        with ConnectionManager("scratch", server.settings(where)) as manager, manager.autocommit() as connection:
            quoted = connection.execute(
                text(load(__package__).sql(statement)), {"name": name if where == "postgres" else dbname}
            ).scalar_one()
            connection.exec_driver_sql(quoted, execution_options={"no_parameters": True})
    return name


def _restore_roles(directory: Path, server: Server, admin: str, settings: BackupSettings) -> None:
    process.run(
        [
            server.binaries.path("psql"),
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            f"--dbname={parameters.conninfo(server.settings(admin))}",
        ],
        stdin=rules.without_grantors((directory / dump.ROLES).read_text(encoding="utf-8", errors="surrogateescape")),
        env=_ENVIRONMENT,
        deadline_s=settings.deadline_s,
    )


def _restore_database(
    directory: Path, manifest: Manifest, server: Server, admin: str, settings: BackupSettings
) -> None:
    argv: list[str | Path] = [
        server.binaries.path("pg_restore"),
        "--create",  # with its own encoding, locale and settings
        "--exit-on-error",
        f"--jobs={settings.jobs}",
        "--no-tablespaces",
        "--no-subscriptions",
        "--no-password",
        f"--dbname={parameters.conninfo(server.settings(admin))}",
        directory / dump.DUMP,
    ]
    watching = ConnectionManager("scratch", server.settings(admin))
    with process.started(argv, env=_ENVIRONMENT) as running, watching as watcher:
        running.wait(
            deadline_s=settings.deadline_s,
            meanwhile=lambda: _report(watcher, manifest.source.dbname, manifest.source.source_bytes),
        )


def _report(watcher: ConnectionManager, dbname: str, expected_bytes: int) -> None:
    try:
        with watcher.transaction(read_only=True) as connection:
            size = connection.execute(text(load(__package__).sql("database_size")), {"name": dbname}).scalar_one()
    except errors.DatabaseError:  # how far it is, is not worth a restore
        return
    context.progress("restore", size, max(size, expected_bytes), "bytes")

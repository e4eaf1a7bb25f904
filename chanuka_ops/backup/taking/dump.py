"""Takes a logical backup: pg_dump and the fingerprint read one exported snapshot, so they saw the same data.

Both run at once: the fingerprint in a thread that has the snapshot's connection to itself, pg_dump as a program that
this thread waits for. Whichever fails first ends the other, and is told.
https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.backup.beside import Beside, GoOn, beside
from chanuka_ops.backup.files import Begun
from chanuka_ops.backup.model import Filters, Fingerprint, Source
from chanuka_ops.backup.taking import compression, picking, selection
from chanuka_ops.backup.taking import fingerprint as fingerprints
from chanuka_ops.backup.taking import globals as server_globals
from chanuka_ops.backup.taking.compression import Compression
from chanuka_ops.backup.taking.fingerprint import Sample
from chanuka_ops.backup.taking.following import Follower
from chanuka_ops.backup.taking.selection import Resolved
from chanuka_ops.backup.taking.watching import Watch
from chanuka_ops.config import BackupSettings, DatabaseSettings
from chanuka_ops.db import credentials, engines, parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.postgres import process, relay
from chanuka_ops.postgres.binaries import Binaries

DUMP = "dump"
FINGERPRINT = "fingerprint"
LOCK_HEAD_START_S = 0.5
GLOBALS = server_globals.GLOBALS
ROLES = server_globals.ROLES
TABLESPACES = server_globals.TABLESPACES
SERVER_SETTINGS = server_globals.SETTINGS
siblings = picking.siblings


@dataclass(frozen=True, slots=True)
class Dumped:
    """What was written, how, and what it was read from."""

    source: Source
    fingerprint: Fingerprint
    compression: Compression
    filters: Filters | None
    begun: Mapping[Path, Begun]
    """The hashes of large files, as far as they were read while they were written."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is dumped from where, how, and where to; `ends_s` is a moment of the monotonic clock."""

    database: DatabaseSettings
    tools: Binaries
    settings: BackupSettings
    directory: Path
    compression: Compression
    resolved: Resolved
    snapshot: str
    encoding: str
    application_name: str
    ends_s: float

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self.ends_s - time.monotonic())


@contextmanager
def tool_environment(database: DatabaseSettings) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Give a client program what it needs beside its arguments: (environment, descriptors to pass)."""
    with process.password_file(credentials.password_of(database)) as (env, fds):
        # a tool that is SIGKILLed must leave no query on the server either
        check = f"-c client_connection_check_interval={parameters.CONNECTION_CHECK_MS}"
        yield {**env, "PGOPTIONS": f"{parameters.stated_options(database)} {check}".strip()}, fds


def dump(manager: ConnectionManager, tools: Binaries, settings: BackupSettings, directory: Path) -> Dumped:
    """Write `dump/` and `globals/` into a directory, and fingerprint the source in the same snapshot.

    Errors: `ConfigurationError` (a codec that pg_dump lacks), `RefusedError` (a filter that matches nothing; passwords
    that the role can't read), `ToolFailed` (the disk is full, the dump was cut off), `PermissionDenied` naming a table,
    `StatementTimeout`, `DatabaseError`. After any of them nothing of it runs.
    """
    ends_s = time.monotonic() + settings.deadline_s
    packed = compression.chosen(settings.compression, settings.compression_level, tools, compression.built_with)
    (directory / GLOBALS).mkdir()
    with manager.transaction(isolation="REPEATABLE READ", read_only=True, profile=Profile.MAINTENANCE) as connection:
        if settings.role_passwords:
            server_globals.refuse_hidden_passwords(connection)
        server_globals.write(connection, directory)
        snapshot = str(connection.execute(text("select pg_export_snapshot()")).scalar_one())
        fingerprints.fix_settings(connection, deadline_s=settings.deadline_s)
        source = fingerprints.source(connection)
        order = Order(
            database=engines.settings_of(connection),
            tools=tools,
            settings=settings,
            directory=directory,
            compression=packed,
            resolved=picking.resolved(connection, settings.filter),
            snapshot=snapshot,
            encoding=source.encoding,
            application_name=context.current().application_name(),
            ends_s=ends_s,
        )
        chosen = order.resolved.selection
        before = fingerprints.sequences(connection, chosen)
        with _followed(order) as begun:
            seen = _side_by_side(connection, order)
        seen = fingerprints.with_sequences(seen, before, fingerprints.sequences(connection, chosen))
    filters = None if settings.filter.keeps_all else Filters(**settings.filter.model_dump())
    return Dumped(source, seen, packed, filters, begun)


def _side_by_side(connection: Connection, order: Order) -> Fingerprint:
    """Run pg_dump, pg_dumpall and the fingerprint at the same time; whichever fails first ends the others."""

    def fingerprinted(go_on: GoOn) -> Fingerprint:
        drill = order.settings.drill
        return fingerprints.take(
            connection,
            label=FINGERPRINT,
            selection=order.resolved.selection,
            content=order.settings.fingerprint == "content",
            sample=Sample(above_bytes=drill.sample_above_bytes, parts=drill.sample_parts),
            still_worthwhile=go_on,
        )

    complaint = _FirstComplaint()
    with (
        tool_environment(order.database) as (env, fds),
        _at_its_rate(order) as (argv, listing),
        process.started(argv, env=env, pass_fds=fds, stdin=listing, on_stderr=complaint.hear) as dumping,
        beside(connection, fingerprinted, name=FINGERPRINT) as fingerprint,
        Watch(order.database, order.resolved.selection, order.directory / DUMP, order.application_name) as watch,
    ):

        def meanwhile() -> None:
            fingerprint.raise_if_failed()
            watch.look(fingerprint.step if fingerprint.under_way else None)

        # after the snapshot, so that no role is missing that something of the dump belongs to
        for command in server_globals.commands(order.database, order.tools, order.settings, order.directory):
            with process.started(command, env=env, pass_fds=fds) as running:
                running.wait(deadline_s=order.left_s, meanwhile=meanwhile)
        try:
            dumping.wait(deadline_s=order.left_s, meanwhile=meanwhile)
        except errors.ToolFailed as failure:
            _raise_if_earlier(fingerprint, complaint)
            raise _explained(failure) from None
        return fingerprint.result(ends_s=order.ends_s)


@contextmanager
def _followed(order: Order) -> Iterator[Mapping[Path, Begun]]:
    """Hash the files as they are written; where they'll be encrypted, their hashes are of no use."""
    if order.settings.recipients:
        yield {}
        return
    with Follower(order.directory / DUMP) as follower:
        yield follower.begun


@contextmanager
def _at_its_rate(order: Order) -> Iterator[tuple[list[str | Path], str | None]]:
    """Return pg_dump's command and input; it reads through a relay for the block where the settings limit its rate."""
    if not order.settings.rate_limit_bytes:
        yield pg_dump(order)
        return
    with relay.limited(order.database, bytes_per_s=order.settings.rate_limit_bytes) as through:
        yield pg_dump(replace(order, database=through))


class _FirstComplaint:
    """Notes when a program first said what is wrong."""

    def __init__(self) -> None:
        self.at_s: float | None = None

    def hear(self, line: str) -> None:
        if self.at_s is None and "error: " in line:
            self.at_s = time.monotonic()


def _raise_if_earlier(fingerprint: Beside[Fingerprint], complaint: _FirstComplaint) -> None:
    """Tell what the fingerprint failed with where pg_dump complained later or never: one cause often ends both."""
    failed_at_s = fingerprint.failed_at_s
    if failed_at_s is not None and (complaint.at_s is None or failed_at_s < complaint.at_s):
        fingerprint.raise_if_failed()


def _explained(failure: errors.ToolFailed) -> errors.ChanukaError:
    """Tell what pg_dump's words mean, where they don't say it: of a lock it knows only that a statement took long."""
    said = str(failure)
    if "statement timeout" in said and "LOCK TABLE" in said:
        return errors.LockTimeout(
            f"a table is locked by another session, and pg_dump's lock timeout passed: try again later, or raise"
            f" timeouts.lock ({said})"
        )
    if "permission denied for" in said:  # of a server that speaks another language it stays pg_dump's failure
        return errors.PermissionDenied(f"{said}: let the role read it, or leave it out by a filter")
    return failure


def pg_dump(order: Order) -> tuple[list[str | Path], str | None]:
    """Return pg_dump's command, and what it reads from its standard input."""
    chosen, listing = selection.arguments(order.resolved, order.tools.major)
    name = order.application_name.replace("\\", "\\\\").replace("'", "\\'")
    return [
        order.tools.path("pg_dump"),
        "--format=directory",
        f"--jobs={order.settings.jobs}",
        order.compression.option(order.tools.major),
        f"--snapshot={order.snapshot}",
        # the fingerprint, which waits for one table and can name it, is to give up first
        f"--lock-wait-timeout={round((order.database.timeouts.lock_s + LOCK_HEAD_START_S) * 1000)}",
        "--no-password",
        "--no-sync",  # every file is fsynced when it's hashed
        f"--file={order.directory / DUMP}",
        *(_encoded(word, order.encoding) for word in chosen),
        # of a keyword that stands twice libpq takes the last; the watch knows its sessions by that name
        f"--dbname={parameters.conninfo(order.database)} application_name='{name}'",
    ], listing


def _encoded(word: str, encoding: str) -> str:
    """Have a name reach pg_dump in the database's own encoding, which is the one it talks to the server in.

    Errors: `RefusedError` for a name in an encoding that Python doesn't know.
    """
    if word.isascii() or encoding in {"UTF8", "SQL_ASCII"}:
        return word
    try:
        return os.fsdecode(word.encode(encoding.replace("WIN", "cp")))
    except (LookupError, UnicodeEncodeError):
        raise errors.RefusedError(
            f"filter: {word} can't be written in the database's encoding, {encoding}. Nothing was written."
        ) from None

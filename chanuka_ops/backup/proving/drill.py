"""The drill: restore a backup into a scratch server and compare the copy with the source's fingerprint.

The scratch server listens on a private socket only, archives nothing, runs no jobs and is destroyed afterwards; the
copy's subscriptions are left out, so nothing of it can reach another system. Where the settings name a server, the copy
is a database of its own there instead (borrowed.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr
from sqlalchemy import text

from chanuka_ops.backup import rules
from chanuka_ops.backup.answers import Comparison, Drilled, Mismatch
from chanuka_ops.backup.beside import GoOn, beside
from chanuka_ops.backup.model import Fingerprint, Manifest
from chanuka_ops.backup.proving import amcheck, asserting, borrowed, comparing
from chanuka_ops.backup.restoring import archive, pg_restore
from chanuka_ops.backup.taking import dump, fingerprint
from chanuka_ops.config import BackupSettings, DatabaseSettings, DrillSettings, SecretSource
from chanuka_ops.db import engines, parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import SCRATCH_SETTINGS, Server, scratch
from chanuka_ops.sql.catalog import load

log = logging.getLogger(__name__)

_EVENT_TRIGGERS_SINCE = 17  # the setting that silences them; before, none of them runs at a login
_NO_EVENT_TRIGGERS: Mapping[str, str] = {"event_triggers": "off"}
_WRITABLE: Mapping[str, str] = {"default_transaction_read_only": "off"}  # whatever the copy's own settings say
_WITHOUT = ("--no-tablespaces", "--no-subscriptions")
_NOTHING = ""  # a listing of no entries: of a database's own, pg_restore restores all the same
_INITIAL_DATABASE = "postgres"
_OF_EVERY_DATABASE = frozenset({"public", "pg_catalog"})


@dataclass(frozen=True, slots=True)
class RestoredCopy:
    """A restored database on a scratch server. `rights`: whether it has the owners and grants of the source."""

    manager: ConnectionManager
    server_version: str
    same_major: bool
    restore_seconds: float
    rights: bool = True
    warnings: tuple[str, ...] = ()


class Meanwhile(Protocol):
    """What is done with a restored copy once it was compared."""

    @property
    def wal_level(self) -> str:
        """The setting of the source's server: the copy's is to write the same."""

    def __call__(self, drilled: Drilled, copy: RestoredCopy, /) -> None:
        """Do it."""


@contextmanager
def restored_copy(
    directory: Path,
    manifest: Manifest,
    binaries: Binaries,
    settings: BackupSettings,
    state_dir: Path,
    *,
    wal_level: str | None = None,
) -> Iterator[RestoredCopy]:
    """Restore a backup's files, in `directory`, into a scratch server for the block.

    `wal_level`: that of a server in production; the scratch server then writes as much WAL as that would.

    Errors: `ServerError`; `ToolFailed` with pg_restore's own words: none of its errors is ignored; where the settings
    name a server, as `borrowed.place`.
    """
    work = _Work(directory, manifest, binaries, settings)
    url = settings.drill.scratch_url
    server: Mapping[str, str] = SCRATCH_SETTINGS
    if wal_level is not None:
        server = {**server, "wal_level": wal_level, "full_page_writes": "on"}
    with _on_own(work, state_dir, server) if url is None else _on_borrowed(work, url) as copy:
        yield copy


def compare(
    manifest: Manifest,
    copy: RestoredCopy,
    *,
    deadline_s: float,
    drill: DrillSettings | None = None,
    part: int = 0,
) -> Comparison:
    """Fingerprint the copy as the source was, and compare; check its indexes meanwhile, then ask the assertions.

    `part` is the part to compare of very large tables, see `comparing.next_part`. Without `drill` nothing but the
    comparison is made.
    Errors: `DatabaseError`.
    """
    ends_s = time.monotonic() + deadline_s
    chosen = part if any(table.parts for table in manifest.fingerprint.tables.values()) else None
    warnings = list(copy.warnings)
    index_problems: Sequence[Mismatch] | None = None
    if drill is not None and drill.amcheck:
        restored, index_problems = _with_amcheck(manifest, copy, chosen, ends_s)
        if index_problems is None:
            warnings.append("the indexes were not checked: amcheck can't be had on the scratch server")
    else:
        restored = _retaken(manifest.fingerprint, copy, chosen, deadline_s)
    found = comparing.compare(
        manifest.fingerprint,
        restored,
        same_major=copy.same_major,
        part=chosen,
        rights=copy.rights,
        filtered=manifest.filters is not None,
    )
    asked = None
    if drill is not None and drill.assertions:
        asked = asserting.check(copy.manager, drill.assertions, timeout_s=drill.assertion_timeout_s)
    return found.model_copy(
        update={
            "index_problems": None if index_problems is None else tuple(index_problems),
            "assertion_problems": asked,
            "warnings": (*warnings, *found.warnings),
        }
    )


def _retaken(original: Fingerprint, copy: RestoredCopy, part: int | None, deadline_s: float) -> Fingerprint:
    with copy.manager.transaction(
        isolation="REPEATABLE READ", read_only=True, profile=Profile.MAINTENANCE
    ) as connection:
        fingerprint.fix_settings(connection, deadline_s=deadline_s)
        return fingerprint.retake(connection, original, label="compare", part=part)


def _with_amcheck(
    manifest: Manifest, copy: RestoredCopy, part: int | None, ends_s: float
) -> tuple[Fingerprint, Sequence[Mismatch] | None]:
    """Compare on one connection while amcheck works on another."""
    left_s = max(0.001, ends_s - time.monotonic())
    with (
        ConnectionManager(copy.manager.name, copy.manager.settings) as second,
        second.transaction(profile=Profile.MAINTENANCE) as connection,
    ):
        fingerprint.fix_settings(connection, deadline_s=left_s)

        def checked(go_on: GoOn) -> Sequence[Mismatch] | None:
            return amcheck.check(connection, go_on=go_on)

        with beside(connection, checked, name=amcheck.NAME) as checking:
            restored = _retaken(manifest.fingerprint, copy, part, left_s)
            return restored, checking.result(ends_s=ends_s)


@dataclass(frozen=True, slots=True)
class _Work:
    """One restore: what of, with what, and how long it may take."""

    directory: Path
    manifest: Manifest
    binaries: Binaries
    settings: BackupSettings

    @property
    def dump(self) -> Path:
        return self.directory / dump.DUMP

    @property
    def dbname(self) -> str:
        return self.manifest.source.dbname

    def pg_restore(
        self,
        into: DatabaseSettings,
        *options: str,
        session: Mapping[str, str],
        listing: str | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        pg_restore.run(
            self.dump,
            into,
            self.binaries,
            # no list of entries goes with several jobs where it lists none
            options=[*_WITHOUT, *options, *([] if listing == _NOTHING else [f"--jobs={self.settings.jobs}"])],
            deadline_s=self.settings.deadline_s,
            listing=listing,
            session={**pg_restore.SESSION, **session},
            meanwhile=meanwhile,
        )

    def growth(self, watcher: ConnectionManager, dbname: str) -> Callable[[], None]:
        return pg_restore.growth(watcher, dbname, self.manifest.source.source_bytes)

    def missing_schemas(self) -> list[str]:
        """Return the schemas that a dump of picked tables leaves out, though its tables are in them."""
        if self.manifest.filters is None:
            return []
        entries = archive.read(self.dump, self.binaries).entries
        made = {entry.name for entry in entries if entry.kind == "SCHEMA"}
        return sorted({entry.schema for entry in entries if entry.schema} - made - _OF_EVERY_DATABASE)


@contextmanager
def _on_own(work: _Work, state_dir: Path, settings: Mapping[str, str]) -> Iterator[RestoredCopy]:
    with scratch(state_dir, work.binaries, settings=settings) as server:
        watch = Stopwatch()
        admin = _admin_database(server, work.dbname)
        _restore_roles(work, server.settings(admin))
        quiet = _quiet(server.major)
        target = _with_session(server.settings(work.dbname), quiet)
        with ConnectionManager("scratch", server.settings(admin)) as watcher:
            missing = work.missing_schemas()
            if missing:
                work.pg_restore(watcher.settings, "--create", session=quiet, listing=_NOTHING)
                _make_schemas(target, missing)
            into, options = (target, ()) if missing else (watcher.settings, ("--create",))
            work.pg_restore(into, *options, session=quiet, meanwhile=work.growth(watcher, work.dbname))
        watch.stop()
        same_major = server.major == work.manifest.source.major
        with ConnectionManager(work.manifest.database, target) as manager:
            yield RestoredCopy(manager, server.binaries.version, same_major, watch.seconds)


@contextmanager
def _on_borrowed(work: _Work, url: SecretSource) -> Iterator[RestoredCopy]:
    deadline_s = work.settings.deadline_s
    with borrowed.place(url, work.directory, work.dump, work.manifest, work.binaries, deadline_s=deadline_s) as place:
        watch = Stopwatch()
        quiet = _quiet(place.major) if place.superuser else _WRITABLE
        target = _with_session(place.database, quiet)
        name = str(target.sqlalchemy_url.database)
        with ConnectionManager(work.manifest.database, target) as manager:
            _make_schemas(target, work.missing_schemas())
            rights = () if place.rights else ("--no-owner", "--no-privileges")
            work.pg_restore(target, *rights, session=quiet, meanwhile=work.growth(manager, name))
            watch.stop()
            same_major = place.major == work.manifest.source.major
            yield RestoredCopy(manager, place.version, same_major, watch.seconds, place.rights, place.warnings)


def _make_schemas(database: DatabaseSettings, names: Sequence[str]) -> None:
    if not names:
        return
    with ConnectionManager("scratch", database) as manager, manager.autocommit() as connection:
        for name in names:
            statement = connection.execute(
                text(load("chanuka_ops.backup").sql("create_schema")), {"name": name}
            ).scalar_one()
            engines.execute_verbatim(connection, statement)


def _quiet(major: int) -> Mapping[str, str]:
    """Return the settings of a superuser's session in the copy: no code of the copy runs by itself."""
    return {**_WRITABLE, **(_NO_EVENT_TRIGGERS if major >= _EVENT_TRIGGERS_SINCE else {})}


def _with_session(database: DatabaseSettings, session: Mapping[str, str]) -> DatabaseSettings:
    """Return the database's settings with more of libpq's options."""
    options = [parameters.stated_options(database), *(f"-c {name}={value}" for name, value in session.items())]
    url = database.sqlalchemy_url.update_query_dict({"options": " ".join(options).strip()})
    return database.model_copy(update={"url": SecretStr(url.render_as_string(hide_password=False))})


def _admin_database(server: Server, dbname: str) -> str:
    """Return the database to connect to while the copy is made: initdb's `postgres`.

    If that is the copy's name, another one is made, and it is dropped.
    """
    if dbname != _INITIAL_DATABASE:
        return _INITIAL_DATABASE
    name = server.superuser  # random, so no database of the source has it
    for where, statement, named in (
        (_INITIAL_DATABASE, "create_admin_database", name),
        (name, "drop_database", dbname),
    ):
        with ConnectionManager("scratch", server.settings(where)) as manager, manager.autocommit() as connection:
            quoted = connection.execute(text(load("chanuka_ops.backup").sql(statement)), {"name": named}).scalar_one()
            connection.exec_driver_sql(quoted, execution_options={"no_parameters": True})
    return name


def _restore_roles(work: _Work, admin: DatabaseSettings) -> None:
    script = (work.directory / dump.ROLES).read_text(encoding="utf-8", errors="surrogateescape")
    options = " ".join(f"-c {name}={value}" for name, value in pg_restore.SESSION.items())
    process.run(
        [
            work.binaries.path("psql"),
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            f"--dbname={parameters.conninfo(admin)}",
        ],
        stdin=rules.without_grantors(script),
        env={"PGOPTIONS": options, "PGCLIENTENCODING": "UTF8"},
        deadline_s=work.settings.deadline_s,
    )

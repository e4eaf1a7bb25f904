"""Lint with what can be known: a configured database is asked where it answers; none is ever started for it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from chanuka_ops import context, errors
from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.lint import looking, second
from chanuka_ops.migrator.lint.catalogue import Catalogue
from chanuka_ops.migrator.lint.model import Report
from chanuka_ops.migrator.lint.service import Linter
from chanuka_ops.migrator.locating import locate
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.postgres.server import embedded_running

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be linted: `sql` names a script, else revisions are meant, the pending ones or `every` one.

    `pg_version`: the server's major, where another is meant than the database's.
    """

    sql: Path | None = None
    every: bool = False
    pg_version: int | None = None
    offline: bool = False
    second_opinion: bool = False


def lint(settings: Settings, name: str, wanted: Wanted, *, content: bytes | None = None) -> Report:
    """Judge a script (`content` is what its file holds) or revisions.

    Errors: `ConfigurationError` naming what isn't understood; `ToolFailed` where revisions can't be rendered.
    """
    with context.scope(operation="lint", database=name), _asked(settings, name, wanted) as (manager, notes):
        catalogue = _looked(manager, notes)
        linter = Linter(dt.datetime.now(dt.UTC).date(), catalogue, wanted.pg_version or _version(catalogue))
        if wanted.sql is not None and content is not None:
            report = linter.script(content, str(wanted.sql))
            if wanted.second_opinion:
                report = second.joined(report, content, str(wanted.sql), version=linter.version)
        else:
            report = _revisions(settings, linter, manager, wanted, notes)
        return replace(report, notes=(*report.notes, *notes))


def _revisions(
    settings: Settings, linter: Linter, manager: ConnectionManager | None, wanted: Wanted, notes: list[str]
) -> Report:
    migration = settings.operations.migration
    location = locate(migration, Path.cwd())
    if wanted.every or manager is None or linter.catalogue is None:
        if not wanted.every:
            notes.append("which revisions are pending isn't known without the database: all were looked at")
        return replace(linter, catalogue=None).revisions(location, None)
    plan = Migrator(manager, migration).plan()
    return linter.revisions(location, {revision.revision for revision in plan.pending})


@contextmanager
def _asked(settings: Settings, name: str, wanted: Wanted) -> Iterator[tuple[ConnectionManager | None, list[str]]]:
    notes: list[str] = []
    database = None if wanted.offline else _reachable(settings, name)
    if database is None:
        yield None, notes
        return
    with ConnectionManager(name, database, features=settings.features, state_dir=settings.state_dir) as manager:
        yield manager, notes


def _reachable(settings: Settings, name: str) -> DatabaseSettings | None:
    """Return the configured database, or that of the embedded server where it's up: none is started for lint."""
    if settings.databases:
        return settings.database(name)
    # a third of a second, which only this case needs
    from chanuka_ops.orchestrators.database import EMBEDDED_DATABASE, EMBEDDED_NAME  # noqa: PLC0415

    if name != EMBEDDED_NAME:
        return settings.database(name)
    return embedded_running(settings.state_dir, EMBEDDED_DATABASE)


def _looked(manager: ConnectionManager | None, notes: list[str]) -> Catalogue | None:
    if manager is None:
        return None
    try:
        return looking.look(manager)
    except errors.DatabaseError as error:
        log.debug("lint goes on without the database", exc_info=True)
        notes.append(f"database {manager.name} was not asked ({error}): the script alone was looked at")
        return None


def _version(catalogue: Catalogue | None) -> int | None:
    return catalogue.version if catalogue is not None else None

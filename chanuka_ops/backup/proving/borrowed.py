"""A database of a drill's own on a server that belongs to somebody: made for the drill, dropped at its end.

Its name holds the moment it was made, so that a later drill knows what a killed one left. Nothing else of that server
is changed: no role is made, no other database touched. Where roles of the source are missing, the copy has no owners
and no grants, and they are not compared. Of the database itself it has encoding and locale, not the settings.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr, ValidationError

from chanuka_ops import errors
from chanuka_ops.backup.model import Manifest
from chanuka_ops.backup.restoring import archive, properties, statements
from chanuka_ops.backup.restoring import target as targets
from chanuka_ops.backup.restoring.archive import Archive
from chanuka_ops.backup.restoring.target import Target
from chanuka_ops.backup.taking.globals import ROLES
from chanuka_ops.config import DatabaseSettings, SecretSource
from chanuka_ops.db import credentials
from chanuka_ops.postgres.binaries import Binaries

log = logging.getLogger(__name__)

_MADE_AT = re.compile(r"^chanuka_drill_(?P<at>\d{8}t\d{6}z)_[0-9a-f]{8}$")
_AT = "%Y%m%dt%H%M%Sz"


@dataclass(frozen=True, slots=True)
class Place:
    """An empty database for a copy. `rights`: whether the copy can have its owners and grants there."""

    database: DatabaseSettings
    version: str
    major: int
    superuser: bool
    rights: bool
    warnings: tuple[str, ...]


@contextmanager
def place(
    source: SecretSource, directory: Path, dump: Path, manifest: Manifest, tools: Binaries, *, deadline_s: float
) -> Iterator[Place]:
    """Make a database for the block on the server that the secret names; `directory` holds the roles, `dump` the dump.

    Errors: `ConfigurationError`; `RefusedError` where the server is the source itself, or of an older major version;
    `ConnectError`, `DatabaseError`.
    """
    settings = _settings(source)
    with targets.seen(settings) as target:
        if target.server.major < manifest.source.major:
            raise errors.RefusedError(
                f"the scratch server is PostgreSQL {target.server.major} and the backup's source was"
                f" {manifest.source.major}: it must be the same or a newer major version. Nothing was made there."
            )
        warnings = _refuse_source(target, manifest)
        _sweep(target, deadline_s)
        whole = archive.read(dump, tools)
        missing = _missing_roles(target, whole, directory)
        if missing:
            warnings.append(f"owners and grants were left out: the scratch server has no role {', '.join(missing)}")
        name = f"chanuka_drill_{datetime.now(UTC):{_AT}}_{secrets.token_hex(4)}"
        try:
            otherwise = properties.create(target, whole, name, tablespaces=False)
            yield Place(
                database=settings.with_dbname(name),
                version=target.server.version,
                major=target.server.major,
                superuser=target.server.superuser,
                rights=not missing,
                warnings=tuple(warnings + ([otherwise] if otherwise else [])),
            )
        finally:
            _drop(target, name)


def _settings(source: SecretSource) -> DatabaseSettings:
    url = credentials.resolve_secret(source, "the scratch server's URL")
    try:
        return DatabaseSettings(url=SecretStr(url))
    except ValidationError as error:
        reason = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise errors.ConfigurationError(f"operations.backup.drill.scratch_url: {reason}") from None


def _refuse_source(target: Target, manifest: Manifest) -> list[str]:
    """Refuse the source's own server; return the warnings. A physical copy of it has the same number."""
    stated = manifest.source.system_identifier
    try:
        found = target.ask("system_identifier")[0]["system_identifier"]
    except errors.PermissionDenied:
        found = None
    if stated is None or found is None:
        return ["it can't be told whether the scratch server is the source's own: one of them doesn't tell its number"]
    if stated == found:
        raise errors.RefusedError(
            "the scratch server is the server that the backup was taken from, or a physical copy of it (system"
            f" identifier {found}): a drill's load belongs elsewhere. Nothing was made there."
        )
    return []


def _missing_roles(target: Target, whole: Archive, directory: Path) -> list[str]:
    """Return the roles that own something in the dump, or are granted something, and can't have it there."""
    script = (directory / ROLES).read_text(encoding="utf-8", errors="surrogateescape")
    wanted = statements.owners(whole.entries) | statements.grantees(whole.entries, statements.roles(script))
    there = target.roles(wanted)
    return sorted(name for name in wanted if not there.get(name, False))


def _sweep(target: Target, deadline_s: float) -> None:
    """Drop the databases of drills that must have ended by now."""
    oldest = datetime.now(UTC) - timedelta(seconds=deadline_s)
    for row in target.ask("left_drills"):
        name = str(row["datname"])
        match = _MADE_AT.match(name)
        if match and datetime.strptime(match["at"], _AT).replace(tzinfo=UTC) < oldest:
            _drop(target, name)


def _drop(target: Target, name: str) -> None:
    try:
        target.run("restore_drop", name=name)
    except errors.DatabaseError as failure:
        log.warning(
            "database %s can't be dropped from the scratch server (%s): a later drill does it", name, failure,
            extra={"event": "drill.left"},
        )  # fmt: skip
    else:
        log.info("dropped the drill's database %s", name, extra={"event": "drill.dropped"})

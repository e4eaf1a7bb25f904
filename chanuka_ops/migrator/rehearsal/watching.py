"""Tracing revisions, in the migration process: the observers that its runner hands to each attempt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection

from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.fingerprint import VERSION_TABLE
from chanuka_ops.migrator.model import Direction, Script
from chanuka_ops.migrator.rehearsal import looking
from chanuka_ops.migrator.rehearsal.model import Traced
from chanuka_ops.migrator.rehearsal.sampling import Sampler
from chanuka_ops.migrator.rehearsal.tracer import Place, Tracer
from chanuka_ops.migrator.running import statement
from chanuka_ops.migrator.running.statements import Observer

_BOOKKEEPING = re.compile(
    rf"^\s*(?:insert\s+into|update|delete\s+from|create\s+table)\s+[\w.\"]*{VERSION_TABLE}\b", re.IGNORECASE
)
_SILENT = {"read", "always", "control"}


@contextmanager
def tracing(
    database: DatabaseSettings, settings: MigrationSettings, emit: Callable[[dict[str, Any]], None]
) -> Iterator[Callable[[Connection, Script, Direction], Observer]]:
    """Give what makes an observer for each attempt of a revision; each statement becomes an event `traced`.

    Errors: `ConnectError`.
    """
    with ConnectionManager("trace", database) as manager:
        major = manager.probe().major
        with manager.read() as connection:
            existing = looking.relations(engines.driver_connection(connection), major, settings.journal_schema)

        def tell(traced: Traced) -> None:
            if worth_telling(traced):
                emit({"event": "traced", "statement": traced.to_json()})

        with Sampler(manager, major) as sampler:
            yield lambda connection, script, direction: Tracer(
                connection,
                sampler,
                existing,
                tell,
                own_schema=settings.journal_schema,
                place=Place(script.revision, direction),
            )


def worth_telling(traced: Traced) -> bool:
    """Tell whether a statement is the revision's: not Alembic's bookkeeping, nor a look that holds up nobody."""
    if traced.error is not None:
        return True
    if _BOOKKEEPING.match(traced.sql):
        return False
    return bool(traced.blocks) or statement.read(traced.sql).kind not in _SILENT

"""The migration's connection, outside a transaction: each statement is whole by itself.

Two ways to wait. What needs a strong lock waits shortly, for everybody else queues behind it, and tries again
(`retried`). What blocks nobody while it waits (CREATE INDEX CONCURRENTLY) may be patient (`patiently`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

from alembic import op
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql.elements import TextClause

from chanuka_ops import errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.db import engines
from chanuka_ops.db.classify import Phase
from chanuka_ops.migrator import rules as migration_rules
from chanuka_ops.migrator.operations.model import Relation
from chanuka_ops.migrator.running.statements import HELPER
from chanuka_ops.sql import catalog

SETTINGS = "chanuka_settings"  # in Alembic's Config.attributes: the MigrationSettings in force
# By the driver's own paramstyle each % would be written twice.
_QUOTING = PGDialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy's
_VERBATIM = {"no_parameters": True}  # a % is a %

_T = TypeVar("_T")
Column = str | TextClause


@contextmanager
def outside_transaction() -> Iterator[Session]:
    """Give a session for the block; what the revision did before it is committed.

    Errors: `MigrationFailed` where the revision isn't run by Alembic.
    """
    migrating = op.get_context()
    with migrating.autocommit_block():
        if migrating.as_sql or migrating.connection is None:
            yield Session(migrating, None)
            return
        info = migrating.connection.info
        info[HELPER] = True
        try:
            yield Session(migrating, migrating.connection)
        finally:
            info.pop(HELPER, None)


class Session:
    """What the operations ask and send.

    With `--sql` there is no server: nothing is there, and the statements that every server understands are shown.
    """

    def __init__(self, migrating: MigrationContext, connection: Connection | None) -> None:
        self._migrating = migrating
        self._connection = connection
        self._catalog = catalog.load("chanuka_ops.migrator")
        self._major = engines.server_major(connection) if connection is not None else catalog.OLDEST_MAJOR
        environment = migrating.environment_context
        attributes = environment.config.attributes if environment is not None else {}
        self._settings: MigrationSettings = attributes.get(SETTINGS) or MigrationSettings()

    @property
    def shown(self) -> bool:
        """Whether statements are only shown."""
        return self._connection is None

    @property
    def major(self) -> int:
        """The server's major version."""
        return self._major

    @property
    def journal_schema(self) -> str:
        """The schema of what this program writes down; a name that needs no quotes."""
        return self._settings.journal_schema

    def quoted(self, name: str) -> str:
        """Return the name as SQL; always in quotes, so that none is a keyword."""
        return str(_QUOTING.quote_identifier(name))

    def qualified(self, name: str, schema: str | None) -> str:
        """Return a name in a schema (None: as the search path has it) as SQL."""
        return f"{self.quoted(schema)}.{self.quoted(name)}" if schema else self.quoted(name)

    def term(self, column: Column) -> str:
        """Return a column's name, or `text(…)`'s own words, as SQL."""
        return self.quoted(column) if isinstance(column, str) else column.text

    def terms(self, columns: Sequence[Column]) -> tuple[str, ...]:
        """Return each as SQL."""
        return tuple(self.term(column) for column in columns)

    def rows(self, block: str, **parameters: Any) -> Sequence[Row[Any]]:
        """Return the rows of a named query."""
        if self._connection is None:
            return []
        with engines.translated(Phase.AUTOCOMMIT):
            return self._connection.execute(text(self._catalog.sql(block, self._major)), parameters).all()

    def row(self, block: str, **parameters: Any) -> Row[Any] | None:
        """Return the first row of a named query."""
        found = self.rows(block, **parameters)
        return found[0] if found else None

    def relation(self, name: str, schema: str | None) -> Relation:
        """Return a table. Errors: `MigrationFailed` where there is none."""
        if self.shown:
            return Relation(0, schema or "", name, "r", None)
        qualified = self.qualified(name, schema)
        found = self.row("relation", name=qualified)
        if found is None:
            raise errors.MigrationFailed(f"there is no table {qualified}")
        return Relation(found.oid, found.schema, found.name, found.kind, found.rows)

    def of(self, relation: Relation) -> str:
        """Return a table's name as SQL."""
        return self.qualified(relation.name, relation.schema or None)

    def run(self, sql: str) -> Row[Any] | None:
        """Send a statement as it stands; return its first row, if it gives rows."""
        if self._connection is None:
            self._migrating.impl.static_output(f"{sql.strip()};\n")
            return None
        with engines.translated(Phase.AUTOCOMMIT):
            done = self._connection.exec_driver_sql(sql, execution_options=_VERBATIM)
            return done.first() if done.returns_rows else None

    def patiently(self, sql: str, patience_s: float) -> None:
        """Send a statement that blocks nobody while it waits: it may wait that long."""
        self.run(f"set lock_timeout = {round(patience_s * 1000)}")
        try:
            self.run(sql)
        except errors.ConnectionLost:
            raise  # nothing can be reset on it
        except errors.DatabaseError:
            self.run("reset lock_timeout")
            raise
        self.run("reset lock_timeout")

    def retried(self, sql: str) -> Row[Any] | None:
        """Send a statement that needs its lock shortly; after a lock timeout or a deadlock, again, within the deadline.

        Errors: `LockTimeout` when the deadline is over; any other `DatabaseError` at once.
        """
        return self.again(lambda: self.run(sql))

    def again(self, work: Callable[[], _T], *, failed: Callable[[], None] = lambda: None) -> _T:
        """Do it; after a lock timeout or a deadlock, tell, and do it again. Errors: as `retried`."""
        begun = time.monotonic()
        for attempt in count(1):
            try:
                return work()
            except errors.ConnectionLost:
                raise
            except errors.DatabaseError as error:
                wait_s = migration_rules.retry_after(
                    error.sqlstate,
                    attempt=attempt,
                    elapsed_s=time.monotonic() - begun,
                    deadline_s=self._settings.retry_deadline_s,
                    roll=random.random(),  # noqa: S311 - jitter, no secret
                )
                if wait_s is None:
                    raise
                failed()
                time.sleep(wait_s)
        raise AssertionError("count() has no end")  # pragma: no cover

    def with_version(self, sql: str) -> None:
        """Send a statement in the transaction that records this revision: both happen, or neither."""
        if self._connection is None:
            return

        def send(*, ctx: MigrationContext, **_: Any) -> None:
            if ctx.connection is not None and pending:
                ctx.connection.exec_driver_sql(pending.pop(), execution_options=_VERBATIM)

        pending = [sql]  # the context may go on to further revisions
        self._migrating.on_version_apply_callbacks = (*self._migrating.on_version_apply_callbacks, send)

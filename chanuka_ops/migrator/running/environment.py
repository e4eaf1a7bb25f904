"""Running env.py: the application's own, or ours, always on our connection."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db import credentials
from chanuka_ops.migrator.operations.session import SETTINGS
from chanuka_ops.migrator.running.lending import Lender
from chanuka_ops.migrator.scripts import Scripts

Work = Callable[[tuple[str, ...], MigrationContext], Iterable[Any]]


class Environment:
    """One directory's env.py."""

    def __init__(self, files: Scripts, database: DatabaseSettings, settings: MigrationSettings) -> None:
        self._files = files
        self._database = database
        self._settings = settings
        self._lender = Lender(database)

    def run(self, connection: Connection, work: Work, **options: Any) -> None:
        """Run env.py on the connection; `work` gets what Alembic's commands get, and returns the steps to take.

        Errors: `ConfigurationError` where env.py finds a connection of its own, or never runs migrations.
        """
        ran = False

        def on_our_connection(revisions: tuple[str, ...], migrating: MigrationContext) -> Iterable[Any]:
            nonlocal ran
            ran = True
            if migrating.connection is not connection:
                raise errors.ConfigurationError(
                    f"{self._files.path}/env.py makes a connection of its own, which has no lock timeout: let it use"
                    " config.attributes['connection'], as this program's own env.py does. Nothing was changed."
                )
            return work(revisions, migrating)

        with self._lender.installed(), self._lender.lent(connection):
            self._run({"connection": connection}, on_our_connection, **options)
        if not ran:
            raise errors.ConfigurationError(
                f"{self._files.path}/env.py didn't come to context.run_migrations(). Nothing was changed."
            )

    def offline(self, work: Work, current: Sequence[str]) -> str:
        """Run env.py without a connection, and return the SQL that it writes for a database that stands there."""
        written = io.StringIO()
        config = self._files.config
        config.output_buffer = written
        engine = self._lender.engine(self._database.sqlalchemy_url)  # some ask it for its url
        with self._lender.installed():
            stands = list(current) or None
            self._run({"connection": engine}, work, as_sql=True, starting_rev=stands, destination_rev=None)
        return written.getvalue()

    def _run(self, attributes: dict[str, Any], work: Work, **options: Any) -> None:
        config = self._files.config
        password = credentials.password_of(self._database)
        url = self._database.sqlalchemy_url.set(password=password).render_as_string(hide_password=False)
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        given = {**attributes, SETTINGS: self._settings}
        config.attributes.update(given)
        try:
            with EnvironmentContext(config, self._files.directory, fn=work, **options) as environment:
                environment.configure = _each_by_itself(environment.configure)  # type: ignore[method-assign]  # a subclass would have no proxy
                self._files.directory.run_env()
        finally:
            for name in given:
                del config.attributes[name]


def _each_by_itself(configure: Callable[..., None]) -> Callable[..., None]:
    """Give each migration a transaction of its own, whatever env.py says of that."""

    def with_transactions(*args: Any, **options: Any) -> None:
        configure(*args, **{**options, "transaction_per_migration": True})

    return with_transactions

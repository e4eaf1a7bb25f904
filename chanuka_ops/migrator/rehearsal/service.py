"""A rehearsal on a restored copy: up, down, and up again, or a script; what each statement did, and what remained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import SecretStr
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db import engines, parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator import fingerprint, rules
from chanuka_ops.migrator.fingerprint import SchemaFingerprint
from chanuka_ops.migrator.rehearsal import contents, looking, scripting
from chanuka_ops.migrator.rehearsal import rules as tracing_rules
from chanuka_ops.migrator.rehearsal.contents import Content
from chanuka_ops.migrator.rehearsal.model import Leg, Ran, Relation, TableSize, Traced
from chanuka_ops.migrator.rehearsal.sampling import Sampler
from chanuka_ops.migrator.rehearsal.tracer import Place, Tracer
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
_LIVE_COUNTERS_SINCE = 15  # from here on statistics are read as they stand, where they're asked to be
UP, DOWN, UP_AGAIN = "up", "down", "up_again"


@dataclass(frozen=True, slots=True)
class Scripts:
    """A script to rehearse in place of revisions, and the one that undoes it, where there is one."""

    up: str
    down: str | None = None


class Rehearsal:
    """Rehearses on one copy, which is nobody else's and is thrown away afterwards. Use as a context."""

    def __init__(self, copy: ConnectionManager, settings: MigrationSettings, tools: Binaries) -> None:
        found = copy.probe()
        self._version, self._major = found.server_version, found.major
        self._manager = ConnectionManager(copy.name, _counting(copy.target(), self._major))
        # nobody else is on the copy; what has to wait for its own observer is not to give up on a busy machine
        self._settings = settings.model_copy(update={"lock_timeout_s": max(settings.lock_timeout_s, PATIENCE_S)})
        self._tools = tools
        self._statements: list[Traced] = []
        self._legs: list[Leg] = []
        self._skipped = 0
        self._existing: dict[int, Relation] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def revisions(self, to: str = rules.HEAD) -> Ran:
        """Rehearse the pending revisions up to one: up, down to where the copy stood, and up again.

        A revision that fails is an answer. Errors: what stands in the way of any run (`rules.refusal`).
        """
        self._forget_journal()
        migrator = Migrator(self._manager, self._settings)
        start = rules.BASE

        def go(leg: str) -> tuple[str, ...]:
            nonlocal start
            take = self._take if leg != UP_AGAIN else _ignore
            done = migrator.traced("down", start, take) if leg == DOWN else migrator.traced("up", to, take)
            if leg == UP:
                start = rules.exactly(done.before)
            return tuple(step.revision for step in done.applied)

        return self._ladder(go, down=True)

    def script(self, scripts: Scripts) -> Ran:
        """Rehearse a plain script; down and up again too, where there is one that undoes it.

        Errors: `ConfigurationError` for what only psql can do.
        """
        texts = {UP: scripts.up, DOWN: scripts.down or "", UP_AGAIN: scripts.up}
        orders = {leg: scripting.read(script) for leg, script in texts.items()}

        def go(leg: str) -> tuple[str, ...]:
            error, skipped = self._run_script(leg, orders[leg])
            self._skipped += skipped
            if error is not None:
                raise errors.MigrationFailed(error)
            return ()

        return self._ladder(go, down=scripts.down is not None)

    def _ladder(self, go: Callable[[str], tuple[str, ...]], *, down: bool) -> Ran:
        with self._manager.read() as connection:
            if self._major >= _LIVE_COUNTERS_SINCE:  # who has compared the copy idles on it, with counters to report
                connection.execute(text(catalog.load(looking.PACKAGE).sql("trace_alone")))
            self._existing = looking.relations(
                engines.driver_connection(connection), self._major, self._settings.journal_schema
            )
            sizes = contents.sizes(connection, self._settings.journal_schema)
        rows = self._contents()
        schema = self._schema() if down else None
        differences: tuple[dict[str, str], ...] | None = None
        changed: tuple[str, ...] | None = None
        untouched = 0
        for leg in (UP, DOWN, UP_AGAIN) if down else (UP,):
            if not self._leg(leg, go):
                break
            if schema is not None and leg == DOWN:
                found = fingerprint.differences(schema, self._schema())
                differences = tuple(difference.to_json() for difference in found)
            if leg == (DOWN if down else UP):
                changed, untouched = self._changed(rows)
        return self._ran(sizes, differences, changed, untouched)

    def _leg(self, leg: str, go: Callable[[str], tuple[str, ...]]) -> bool:
        started = time.monotonic()
        revisions: tuple[str, ...] = ()
        error: str | None = None
        try:
            revisions = go(leg)
        except errors.ChanukaError as failure:
            if leg == UP and isinstance(failure, errors.RefusedError | errors.ConfigurationError):
                raise  # nothing was begun: that's no answer
            error = str(failure)
        self._legs.append(Leg(leg, round(time.monotonic() - started, 3), revisions, error))
        return error is None

    def _ran(
        self,
        sizes: dict[str, TableSize],
        differences: tuple[dict[str, str], ...] | None,
        changed: tuple[str, ...] | None,
        untouched: int,
    ) -> Ran:
        return Ran(
            legs=tuple(self._legs),
            statements=tuple(tracing_rules.folded(self._statements)),
            schema_differences=differences,
            changed_tables=changed,
            untouched_tables=untouched,
            skipped=self._skipped,
            sizes=sizes,
            server_version=self._version,
        )

    def _run_script(self, leg: str, orders: Sequence[scripting.Order]) -> tuple[str | None, int]:
        direction = "down" if leg == DOWN else "up"
        emit = self._statements.append if leg != UP_AGAIN else _nobody
        with (
            Sampler(self._manager, self._major) as sampler,
            self._manager.session(profile=Profile.MAINTENANCE, lock_timeout_s=self._settings.lock_timeout_s) as session,
        ):
            own_schema = self._settings.journal_schema
            place = Place(None, direction)
            tracer = Tracer(session, sampler, self._existing, emit, own_schema=own_schema, place=place)
            return scripting.Script(session, tracer, limit_s=self._settings.deadline_s).run(orders)

    def _take(self, document: dict[str, Any]) -> None:
        self._statements.append(Traced.from_json(document))

    def _schema(self) -> SchemaFingerprint:
        return fingerprint.take(
            self._manager.target(),
            self._tools,
            server_major=self._major,
            own_schema=self._settings.journal_schema,
            lock_timeout_s=self._settings.lock_timeout_s,
            deadline_s=self._settings.deadline_s,
        )

    def _contents(self, only: set[int] | None = None) -> dict[int, Content]:
        with self._manager.transaction(
            isolation="REPEATABLE READ", read_only=True, profile=Profile.MAINTENANCE
        ) as connection:
            found = contents.take(connection, self._settings.journal_schema, only)
            if self._major >= _LIVE_COUNTERS_SINCE:  # or the rows read here are counted seconds later, as a statement's
                connection.exec_driver_sql("select pg_stat_force_next_flush()")
            return found

    def _changed(self, before: dict[int, Content]) -> tuple[tuple[str, ...], int]:
        """Return the tables that hold something else, of those that no statement touched, and how many these are."""
        touched = {name for statement in self._statements for name in statement.touched}
        untouched = {oid for oid, content in before.items() if content.name not in touched}
        after = self._contents(untouched)
        changed = sorted(
            before[oid].name
            for oid in untouched
            if oid not in after or (after[oid].rows, after[oid].digest) != (before[oid].rows, before[oid].digest)
        )
        return tuple(changed), len(untouched)

    def _forget_journal(self) -> None:
        """Drop the journal that came with the copy: its transactions' numbers mean others here."""
        with self._manager.autocommit() as connection:
            sql = catalog.load(looking.PACKAGE).sql("trace_journal")
            statement = connection.execute(text(sql), {"own_schema": self._settings.journal_schema}).scalar_one()
            engines.execute_verbatim(connection, statement)


def _counting(database: DatabaseSettings, major: int) -> DatabaseSettings:
    """Return the copy's settings with what a trace needs of every session."""
    wanted = ["-c track_counts=on", "-c track_io_timing=off"]
    if major >= _LIVE_COUNTERS_SINCE:
        wanted.append("-c stats_fetch_consistency=none")
    options = " ".join([parameters.stated_options(database), *wanted]).strip()
    url = database.sqlalchemy_url.update_query_dict({"options": options})
    return database.model_copy(update={"url": SecretStr(url.render_as_string(hide_password=False))})


def _nobody(_: Traced) -> None:
    """Keep nothing: what is done again is no news."""


def _ignore(_: dict[str, Any]) -> None:
    """Keep nothing, likewise."""

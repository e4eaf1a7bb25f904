"""A server to plant defects on as a judge would: sessions held open, settings changed, and all of it undone again."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import MonitoringSettings, Threshold
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.health import service
from chanuka_ops.health.model import Finding, HealthReport
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.integration.health_cases import FLUSH, Planted
from chanuka_ops_tests.plugins.postgres import connect

JUDGED_SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "archive_mode": "on",
    "archive_command": "'true'",
    "max_prepared_transactions": "10",
    "max_connections": "40",
    "autovacuum_naptime": "1h",
    "shared_buffers": "64MB",
}
APPEARS_WITHIN_S = 15.0
ANY = "*"
# Before 15 a process of its own collects the counters, and writes them down now and then.
COUNTS_AT_ONCE = 150000
COLLECTED_WITHIN_S = 1.5


@dataclass(frozen=True, slots=True)
class Held:
    """A session that stays open: statements that return, and then one that waits (or runs on)."""

    statements: tuple[str, ...] = ()
    waits: str | None = None
    application: str = "a shop"
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """One case in a database of its own. `{db}` in a statement is its name, `{data}` the server's data directory.

    `twin_clears`: what an earlier case left may stand for a moment.
    `found` is the object that the check must name, `ANY` one or none, None: it must say nothing (a trap). `lines` are
    added to files below the data directory, and taken away again.
    """

    name: str
    check: str
    found: str | None
    status: str = "warning"
    plant: tuple[str, ...] = ()
    sessions: tuple[Held, ...] = ()
    cleanup: tuple[str, ...] = ()
    twin: tuple[str, ...] | None = None
    twin_clears: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)
    settles_s: float = 0.0
    oldest: int = 14


class Planter:
    """Plants on one server, one database for each case."""

    def __init__(self, server: Server) -> None:
        self.server = server
        with ConnectionManager("admin", server.settings("postgres")) as admin, admin.autocommit() as connection:
            self.data = Path(connection.exec_driver_sql("show data_directory").scalar_one())

    @contextmanager
    def planted(self, incident: Incident, *, healthy: bool = False) -> Iterator[ConnectionManager]:
        """Plant the case, or its twin, in a fresh database; undo it after the block."""
        name = f"case_{uuid.uuid4().hex[:10]}"
        with ExitStack() as stack:
            admin = stack.enter_context(ConnectionManager("admin", self.server.settings("postgres")))
            self._run(admin, f"create database {name} template template0")
            stack.callback(self._run, admin, f"drop database if exists {name} with (force)")
            manager = stack.enter_context(ConnectionManager("main", self.server.settings(name)))
            for statement in reversed(incident.cleanup):
                stack.callback(self._undo, manager, self._filled(statement, name), healthy=healthy)
            if not healthy:
                for file, line in incident.lines.items():
                    stack.enter_context(self._line(file, line))
            statements = incident.twin or () if healthy else incident.plant
            with connect(manager.settings, Profile.MAINTENANCE) as session:  # closed: it hands in its counters then
                session.autocommit = True
                for statement in statements:
                    session.execute(self._filled(statement, name).encode())
            if not healthy:
                stack.enter_context(self._held(manager, incident.sessions))
            time.sleep(incident.settles_s)
            yield manager

    def _filled(self, statement: str, name: str) -> str:
        return statement.replace("{db}", name).replace("{data}", str(self.data))

    @staticmethod
    def _run(manager: ConnectionManager, *statements: str) -> None:
        with manager.autocommit() as connection:
            for statement in statements:
                connection.execution_options(no_parameters=True).exec_driver_sql(statement)

    def _undo(self, manager: ConnectionManager, statement: str, *, healthy: bool) -> None:
        with suppress(errors.DatabaseError) if healthy else nullcontext():  # a twin may have nothing to undo
            self._run(manager, statement)

    @contextmanager
    def _line(self, file: str, line: str) -> Iterator[None]:
        path = self.data / file
        before = path.read_bytes()
        path.write_bytes(before + f"\n{line}\n".encode())
        yield
        path.write_bytes(before)

    @contextmanager
    def _held(self, manager: ConnectionManager, sessions: Sequence[Held]) -> Iterator[None]:
        held: list[psycopg.Connection[Any]] = []
        threads: list[threading.Thread] = []
        try:
            for one in sessions:
                session = connect(manager.settings, Profile.MAINTENANCE, lock_timeout_s=0)
                held.append(session)
                session.autocommit = True
                session.execute("select set_config('application_name', %s, false)", [one.application])
                for statement in one.statements:
                    with suppress(psycopg.errors.DivisionByZero):  # how a case aborts its transaction
                        session.execute(statement.encode())
                if one.waits is not None:
                    threads.append(threading.Thread(target=_wait, args=(session, one.waits)))
                    threads[-1].start()
                    time.sleep(0.05)  # queues are in the order of their arrival
            yield
        finally:
            for session in held:
                session.cancel_safe(timeout=5)
            for session in held:
                with suppress(psycopg.Error):
                    session.rollback()
            for thread in threads:
                thread.join(timeout=10)
            for session in held:
                session.close()


def _wait(session: psycopg.Connection[Any], statement: str) -> None:
    with suppress(psycopg.Error):  # it is cancelled at the end of the case
        session.execute(statement.encode())


def look(manager: ConnectionManager, incident: Incident, *, until: bool) -> list[Finding]:
    """One check's findings; `until`: looked for again until there are some."""
    monitoring = MonitoringSettings(thresholds={check: Threshold(warning=at) for check, at in incident.limits.items()})
    deadline = time.monotonic() + APPEARS_WITHIN_S
    while True:
        found = _of(service.check(manager, monitoring, only=[incident.check]), incident.check)
        if found or not until or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def clears(manager: ConnectionManager, incident: Incident) -> list[Finding]:
    """One check's findings, looked for again until there are none."""
    deadline = time.monotonic() + APPEARS_WITHIN_S
    while (found := look(manager, incident, until=False)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _of(report: HealthReport, check: str) -> list[Finding]:
    unknown = {result.check: result.reason for result in report.checks if result.status == "unknown"}
    assert not unknown
    return [finding for finding in report.findings if finding.check == check]


@pytest.fixture(scope="session")
def judged(pg: Binaries, session_dir: Path) -> Iterator[Planter]:
    """A server set as a monitored one is, for cases that change it."""
    with scratch(session_dir, pg, superuser="postgres", settings=JUDGED_SETTINGS) as running:
        yield Planter(running)


Outcome = list[tuple[str | None, str]]


@contextmanager
def reported(server: Server, cases: Sequence[Planted]) -> Iterator[HealthReport]:
    """Plant all cases in one database, each in a schema of its own and each twin in another, and look at them all.

    So a case is also a trap for every other one.
    """
    name = f"planted_{uuid.uuid4().hex[:8]}"
    with ConnectionManager("admin", server.settings("postgres")) as admin, admin.autocommit() as connection:
        connection.execute(text(f"create database {name} template template0"))
        try:
            with ConnectionManager("planted", server.settings(name)) as manager:
                for case in cases:
                    if case.oldest <= server.major:
                        _plant(manager, schema_of(case), case.plant, case.fails)
                    if case.twin:
                        _plant(manager, schema_of(case, twin=True), case.twin, frozenset())
                if manager.probe().server_version < COUNTS_AT_ONCE:
                    time.sleep(COLLECTED_WITHIN_S)
                yield service.check(manager, MonitoringSettings())
        finally:
            connection.execute(text(f"drop database {name} with (force)"))


def schema_of(case: Planted, *, twin: bool = False) -> str:
    """Name a case's schema; PostgreSQL would cut a longer one."""
    return f"{'t' if twin else 'c'}_{case.name}"[:60]


def outcome(report: HealthReport, case: Planted, *, twin: bool = False) -> Outcome:
    """What the case's check says of its schema: objects and statuses."""
    within = re.compile(rf"(schema )?{schema_of(case, twin=twin)}($|[.])")
    of_it = [found for found in report.findings if found.check == case.check and within.match(found.object or "")]
    return [(found.object, str(found.status)) for found in of_it]


def expected(case: Planted) -> Outcome:
    """What it must say."""
    return [] if case.found is None else [(case.found.format(s=schema_of(case)), case.status)]


def _plant(manager: ConnectionManager, schema: str, statements: Sequence[str], fails: frozenset[str]) -> None:
    """Run a case's statements; before 15 a session hands in its counters at its end, so there a new one goes on."""
    use = f"set search_path = {schema}"
    counts_at_once = manager.probe().server_version >= COUNTS_AT_ONCE
    with ExitStack() as stack:
        session = stack.enter_context(_session(manager))
        for statement in (f"create schema {schema}", use, *statements):
            if statement == FLUSH and not counts_at_once:
                session.close()
                session = stack.enter_context(_session(manager))
                session.execute(use.encode())
                continue
            with pytest.raises(psycopg.Error) if statement in fails else nullcontext():
                session.execute(statement.replace("{s}", schema).encode())


def _session(manager: ConnectionManager) -> psycopg.Connection[Any]:
    session = connect(manager.settings, Profile.MAINTENANCE)
    session.autocommit = True
    return session

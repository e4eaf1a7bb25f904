"""What only shows while it happens: idle transactions, blocking chains, builds under way, slots, limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest
from psycopg.rows import TupleRow

from chanuka_ops.config import MonitoringSettings, Threshold
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.health import service
from chanuka_ops.health.model import Finding
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres
Session = psycopg.Connection[TupleRow]
APPEARS_WITHIN_S = 10.0


class Sessions:
    """Sessions that a test holds open; statements that wait run on threads of their own."""

    def __init__(self, manager: ConnectionManager) -> None:
        self._manager = manager
        self._held: list[Session] = []
        self._threads: list[threading.Thread] = []

    def hold(self, *statements: str, application: str = "a test") -> Session:
        session = connect(self._manager.settings, Profile.MAINTENANCE, lock_timeout_s=0)
        session.autocommit = True
        self._held.append(session)
        session.execute("select set_config('application_name', %s, false)", [application])
        for statement in statements:
            session.execute(statement.encode())
        return session

    def wait(self, statement: str, *, application: str = "a test") -> Session:
        session = self.hold(application=application)

        def run() -> None:
            with suppress(psycopg.Error):  # it is cancelled at the end of the test
                session.execute(statement.encode())

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()
        return session

    def close(self) -> None:
        for session in self._held:
            session.cancel_safe(timeout=5)
        for thread in self._threads:
            thread.join(timeout=10)
        for session in self._held:
            session.close()


@pytest.fixture
def sessions(manager: ConnectionManager) -> Iterator[Sessions]:
    opened = Sessions(manager)
    yield opened
    opened.close()


@pytest.fixture
def look(manager: ConnectionManager) -> Callable[..., list[Finding]]:
    """One check's findings; with `until`, looked for again until there are some."""

    def findings(check: str, limit: float | None = None, *, until: bool = True) -> list[Finding]:
        thresholds = {} if limit is None else {check: Threshold(warning=limit)}
        deadline = time.monotonic() + APPEARS_WITHIN_S
        while True:
            report = service.check(manager, MonitoringSettings(thresholds=thresholds), only=[check])
            if report.findings or not until or time.monotonic() > deadline:
                return list(report.findings)
            time.sleep(0.05)

    return findings


def _pid(session: Session) -> int:
    return session.info.backend_pid


def _waits(manager: ConnectionManager, session: Session) -> None:
    """Return once the session waits for a lock."""
    deadline = time.monotonic() + APPEARS_WITHIN_S
    with connect(manager.settings, Profile.QUERY) as watcher:
        watcher.autocommit = True
        query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
        while watcher.execute(query, [_pid(session)]).fetchone() != (True,):
            assert time.monotonic() < deadline, "the session never came to wait"
            time.sleep(0.02)


def test_an_idle_transaction_is_found_with_the_limit_lowered(
    sessions: Sessions, look: Callable[..., list[Finding]]
) -> None:
    holder = sessions.hold("create table tt(id int)", "begin", "insert into tt values (1)")
    (found,) = look("session.idle_in_transaction", 0.2)
    assert (found.object, found.status, found.threshold) == (f"pid {_pid(holder)}", "warning", 0.2)
    assert "holds a transaction id" in found.summary
    assert look("session.idle_in_transaction", until=False) == []


def test_an_aborted_transaction_is_idle_too(sessions: Sessions, look: Callable[..., list[Finding]]) -> None:
    holder = sessions.hold("begin")
    with suppress(psycopg.Error):
        holder.execute("select 1 / 0")
    (found,) = look("session.idle_in_transaction", 0.1)
    assert "(aborted)" in found.summary


def test_idleness_counts_from_the_last_statement(sessions: Sessions, look: Callable[..., list[Finding]]) -> None:
    holder = sessions.hold("begin", "select pg_sleep(0.6)")
    assert look("session.idle_in_transaction", 0.5, until=False) == []
    holder.execute("rollback")
    assert look("session.idle_in_transaction", 0, until=False) == []


def test_a_dump_may_idle_and_run_long(sessions: Sessions, look: Callable[..., list[Finding]]) -> None:
    sessions.hold("begin", "select 1", application="pg_dump")
    sessions.wait("select pg_sleep(5)", application="pg_dump")
    assert look("session.idle_in_transaction", 0, until=False) == []
    assert look("session.long_query", 0, until=False) == []


def test_a_long_query_is_found(sessions: Sessions, look: Callable[..., list[Finding]]) -> None:
    runner = sessions.wait("select pg_sleep(8)")
    (found,) = look("session.long_query", 0.2)
    assert found.object == f"pid {_pid(runner)}"
    assert "pg_sleep" in found.summary


def test_the_root_of_a_chain_is_named_once(
    manager: ConnectionManager, sessions: Sessions, look: Callable[..., list[Finding]]
) -> None:
    root = sessions.hold(
        "create table acc(id int primary key, v int)", "insert into acc values (1, 1)", "begin",
        "update acc set v = 2 where id = 1",
    )  # fmt: skip
    waiters = [sessions.wait(f"update acc set v = {value} where id = 1") for value in (3, 4)]
    for waiter in waiters:
        _waits(manager, waiter)
    (found,) = look("lock.blocked")
    assert found.object == f"pid {_pid(root)}"
    assert found.summary.startswith("2 sessions wait")
    assert look("lock.ddl_queue", until=False) == []


def test_an_advisory_lock_blocks_too(
    manager: ConnectionManager, sessions: Sessions, look: Callable[..., list[Finding]]
) -> None:
    root = sessions.hold("select pg_advisory_lock(7)")
    _waits(manager, sessions.wait("select pg_advisory_lock(7)"))
    (found,) = look("lock.blocked")
    assert found.object == f"pid {_pid(root)}"


def test_a_queue_behind_ddl_is_critical_and_ddl_that_waits_alone_is_not(
    manager: ConnectionManager, sessions: Sessions, look: Callable[..., list[Finding]]
) -> None:
    reader = sessions.hold('create table "Busy"(v int)', "begin", 'select * from "Busy"')
    ddl = sessions.wait('alter table "Busy" add column w int')
    _waits(manager, ddl)
    (alone,) = look("lock.blocked")
    assert alone.object == f"pid {_pid(reader)}"
    assert look("lock.ddl_queue", 0, until=False) == []
    _waits(manager, sessions.wait('select * from "Busy"'))
    (found,) = look("lock.ddl_queue")
    assert (found.object, found.status) == ('public."Busy"', "critical")
    assert f"pg_cancel_backend({_pid(ddl)})" in found.remedy


def test_an_index_that_is_being_built_is_no_leftover(
    manager: ConnectionManager, sessions: Sessions, look: Callable[..., list[Finding]]
) -> None:
    sessions.hold("create table busy(id int, v int)", "begin", "insert into busy values (1, 1)")
    _waits(manager, sessions.wait("create index concurrently busy_v on busy(v)"))
    with manager.read() as connection:
        count = connection.exec_driver_sql("select count(*) from pg_index where not indisvalid").scalar_one()
    assert count == 1
    assert look("index.invalid", until=False) == []


def test_a_prepared_transaction_is_an_orphan_after_a_while(
    sessions: Sessions, look: Callable[..., list[Finding]], manager: ConnectionManager
) -> None:
    gid = f"orphan-{manager.settings.sqlalchemy_url.database}"
    session = sessions.hold(
        "create table tt(v int)", "begin", "insert into tt values (1)", f"prepare transaction '{gid}'"
    )
    try:
        assert look("txn.prepared_orphan", until=False) == []
        (found,) = look("txn.prepared_orphan", 0.1)
        assert (found.object, found.status) == (gid, "critical")
    finally:
        session.execute(f"rollback prepared '{gid}'".encode())


def test_the_holder_of_the_horizon_is_named(sessions: Sessions, look: Callable[..., list[Finding]]) -> None:
    holder = sessions.hold("create table tt(v int)", "begin isolation level repeatable read", "select * from tt")
    burner = sessions.hold()
    for _ in range(20):
        burner.execute("select pg_current_xact_id()")
    (found,) = look("txn.xmin_horizon", 10)
    assert found.object == f"session {_pid(holder)}"
    assert look("txn.xmin_horizon", until=False) == []


def test_an_unused_slot_is_critical_once_it_keeps_wal(
    sessions: Sessions, look: Callable[..., list[Finding]], manager: ConnectionManager
) -> None:
    slot = f"slot_{manager.settings.sqlalchemy_url.database}"
    session = sessions.hold(f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    try:
        assert look("replication.slot_inactive", until=False) == []
        session.execute("create table w(v text)")
        session.execute("insert into w select repeat(md5(g::text), 30) from generate_series(1, 25000) g")
        (found,) = look("replication.slot_inactive")
        assert (found.object, found.status) == (slot, "critical")
    finally:
        session.execute(f"select pg_drop_replication_slot('{slot}')".encode())


def test_a_role_at_its_own_limit_is_saturated(
    sessions: Sessions, look: Callable[..., list[Finding]], manager: ConnectionManager
) -> None:
    role = f"few_{manager.settings.sqlalchemy_url.database}"
    admin = sessions.hold(f"create role {role} login connection limit 2")
    url = manager.settings.sqlalchemy_url.set(username=role).render_as_string(hide_password=False)
    few = manager.settings.model_copy(update={"url": type(manager.settings.url)(url)})
    try:
        with connect(few, Profile.QUERY), connect(few, Profile.QUERY):
            (found,) = look("connections.saturation")
            assert (found.object, found.status, found.value) == (f"role {role}", "critical", 100.0)
    finally:
        admin.execute(f"drop role {role}".encode())


def test_many_locks_fill_the_lock_table(sessions: Sessions, look: Callable[..., list[Finding]]) -> None:
    assert look("lock.table_use", until=False) == []
    sessions.hold("begin", "select pg_advisory_xact_lock(g) from generate_series(1, 2000) g")
    (found,) = look("lock.table_use")
    assert found.status == "warning"

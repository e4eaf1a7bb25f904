"""Sessions that the server ended, idle or at work, and what a pooled connection brings along from its last user."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.watchdog import WatchedConnection
from chanuka_ops_tests.integration.fault_cases import (
    counts,
    end,
    insert,
    node_of,
    pids_of,
    plant,
    pooled,
    seconds,
    tokens,
)

pytestmark = pytest.mark.postgres

IDLE = 10
AT_WORK = 6


def test_idle_sessions_that_were_ended_cost_nobody_an_error(database: DatabaseSettings) -> None:
    firsts = []
    with ConnectionManager("main", pooled(database, IDLE)) as manager:
        for _ in range(3):
            before = pids_of(manager, IDLE)
            assert len(before) == IDLE
            end(database, before)
            firsts.append(seconds(lambda: pids_of(manager, 1)))
            assert not before & pids_of(manager, IDLE)
        assert "breaker_opened" not in counts(manager)
    assert min(firsts) < 0.25


def test_without_the_ping_an_idle_session_that_was_ended_is_an_error(database: DatabaseSettings) -> None:
    with ConnectionManager("main", pooled(database, IDLE)) as manager:
        node_of(manager).pooled.pool._pre_ping = False
        end(database, pids_of(manager, IDLE))
        with pytest.raises(errors.ConnectionLost), manager.read() as connection:
            connection.execute(text("select 1"))


def test_a_transaction_whose_session_is_ended_leaves_nothing(
    manager: ConnectionManager, database: DatabaseSettings
) -> None:
    plant(database)
    with pytest.raises(errors.ConnectionLost) as caught, manager.transaction() as connection:  # noqa: PT012 - in its midst
        end(database, [insert(connection, "half")])
        insert(connection, "whole")
    assert type(caught.value) is errors.ConnectionLost
    assert caught.value.sqlstate == "57P01"
    assert tokens(database) == []
    assert counts(manager)["lost"] == 1


def test_without_a_transaction_half_of_it_stays(manager: ConnectionManager, database: DatabaseSettings) -> None:
    plant(database)
    with pytest.raises(errors.ConnectionLost), manager.autocommit() as connection:  # noqa: PT012 - in its midst
        end(database, [insert(connection, "half")])
        insert(connection, "whole")
    assert tokens(database) == ["half"]


class Broken:
    """Work in two halves, whose session is ended between them at its first try, or at every one."""

    def __init__(self, database: DatabaseSettings, *, always: bool = False) -> None:
        self.database, self.always = database, always
        self.calls = 0

    def __call__(self, connection: Connection) -> int:
        self.calls += 1
        pid = insert(connection, "first")
        if self.calls == 1 or self.always:
            end(self.database, [pid])
        return insert(connection, "second")


def test_what_minds_no_repetition_is_repeated_after_its_session_was_ended(
    manager: ConnectionManager, database: DatabaseSettings
) -> None:
    plant(database)
    work = Broken(database)
    assert manager.run_transaction(work, idempotent=True) > 0
    assert (work.calls, tokens(database)) == (2, ["first", "second"])
    assert counts(manager)["retries.if_idempotent"] == 1


def test_what_may_not_be_repeated_is_not(manager: ConnectionManager, database: DatabaseSettings) -> None:
    plant(database)
    work = Broken(database)
    with pytest.raises(errors.ConnectionLost):
        manager.run_transaction(work)
    assert (work.calls, tokens(database)) == (1, [])
    assert not [name for name in counts(manager) if name.startswith("retries.")]


@pytest.mark.slow
def test_repeating_ends_where_every_try_fails(manager: ConnectionManager, database: DatabaseSettings) -> None:
    plant(database)
    work = Broken(database, always=True)
    start = time.monotonic()
    with pytest.raises(errors.ConnectionLost) as caught:
        manager.run_transaction(work, idempotent=True)
    assert time.monotonic() - start < 10
    assert work.calls > 1
    assert tokens(database) == []
    assert caught.value.sqlstate == "57P01"


def test_sessions_that_are_ended_all_at_once_are_no_server_that_is_down(database: DatabaseSettings) -> None:
    plant(database)
    together = threading.Barrier(AT_WORK + 1, timeout=20)

    def once(connection: Connection, tried: list[int]) -> None:
        tried.append(insert(connection, f"token {threading.get_ident()}"))
        if len(tried) == 1:
            together.wait()  # all are at work
            together.wait()  # all were ended
        connection.execute(text("select 1"))

    with ConnectionManager("main", pooled(database, AT_WORK)) as manager, ThreadPoolExecutor(AT_WORK) as threads:
        tries: list[list[int]] = [[] for _ in range(AT_WORK)]
        runs = [
            threads.submit(
                manager.run_transaction, lambda connection, mine=mine: once(connection, mine), idempotent=True
            )
            for mine in tries
        ]
        together.wait()
        end(database, [tried[0] for tried in tries])
        together.wait()
        for run in runs:
            run.result(timeout=20)
        assert [len(tried) for tried in tries] == [2] * AT_WORK
        assert "breaker_opened" not in counts(manager)
    assert len(set(tokens(database))) == len(tokens(database)) == AT_WORK


def test_a_pooled_connection_shows_who_has_it_now(database: DatabaseSettings) -> None:
    shown = text("select pg_backend_pid(), application_name from pg_stat_activity where pid = pg_backend_pid()")
    seen = []
    with ConnectionManager("main", pooled(database, 1)) as manager:
        for number in range(2):
            with context.scope(operation=f"work{number}", run_id="abcdef01"), manager.read() as connection:
                seen.append(tuple(connection.execute(shown).one()))
    assert [name for _, name in seen] == ["chanuka/work0/abcdef01", "chanuka/work1/abcdef01"]
    assert seen[0][0] == seen[1][0]


def test_the_name_is_sent_only_when_it_is_another(database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    genuine: Any = WatchedConnection.execute

    def counting(self: WatchedConnection, query: object, *args: object) -> object:
        sent.append(query)
        return genuine(self, query, *args)

    monkeypatch.setattr(WatchedConnection, "execute", counting)
    with ConnectionManager("main", pooled(database, 1)) as manager:
        for run_id in ("one", "one", "one", "other", "other"):
            with context.scope(operation="work", run_id=run_id):
                pids_of(manager, 1)
    assert len([query for query in sent if "application_name" in str(query)]) == 1


def test_a_connection_that_is_too_old_is_replaced_when_it_is_next_wanted(database: DatabaseSettings) -> None:
    with ConnectionManager("main", pooled(database, 3)) as manager:
        before = pids_of(manager, 3)
        assert pids_of(manager, 3) == before, "a young one is kept"
        for raw in idle(manager):
            raw.retires_at = 0.0
        assert not before & pids_of(manager, 3)
    with ConnectionManager("main", pooled(database, 1, max_lifetime_s=100)) as manager:
        pids_of(manager, 1)
        assert 80 < idle(manager)[0].retires_at - time.monotonic() <= 100


def test_replacing_one_that_is_too_old_gives_no_other_that_is(database: DatabaseSettings) -> None:
    with ConnectionManager("main", pooled(database, 3)) as manager:
        before = pids_of(manager, 3)
        for raw in idle(manager):
            raw.retires_at = 0.0
        assert not before & pids_of(manager, 1)


def idle(manager: ConnectionManager) -> list[WatchedConnection]:
    """The connections in the pool."""
    pool: Any = node_of(manager).pooled.pool
    records = [pool._do_get() for _ in range(pool.checkedin())]
    found: list[Any] = [record.dbapi_connection for record in records]
    for record in records:
        pool._do_return_conn(record)
    return found


def test_a_session_that_ends_between_the_look_at_it_and_its_first_use_is_replaced(
    database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(database)
    with ConnectionManager("main", pooled(database, 1)) as manager:
        node = node_of(manager)
        before = pids_of(manager, 1)
        genuine = node._named

        def late(raw: WatchedConnection) -> bool:
            if raw.info.backend_pid in before:
                end(database, before)
            return genuine(raw)

        monkeypatch.setattr(node, "_named", late)
        with context.scope(operation="another"), manager.transaction() as connection:
            assert engines.backend_pid(connection) not in before

"""A COMMIT that got no answer: what became of it is found out, and nothing is lost or done twice."""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration.fault_cases import before_commit, counts, insert, limited, plant, tokens
from chanuka_ops_tests.plugins.backup import as_role, execute, scalars
from chanuka_ops_tests.plugins.proxy import Proxy, ProxyTo, socket_of, through
from chanuka_ops_tests.plugins.wires import Where

pytestmark = pytest.mark.postgres

CUTS = 200
WIRES = 4  # so many at once
SEED = 20260801
PLACES: tuple[Where, ...] = ("before", "sent", "answered")


def cut_somewhere(proxy: Proxy, chance: random.Random) -> None:
    """Have the next COMMIT cut off: before it, on its way there, while it's under way, or on its way back."""
    proxy.cut_after(b"COMMIT", chance.choice(PLACES), delay_s=chance.choice((0.0, chance.random() * 0.002)))


def run_cut(
    database: DatabaseSettings, server: Server, names: list[str], seed: int
) -> tuple[list[float], dict[str, int]]:
    """Insert each token in a transaction whose COMMIT is cut off; return how long each took, and what was counted."""
    chance, took = random.Random(seed), []
    with Proxy(socket_of(server)) as proxy, ConnectionManager("main", through(database, proxy)) as manager:
        for name in names:
            cut_somewhere(proxy, chance)
            start = time.monotonic()
            assert manager.run_transaction(partial(insert, token=name)) > 0
            took.append(time.monotonic() - start)
        assert proxy.cuts == len(names)
        return took, counts(manager)


def test_of_all_the_commits_that_were_cut_off_none_is_lost_and_none_is_doubled(
    database: DatabaseSettings, server: Server
) -> None:
    plant(database)
    names = [f"token {number:03}" for number in range(CUTS)]
    with ThreadPoolExecutor(WIRES) as threads:
        runs = [threads.submit(run_cut, database, server, names[n::WIRES], SEED + n) for n in range(WIRES)]
        ended = [run.result(timeout=100) for run in runs]
    assert tokens(database) == names
    took = sorted(each for one, _ in ended for each in one)
    assert took[int(len(took) * 0.95)] <= 1.0
    assert took[-1] <= 3.0
    committed = sum(counted["retries.resolved_as_committed"] for _, counted in ended)
    assert 0 < committed < CUTS, "both outcomes were met"
    assert sum(counted["commits_in_doubt"] for _, counted in ended) == CUTS


def test_without_the_question_trying_again_doubles(database: DatabaseSettings, server: Server) -> None:
    plant(database)
    chance = random.Random(SEED)
    names = [f"token {number:03}" for number in range(20)]
    with Proxy(socket_of(server)) as proxy, ConnectionManager("main", through(database, proxy)) as manager:
        for name in names:
            cut_somewhere(proxy, chance)
            for _ in range(2):
                with suppress(errors.OutcomeUnknown), manager.transaction() as connection:
                    insert(connection, name)
                    continue
    found = tokens(database)
    assert set(found) == set(names)
    assert len(found) > len(names)


@pytest.fixture
def proxy(server: Server, proxy_to: ProxyTo) -> Proxy:
    return proxy_to(server)


@pytest.fixture
def plain(database: DatabaseSettings) -> Iterator[DatabaseSettings]:
    """The database as a role without any privilege but on the table sees it."""
    role = f"plain_{uuid.uuid4().hex[:8]}"
    plant(database)
    execute(database, f"create role {role} login", f"grant select, insert on tokens to {role}")
    yield as_role(database, role)
    execute(database, f"drop owned by {role}", f"drop role {role}")


@pytest.mark.parametrize("where", PLACES)
def test_a_role_without_privileges_learns_it_too(
    plain: DatabaseSettings, server: Server, abandoned: Abandoned, where: Where
) -> None:
    with Proxy(socket_of(server)) as proxy, ConnectionManager("main", through(plain, proxy)) as manager:
        proxy.cut_after(b"COMMIT", where)
        manager.run_transaction(partial(insert, token="cut off"))
    with ConnectionManager("main", plain) as manager:
        manager.run_transaction(abandoned)
    assert tokens(plain) == ["cut off", "once"]


@pytest.mark.parametrize("where", PLACES)
def test_a_transaction_that_nobody_asks_about_is_in_doubt(
    database: DatabaseSettings, proxy: Proxy, where: Where
) -> None:
    plant(database)
    with ConnectionManager("main", through(database, proxy)) as manager:
        proxy.cut_after(b"COMMIT", where)
        with (
            pytest.raises(errors.OutcomeUnknown, match="may or may not") as caught,
            manager.transaction() as connection,
        ):
            insert(connection, "in doubt")
        assert caught.value.exit_code == 4
        assert not isinstance(caught.value, errors.DatabaseError), "whoever repeats after those must not after this"
        assert counts(manager)["commits_in_doubt"] == 1
    assert wait_until(lambda: tokens(database) == ([] if where == "before" else ["in doubt"]), timeout_s=5)


def test_what_a_commit_refuses_is_in_no_doubt(manager: ConnectionManager, database: DatabaseSettings) -> None:
    execute(database, "create table tokens(token text unique deferrable initially deferred)")
    calls = []

    def work(connection: Connection) -> None:
        calls.append(insert(connection, "twice"))
        insert(connection, "twice")

    with pytest.raises(errors.DatabaseError) as caught, manager.transaction() as connection:
        work(connection)
    assert caught.value.sqlstate == "23505"
    with pytest.raises(errors.DatabaseError) as caught:
        manager.run_transaction(work, idempotent=True)
    assert caught.value.sqlstate == "23505"
    assert len(calls) == 2, "and is not repeated"
    assert "commits_in_doubt" not in counts(manager)
    assert tokens(database) == []


@pytest.mark.parametrize("where", PLACES)
def test_a_transaction_that_wrote_nothing_has_nothing_to_lose(
    database: DatabaseSettings, proxy: Proxy, where: Where
) -> None:
    plant(database)
    with ConnectionManager("main", through(database, proxy)) as manager:
        proxy.cut_after(b"COMMIT", where)
        assert manager.run_transaction(lambda connection: connection.exec_driver_sql("select 42").scalar()) == 42
        proxy.cut_after(b"COMMIT", where)
        with pytest.raises(errors.ConnectionLost), manager.read() as connection:
            connection.exec_driver_sql("select 1")
        assert counts(manager)["commits_in_doubt"] == 1


class Abandoned:
    """Work whose COMMIT is lost on the way, while the server goes on waiting for it: at the first try.

    The client's end of the wire becomes that of another whose far end is shut; the server's stays open.
    """

    def __init__(self) -> None:
        self.kept: list[int] = []

    def __call__(self, connection: Connection) -> int:
        pid = insert(connection, "once")
        if not self.kept:
            before_commit(connection, lambda: self._divert(engines.driver_connection(connection).fileno()))
        return pid

    def _divert(self, descriptor: int) -> None:
        self.kept.append(os.dup(descriptor))
        near, far = socket.socketpair()
        with near, far:
            os.dup2(near.fileno(), descriptor)

    def close(self) -> None:
        for descriptor in self.kept:
            os.close(descriptor)


@pytest.fixture
def abandoned() -> Iterator[Abandoned]:
    work = Abandoned()
    yield work
    work.close()


def waiting(database: DatabaseSettings) -> list[object]:
    return scalars(
        database,
        "select pid from pg_stat_activity where state = 'idle in transaction' and datname = current_database()",
    )


def test_a_session_that_waits_for_a_commit_which_never_came_is_ended(
    manager: ConnectionManager, database: DatabaseSettings, abandoned: Abandoned
) -> None:
    execute(database, "create table tokens(token text unique)")
    start = time.monotonic()
    manager.run_transaction(abandoned)
    assert time.monotonic() - start <= 3
    assert len(abandoned.kept) == 1
    assert tokens(database) == ["once"]
    assert waiting(database) == []
    assert counts(manager)["retries.transaction"] == 1


def test_without_that_it_stands_in_the_way_of_trying_again(database: DatabaseSettings, abandoned: Abandoned) -> None:
    execute(database, "create table tokens(token text unique)")
    with ConnectionManager("main", limited(database, lock_s=0.3)) as manager:
        with pytest.raises(errors.OutcomeUnknown), manager.transaction() as connection:
            abandoned(connection)
        assert len(waiting(database)) == 1
        with pytest.raises(errors.LockTimeout), manager.transaction() as connection:
            insert(connection, "once")

"""What a checkout costs: counted in messages with the server, not in time. Speed is for benchmarks/connections.py."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from collections.abc import Callable

import pytest
from psycopg.pq import Trace
from sqlalchemy import text

from chanuka_ops import context
from chanuka_ops.config import FeatureSettings
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager

pytestmark = pytest.mark.postgres

SELECT = text("select 1")
WARM = 10  # psycopg prepares what it has run a few times: not while somebody counts


def round_trips(manager: ConnectionManager, action: Callable[[], object]) -> list[str]:
    """What libpq itself logs of the one pooled connection: what was sent for each answer that was waited for."""
    with manager.read() as connection:
        raw = engines.driver_connection(connection)
    with tempfile.TemporaryFile("w+") as log:
        raw.pgconn.trace(log.fileno())
        raw.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS | Trace.REGRESS_MODE)
        action()
        raw.pgconn.untrace()
        log.seek(0)
        lines = log.read().splitlines()
    sent = [line.split('"')[1] for line in lines if line.startswith("F") and line.split("\t")[2] in {"Query", "Bind"}]
    assert sum("ReadyForQuery" in line for line in lines) == len(sent)
    return sent


def transaction(manager: ConnectionManager) -> None:
    with manager.transaction() as connection:
        connection.execute(SELECT)


def read(manager: ConnectionManager) -> None:
    with manager.read() as connection:
        connection.execute(SELECT)


def plain_begin(manager: ConnectionManager) -> None:
    with manager._cluster.nodes[0].pooled.begin() as connection:
        connection.execute(SELECT)


def plain_connect(manager: ConnectionManager) -> None:
    with manager._cluster.nodes[0].pooled.connect() as connection:
        connection.execute(SELECT)


@pytest.mark.parametrize(("ours", "theirs"), [(transaction, plain_begin), (read, plain_connect)])
def test_a_block_takes_no_round_trip_more_than_sqlalchemys_own(
    manager: ConnectionManager,
    ours: Callable[[ConnectionManager], None],
    theirs: Callable[[ConnectionManager], None],
) -> None:
    for _ in range(WARM):
        ours(manager)
        theirs(manager)
    mine = round_trips(manager, lambda: ours(manager))
    assert len(mine) == len(round_trips(manager, lambda: theirs(manager)))
    assert len(mine) == 4, "the pool's ping, BEGIN, the statement, COMMIT"


def test_what_is_counted_is_round_trips(manager: ConnectionManager) -> None:
    """The twin: what does ask more of the server is seen to."""
    for _ in range(WARM):
        transaction(manager)
        manager.run_transaction(lambda connection: connection.execute(SELECT))
    plain = round_trips(manager, lambda: transaction(manager))
    resolvable = round_trips(manager, lambda: manager.run_transaction(lambda connection: connection.execute(SELECT)))
    assert len(resolvable) == len(plain) + 1, "who the transaction is, in case its COMMIT gets no answer"


def test_another_operations_name_costs_one_round_trip_once(manager: ConnectionManager) -> None:
    for _ in range(WARM):
        transaction(manager)
    plain = round_trips(manager, lambda: transaction(manager))
    with context.scope(operation="other"):
        first = [round_trips(manager, lambda: transaction(manager)) for _ in range(2)]
    assert [len(each) for each in first] == [len(plain)] * 2, "`round_trips` has used it in that scope already"

    def in_another() -> None:
        with context.scope(operation="another"):
            transaction(manager)

    assert len(round_trips(manager, in_another)) == len(plain) + 1


def test_a_read_says_read_only_in_its_begin(manager: ConnectionManager) -> None:
    assert "BEGIN READ ONLY" in round_trips(manager, lambda: read(manager))
    assert "BEGIN" in round_trips(manager, lambda: transaction(manager)), "as the role and the server have it"


@pytest.mark.slow
@pytest.mark.parametrize("breaker", [True, False])
def test_checkouts_leave_nothing_behind_in_memory(manager: ConnectionManager, *, breaker: bool) -> None:
    features = FeatureSettings(circuit_breaker=breaker)
    with ConnectionManager("main", manager.settings, features=features) as used:

        def use(times: int) -> int:
            for number in range(times):
                (transaction if number % 2 else read)(used)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        use(100)
        tracemalloc.start()
        try:
            use(100)
            before = use(100)
            grown = use(1000) - before
        finally:
            tracemalloc.stop()
    assert grown < 10_000, "ten bytes a checkout are more than rounding"

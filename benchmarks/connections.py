"""What the connection manager costs over SQLAlchemy on the very same engine: in one run, in turns, medians.

`make bench` prints the table. `--rounds N` and `--checkouts N` are optional; `--full` makes a million checkouts.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.engine import Engine

from chanuka_ops.db.gate import Gate
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.watchdog import WatchedConnection
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.server import scratch

BLOCK = 40  # of one kind, before it's the other's turn
QUICK_BLOCK = 2000
SELECT = text("select 1")


@dataclass(frozen=True)
class Row:
    """One figure; `most` is the target, None where it is for information."""

    what: str
    ours: str
    theirs: str
    unit: str
    figure: float
    most: float | None

    @property
    def verdict(self) -> str:
        if self.most is None:
            return ""
        return "held" if self.figure <= self.most else "MISSED"


def median_us(action: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def mean_us(action: Callable[[], object], times: int) -> float:
    """For what takes no longer than looking at the clock does."""
    start = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - start) / times * 1e6


def rounds(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    count: int,
    measure: Callable[[Callable[[], object], int], float] = median_us,
    block: int = BLOCK,
) -> list[tuple[float, float]]:
    for _ in range(3):  # they warm up: connections, prepared statements, the interpreter's own caches
        measure(ours, block), measure(theirs, block)
    return [(measure(ours, block), measure(theirs, block)) for _ in range(count)]


def medians(found: list[tuple[float, float]]) -> tuple[str, str]:
    ours, theirs = (statistics.median(each) for each in zip(*found, strict=True))
    return f"{ours:.1f} µs", f"{theirs:.1f} µs"


def transactions(manager: ConnectionManager, engine: Engine, count: int) -> Row:
    def ours() -> None:
        with manager.transaction() as connection:
            connection.execute(SELECT)

    def theirs() -> None:
        with engine.begin() as connection:
            connection.execute(SELECT)

    found = rounds(ours, theirs, count)
    ratio = statistics.median(a / b for a, b in found)
    return Row("transaction() / engine.begin()", *medians(found), "ratio", ratio, 1.25)


def reads(manager: ConnectionManager, engine: Engine, count: int) -> Row:
    def ours() -> None:
        with manager.read() as connection:
            connection.execute(SELECT)

    def theirs() -> None:
        with engine.connect() as connection:
            connection.execute(SELECT)

    found = rounds(ours, theirs, count)
    more = statistics.median(a - b for a, b in found)
    return Row("read() - engine.connect()", *medians(found), "µs", more, 20.0)


def gates(gate: Gate, count: int) -> list[Row]:
    def attempt() -> None:
        with gate.attempt(1.0):
            pass

    checks = statistics.median(mean_us(gate.check, QUICK_BLOCK) for _ in range(count))
    attempts = statistics.median(mean_us(attempt, QUICK_BLOCK) for _ in range(count))
    return [
        Row("Gate.check(), closed", f"{checks:.2f} µs", "", "µs", checks, 1.0),
        Row("Gate.attempt(), closed", f"{attempts:.2f} µs", "", "µs", attempts, None),
    ]


def watchdog(engine: Engine, count: int) -> Row:
    """The same connection's two waits, of an exchange that is over at once: what is left is what they cost."""

    def nothing() -> Generator[Any, Any, None]:
        return
        yield

    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, WatchedConnection)
        raw.block_deadline = time.monotonic() + 3600
        found = rounds(
            lambda: raw.wait(nothing()), lambda: psycopg.Connection.wait(raw, nothing()), count, mean_us, QUICK_BLOCK
        )
        raw.block_deadline = None
    more = statistics.median(a - b for a, b in found)
    return Row("watchdog's wait - psycopg's", *medians(found), "µs", more, 3.0)


def resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(manager: ConnectionManager, checkouts: int) -> Row:
    def use(times: int) -> int:
        for _ in range(times):
            with manager.read():
                pass
        gc.collect()
        return resident_bytes()

    before = use(checkouts // 10)
    grown = (use(checkouts) - before) / checkouts
    return Row(f"memory per checkout, of {checkouts:,}", f"{grown:.2f} B", "", "bytes", grown, 1.0)


def measure(directory: Path, count: int, checkouts: int) -> list[Row]:
    found = binaries.find(configured=None, programs=(*binaries.SERVER, *binaries.CLIENT))
    with (
        scratch(directory, found, superuser="postgres") as server,
        ConnectionManager("main", server.settings("postgres"), state_dir=directory / "state") as manager,
    ):
        node = manager._cluster.nodes[0]  # noqa: SLF001 - the other side is to use the very same engine
        assert node.gate is not None
        return [
            transactions(manager, node.pooled, count),
            reads(manager, node.pooled, count),
            *gates(node.gate, count),
            watchdog(node.pooled, count),
            memory(manager, checkouts),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--checkouts", type=int, default=100_000)
    parser.add_argument("--full", action="store_true", help="a million checkouts: some minutes")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chanuka-bench-") as name:
        rows = measure(Path(name), wanted.rounds, 10**6 if wanted.full else wanted.checkouts)
    table = Table("what", "ours", "theirs", "figure", "target", "verdict", title="connections, medians")
    for row in rows:
        target = "" if row.most is None else f"<= {row.most:g} {row.unit}"
        table.add_row(row.what, row.ours, row.theirs, f"{row.figure:.2f} {row.unit}", target, row.verdict)
    Console().print(table)


if __name__ == "__main__":
    main()

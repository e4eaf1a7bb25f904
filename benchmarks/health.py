"""What all checks of a database cost: on a large catalogue, on a huge one, and on a fleet; beside check_postgres.

`python benchmarks/health.py` prints the table. `--small` makes a tenth of everything; `--profile` adds slow checks.
check_postgres (Debian's package) stands beside it for the checks that both have, when it is installed: one process and
one connection for each of its actions, as it is meant to be run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chanuka_ops.config import MonitoringSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health import service
from chanuka_ops.health.model import HealthReport
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.server import Server, scratch

ROUNDS = 5
AT_ONCE = 8
BATCH = 100
SETTINGS = {"fsync": "off", "max_connections": "60", "autovacuum": "off", "max_locks_per_transaction": "4096"}
DEFAULTS = MonitoringSettings()
# the actions of check_postgres that ask what our checks ask too
BOTH = {
    "backends": "connections.saturation",
    "txn_idle": "session.idle_in_transaction",
    "query_time": "session.long_query",
    "locks": "lock.table_use",
    "txn_wraparound": "txn.wraparound",
    "autovac_freeze": "vacuum.freeze_age",
    "prepared_txns": "txn.prepared_orphan",
    "bloat": "table.bloat",
    "sequence": "sequence.exhaustion",
    "disabled_triggers": "schema.trigger_disabled",
    "hitratio": "cache.hit_ratio",
}


THEIR_LIMITS = {
    "prepared_txns": ["--warning=1", "--critical=30"],
    "txn_idle": ["--warning=300", "--critical=600"],
    "query_time": ["--warning=300", "--critical=600"],
}


@dataclass(frozen=True)
class Row:
    """One figure; `most_s` is the target, None where it is for information."""

    what: str
    seconds: float
    most_s: float | None

    @property
    def verdict(self) -> str:
        if self.most_s is None:
            return ""
        return "held" if self.seconds <= self.most_s else "MISSED"


def fill(manager: ConnectionManager, tables: int, indexes: int) -> None:
    """Make tables with foreign keys, TOAST, sequences and so many indexes each beside the primary key's."""
    for first in range(0, tables, BATCH):
        statements = []
        for n in range(first, min(first + BATCH, tables)):
            statements.append(
                f"create table t{n}(id serial primary key, parent_id int references t{max(n - 1, 0)}, a int, b text,"
                " c timestamptz, d numeric)"
            )
            statements += [
                f"create index t{n}_{i} on t{n}({column})"
                for i, column in enumerate(("parent_id", "a", "b", "a, b")[: indexes - 1])
            ]
        with manager.transaction() as connection:
            connection.exec_driver_sql(";".join(statements))
    with manager.autocommit() as connection:
        connection.exec_driver_sql("analyze")
        connection.exec_driver_sql("checkpoint")  # or whoever reads next writes our pages first


@contextmanager
def database(server: Server, name: str) -> Iterator[ConnectionManager]:
    with ConnectionManager("admin", server.settings("postgres")) as admin, admin.autocommit() as connection:
        connection.exec_driver_sql(f"create database {name} template template0")
        try:
            with ConnectionManager(name, server.settings(name)) as manager:
                yield manager
        finally:
            connection.exec_driver_sql(f"drop database {name} with (force)")


def measured(action: Callable[[], object], times: int) -> float:
    """Return the median of so many runs, in seconds, after one that warms up."""
    action()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def catalogue(server: Server, tables: int, indexes: int, most_s: float, *, profile: Console | None) -> Iterator[Row]:
    with database(server, f"c{tables}") as manager:
        fill(manager, tables, indexes)
        seconds = measured(lambda: service.check(manager, DEFAULTS), ROUNDS)
        yield Row(f"all checks, {tables:,} tables and {tables * indexes:,} indexes", seconds, most_s)
        if profile is not None:
            _slowest(profile, service.check(manager, DEFAULTS))
        if program := shutil.which("check_postgres"):
            ours = measured(lambda: service.check(manager, DEFAULTS, only=BOTH.values()), ROUNDS)
            yield Row(f"  the {len(BOTH)} that check_postgres has too, ours", ours, None)
            theirs = measured(lambda: _theirs(program, server, f"c{tables}"), 1)
            yield Row(f"  check_postgres, {len(BOTH)} actions", theirs, None)


def _slowest(console: Console, report: HealthReport) -> None:
    for result in sorted(report.checks, key=lambda one: -one.seconds)[:12]:
        console.print(f"    {result.seconds * 1000:8.1f} ms  {result.check}")


def _theirs(program: str, server: Server, name: str) -> None:
    """Run each action once; what it finds is its own business, that it ran is ours."""
    for action in BOTH:
        limits = THEIR_LIMITS.get(action, [])
        done = subprocess.run(
            [program, f"--action={action}", f"--host={server.socket_dir}", f"--dbuser={server.superuser}",
             f"--dbname={name}", *limits],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "PATH": f"{_psql()}:{os.environ['PATH']}"},
        )  # fmt: skip
        if "POSTGRES_" not in done.stdout:
            raise SystemExit(f"check_postgres {action} didn't run: {done.stdout}{done.stderr}")


def _psql() -> Path:
    return binaries.find(configured=None).bin_dir


def fleet(server: Server, databases: int, most_s: float) -> Row:
    """One process, one thread and one connection for each of eight databases at a time."""
    names = [f"f{n}" for n in range(databases)]
    with ConnectionManager("admin", server.settings("postgres")) as admin, admin.autocommit() as connection:
        for name in names:
            connection.exec_driver_sql(f"create database {name} template template0")
    gauge = Gauge()

    def look(name: str) -> None:
        with ConnectionManager(name, server.settings(name)) as manager, gauge.one():
            service.check(manager, DEFAULTS)

    start = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(look, names))
    return Row(f"{databases} databases, {gauge.most} at once", time.perf_counter() - start, most_s)


class Gauge:
    """How many are within at most."""

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        yield
        with self._lock:
            self._now -= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of everything")
    parser.add_argument("--profile", action="store_true", help="print the slowest checks too")
    stated = parser.parse_args()
    tenth = 10 if stated.small else 1
    console = Console()
    profile = console if stated.profile else None
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="chanuka-bench-") as directory,
        scratch(
            Path(directory),
            binaries.find(configured=None, programs=binaries.SERVER),
            superuser="postgres",
            settings=SETTINGS,
        ) as server,
    ):
        Path(directory).chmod(0o711)
        rows += catalogue(server, 1000 // tenth, 5, 0.5, profile=profile)
        rows += catalogue(server, 20000 // tenth, 2, 3.0, profile=profile)
        rows.append(fleet(server, 200 // tenth, 60.0))
        table = Table("what", "seconds", "at most", "", title="health checks")
        for row in rows:
            table.add_row(row.what, f"{row.seconds:.3f}", "" if row.most_s is None else f"{row.most_s:g}", row.verdict)
        console.print(table)  # before the server stops, which takes a while with so many databases


if __name__ == "__main__":
    main()

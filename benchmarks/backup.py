"""What a backup costs over PostgreSQL's own tools: pairs of whole operations in one run, so that only ratios count.

`make bench` prints the table. `--scale N` (50 MB each) and `--pairs N` are optional.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chanuka_ops_tests.plugins.backup import local
from chanuka_ops import config
from chanuka_ops.dataset import service as dataset
from chanuka_ops.db import parameters
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.postgres import binaries


@dataclass(frozen=True)
class Pair:
    """Seconds of ours and of theirs, run by run."""

    name: str
    theirs: str
    ours_s: list[float]
    theirs_s: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.ours_s, self.theirs_s, strict=True))


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def pairs(name: str, ours: Callable[[], object], theirs_name: str, theirs: Callable[[], object], count: int) -> Pair:
    found = Pair(name, theirs_name, [], [])
    for turn in range(count + 1):  # the first warms up and isn't counted
        a, b = timed(ours), timed(theirs)
        if turn:
            found.ours_s.append(a)
            found.theirs_s.append(b)
    return found


def measure(orchestrator: DatabaseOrchestrator, work: Path, count: int) -> list[Pair]:
    tools = binaries.find(configured=None, server_major=orchestrator.probe().major)
    settings = orchestrator.settings.operations.backup
    info = parameters.conninfo(orchestrator.manager.target())
    ids: list[str] = []

    def bare_dump() -> None:
        shutil.rmtree(work / "bare", ignore_errors=True)
        level = f"--compress={settings.compression_level}"
        argv = [tools.path("pg_dump"), "-Fd", f"-j{settings.jobs}", level, "-f", work / "bare", f"--dbname={info}"]
        subprocess.run(argv, check=True)

    create = pairs(
        "backup create", lambda: ids.append(orchestrator.backup().backup_id), "pg_dump -Fd", bare_dump, count
    )
    directory = local(orchestrator.backups).directory(ids[-1])
    files = [path for path in directory.rglob("*") if path.is_file()]
    verify = pairs(
        "backup verify",
        lambda: orchestrator.verify(ids[-1]),
        "sha256sum",
        lambda: subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL),
        count,
    )
    return [create, verify]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=5)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chanuka-bench-") as name:
        work = Path(name)
        settings = config.load({"CHANUKA_STATE_DIR": str(work / "state")}, work)
        with DatabaseOrchestrator.open(settings) as orchestrator:
            orchestrator.migrate()
            dataset.load(orchestrator.manager, scale=wanted.scale)
            orchestrator.optimise_apply(orchestrator.optimise_plan())
            found = measure(orchestrator, work, wanted.pairs)
    table = Table("ours", "theirs", "ours, median s", "theirs, median s", "ratio", title=f"scale {wanted.scale}")
    for pair in found:
        medians = (statistics.median(pair.ours_s), statistics.median(pair.theirs_s))
        table.add_row(pair.name, pair.theirs, *(f"{m:.3f}" for m in medians), f"{pair.ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

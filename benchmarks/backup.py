"""What a backup and its proof cost over PostgreSQL's own tools: pairs of whole operations in one run, so ratios count.

`make bench` prints the tables. `--scale N` (50 MB each), `--pairs N`, `--memory-scale N`, `--no-rivals` are optional.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import rivals
from rich.console import Console
from rich.table import Table

from chanuka_ops import config
from chanuka_ops.backup import documents, rules
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.storing.local import LocalStore
from chanuka_ops.backup.taking import dump
from chanuka_ops.dataset import service as dataset
from chanuka_ops.db import parameters
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.server import scratch

LISTED = 5000
LISTING_LIMIT_S = 1.0
LOOKS = 12  # at each of them, as a weekly drill of a quarter leaves
MEMORY_LIMIT_MB = 150
GROWN = (  # what makes a GB of the data set's scale 4
    "create table more_comments as select c.* from comments c, generate_series(1, 16)",
    "create table more_events as select e.* from engagement_events e, generate_series(1, 8)",
    "create table more_profiles as select p.* from user_profiles p, generate_series(1, 12)",
    "create index on more_comments(id)",
    "create index on more_events(bill_id)",
)
GROWN_WITHIN_S = 1800.0


@dataclass(frozen=True)
class Pair:
    """Seconds of ours and of theirs, run by run, and how many times theirs ours may take."""

    name: str
    theirs: str
    target: float
    ours_s: list[float] = field(default_factory=list)
    theirs_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.ours_s, self.theirs_s, strict=True))

    def row(self) -> tuple[str, ...]:
        ours, theirs = statistics.median(self.ours_s), statistics.median(self.theirs_s)
        verdict = "yes" if self.ratio <= self.target else "NO"
        return (
            self.name,
            self.theirs,
            f"{ours:.3f}",
            f"{theirs:.3f}",
            f"{self.ratio:.2f}",
            f"{self.target:.2f}",
            verdict,
        )


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measured(pair: Pair, ours: Callable[[], float], theirs: Callable[[], float], count: int) -> Pair:
    for turn in range(count + 1):  # the first warms up and isn't counted
        # in turns first and second, so that a drift of the machine favours neither
        a, b = (ours(), theirs()) if turn % 2 else (theirs(), ours())
        mine, other = (a, b) if turn % 2 else (b, a)
        if turn:
            pair.ours_s.append(mine)
            pair.theirs_s.append(other)
    return pair


class Bench:
    """One server, one data set, its backups."""

    def __init__(self, orchestrator: DatabaseOrchestrator, work: Path, count: int) -> None:
        self.orchestrator = orchestrator
        self.work = work
        self.count = count
        self.settings = orchestrator.settings.operations.backup
        self.tools = binaries.find(configured=None, server_major=orchestrator.probe().major)
        self.backup_id = ""

    def create(self, fingerprint: str, target: float) -> Pair:
        with self.fingerprinting(fingerprint) as orchestrator:

            def ours() -> float:
                start = time.perf_counter()
                self.backup_id = orchestrator.backup().backup_id
                return time.perf_counter() - start

            name = "backup create" if fingerprint == "content" else "backup create, structure only"
            pair = Pair(name, f"pg_dump -Fd -j{self.settings.jobs}", target)
            return measured(pair, ours, lambda: timed(self.bare_dump), self.count)

    @contextmanager
    def fingerprinting(self, fingerprint: str) -> Iterator[DatabaseOrchestrator]:
        loaded = config.load(
            {
                "CHANUKA_STATE_DIR": str(self.orchestrator.settings.state_dir),
                "CHANUKA__OPERATIONS__BACKUP__FINGERPRINT": fingerprint,
            },
            self.work,
        )
        with DatabaseOrchestrator.open(loaded) as orchestrator:
            yield orchestrator

    def bare_dump(self) -> None:
        shutil.rmtree(self.work / "bare", ignore_errors=True)
        info = parameters.conninfo(self.orchestrator.manager.target())
        level = f"--compress={self.settings.compression_level}"
        argv = [self.tools.path("pg_dump"), "-Fd", f"-j{self.settings.jobs}", level, "-f", self.work / "bare"]
        subprocess.run([*argv, f"--dbname={info}"], check=True)

    def verify(self) -> Pair:
        store = self.orchestrator.backups.store
        directory = store.directory(self.backup_id) or Path()
        files = [path for path in directory.rglob("*") if path.is_file()]
        return measured(
            Pair("backup verify", "sha256sum", 1 / 0.6),
            lambda: timed(lambda: self.orchestrator.verify(self.backup_id)),
            lambda: timed(lambda: subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)),
            self.count,
        )

    def drill(self) -> tuple[Pair, Pair]:
        theirs = f"psql, pg_restore -j{self.settings.jobs}"
        restores = Pair("restore in the drill", theirs, 1.05)
        whole = Pair("the whole drill", theirs, 2.0)
        for turn in range(self.count + 1):
            # in turns first and second, as in `measured`
            bare = self.bare_restore() if turn % 2 else None
            start = time.perf_counter()
            drilled = self.orchestrator.drill(self.backup_id)
            seconds = time.perf_counter() - start
            assert drilled.proven, drilled.failure()
            bare = self.bare_restore() if bare is None else bare
            if turn:
                restores.ours_s.append(drilled.restore_seconds or 0.0)
                whole.ours_s.append(seconds)
                restores.theirs_s.append(bare)
                whole.theirs_s.append(bare)
        return restores, whole

    def bare_restore(self) -> float:
        """Restore roles and database with psql and pg_restore alone, into the same kind of server as the drill's.

        Owners and grants too, which the proof compares.
        """
        manifest, _ = self.orchestrator.backups.show(self.backup_id)
        directory = self.orchestrator.backups.store.directory(self.backup_id) or Path()
        tools = binaries.find(
            configured=None, server_major=manifest.tool_major, programs=(*binaries.SERVER, *binaries.CLIENT)
        )
        roles = self.work / "roles.sql"
        roles.write_text(rules.without_grantors((directory / dump.ROLES).read_text(encoding="utf-8")), encoding="utf-8")
        with scratch(self.work / "state", tools) as server:
            info = f"--dbname={parameters.conninfo(server.settings('postgres'))}"
            jobs = f"-j{self.settings.jobs}"
            psql = [tools.path("psql"), "-X", "--quiet", info, f"--file={roles}"]
            restore = [tools.path("pg_restore"), "--create", "--no-tablespaces", jobs, info, directory / "dump"]

            def both() -> None:
                for argv in (psql, restore):
                    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

            return timed(both)

    def listing_s(self) -> float:
        """List thousands of backups like this one, each with a dozen looks as evidence."""
        manifest, status = self.orchestrator.backups.show(self.backup_id)
        root = self.work / "many"
        for number in range(LISTED):
            at = manifest.created_at - timedelta(hours=number)
            backup_id = f"main-{at:%Y%m%dT%H%M%SZ}-{number:06x}"
            one = manifest.model_copy(update={"backup_id": backup_id, "created_at": at})
            content, _ = documents.first_documents(one)
            summary = documents.summary(one, content)
            evidence = (status.evidence * LOOKS)[-LOOKS:]
            update = {"backup_id": backup_id, "summary": summary, "tier": Tier.PROVEN, "evidence": evidence}
            directory = root / "main" / backup_id
            directory.mkdir(parents=True)
            (directory / documents.MANIFEST).write_bytes(content)
            (directory / documents.STATUS).write_bytes(
                documents.seal(status.model_copy(update=update).model_dump(mode="json"))
            )
        store = LocalStore(root)
        runs = [timed(lambda: store.list("main")) for _ in range(3)]
        assert len(store.list("main")) == LISTED
        shutil.rmtree(root)
        return statistics.median(runs)


def peak_mb(argv: list[str], env: dict[str, str], cwd: Path) -> float:
    """Run a command; return the most memory that its own process held, its children's not counted."""
    peak = 0
    with subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            except OSError:
                break
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]))
            time.sleep(0.02)
    assert process.returncode == 0, argv
    return peak / 1024


def memory(work: Path, scale: int) -> tuple[float, dict[str, float]]:
    """Return the size of a database in GB, and the peak of each command on it in MB."""
    state = work / "memory"
    env = {**os.environ, "CHANUKA_STATE_DIR": str(state)}
    with DatabaseOrchestrator.open(config.load({"CHANUKA_STATE_DIR": str(state)}, work)) as orchestrator:
        orchestrator.migrate()
        dataset.load(orchestrator.manager, scale=scale)
        with orchestrator.manager.autocommit(deadline_s=GROWN_WITHIN_S) as connection:
            for statement in GROWN:
                connection.exec_driver_sql(statement)
        program = [sys.executable, "-m", "chanuka_ops.cli.main"]
        peaks = {verb: peak_mb([*program, "backup", verb], env, work) for verb in ("create", "drill")}
        manifest, _ = orchestrator.backups.show(orchestrator.backups.newest("main"))
    return manifest.source.source_bytes / 1e9, peaks


def report(console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--memory-scale", type=int, default=4)
    parser.add_argument("--no-rivals", action="store_true")
    wanted = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="chanuka-bench-") as name:
        work = Path(name)
        work.chmod(0o711)
        settings = config.load({"CHANUKA_STATE_DIR": str(work / "state")}, work)
        with DatabaseOrchestrator.open(settings) as orchestrator:
            orchestrator.migrate()
            dataset.load(orchestrator.manager, scale=wanted.scale)
            orchestrator.optimise_apply(orchestrator.optimise_plan())
            bench = Bench(orchestrator, work, wanted.pairs)
            found = [bench.create("structure", 1.05), bench.create("content", 1.15), bench.verify(), *bench.drill()]
            listing_s = bench.listing_s()
        columns = ("ours", "theirs", "ours, median s", "theirs, median s", "ratio", "target", "held")
        report(console, f"scale {wanted.scale}", columns, [pair.row() for pair in found])
        size_gb, peaks = memory(work, wanted.memory_scale)
        limits = [(f"{LISTED} backups listed", f"{listing_s:.2f} s", f"{LISTING_LIMIT_S:.0f} s")]
        limits += [
            (f"memory of backup {verb}, {size_gb:.2f} GB", f"{peak:.0f} MB", f"{MEMORY_LIMIT_MB} MB")
            for verb, peak in peaks.items()
        ]
        report(console, "limits", ("what", "measured", "limit"), limits)
        if not wanted.no_rivals:
            rivals.main(console, work, wanted.scale)


if __name__ == "__main__":
    main()

"""Two hundred small revisions: `chanuka-ops migrate up` beside bare `alembic upgrade head`; and the lint of them.

    python benchmarks/migrations.py up [--revisions 200] [--rounds 5]
    python benchmarks/migrations.py lint [--revisions 200]

Each round takes a fresh database and runs both, as processes, in turn, on the same server: a scratch one with fsync on,
so a COMMIT costs what it costs. Then both once more, with nothing left to do: that is what they need to start.

What `migrate up` needs beside its revisions goes into the start of two processes (at the same time), and into what
comes after the last revision: fingerprint of the schema (pg_dump), health check, report. Within the revisions it goes
into the journal: two statements for each, outside its transaction, one before it begins and one before its COMMIT.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.server import scratch

ENV = """
from alembic import context
from sqlalchemy import NullPool, create_engine

def run(connection):
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()

connection = context.config.attributes.get("connection")
if connection is not None:
    run(connection)
else:
    with create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=NullPool).connect() as own:
        run(own)
"""
REVISION = """
from alembic import op
import sqlalchemy as sa

revision = "r{n:04}"
down_revision = {parent!r}

def upgrade():
    op.create_table("t{n}", sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("name", sa.Text))
    op.create_index("t{n}_name_idx", "t{n}", ["name"])

def downgrade():
    op.drop_table("t{n}")
"""
INI = "[alembic]\nscript_location = {where}\nsqlalchemy.url = {url}\n"


def write(where: Path, revisions: int) -> None:
    (where / "versions").mkdir(parents=True)
    (where / "env.py").write_text(ENV)
    for n in range(revisions):
        parent = f"r{n - 1:04}" if n else None
        (where / "versions" / f"r{n:04}.py").write_text(REVISION.format(n=n, parent=parent))


@dataclass(frozen=True, slots=True)
class Took:
    """How long a run took, all in all and, where it says so, in its revisions; and with nothing to do."""

    whole_s: float
    idle_s: float
    revisions_s: float | None = None


def timed(argv: list[str], env: dict[str, str], cwd: Path) -> tuple[float, str]:
    started = time.monotonic()
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{argv}: {done.stderr}")
    return time.monotonic() - started, done.stdout


def bench_up(place: Path, revisions: int, rounds: int) -> None:
    scripts = place / "scripts"
    write(scripts, revisions)
    found = binaries.find(configured=None, programs=(*binaries.SERVER, *binaries.CLIENT))
    with (
        scratch(place, found, superuser="postgres", settings={"fsync": "on"}) as server,
        ConnectionManager("admin", server.settings("postgres")) as admin,
    ):
        took: dict[str, list[Took]] = {"alembic upgrade head": [], "chanuka-ops migrate up": []}

        def fresh(name: str) -> str:
            with admin.autocommit() as connection:
                connection.execute(text(f"drop database if exists {name}"))
                connection.execute(text(f"create database {name} template template0"))
            return server.settings(name).url.get_secret_value()

        def bare() -> Took:
            ini = place / "alembic.ini"
            ini.write_text(INI.format(where=scripts, url=fresh("bare").replace("%", "%%")))
            argv = [sys.executable, "-m", "alembic", "-c", str(ini), "upgrade", "head"]
            whole_s, _ = timed(argv, dict(os.environ), place)
            idle_s, _ = timed(argv, dict(os.environ), place)
            return Took(whole_s, idle_s)

        def ours() -> Took:
            env = {
                **os.environ,
                "DATABASE_URL": fresh("ours"),
                "CHANUKA_STATE_DIR": str(place / "state"),
                "CHANUKA__OPERATIONS__MIGRATION__SCRIPT_LOCATION": str(scripts),
            }
            argv = [sys.executable, "-m", "chanuka_ops.cli.main", "migrate", "up", "--json"]
            whole_s, said = timed(argv, env, place)
            idle_s, _ = timed(argv, env, place)
            return Took(whole_s, idle_s, sum(step["seconds"] for step in json.loads(said)["applied"]))

        both: list[tuple[str, Callable[[], Took]]] = list(zip(took, (bare, ours), strict=True))
        for turn in range(rounds + 1):
            for name, run in both if turn % 2 else both[::-1]:
                found_s = run()
                if turn:  # the first warms up
                    took[name].append(found_s)
    tell(took)


def tell(took: dict[str, list[Took]]) -> None:
    for name, runs in took.items():
        whole, idle = [run.whole_s for run in runs], statistics.median(run.idle_s for run in runs)
        within = [run.revisions_s for run in runs if run.revisions_s is not None]
        more = f"; {statistics.median(within):.2f} s in its revisions" if within else ""
        print(f"{name}: median {statistics.median(whole):.2f} s of {[round(s, 2) for s in whole]};"
              f" {idle:.2f} s with nothing to do{more}")  # fmt: skip
    pairs = list(zip(*took.values(), strict=True))
    ratios = [ours.whole_s / bare.whole_s for bare, ours in pairs]
    steps = [(ours.revisions_s or 0.0) / (bare.whole_s - bare.idle_s) for bare, ours in pairs]
    print(f"ratio: median {statistics.median(ratios):.3f} of {[round(r, 3) for r in ratios]} (goal 1.15);"
          f" of the revisions alone {statistics.median(steps):.3f}")  # fmt: skip


def bench_lint(place: Path, revisions: int, rounds: int) -> None:
    scripts = place / "scripts"
    write(scripts, revisions)
    env = {
        **os.environ,
        "CHANUKA_STATE_DIR": str(place / "state"),
        "CHANUKA__OPERATIONS__MIGRATION__SCRIPT_LOCATION": str(scripts),
    }
    argv = [sys.executable, "-m", "chanuka_ops.cli.main", "migrate", "lint", "--json"]
    took = [timed(argv, env, place)[0] for _ in range(rounds)]
    print(f"lint of {revisions}: median {statistics.median(took):.2f} s of {[round(s, 2) for s in took]} (goal 5 s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("up", "lint"))
    parser.add_argument("--revisions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chanuka-bench-") as place:
        bench = bench_up if given.what == "up" else bench_lint
        bench(Path(place), given.revisions, given.rounds)


if __name__ == "__main__":
    main()

"""The same PostgreSQL 15 backed up by this program, pgBackRest and Barman, where those are installed.

They are not the same thing: those copy a cluster's files and its WAL, this one dumps a database. What the table shows
is what a night costs, and what is known in the morning. `BARMAN` names Barman's program if it isn't on the PATH; where
there is none, pip installs one for the run.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chanuka_ops import config, errors
from chanuka_ops.dataset import service as dataset
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.postgres import binaries, home
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import Account, run, wait_until
from chanuka_ops.postgres.server import Server, scratch

MAJOR = 15
DEADLINE_S = 1800.0
READY_WITHIN_S = 60.0
BARMAN = ("barman==3.19.1", "psycopg2-binary>=2.9,<3")  # the last one that PyPI has
INSTALL_S = 300.0
DBNAME = "chanuka"
SUPERUSER = "postgres"
Row = tuple[str, ...]


def seconds(action: Callable[[], object]) -> str:
    start = time.perf_counter()
    action()
    return f"{time.perf_counter() - start:.1f}"


def size_mb(directory: Path) -> str:
    return f"{sum(path.stat().st_size for path in directory.rglob('*') if path.is_file()) / 1e6:.0f}"


def owned(directory: Path, account: Account | None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    if account is not None:
        os.chown(directory, account.uid, account.gid)
    return directory


def ours(server: Server, work: Path) -> Row:
    url = server.settings(DBNAME).url.get_secret_value()
    environ = {
        "DATABASE_URL": url,
        "CHANUKA_STATE_DIR": str(work / "ours"),
        "CHANUKA__POSTGRES__BIN_DIR": str(server.bin_dir),
    }
    with DatabaseOrchestrator.open(config.load(environ, work)) as orchestrator:
        ids: list[str] = []
        backed = seconds(lambda: ids.append(orchestrator.backup().backup_id))
        verified = seconds(lambda: orchestrator.verify(ids[0]))
        drilled = orchestrator.drill(ids[0])
        store = orchestrator.backups.store.directory(ids[0]) or work
        known = f"{drilled.rows_compared:,} rows of the copy equal the source's: {drilled.tier}"
        return ("chanuka_ops", backed, verified, f"{drilled.restore_seconds:.1f}", size_mb(store), known)


def pgbackrest(work: Path, account: Account | None) -> Row:
    program = shutil.which("pgbackrest") or ""
    owned(work / "pgbackrest", account)

    def call(*words: str, to: str = "demo") -> str:
        done = run(
            [program, f"--config={configuration(work)}", f"--stanza={to}", *words],
            deadline_s=DEADLINE_S, account=account, cwd=Path("/"),
        )  # fmt: skip
        return done.stdout

    call("stanza-create")
    backed = seconds(lambda: call("--type=full", "backup"))
    said: list[str] = []
    verified = seconds(lambda: said.append(call("verify")))
    target = owned(work / "pgbackrest-restored", account)
    target.chmod(0o700)
    restored = seconds(lambda: call(f"--pg1-path={target}", "--archive-mode=off", "restore"))
    return ("pgBackRest", backed, verified, restored, size_mb(work / "pgbackrest" / "backup"), "checksums of the files")


def configuration(work: Path) -> Path:
    return work / "pgbackrest.conf"


def configure_pgbackrest(server_dir: Path, socket_dir: Path, work: Path) -> None:
    repo = work / "pgbackrest"
    configuration(work).write_text(
        f"[global]\nrepo1-path={repo}\nlog-path={repo}\nlock-path={repo}/lock\nspool-path={repo}/spool\n"
        "process-max=2\ncompress-type=gz\ncompress-level=1\nstart-fast=y\nlog-level-console=warn\n"
        f"[demo]\npg1-path={server_dir}\npg1-socket-path={socket_dir}\npg1-port=5432\npg1-user={SUPERUSER}\n"
        "pg1-database=postgres\n",
        encoding="utf-8",
    )


def barman(program: str, server: Server, work: Path, account: Account | None) -> Row:
    base = owned(work / "barman", account)
    owned(base / "home", account)
    stated = base / "barman.conf"
    info = f"host={server.socket_dir} port=5432 user={SUPERUSER}"
    user = account.name if account else getpass.getuser()  # it runs as whoever runs this: its files may be private
    stated.write_text(
        f"[barman]\nbarman_home = {base}/home\nbarman_user = {user}\nlog_file = {base}/barman.log\nlog_level = ERROR\n"
        f"[demo]\ndescription = demo\nconninfo = {info} dbname=postgres\nstreaming_conninfo = {info}\n"
        "backup_method = postgres\nstreaming_archiver = on\nslot_name = barman\ncreate_slot = auto\n"
        f"backup_compression = gzip\nbackup_compression_level = 1\npath_prefix = {server.bin_dir}\n",
        encoding="utf-8",
    )

    def call(*words: str) -> None:
        run([program, "-q", "-c", stated, *words], deadline_s=DEADLINE_S, account=account, cwd=Path("/"))

    call("receive-wal", "--create-slot", "demo")
    receiver = subprocess.Popen(
        [program, "-q", "-c", stated, "receive-wal", "demo"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        user=account.uid if account else None, group=account.gid if account else None,
        extra_groups=[] if account else None,
    )  # fmt: skip
    try:
        call("switch-wal", "--force", "demo")
        ready = wait_until(
            lambda: run([program, "-q", "-c", stated, "check", "demo"], deadline_s=60, check=False).status == 0,
            timeout_s=READY_WITHIN_S, poll_s=1.0,
        )  # fmt: skip
        if not ready:
            said = run([program, "-c", stated, "check", "demo"], deadline_s=60, check=False).stdout
            raise errors.ToolFailed("; ".join(line.strip() for line in said.splitlines() if "FAILED" in line))
        backed = seconds(lambda: call("backup", "--immediate-checkpoint", "demo"))
        size = size_mb(base / "home" / "demo" / "base")
        if shutil.which("rsync") is None:
            return ("Barman", backed, "-", "-", size, "not restored: it copies with rsync, which isn't installed here")
        target = owned(work / "barman-restored", account)
        staging = owned(base / "staging", account)
        call("switch-wal", "--force", "--archive", "demo")
        restored = seconds(
            lambda: call(
                "restore", "--staging-path", str(staging), "--staging-location", "local", "demo", "latest", str(target)
            )
        )
    finally:
        run([program, "-q", "-c", stated, "receive-wal", "--stop", "demo"], deadline_s=60, account=account, check=False)
        receiver.terminate()
        receiver.wait()
    return ("Barman", backed, "-", restored, size, "nothing was read again")


def barman_program(work: Path) -> str:
    """Return Barman's program, in an environment of the run's own where it isn't installed. Errors: `ToolFailed`."""
    there = os.environ.get("BARMAN") or shutil.which("barman")
    if there:
        return there
    place = work / "barman-venv"
    run([sys.executable, "-m", "venv", place], deadline_s=INSTALL_S)
    run([place / "bin" / "pip", "install", "--quiet", *BARMAN], deadline_s=INSTALL_S)
    return str(place / "bin" / "barman")


def tried(name: str, measure: Callable[[], Row]) -> Row:
    """Measure one of the others; where it fails, its own words are what the table shows."""
    try:
        return measure()
    except errors.ToolFailed as failure:
        return (name, "-", "-", "-", "-", f"failed: {failure}")


def data_directory(server: Server) -> Path:
    with ConnectionManager("rivals", server.settings("postgres")) as manager, manager.read() as connection:
        return Path(str(connection.exec_driver_sql("show data_directory").scalar_one()))


def found() -> Binaries | None:
    every = binaries.installations(None, (*binaries.SERVER, *binaries.CLIENT))
    return next((one for one in every if one.major == MAJOR), None)


def main(console: Console, work: Path, scale: int) -> None:
    tools = found()
    if tools is None:
        console.print("PostgreSQL 15 is not installed: nothing to measure beside others")
        return
    account = home.server_account()
    settings = {
        "wal_level": "replica", "max_wal_senders": "5", "max_replication_slots": "5", "fsync": "off",
        "archive_mode": "on",
        "archive_command": f"'pgbackrest --config={configuration(work)} --stanza=demo archive-push %p'"
        if shutil.which("pgbackrest") else "/bin/true",
    }  # fmt: skip
    table = Table("tool", "backup s", "verify s", "restore s", "MB", "known then", title="PostgreSQL 15, one run each")
    with scratch(work / "state", tools, superuser=SUPERUSER, settings=settings) as server:
        database = server.settings(DBNAME)
        with ConnectionManager("rivals", server.settings("postgres")) as admin, admin.autocommit() as connection:
            connection.exec_driver_sql(f"create database {DBNAME}")
        with ConnectionManager("main", database) as manager:
            Migrator(manager, config.load({}, work).operations.migration).up()
            dataset.load(manager, scale=scale)
        table.add_row(*ours(server, work))
        if shutil.which("pgbackrest"):
            configure_pgbackrest(data_directory(server), server.socket_dir, work)
            table.add_row(*tried("pgBackRest", lambda: pgbackrest(work, account)))
        table.add_row(*tried("Barman", lambda: barman(barman_program(work), server, work, None)))
    console.print(table)

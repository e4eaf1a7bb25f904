"""Servers this program starts itself: the embedded one, whose data stays, and scratch ones, which vanish.

Both listen on a private Unix socket only (a directory that just the server's account and root can enter, so `trust`
admits nobody else), archive nothing, and are run by a keeper (keeper.py) for as long as somebody holds their lease.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.engine import URL

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings
from chanuka_ops.db import connecting
from chanuka_ops.postgres import home as homes
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.lease import STOP_TIMEOUT_S, Lease, exclusive, leased, running_pid, unused
from chanuka_ops.postgres.process import Account, run, wait_until

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
INITDB_TIMEOUT_S = 120.0
LEFTOVER_AFTER_S = 3600.0  # a scratch directory that nobody holds may be a minute's work of somebody about to
BUILTIN_LOCALE_MAJOR = 17  # from here on C.UTF-8 needs no locale of the operating system
PORT = 5432
SUPERUSER = "chanuka"

# A restored copy lives for minutes: it needs speed, not durability, and must touch nothing outside itself.
SCRATCH_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "autovacuum": "off",
    "maintenance_work_mem": "128MB",
    "max_locks_per_transaction": "1024",
}
_ALWAYS: Mapping[str, str] = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "archive_mode": "off",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server of ours."""

    binaries: Binaries
    socket_dir: Path
    superuser: str
    pid: int

    @property
    def major(self) -> int:
        """PostgreSQL's major version."""
        return self.binaries.major

    @property
    def bin_dir(self) -> Path:
        """The directory of its programs."""
        return self.binaries.bin_dir

    def settings(self, dbname: str) -> DatabaseSettings:
        """Return how to connect to one of its databases, as its superuser."""
        return _database(self.socket_dir, self.superuser, dbname)


def embedded_major(state_dir: Path) -> int | None:
    """Return the major version of the embedded server's data, None before there is any."""
    home = homes.known_home(state_dir / "postgres")
    try:
        return int((home / "data" / "PG_VERSION").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def embedded_running(state_dir: Path, dbname: str, *, superuser: str = SUPERUSER) -> DatabaseSettings | None:
    """Return how a database of the embedded server is reached, None where the server isn't up. Nothing is started."""
    home = homes.known_home(state_dir / "postgres")
    if running_pid(home / "data") is None:
        return None
    socket_dir = homes.socket_directory(home, homes.server_account())
    return _database(socket_dir, superuser, dbname) if _accepts(socket_dir, superuser) else None


@contextmanager
def embedded(state_dir: Path, binaries: Binaries, *, superuser: str = SUPERUSER) -> Iterator[Server]:
    """Use the embedded server, starting it (and making its cluster) where it isn't up; its data stays.

    Errors: `ServerError` where it can't be made or started, or where its data is of another major version.
    """
    account = homes.server_account()
    home = homes.make_home(state_dir / "postgres", account)
    with leased(home) as lease:
        with exclusive(home / "start.lock"):
            running = homes.runnable(binaries, homes.shelf(home, state_dir), account)
            data = _cluster(home, running, account, superuser)
            pid = running_pid(data)
            socket_dir = homes.socket_directory(home, account)
            if pid is None or not _accepts(socket_dir, superuser):
                pid = _start(_Cluster(home, data, running, socket_dir, superuser), account, lease, remove=())
        try:
            yield Server(running, socket_dir, superuser, pid)
        finally:
            lease.let_go(data)


@contextmanager
def scratch(
    state_dir: Path,
    binaries: Binaries,
    *,
    superuser: str | None = None,
    settings: Mapping[str, str] = SCRATCH_SETTINGS,
) -> Iterator[Server]:
    """Make and start a server that is stopped and removed at the end of the block, however that comes.

    Its superuser has a random name by default, so that every role of the source can be restored as an ordinary one.
    Errors: `ServerError`.
    """
    account = homes.server_account()
    key = secrets.token_hex(6)
    homes.make_own(state_dir / "scratch")
    _sweep(state_dir / "scratch")
    preferred = state_dir / "scratch" / key
    home = homes.make_home(preferred, account)
    owner = superuser or f"chanuka_scratch_{key}"
    try:
        with leased(home) as lease:
            running = homes.runnable(binaries, homes.shelf(home, state_dir), account)
            data = _cluster(home, running, account, owner, settings=settings)
            socket_dir = homes.socket_directory(home, account)
            pid = _start(
                _Cluster(home, data, running, socket_dir, owner), account, lease, remove=(home, socket_dir, preferred)
            )
            try:
                yield Server(running, socket_dir, owner, pid)
            finally:
                lease.let_go(data)
    finally:
        wait_until(lambda: running_pid(home / "data") is None, timeout_s=STOP_TIMEOUT_S)
        for left in (home, preferred):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Cluster:
    home: Path
    data: Path
    binaries: Binaries
    socket_dir: Path
    superuser: str


def _cluster(
    home: Path,
    binaries: Binaries,
    account: Account | None,
    superuser: str,
    *,
    settings: Mapping[str, str] | None = None,
) -> Path:
    """Make the cluster where it isn't there yet; one with `settings` is a scratch one and needs no fsync."""
    data = home / "data"
    version_file = data / "PG_VERSION"
    if version_file.exists():
        major = version_file.read_text(encoding="ascii").strip()
        if major != str(binaries.major):
            raise errors.ServerError(
                f"{data} is a cluster of PostgreSQL {major}, the programs found are {binaries.version}: "
                f"install that major version, or move the directory away"
            )
        return data
    unfinished = home / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    homes.make_private(unfinished, account)
    options = ["--locale=C"] if settings is None else ["--locale=C", "--no-sync"]
    if binaries.major >= BUILTIN_LOCALE_MAJOR:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    try:
        run(
            [binaries.path("initdb"), "-D", unfinished, "-U", superuser, "-A", "trust", "-E", "UTF8", "-k", *options],
            deadline_s=INITDB_TIMEOUT_S,
            cwd=Path("/"),
            account=account,
            env={"LC_ALL": "C"},
        )
    except errors.ToolFailed as failure:
        raise errors.ServerError(f"the server's cluster can't be made: {failure}") from None
    conf = unfinished / "postgresql.conf"
    lines = [f"{name} = {value}" for name, value in {**_ALWAYS, **(settings or {})}.items()]
    with conf.open("a", encoding="utf-8") as file:
        file.write("\n# set by chanuka_ops\n" + "\n".join(lines) + "\n")
    unfinished.rename(data)
    return data


def _start(cluster: _Cluster, account: Account | None, lease: Lease, *, remove: Sequence[Path]) -> int:
    order = {
        "argv": [
            *(str(cluster.binaries.path("postgres")), "-D", str(cluster.data), "-k", str(cluster.socket_dir)),
            *("-p", str(PORT)),  # PGPORT of this environment would count otherwise
        ],
        "data_dir": str(cluster.data),
        "lease": str(cluster.home / "lease"),
        "uid": account.uid if account else None,
        "gid": account.gid if account else None,
        "remove": [str(path) for path in remove],
    }
    # held open: the keeper of a scratch server that doesn't start removes the directory before we can read why
    with (cluster.home / "server.log").open("a+b") as log_file:
        begins = log_file.tell()
        keeper = subprocess.Popen(
            [sys.executable, "-m", "chanuka_ops.postgres.keeper", json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "LC_ALL": "C"},
        )
        ready = wait_until(
            lambda: keeper.poll() is not None or _accepts(cluster.socket_dir, cluster.superuser),
            timeout_s=START_TIMEOUT_S,
            poll_s=0.02,
        )
        pid = running_pid(cluster.data)
        if not ready or keeper.poll() is not None or pid is None:
            if keeper.poll() is None:
                keeper.terminate()
                keeper.wait()
            log_file.seek(begins)
            said = log_file.read().decode(errors="replace").splitlines()[-5:]
            raise errors.ServerError(f"the server in {cluster.home} didn't start: {' | '.join(said)}")
    lease.keeper = keeper
    return pid


def _sweep(scratches: Path) -> None:
    """Remove what is left of scratch servers whose user was killed before a keeper had charge of them."""
    for preferred in scratches.iterdir():
        home = homes.known_home(preferred)
        try:
            age_s = time.time() - preferred.stat().st_mtime
        except OSError:  # its user has just removed it
            continue
        if age_s > LEFTOVER_AFTER_S and unused(home):
            for left in (home, preferred):
                shutil.rmtree(left, ignore_errors=True)
            log.info("removed what was left of scratch server %s", preferred.name, extra={"event": "scratch.swept"})


def _accepts(socket_dir: Path, superuser: str) -> bool:
    return connecting.reachable(_database(socket_dir, superuser, "postgres"))


def _database(socket_dir: Path, superuser: str, dbname: str) -> DatabaseSettings:
    query = {"host": str(socket_dir), "port": str(PORT)}
    url = URL.create(DRIVER, username=superuser, database=dbname, query=query)
    return DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False)))

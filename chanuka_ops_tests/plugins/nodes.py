"""A server that a test may stop, kill, freeze and start again: what `scratch` can't be, as it vanishes with its end.

It's run by the same keeper, so it ends with this process however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import psycopg
from pydantic import SecretStr
from sqlalchemy.engine import URL

from chanuka_ops.config import DRIVER, DatabaseSettings
from chanuka_ops.postgres import home as homes
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.lease import leased, running_pid
from chanuka_ops.postgres.process import Account, run, wait_until
from chanuka_ops.postgres.server import PORT, Server, embedded

SUPERUSER = "postgres"
LOCALHOST = "127.0.0.1"
PATIENCE_S = 30.0
CONF = "node.conf"  # included by postgresql.conf, and rewritten by `configure`
# dynamic shared memory in files of the data directory: what a killed server leaves goes with it
BASE_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "checkpoint_timeout": "1h",
    "autovacuum_naptime": "1h",
}
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_IPC_RMID = 0
# the log's file is mostly zeros, which needn't be written
COPY = ("cp", "-a", "--sparse=always") if sys.platform == "linux" else ("cp", "-a")

Stop = Literal["smart", "fast", "immediate"]
N = TypeVar("N", bound="Node")


class Node:
    """One server on a data directory that is there already. Use `opened()`, which ends and removes it."""

    def __init__(self, home: Path, name: str, binaries: Binaries, account: Account | None, port: int) -> None:
        self.name = name
        self.home = home
        self.data = home / "data"
        self.binaries = binaries
        self.account = account
        self.port = port
        self.socket_dir = homes.socket_directory(home, account)
        self._set: dict[str, str] = {}
        self._frozen: list[int] = []
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its postmaster is there."""
        return self._keeper is not None and self._keeper.poll() is None and running_pid(self.data) is not None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        pid = running_pid(self.data)
        assert pid is not None, f"{self.name} isn't running"
        return pid

    @property
    def server(self) -> Server:
        """It as a `Server` while it runs: for `proxy_to` and the like."""
        return Server(self.binaries, self.socket_dir, SUPERUSER, self.pid)

    @property
    def info(self) -> str:
        """libpq's words for a connection to it, without a database."""
        return f"host={self.socket_dir} port={self.port} user={SUPERUSER}"

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.home / "server.log").read_text(encoding="utf-8", errors="replace")

    def settings(self, dbname: str = "postgres") -> DatabaseSettings:
        """How to connect to it as its superuser, whether it's running or not."""
        query = {"host": str(self.socket_dir), "port": str(self.port)}
        url = URL.create(DRIVER, username=SUPERUSER, database=dbname, query=query)
        return DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False)))

    def query(self, statement: str, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement in a session and a transaction of its own; return its rows."""
        info = f"{self.info} dbname={dbname} connect_timeout=10 application_name=test"
        with psycopg.connect(info, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def configure(self, **settings: str) -> None:
        """Set parameters (values as the file has them, quoted where needed); a running server reloads them."""
        self._set.update(settings)
        self.write(CONF, "".join(f"{name} = {value}\n" for name, value in self._set.items()))
        if self.running:
            os.kill(self.pid, signal.SIGHUP)

    def write(self, name: str, text: str, mode: int = 0o600) -> None:
        """Write a file of its data directory, the server's own."""
        path = self.data / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it takes connections."""
        assert not self.running, f"{self.name} is running"
        order = {
            "argv": [
                *(str(self.binaries.path("postgres")), "-D", str(self.data)),
                *("-k", str(self.socket_dir), "-p", str(self.port)),
            ],
            "data_dir": str(self.data),
            "lease": str(self.home / "lease"),
            "uid": self.account.uid if self.account else None,
            "gid": self.account.gid if self.account else None,
            "remove": [],
        }
        with (self.home / "server.log").open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "chanuka_ops.postgres.keeper", json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(Path(homes.__file__).parents[2]), "LC_ALL": "C"},
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it takes connections."""
        keeper = self._keeper
        assert keeper is not None
        assert wait_until(lambda: keeper.poll() is not None or self.accepts(), timeout_s=PATIENCE_S, poll_s=0.01)
        assert keeper.poll() is None, f"{self.name} didn't start: {self.log[-1000:]}"

    def accepts(self) -> bool:
        """Whether it takes connections."""
        info = f"{self.info} dbname=postgres connect_timeout=2"
        return psycopg.pq.PGconn.ping(info.encode()) == psycopg.pq.Ping.OK

    def stop(self, mode: Stop = "fast") -> None:
        """Shut it down, and wait for its end."""
        self.thaw()
        if self.running:
            os.kill(self.pid, _STOP_SIGNALS[mode])
        self._reap()

    def kill(self) -> None:
        """SIGKILL the postmaster and all its children, and remove their shared memory, as a crashed machine would."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)  # it starts no more children
        family = [pid, *_children(pid)]
        segment = _segment(self.data)
        for each in family:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._reap()
        assert wait_until(lambda: not any(map(_alive, family)), timeout_s=PATIENCE_S, poll_s=0.005)
        self._frozen.clear()
        if segment is not None:
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)

    def freeze(self, *, backends: bool = False) -> None:
        """SIGSTOP the postmaster: it takes no new sessions. With `backends` its children too: nothing answers."""
        self._frozen.append(self.pid)
        os.kill(self.pid, signal.SIGSTOP)
        for child in _children(self.pid) if backends else []:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGSTOP)
                self._frozen.append(child)

    def thaw(self) -> None:
        """Let those run again that `freeze` stopped."""
        while self._frozen:
            with suppress(ProcessLookupError):
                os.kill(self._frozen.pop(), signal.SIGCONT)

    def _reap(self) -> None:
        if self._keeper is not None:
            self._keeper.wait(timeout=PATIENCE_S)
            self._keeper = None

    def _end(self) -> None:
        """Stop it somehow: what it holds is thrown away."""
        self.thaw()
        if self.running:
            os.kill(self.pid, signal.SIGQUIT)
        self._reap()


@contextmanager
def opened(kind: type[N], home: Path, data: Path, binaries: Binaries, port: int = PORT) -> Iterator[N]:
    """Make a node in a new directory `home` on a copy of a stopped cluster; end and remove it after the block."""
    account = homes.server_account()
    place = homes.make_home(home, account)
    try:
        with leased(place):
            run([*COPY, data, place / "data"], deadline_s=PATIENCE_S)
            node = kind(place, home.name, binaries, account, port)
            try:
                yield node
            finally:
                node._end()
                shutil.rmtree(node.socket_dir, ignore_errors=True)
    finally:
        for left in (place, home):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def cluster_template(state_dir: Path, pg: Binaries, settings: Mapping[str, str]) -> Iterator[tuple[Path, Binaries]]:
    """Make a cluster to copy, stopped: its data directory, and the programs as the server's account can run them."""
    with embedded(state_dir, pg, superuser=SUPERUSER) as made:
        programs = made.binaries
    place = homes.known_home(state_dir / "postgres")
    lines = [f"{name} = {value}\n" for name, value in {**BASE_SETTINGS, **settings}.items()]
    with (place / "data" / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.write("".join([*lines, f"include_if_exists '{CONF}'\n"]))
    try:
        yield place / "data", programs
    finally:
        for left in (place, state_dir / "postgres"):
            shutil.rmtree(left, ignore_errors=True)


def free_port() -> int:
    """A TCP port here that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        port: int = sock.getsockname()[1]
    return port


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            # the command's name stands in parentheses and may hold anything
            after = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(after[1]) == parent:
                found.append(int(entry.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _segment(data: Path) -> int | None:
    """The System V shared memory segment, whose only use is to tell that a server's processes are still there."""
    try:
        return int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[6].split()[1])
    except (OSError, IndexError, ValueError):
        return None

"""The program as a user runs it, and what is left of it when it's gone."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

from chanuka_ops import context, errors
from chanuka_ops.cli import main
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server

CLI_TIMEOUT_S = 250  # beyond a test's own time limit, which says more; a few have a longer one
PROGRAM = [sys.executable, "-m", "chanuka_ops.cli.main"]
MIGRATIONS = Path(main.__file__).parents[2] / "migrations"


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output; NaN and Infinity are Python's own and no JSON."""
        return json.loads(self.stdout, parse_constant=_no_json)

    @property
    def output(self) -> str:
        """Everything it said."""
        return self.stdout + self.stderr


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


Cli = Callable[..., Ran]


def url_of(database: DatabaseSettings) -> str:
    return database.url.get_secret_value()


def clean_environment(state_dir: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without any configuration of ours or of Dagster's, or a width of somebody's terminal."""
    ours = ("CHANUKA", "DAGSTER", "DATABASE_URL", "PG", "COLUMNS", "LINES")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {**kept, "CHANUKA_STATE_DIR": str(state_dir), **(extra or {})}


@pytest.fixture
def base_environment(state_dir: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a program under test: its own state directory, the PostgreSQL under test."""
    pg_bin = request.config.getoption("--pg-bin")
    return clean_environment(state_dir, {"CHANUKA__POSTGRES__BIN_DIR": pg_bin} if pg_bin else {})


@pytest.fixture
def cli(base_environment: dict[str, str], tmp_path: Path) -> Cli:
    """Run `chanuka-ops …` as a process in a directory of its own: cli("backup", "list", env={…}, cwd=…)."""

    def run(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
        done = subprocess.run(
            [*PROGRAM, *args],
            capture_output=True,
            text=True,
            timeout=CLI_TIMEOUT_S,
            check=False,
            cwd=cwd or tmp_path,
            env={**base_environment, **(env or {})},
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def here(
    base_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Cli]:
    """The same without a process of its own, which takes most of a second: for what only the output tells."""
    root = logging.getLogger("chanuka_ops")
    kept = list(root.handlers), root.level, root.propagate

    def run(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
        with monkeypatch.context() as patch, context.scope():
            for name in set(os.environ) - set(base_environment):
                patch.delenv(name)
            for name, value in {**base_environment, **(env or {})}.items():
                patch.setenv(name, value)
            patch.chdir(cwd or tmp_path)
            capfd.readouterr()
            status = main.run(list(args))
            said = capfd.readouterr()
        return Ran(status, said.out, said.err)

    yield run
    root.handlers[:], root.propagate = kept[0], kept[2]
    root.setLevel(kept[1])


@contextmanager
def running(
    argv: list[str], env: Mapping[str, str], cwd: Path, *, sigint_ignored: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A program under way, killed at the block's end if it's still there."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(env),
        cwd=cwd,
        preexec_fn=ignore if sigint_ignored else None,  # noqa: PLW1509 - one system call
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen[str], timeout_s: float = 40) -> Ran:
    """Wait for a program's end."""
    stdout, stderr = process.communicate(timeout=timeout_s)
    return Ran(process.returncode, stdout, stderr)


def left_of(state_dir: Path) -> list[str]:
    """Whatever still runs with that state directory in its arguments or environment."""
    needle = os.fsencode(state_dir)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            if int(entry.name) != os.getpid() and (needle in words or needle in (entry / "environ").read_bytes()):
                found.append(f"{entry.name} {words.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


def sessions(database: DatabaseSettings) -> list[str]:
    """The applications that are connected to a database, this one aside."""
    with ConnectionManager("look", database) as manager, manager.autocommit() as connection:
        query = (
            "select application_name from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        return list(connection.execute(text(query)).scalars())


@dataclass(frozen=True)
class Guarded:
    """A role of the server under test that must give a password."""

    role: str
    password: str

    def of(self, database: DatabaseSettings, password: str | None = None) -> DatabaseSettings:
        """The database as that role sees it."""
        url = make_url(url_of(database)).set(username=self.role, password=password or self.password)
        return database.model_copy(update={"url": SecretStr(url.render_as_string(hide_password=False))})


@pytest.fixture
def guarded(server: Server) -> Iterator[Guarded]:
    """A role that the server asks for its password; all others are trusted."""
    role = f"guarded_{uuid.uuid4().hex[:8]}"
    known = Guarded(role, f"s3cret-{uuid.uuid4().hex}")
    database = server.settings("postgres")
    with ConnectionManager("admin", database) as manager, manager.autocommit() as connection:
        connection.execute(text(f"create role {role} login password '{known.password}'"))
        hba = Path(connection.execute(text("show hba_file")).scalar_one())
        before = hba.read_text(encoding="utf-8")
        hba.write_text(f"local all {role} scram-sha-256\n{before}", encoding="utf-8")
        connection.execute(text("select pg_reload_conf()"))
        assert wait_until(lambda: _refuses(known.of(database, "wrong")), timeout_s=10)
        yield known
        hba.write_text(before, encoding="utf-8")
        connection.execute(text("select pg_reload_conf()"))
        connection.execute(text(f"drop role if exists {role}"))


def _refuses(database: DatabaseSettings) -> bool:
    with ConnectionManager("look", database) as manager:
        try:
            manager.probe()
        except errors.AuthenticationFailed:
            return True
    return False

"""A person's desk: a directory with a chanuka.toml, and the program run in it, once or while another run stands still.

Run as `python -m chanuka_ops_tests.plugins.desk '{"boundary": …, "reached": …, "go": …, "args": […]}'` it is the
command line that says at a boundary that it's there, and waits until it may go on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops import context
from chanuka_ops.backup import boundaries
from chanuka_ops.cli import main
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.processes import Cli, Ran, finished, running, url_of
from chanuka_ops_tests.plugins.s3 import ENVIRONMENT, Bucket

PATIENCE_S = 60.0
NOBODY = "postgresql://ops:hunter2@127.0.0.1:1/chanuka"  # no server listens on port 1
TABLES = (
    "create table bills(id int primary key, title text)",
    "insert into bills select g, 'bill ' || g from generate_series(1, 300) g",
)
KEEP_ONE = "keep.last = 1\nkeep.minimum = 1\n"


@dataclass
class Desk:
    """Where the program is run, by which settings."""

    directory: Path
    run: Cli
    base: Mapping[str, str]
    database: DatabaseSettings
    env: dict[str, str] = field(default_factory=dict)

    def write(self, backup: str = "", *, rest: str = "", url: str | None = None, tags: str = "") -> None:
        """Write the settings: the lines of operations.backup, and whole tables."""
        tagged = f"tags = {tags}\n" if tags else ""
        head = f"[databases.main]\nurl = '{url or url_of(self.database)}'\n{tagged}"
        toml = f"{head}[operations.backup]\n{backup}\n{rest}\n"
        (self.directory / "chanuka.toml").write_text(toml, encoding="utf-8")

    def __call__(self, *args: str) -> Ran:
        return self.run(*args, env=self.env, cwd=self.directory)

    def answer(self, *args: str, status: int = 0) -> dict[str, Any]:
        """The document that a command prints with --json."""
        ran = self(*args, "--json")
        assert ran.status == status, ran.output
        document: dict[str, Any] = ran.json
        return document

    def create(self) -> str:
        """Take a backup; its id."""
        return str(self.answer("backup", "create")["backup_id"])

    def elsewhere(self, state_dir: Path) -> Desk:
        """The same stores seen from another host: with a state directory of its own."""
        return replace(self, env={**self.env, "CHANUKA_STATE_DIR": str(state_dir)})

    def down(self, name: str) -> None:
        """Put a file where a local store's directory was, or would be: it can be neither read nor written."""
        path = self.directory / name
        if path.exists():
            path.rename(path.with_name(f"{name}.away"))
        path.write_text("a file", encoding="utf-8")

    def up(self, name: str) -> None:
        """Put the directory back, if there was one."""
        path = self.directory / name
        path.unlink()
        if (away := path.with_name(f"{name}.away")).exists():
            away.rename(path)

    @contextmanager
    def standing(self, *args: str, at: str) -> Iterator[Standing]:
        """Run a command in a process of its own until it stands still at a boundary; it goes on after the block."""
        reached, go = self.directory / "reached", self.directory / "go"
        for path in (reached, go):
            path.unlink(missing_ok=True)
        order = json.dumps({"boundary": at, "reached": str(reached), "go": str(go), "args": args})
        argv = [sys.executable, "-m", "chanuka_ops_tests.plugins.desk", order]
        with running(argv, {**self.base, **self.env}, self.directory) as process:
            arrived = wait_until(lambda: reached.exists() or process.poll() is not None, timeout_s=PATIENCE_S)
            assert arrived, "it neither came there nor ended"
            assert reached.exists(), finished(process).output
            standing = Standing()
            try:
                yield standing
            finally:
                go.touch()
                standing.ran = finished(process, timeout_s=PATIENCE_S)


@dataclass
class Standing:
    """A run that stood still; how it ended is known after the block."""

    ran: Ran = field(default_factory=lambda: Ran(-1, "", ""))


@pytest.fixture
def desk(here: Cli, base_environment: dict[str, str], database: DatabaseSettings, tmp_path: Path) -> Desk:
    """A desk at a small database; one local store, the default, until `write` says otherwise."""
    execute(database, *TABLES)
    impatient = {"CHANUKA__OPERATIONS__MIGRATION__WAIT": "50ms"}  # who is refused would wait a minute to be let in
    made = Desk(tmp_path, here, base_environment, database, impatient)
    made.write()
    return made


def two_stores(*names: str) -> str:
    """Settings of local stores, below the desk's directory."""
    return "".join(f'stores.{name}.url = "{name}"\n' for name in names)


def cloud_store(bucket: Bucket) -> str:
    """Settings of a store in a bucket, whose credentials are in the environment."""
    stated = bucket.settings()
    options = ", ".join(f'{key} = "{value}"' for key, value in stated.options.items())
    secrets = ", ".join(f'{key} = {{ env = "{source.env}" }}' for key, source in stated.secrets.items())
    url = f'stores.cloud.url = "{stated.url}"'
    return f"{url}\nstores.cloud.options = {{ {options} }}\nstores.cloud.secrets = {{ {secrets} }}\n"


@pytest.fixture
def cloud(desk: Desk, s3: Bucket) -> Bucket:
    """A bucket for which the desk has credentials."""
    desk.env |= ENVIRONMENT
    return s3


def _main(order: Mapping[str, Any]) -> int:
    def look(step: str) -> None:
        if step == order["boundary"]:
            Path(order["reached"]).touch()
            ends_s = time.monotonic() + PATIENCE_S
            while not Path(order["go"]).exists() and time.monotonic() < ends_s:
                time.sleep(0.02)

    boundaries.on_reached = look
    args: Sequence[str] = order["args"]
    with context.scope():
        return main.run(list(args))


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))

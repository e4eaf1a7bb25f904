"""Backups by processes of their own, that are killed or fail as a test says, and what they leave behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import Serve
from chanuka_ops_tests.plugins.keys import IDENTITY, RECIPIENT, SECRET_KEY, SECRET_NAME
from chanuka_ops_tests.plugins.processes import url_of
from chanuka_ops_tests.plugins.s3 import ENVIRONMENT, Bucket

KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Outcome:
    """How an order ended: a status (a signal's is negative), and an answer or an error, unless it was killed."""

    status: int
    answer: Any = None
    error: str | None = None
    crash: str | None = None


class Driver:
    """The process that does the orders, one at a time."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "chanuka_ops_tests.plugins.driver"]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )

    def drive(self, order: Mapping[str, object]) -> Outcome:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps(order), file=stdin, flush=True)
        outcome = Outcome(**json.loads(stdout.readline()))
        assert outcome.crash is None, outcome.crash
        return outcome

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session")
def drivers() -> Iterator[Callable[[int], Driver]]:
    """The session's drivers, by number."""
    made: dict[int, Driver] = {}

    def numbered(number: int) -> Driver:
        if number not in made:
            made[number] = Driver()
        return made[number]

    yield numbered
    for driver in made.values():
        driver.end()


@dataclass(frozen=True)
class Site:
    """A small database, and two stores below the test's state directory: `first` and `second`.

    `options` are further settings of backups, for the service here and for the processes alike.
    """

    database: DatabaseSettings
    state_dir: Path
    serve: Serve
    environment: Mapping[str, str]
    drivers: Callable[[int], Driver]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def stores(self) -> dict[str, Any]:
        stated: dict[str, Any] = self.options.get("stores", {})
        return stated or {name: {"url": str(self.state_dir / name)} for name in ("first", "second")}

    @property
    def env(self) -> dict[str, str]:
        stated = {**self.options, "stores": self.stores}
        return {
            **self.environment,
            "DATABASE_URL": url_of(self.database),
            **{f"CHANUKA__OPERATIONS__BACKUP__{name.upper()}": toml(value) for name, value in stated.items()},
        }

    def service(self, **more: Any) -> BackupService:
        made = self.serve(**{**self.options, "stores": self.stores, **more})
        home = Path(self.environment["CHANUKA_STATE_DIR"])
        return BackupService(made._settings.model_copy(update={"state_dir": home}))

    def create(self, service: BackupService | None = None) -> str:
        with ConnectionManager("main", self.database) as manager:
            return (service or self.service()).create(manager).backup_id

    def drive(self, verb: str, backup_id: str | None = None, *, number: int = 0, **order: Any) -> Outcome:
        env = {**self.env, **order.pop("env", {})}
        return self.drivers(number).drive({"verb": verb, "id": backup_id, "env": env, **order})

    def kill_at(self, boundary: str, verb: str, backup_id: str | None = None) -> None:
        outcome = self.drive(verb, backup_id, kill_at=boundary)
        assert outcome.status == KILLED, f"{boundary} was not reached: {outcome}"

    def left(self) -> list[str]:
        """Every unfinished backup, staged file, fetched file and scratch server's directory."""
        places = [*self.state_dir.rglob(".partial"), self.state_dir / "fetched", self.state_dir / "scratch"]
        found = [path for place in places if place.is_dir() for path in place.rglob("*")]
        hidden = [path for path in self.state_dir.rglob(".*.json*") if path.is_file()]
        return sorted(str(path.relative_to(self.state_dir)) for path in (*found, *hidden))


@pytest.fixture
def site(
    base_environment: dict[str, str],
    small: DatabaseSettings,
    state_dir: Path,
    serve: Serve,
    drivers: Callable[[int], Driver],
) -> Site:
    """A small database with two local stores."""
    return Site(small, state_dir, serve, base_environment, drivers)


@pytest.fixture
def sealed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The same site, its backups encrypted."""
    monkeypatch.setenv(SECRET_NAME, SECRET_KEY)
    return replace(
        site,
        environment={**site.environment, SECRET_NAME: SECRET_KEY},
        options={"stores": site.stores, "recipients": [RECIPIENT], "identity": IDENTITY},
    )


@pytest.fixture
def beside(sealed: Site, s3: Bucket) -> Site:
    """The same, with a store in a bucket beside a local one: `first` and `cloud`."""
    cloud = s3.settings().model_dump(mode="json", exclude_none=True)
    return replace(
        sealed,
        environment={**sealed.environment, **ENVIRONMENT},
        options={**sealed.options, "stores": {"first": sealed.stores["first"], "cloud": cloud}},
    )


def only(site: Site, *names: str) -> Site:
    """The same with those stores only."""
    return replace(site, options={**site.options, "stores": {name: site.stores[name] for name in names}})


@contextmanager
def standing_still(
    site: Site, boundary: str, verb: str, backup_id: str | None = None
) -> Iterator[Callable[[], Outcome]]:
    """Have a process do it up to a boundary, where it stands still in the block until what is given is called."""
    at, go = site.state_dir / "at", site.state_dir / "go"
    outcomes: list[Outcome] = []
    order = {"stop_at": boundary, "at": str(at), "go": str(go)}
    thread = threading.Thread(target=lambda: outcomes.append(site.drive(verb, backup_id, number=1, **order)))
    thread.start()

    def finish() -> Outcome:
        go.touch()
        thread.join()
        return outcomes[0]

    try:
        assert wait_until(lambda: at.exists() or not thread.is_alive(), timeout_s=60, poll_s=0.005)
        assert at.exists(), outcomes
        yield finish
    finally:
        finish()
        at.unlink(missing_ok=True)
        go.unlink(missing_ok=True)


def whole(service: BackupService) -> list[str]:
    """Every listed backup, each byte of each copy of it read against its manifest."""
    found = service.catalogue()
    for backup in found:
        assert backup.problem is None
        assert not backup.copy_problems
        verified = service.verify(backup.backup_id)
        assert (verified.problems, verified.unread) == ((), {})
    return [backup.backup_id for backup in found]


def in_clear(directory: Path) -> list[Path]:
    """Every file of a dump that lies there in clear: tables of contents, roles, rows."""
    signs = (b"PGDMP", b"CREATE ROLE", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd")
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and any(sign in path.read_bytes()[:4096] for sign in signs)
    ]


def toml(value: Any) -> str:
    """Write a value as the environment wants it."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(name)} = {toml(item)}' for name, item in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)

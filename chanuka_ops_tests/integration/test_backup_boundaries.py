"""Killed at each boundary between steps, and at a hundred moments nobody chose: nothing half done is ever listed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops_tests.integration.test_backup_killed import assert_nothing_runs
from chanuka_ops_tests.plugins.backup import Serve
from chanuka_ops_tests.plugins.processes import url_of

pytestmark = pytest.mark.postgres

LISTED_FROM = {"local.renamed:first", "published:first", "local.renamed:second", "published:second"}
CREATE = [
    "begun", "dumped", "hashed", "received:first", "received:second", "local.documents:first", "local.synced:first",
    "local.renamed:first", "published:first", "local.documents:second", "local.synced:second", "local.renamed:second",
    "published:second",
]  # fmt: skip
STORES = ("first", "second")
MOMENTS = 100
LONGEST_S = 1.5


def drive(order: Mapping[str, object], env: Mapping[str, str]) -> int:
    argv = [sys.executable, "-m", "chanuka_ops_tests.plugins.driver", json.dumps(order)]
    done = subprocess.run(
        argv, env=dict(env), cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 1, done.stderr
    return done.returncode


@dataclass(frozen=True)
class Site:
    """A small database, and two stores below the test's state directory."""

    database: DatabaseSettings
    state_dir: Path
    serve: Serve
    env: dict[str, str]

    def service(self, **options: object) -> BackupService:
        return self.serve(stores={name: {"url": str(self.state_dir / name)} for name in STORES}, **options)

    def create(self, service: BackupService) -> str:
        with ConnectionManager("main", self.database) as manager:
            return service.create(manager).backup_id

    def left(self) -> list[Path]:
        return [path for name in STORES for path in (self.state_dir / name / ".partial").iterdir()]


@pytest.fixture
def site(base_environment: dict[str, str], small: DatabaseSettings, state_dir: Path, serve: Serve) -> Site:
    stores = ", ".join(f'{name} = {{ url = "{state_dir / name}" }}' for name in STORES)
    env = {
        **base_environment,
        "DATABASE_URL": url_of(small),
        "CHANUKA__OPERATIONS__BACKUP__STORES": f"{{ {stores} }}",
    }
    return Site(small, state_dir, serve, env)


def whole(service: BackupService) -> list[str]:
    """Every listed backup, each byte of each copy of it read against its manifest."""
    found = service.catalogue()
    for backup in found:
        assert backup.problem is None
        assert not backup.copy_problems
        assert service.verify(backup.backup_id).problems == ()
    return [backup.backup_id for backup in found]


@pytest.mark.slow
@pytest.mark.parametrize("boundary", CREATE)
def test_a_backup_killed_at_a_boundary(boundary: str, site: Site) -> None:
    assert drive({"verb": "create", "boundary": boundary}, site.env) == -signal.SIGKILL
    assert_nothing_runs(site.database)
    service = site.service()
    before = whole(service)
    assert len(before) == (1 if boundary in LISTED_FROM else 0), "the previous state, or a complete new backup"
    assert whole(service) == before
    created = site.create(service)
    assert whole(service) == [created, *before]
    assert site.left() == [], "the next one sweeps what was left"


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["fetched", "restored", "expiring:", "local.unlisted:first"])
def test_a_drill_and_an_expiry_killed_at_a_boundary(boundary: str, site: Site) -> None:
    service = site.service(keep={"last": 1, "minimum": 1})
    old, new = site.create(service), site.create(service)
    verb = "drill" if boundary in {"fetched", "restored"} else "expire"
    at = f"{boundary}{old}" if boundary.endswith(":") else boundary
    env = {**site.env, "CHANUKA__OPERATIONS__BACKUP__KEEP": "{ last = 1, minimum = 1 }"}
    assert drive({"verb": verb, "id": new, "boundary": at}, env) == -signal.SIGKILL
    assert new in whole(service)
    assert {backup.tier for backup in service.catalogue()} <= {"taken", "verified"}, "nothing was proven"
    if verb == "expire":
        assert [item.problem for item in service.expire("main")] == [None, None], "the next one finishes it"
        assert whole(service) == [new]
    assert service.drill(new).proven


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_hundred_moments_nobody_chose(site: Site) -> None:
    chosen = random.Random(4)
    delays_s = [round(chosen.uniform(0.0, LONGEST_S), 3) for _ in range(MOMENTS)]
    drive({"verb": "create", "delays_s": delays_s}, site.env)
    assert_nothing_runs(site.database)
    service = site.service()
    before = whole(service)
    assert 0 < len(before) <= MOMENTS, "some were quick enough, and some were killed before"
    created = site.create(service)
    assert whole(service) == [created, *before]
    assert site.left() == []

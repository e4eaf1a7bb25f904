"""The abort line on the way back: a downgrade is bounded as an upgrade is, by its rehearsal and by who waits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.running.bounds import Bound
from chanuka_ops.migrator.running.statement import fingerprint
from chanuka_ops.orchestrators import applying
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.orchestrators.migration import REHEARSALS, MigrationOrchestrator
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.integration.test_migrator_abort import BLOCKING, MOST, WAITERS, waiting
from chanuka_ops_tests.integration.test_migrator_plan import settings_of
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import migrator, scripts_in, table_exists
from chanuka_ops_tests.plugins.backup import execute

pytestmark = pytest.mark.postgres

PROMPTLY_S = 15.0  # 2 s is what is promised, beside a process's start; a machine under load takes its time
PACED = "insert into busy select 1 from pace cross join lateral pg_sleep(s)"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

WayBack = Callable[[str], Path]


@pytest.fixture
def way_back(database: DatabaseSettings, tmp_path: Path) -> WayBack:
    """Give revisions a1 and b2, applied, of which b2's downgrade is what is given."""

    def made(body: str) -> Path:
        location = scripts_in(tmp_path, a1="op.execute('create table busy (id int)')", b2="op.execute('select 1')")
        path = location / "versions" / "b2.py"
        up, _, down = path.read_text().rpartition("op.execute('select 1')")
        path.write_text(up + body.replace("\n", "\n    ") + down)
        in_this_process(database, location).move("up", "head")
        return location

    return made


def test_more_sessions_blocked_than_allowed_and_it_is_cancelled(
    manager: ConnectionManager, database: DatabaseSettings, way_back: WayBack
) -> None:
    location = way_back(BLOCKING)
    with waiting(database, WAITERS) as last, pytest.raises(errors.MigrationAborted, match=f"{MOST} are the limit"):
        migrator(manager, location, max_blocked_sessions=MOST).down("a1")
    assert time.monotonic() - last() < PROMPTLY_S
    assert not table_exists(manager, "beside")
    assert in_this_process(database, location).current() == ("b2",)


def test_far_past_its_prediction_it_is_cancelled(
    manager: ConnectionManager, database: DatabaseSettings, way_back: WayBack
) -> None:
    location = way_back("op.execute('select pg_sleep(30)')")
    bound = Bound("b2", fingerprint("select pg_sleep(30)"), 0.1, 0.2)
    started = time.monotonic()
    with pytest.raises(errors.MigrationAborted, match=r"predicted to take 0\.2 s at most"):
        migrator(manager, location).down("a1", bounds=[bound])
    assert time.monotonic() - started < PROMPTLY_S
    assert in_this_process(database, location).current() == ("b2",)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_rehearsed_bounds_the_way_back(
    database: DatabaseSettings, way_back: WayBack, state_dir: Path, pg: Binaries
) -> None:
    location = way_back(f"op.execute('{PACED}')")
    execute(database, "create table pace (s float8)", "insert into pace values (0.01)")
    settings = settings_of(database, location, state_dir, pg, require_rehearsal="always")
    with DatabaseOrchestrator.open(settings) as opened:
        applying.migrate(opened, "down", "a1")
        rehearsed = MigrationOrchestrator(opened).rehearse(fresh_backup=True)
        assert rehearsed.passed
        applying.migrate(opened, "up", "head")
        execute(database, "update pace set s = 20")
        started = time.monotonic()
        with pytest.raises(errors.MigrationAborted) as caught:
            applying.migrate(opened, "down", "a1")
    assert time.monotonic() - started < 2 * PROMPTLY_S
    assert f"revision b2: {PACED}: cancelled after " in str(caught.value)
    assert "operations.migration.abort_factor" in str(caught.value)
    assert in_this_process(database, location).current() == ("b2",)


@pytest.fixture
def rehearsals(
    database: DatabaseSettings, tmp_path: Path, state_dir: Path, pg: Binaries
) -> Iterator[tuple[MigrationOrchestrator, Callable[..., None]]]:
    """Rehearsals on record, each as it's given."""
    directory = state_dir / REHEARSALS / "main"
    directory.mkdir(parents=True)

    def record(name: str, hours_ago: float, high_s: float, **files: str) -> None:
        statements: list[dict[str, Any]] = [
            {"revision": revision, "sql": "drop", "direction": direction, "seconds": 0.1,
             "prediction": {"low_s": 0.1, "high_s": high_s if direction == "down" else 99.0}}
            for revision in files
            for direction in ("up", "down")
        ]  # fmt: skip
        at = (NOW - timedelta(hours=hours_ago)).isoformat()
        pending = [{"revision": revision, "sha256": sha256} for revision, sha256 in files.items()]
        document = {"at": at, "pending": pending, "statements": statements}
        (directory / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")

    with DatabaseOrchestrator.open(settings_of(database, tmp_path, state_dir, pg)) as opened:
        yield MigrationOrchestrator(opened), record


def test_of_several_rehearsals_the_newest_of_the_same_file_counts(
    rehearsals: tuple[MigrationOrchestrator, Callable[..., None]],
) -> None:
    orchestrator, record = rehearsals
    record("z", 5, 5.0, a1="aa", b2="bb")
    record("y", 3, 3.0, b2="bb")
    record("x", 1, 1.0, b2="edited since")
    found = orchestrator.bounds_of_the_way_back({"a1": "aa", "b2": "bb"}, NOW - timedelta(hours=24))
    assert sorted((bound.revision, bound.upper_s) for bound in found) == [("a1", 5.0), ("b2", 3.0)]
    found = orchestrator.bounds_of_the_way_back({"a1": "aa", "b2": "bb"}, NOW - timedelta(hours=4))
    assert [(bound.revision, bound.upper_s) for bound in found] == [("b2", 3.0)], "an old one tells nothing of today"

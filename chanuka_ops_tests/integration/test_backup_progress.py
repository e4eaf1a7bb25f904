"""Progress while pg_dump runs: rows, bytes, time left; and that looking costs little and fails no backup."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from chanuka_ops import context
from chanuka_ops.backup.taking import dump, watching
from chanuka_ops.backup.taking.selection import EVERYTHING, Selection
from chanuka_ops.backup.taking.watching import Watch
from chanuka_ops.config import BackupSettings, DatabaseSettings
from chanuka_ops.context import Progress
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import as_role, execute, fresh_database
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres

ROWS = 200_000
WATCHED_AS = "watched"


@pytest.fixture(scope="module")
def watched(server: Server) -> Iterator[DatabaseSettings]:
    """A table that was analysed, and one that never was."""
    filling = (
        f"create table known as select g as id, md5(g::text) as v from generate_series(1, {ROWS}) g",
        "analyze known",
        "create table unheard_of as select g as id from generate_series(1, 1000) g",
    )
    with fresh_database(server, f"watched_{uuid.uuid4().hex[:8]}", filling) as database:
        yield database


def dumped(database: DatabaseSettings, pg: Binaries, directory: Path, **options: object) -> list[Progress]:
    told: list[Progress] = []
    settings = BackupSettings.model_validate(options)
    with ConnectionManager("main", database) as manager, context.scope(operation="backup", on_progress=told.append):
        dump.dump(manager, pg, settings, directory)
    return told


def test_rows_bytes_and_the_time_left_are_told(
    watched: DatabaseSettings, pg: Binaries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.1)
    told = dumped(watched, pg, tmp_path, rate_limit="2MB", fingerprint="structure")  # ~ 4 s
    seen = [step for step in told if step.label == watching.LABEL]
    rows = [step for step in seen if step.unit == "rows"]
    assert [step.done for step in rows] == sorted(step.done for step in rows)
    assert len({step.done for step in rows}) > 3
    assert {step.total for step in rows} <= {ROWS, ROWS + 1000}
    assert all("MB written" in step.detail for step in rows)
    later = [step.eta_s for step in rows if step.eta_s is not None]
    assert later, "after two seconds there is evidence"
    assert all(0 <= left_s < 30 for left_s in later)


def test_the_fingerprint_is_told_beside_the_dump_and_then_alone(
    watched: DatabaseSettings, pg: Binaries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.0)
    told = dumped(watched, pg, tmp_path, compression="none")
    assert {step.label for step in told} <= {watching.LABEL, dump.FINGERPRINT}
    assert told


class Copying:
    """A session that reads a table out as pg_dump does, as slowly as the test wants it."""

    def __init__(self, database: DatabaseSettings, table: str) -> None:
        self._connection = connect(database)
        self._connection.execute(f"set application_name to '{WATCHED_AS}'")
        self._copy = self._connection.cursor().copy(f"copy {table} to stdout")

    def __enter__(self) -> Self:
        self._rows = self._copy.__enter__()
        self._rows.read()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.cancel()
        self._connection.close()


def looked(
    database: DatabaseSettings, directory: Path, selection: Selection = EVERYTHING, beside: Progress | None = None
) -> Progress:
    told: list[Progress] = []
    with (
        context.scope(on_progress=told.append),
        Watch(database, selection, directory, WATCHED_AS) as watch,
    ):
        watch._next_s = 0.0
        watch.look(beside)
    return told[-1]


def test_a_look_shows_what_is_being_read(watched: DatabaseSettings, tmp_path: Path) -> None:
    (tmp_path / "1.dat").write_bytes(bytes(1_200_000))
    with Copying(watched, "known"):
        step = looked(watched, tmp_path, beside=Progress("fingerprint", 1, 4, "rows", 70.0))
    assert (step.label, step.unit, step.total) == ("dump", "rows", ROWS + 1000)
    assert 0 < step.done < ROWS
    assert step.detail == "1.2 MB written, fingerprint at 25 %"
    assert step.eta_s == 70.0, "as long as what runs beside it"


def test_only_what_is_selected_is_expected(watched: DatabaseSettings, tmp_path: Path) -> None:
    with Copying(watched, "known"):
        assert looked(watched, tmp_path, Selection(relations=frozenset({"public.known"}))).total == ROWS


def test_a_table_that_nobody_counted_is_judged_by_its_size(server: Server, tmp_path: Path) -> None:
    """As after a restart that lost the statistics, or pg_upgrade."""
    filling = (
        "create table t as select g as id, repeat('x', 100) as v from generate_series(1, 50000) g",
        "select pg_stat_reset()",
        "select pg_stat_force_next_flush()" if server.major > 15 else "select 1",
    )
    with fresh_database(server, f"uncounted_{uuid.uuid4().hex[:8]}", filling) as database, Copying(database, "t"):
        step = looked(database, tmp_path)
    assert step.total is not None
    assert 25_000 < step.total < 200_000


def test_a_role_that_may_see_nothing_is_told_bytes(watched: DatabaseSettings, tmp_path: Path) -> None:
    """Sessions of others are hidden from it: that's no error, and neither is a server that is gone."""
    role = f"blind_{uuid.uuid4().hex[:8]}"
    execute(watched, f"create role {role} login")
    (tmp_path / "1.dat").write_bytes(bytes(3_000_000))
    try:
        with Copying(watched, "known"):
            step = looked(as_role(watched, role), tmp_path)
        assert (step.unit, step.done, step.total) == ("bytes", 3_000_000, None)
        execute(watched, f"alter role {role} nologin")
        step = looked(as_role(watched, role), tmp_path)
        assert (step.unit, step.done) == ("bytes", 3_000_000)
    finally:
        execute(watched, f"drop role {role}")


def test_a_watch_that_failed_doesnt_try_again(
    watched: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.0)
    monkeypatch.setattr(watching, "SHARE", 1e9)
    gone = watched.with_dbname("gone")
    with Watch(gone, EVERYTHING, tmp_path, WATCHED_AS) as watch:
        watch.look(None)
        assert watch._blind
        monkeypatch.setattr(watch, "_connect", lambda: pytest.fail("it tried again"))
        watch.look(None)


def test_looking_costs_little(watched: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About a millisecond a look, in this process and on the server together; there is one a second."""
    monkeypatch.setattr(watching, "EVERY_S", 0.0)
    monkeypatch.setattr(watching, "SHARE", 1e9)
    for number in range(100):
        (tmp_path / f"{number}.dat.gz").write_bytes(b"x")
    with Copying(watched, "known"), Watch(watched, EVERYTHING, tmp_path, WATCHED_AS) as watch:
        watch.look(None)
        took = []
        for _ in range(50):
            start = time.perf_counter()
            watch.look(None)
            took.append(time.perf_counter() - start)
    assert sorted(took)[len(took) // 2] < 0.02  # generous: this machine may be busy


def test_a_look_that_is_slow_is_taken_less_often(tmp_path: Path, watched: DatabaseSettings) -> None:
    with Watch(watched, EVERYTHING, tmp_path, WATCHED_AS) as watch:
        watch._blind = True
        watch._next_s = 0.0

        ends_s = time.thread_time() + 0.05

        def slow(_: Path) -> int:
            while time.thread_time() < ends_s:
                pass
            return 0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watching, "_bytes_below", slow)
            watch.look(None)
        assert watch._next_s - time.monotonic() > 0.05 / watching.SHARE * 0.9

"""Histories that no one here wrote: those in the packages `dagster` and `mlflow`, up and down through this runner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.config import MigrationSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import locating
from chanuka_ops.migrator.lint.model import Report
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.orchestrators import linting
from chanuka_ops_tests.integration.test_migrator_trouble import migrator, table_exists
from chanuka_ops_tests.plugins.processes import url_of

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

DAGSTER = Path("dagster:_core/storage/alembic")
DAGSTERS_FIRST = (
    "create table event_logs (id serial primary key, run_id varchar(255), event text not null,"
    " dagster_event_type text, timestamp timestamp)"
)
# It migrates on connections that commit each statement, and builds an index concurrently without saying so; and two of
# its revisions ask for the instance that is upgraded, which `dagster instance migrate` sets before env.py runs.
DAGSTER_ENV = """
from pathlib import Path
from types import SimpleNamespace
from alembic import context
from dagster._core.storage.migration.utils import upgrading_instance
context.config.attributes["connection"].execution_options(isolation_level="AUTOCOMMIT")
with upgrading_instance(SimpleNamespace(scheduler=None)):
    exec(compile(Path({env!r}).read_text(), {env!r}, "exec"))
"""
# What their migrations import is in the small package, the migrations themselves are in the large one.
MLFLOW, MLFLOW_PARTS = "mlflow==3.18.0", "mlflow-skinny>=3.17,<4"
INSTALL_WITHIN_S = 240
FIRST_TABLES = (
    "import sqlalchemy as sa, sys\n"
    "from mlflow.store.tracking.dbmodels.initial_models import Base\n"
    "import mlflow.store.model_registry.dbmodels.models\n"
    "Base.metadata.create_all(sa.create_engine(sys.stdin.read().strip()))\n"
)


JUDGED_WITHIN_S = 60.0  # lint or plan of a whole history; seconds, on a machine that has nothing else to do
FINDINGS_PER_REVISION = 5  # that are no matter of style; more would be noise


def judged(location: Path, manager: ConnectionManager, state_dir: Path) -> Report:
    """Lint a whole history and plan it, both in time; what was found."""
    migration = MigrationSettings(script_location=location)
    settings = Settings.model_validate(
        {"state_dir": state_dir, "operations": {"migration": {"script_location": location}}}
    )
    started = time.monotonic()
    report = linting.lint(settings, "main", linting.Wanted(every=True, offline=True))
    linted_s, started = time.monotonic() - started, time.monotonic()
    plan = Migrator(manager, migration).plan()
    planned_s = time.monotonic() - started
    print(f"lint {linted_s:.1f} s, plan {planned_s:.1f} s: {report.counts()}")  # noqa: T201 - figures to read
    assert plan.problems == ()
    assert max(linted_s, planned_s) < JUDGED_WITHIN_S
    soundly(report, {step.revision for step in plan.pending})
    return report


def soundly(report: Report, known: set[str]) -> None:
    """Each revision was looked at; what makes an index in place is said to; there's more than nothing and no flood."""
    paths = {source.revision: Path(source.path) for source in report.sources if source.direction == "up"}
    assert set(paths) == known
    found = [(finding.revision, finding.rule.id) for _, finding in report.findings]
    assert {revision for revision, _ in found} <= known
    counts = report.counts()
    assert counts["danger"] + counts["caution"] < FINDINGS_PER_REVISION * len(known)
    about_indexes = {revision for revision, rule in found if "index" in rule or rule == "concurrently-in-transaction"}
    indexing = {revision for revision, path in paths.items() if makes_an_index(path)}
    assert indexing <= about_indexes


def makes_an_index(path: Path) -> bool:
    """Whether it makes an index on a table that it doesn't make itself."""
    body = path.read_text().partition("def upgrade")[2].partition("def downgrade")[0]
    return "op.create_index(" in body and "create_table(" not in body


def test_dagsters_history_is_judged(manager: ConnectionManager, tmp_path: Path) -> None:
    counts = judged(DAGSTER, manager, tmp_path).counts()
    assert 30 <= counts["danger"] <= 150  # it builds its indexes in place, and rewrites columns
    assert counts["caution"] > 0


def head_of(subject: Migrator) -> str:
    plan = subject.plan()
    assert plan.problems == ()
    [head] = plan.heads
    return head


def down_as_far_as_it_goes(subject: Migrator) -> tuple[int, errors.ChanukaError | None]:
    """Roll back to the empty base; return how many went, and why the next one didn't, if one has no way back."""
    refused = None
    try:
        subject.down("base")
    except errors.ChanukaError as error:
        refused = error
    entries = [entry for entry in subject.history() if entry.direction == "down"]
    return sum(entry.outcome == "done" for entry in entries), refused


@pytest.mark.timeout(300)
def test_dagsters_own_history(manager: ConnectionManager, tmp_path: Path) -> None:
    theirs = locating.locate(MigrationSettings(script_location=DAGSTER), tmp_path)
    where = tmp_path / "upgrade"
    where.mkdir()
    (where / "env.py").write_text(DAGSTER_ENV.format(env=str(theirs / "env.py")))
    (where / "alembic.ini").write_text(f"[alembic]\nscript_location = .\nversion_locations = {theirs / 'versions'}\n")
    subject = migrator(manager, where)
    head = head_of(subject)
    assert head_of(migrator(manager, DAGSTER)) == head
    with manager.transaction() as connection:  # the one table that was there before its first revision
        connection.execute(text(DAGSTERS_FIRST))
    pending = subject.plan().pending
    assert len(pending) > 20
    migrated = subject.up()
    assert (migrated.before, migrated.after, len(migrated.applied)) == (None, head, len(pending))
    assert {entry.outcome for entry in subject.history()} == {"done"}
    assert subject.up().applied == ()
    went, refused = down_as_far_as_it_goes(subject)
    assert went > 0
    assert refused is None or subject.plan().current is not None
    assert table_exists(manager, "alembic_version")


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, in a directory of the test's own; skipped where no package index answers."""
    place = tmp_path_factory.mktemp("mlflow")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]
    for argv in ([*pip, str(place / "parts"), MLFLOW_PARTS], [*pip, str(place / "whole"), "--no-deps", MLFLOW]):
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_WITHIN_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{argv[-1]} wasn't there after {INSTALL_WITHIN_S} s")
        if done.returncode != 0:
            pytest.skip(f"{argv[-1]} can't be had here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    # Behind what is installed: theirs are other versions of some packages that this program uses itself.
    (place / "sitecustomize.py").write_text(
        f"import sys\nsys.path += [{str(place / 'whole')!r}, {str(place / 'parts')!r}]\n"
    )
    return place


@contextmanager
def on_the_path(place: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")])))
        patch.setenv("MLFLOW_ENABLE_WORKSPACES", "false")
        yield


@pytest.mark.timeout(600)
def test_mlflows_history_is_judged(mlflow: Path, manager: ConnectionManager, tmp_path: Path) -> None:
    with on_the_path(mlflow):
        counts = judged(mlflow / "whole" / "mlflow" / "store" / "db_migrations", manager, tmp_path).counts()
    assert counts["danger"] > 0


@pytest.mark.timeout(600)
def test_mlflows_history(mlflow: Path, manager: ConnectionManager) -> None:
    location = mlflow / "whole" / "mlflow" / "store" / "db_migrations"
    subject = Migrator(manager, MigrationSettings(script_location=location, lock_timeout_s=5))
    with on_the_path(mlflow):
        url = url_of(manager.settings)
        first = [sys.executable, "-c", FIRST_TABLES]
        made = subprocess.run(first, input=url, capture_output=True, text=True, check=False, timeout=100)
        assert made.returncode == 0, made.stderr
        head = head_of(subject)
        pending = subject.plan().pending
        assert len(pending) > 40
        migrated = subject.up()
        assert (migrated.after, len(migrated.applied)) == (head, len(pending))
        with manager.read() as connection:
            assert connection.execute(text("select count(*) from alembic_version")).scalar_one() == 1
        went, refused = down_as_far_as_it_goes(subject)  # some of its ways back are empty: up again it doesn't go
        assert went > 0
        assert refused is None or subject.plan().current is not None

"""The Chanuka schema: up from nothing, down to nothing, and up again to the same; each revision by itself too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db import parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import scripts
from chanuka_ops.migrator.running.steps import Steps
from chanuka_ops.migrator.service import Migrator
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries

pytestmark = pytest.mark.postgres

MIGRATIONS = Path(__file__).parents[2] / "migrations"
HEAD = "0012_word_count_proved"


def schema_of(database: DatabaseSettings, pg: Binaries) -> list[str]:
    """What pg_dump says of the schema, without comments and the key that is new in each dump."""
    out: list[str] = []
    dump = [
        str(pg.path("pg_dump")),
        "--schema-only",
        "--no-owner",
        "--exclude-schema=chanuka_ops",
        parameters.conninfo(database),
    ]
    process.run(dump, deadline_s=60, on_line=out.append)
    return [line for line in out if line.strip() and not line.startswith(("--", "\\restrict", "\\unrestrict"))]


def in_this_process(database: DatabaseSettings, location: Path = MIGRATIONS, **settings: Any) -> Steps:
    """The steps without the process around them: for tests that take many, and are not about the process."""
    return Steps(database, MigrationSettings(**settings), scripts.load(location), lambda _: None)


def test_up_down_and_up_again_leave_the_same_schema(
    manager: ConnectionManager, database: DatabaseSettings, pg: Binaries
) -> None:
    migrator = Migrator(manager, MigrationSettings(script_location=MIGRATIONS))
    plan = in_this_process(database).plan()
    assert plan.current is None
    assert plan.problems == ()

    first = migrator.up()
    assert (first.before, first.after) == (None, HEAD)
    assert [step.revision for step in first.applied] == [revision.revision for revision in plan.pending]
    assert {step.attempts for step in first.applied} == {1}
    after_first = schema_of(database, pg)

    again = migrator.up()
    assert again.to_json() == {"from": HEAD, "to": HEAD, "applied": []}

    down = migrator.down("base")
    assert (down.before, down.after, len(down.applied)) == (HEAD, None, len(first.applied))
    with manager.read() as connection:
        left = connection.execute(
            text(
                "select relname from pg_class where relnamespace = 'public'::regnamespace"
                " union all select typname from pg_type where typnamespace = 'public'::regnamespace and typtype = 'e'"
                " union all select proname from pg_proc where pronamespace = 'public'::regnamespace"
            )
        )
        assert set(left.scalars()) == {"alembic_version", "alembic_version_pkc"}

    in_this_process(database).move("up", "head")
    assert schema_of(database, pg) == after_first


@pytest.mark.slow
def test_each_revision_by_itself_up_down_up(database: DatabaseSettings, pg: Binaries) -> None:
    steps = in_this_process(database)
    before: list[str] = []
    previous = "base"
    for revision in steps.plan().pending:
        steps.move("up", revision.revision)
        steps.move("down", previous)
        down = schema_of(database, pg)
        assert down == before or not before, revision.revision
        steps.move("up", revision.revision)
        before, previous = schema_of(database, pg), revision.revision
        assert before != down or revision.revision == "0011_word_count_backfill"
    assert steps.current() == (HEAD,)


def test_the_files_are_the_plan(database: DatabaseSettings) -> None:
    plan = in_this_process(database).plan()
    assert [revision.revision for revision in plan.pending] == sorted(
        path.stem for path in (MIGRATIONS / "versions").glob("0*.py")
    )
    assert not any(revision.destructive for revision in plan.pending)
    assert [revision.revision for revision in plan.pending if not revision.transactional] == [
        "0009_bills_by_status",
        "0011_word_count_backfill",
    ]


def test_a_plan_writes_nothing(manager: ConnectionManager) -> None:
    plan = Migrator(manager, MigrationSettings(script_location=MIGRATIONS)).plan()
    assert plan.heads == (HEAD,)
    with manager.read() as connection:
        assert connection.execute(text("select to_regclass('alembic_version')")).scalar_one() is None


@pytest.mark.slow
def test_offline_sql_makes_the_same_schema(database: DatabaseSettings, pg: Binaries, tmp_path: Path) -> None:
    alembic = [sys.executable, "-m", "alembic", "upgrade", "head"]
    kept: dict[str, Any] = {"cwd": MIGRATIONS.parent, "capture_output": True, "text": True, "env": dict(os.environ)}
    refused = subprocess.run(alembic, check=False, **kept)
    assert refused.returncode != 0
    assert "chanuka-ops migrate up" in refused.stderr + refused.stdout

    script = tmp_path / "up.sql"
    script.write_text(subprocess.run([*alembic, "--sql"], check=True, **kept).stdout, encoding="utf-8")
    psql = [str(pg.path("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), parameters.conninfo(database)]
    process.run(psql, deadline_s=60)
    offline = schema_of(database, pg)
    steps = in_this_process(database)
    assert steps.current() == (HEAD,)
    steps.move("down", "base")
    steps.move("up", "head")
    assert schema_of(database, pg) == offline


def test_the_schema_is_one_that_health_checks_like(manager: ConnectionManager, database: DatabaseSettings) -> None:
    in_this_process(database).move("up", "head")
    with manager.read() as connection:
        unindexed = connection.execute(
            text(
                "select conrelid::regclass::text, conname from pg_constraint c where contype = 'f' and conparentid = 0"
                " and not exists (select from pg_index i where i.indrelid = c.conrelid and i.indpred is null"
                " and (i.indkey::int2[])[0] = c.conkey[1])"
            )
        ).all()
        keyless = connection.execute(
            text(
                "select relname from pg_class c where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace"
                " and not exists (select from pg_constraint where conrelid = c.oid and contype = 'p')"
            )
        ).all()
        narrow = connection.execute(
            text(
                "select attrelid::regclass, attname from pg_attribute join pg_index on indrelid = attrelid"
                " and attnum = any (indkey) and indisprimary and atttypid in ('int4'::regtype, 'int2'::regtype)"
                " where attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)"
            )
        ).all()
        broken = connection.execute(
            text(
                "select indexrelid::regclass::text from pg_index where not indisvalid"
                " union all select conname from pg_constraint where not convalidated"
            )
        ).all()
    assert (unindexed, keyless, narrow, broken) == ([], [], [], [])


def test_the_database_writes_the_status_history(manager: ConnectionManager, database: DatabaseSettings) -> None:
    in_this_process(database).move("up", "head")
    with manager.transaction() as connection:
        connection.execute(text("insert into bills (title, chamber) values ('The Water Bill', 'senate')"))
        connection.execute(text("update bills set status = 'published', title = title || ', 2026'"))
        connection.execute(text("update bills set status = 'published'"))
        rows = connection.execute(text("select from_status::text, to_status::text from bill_status_changes")).all()
    assert rows == [("draft", "published")]


def test_more_months_can_be_made_any_number_of_times(manager: ConnectionManager, database: DatabaseSettings) -> None:
    in_this_process(database).move("up", "head")
    make = text("select ensure_engagement_partitions(date '2027-11-15', 4)")
    with manager.transaction() as connection:
        assert connection.execute(make).scalar_one() == 2  # 2028-01 and -02; the others are there
        assert connection.execute(make).scalar_one() == 0
        connection.execute(text("insert into bills (title, chamber) values ('The Water Bill', 'senate')"))
        where = connection.execute(
            text(
                "insert into engagement_events (bill_id, kind, occurred_at)"
                " select id, 'view', timestamptz '2028-02-29 23:59Z' from bills returning tableoid::regclass::text"
            )
        )
        assert where.scalar_one() == "engagement_events_2028_02"

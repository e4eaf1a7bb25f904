"""What a traced script is said to do is what it does: locks, rewrites, rows read while others wait, errors."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.lint.lexer import pieces
from chanuka_ops.migrator.rehearsal import rules
from chanuka_ops.migrator.rehearsal.model import Ran
from chanuka_ops.migrator.rehearsal.service import Rehearsal, Scripts
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration.lint_adversary import ADVERSARY
from chanuka_ops_tests.integration.lint_cases import CASES, SETUP, Case
from chanuka_ops_tests.integration.lint_oracle import MANY_ROWS
from chanuka_ops_tests.integration.rehearsal_cases import FAST, MORE, Known
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres

SOME = ADVERSARY[::5]  # all of them take a minute more, and say the same


@pytest.fixture(scope="module")
def template(server: Server) -> Iterator[str]:
    """A database with the cases' tables, that is copied for each; and a tablespace."""
    name = f"rehearsal_{uuid.uuid4().hex[:10]}"
    admin = server.settings("postgres")
    if "side" not in scalars(admin, "select spcname::text from pg_tablespace"):
        execute(admin, "set allow_in_place_tablespaces = on", "create tablespace side location ''")
    execute(admin, f"create database {name} template template0")
    execute(server.settings(name), *[piece.text for piece in pieces(SETUP) if piece.kind == "sql"])
    yield name
    execute(admin, f"drop database {name} with (force)")


@contextmanager
def copied(server: Server, template: str, setup: str = "") -> Iterator[DatabaseSettings]:
    name = f"rehearsal_{uuid.uuid4().hex[:10]}"
    execute(server.settings("postgres"), f"create database {name} template {template}")
    try:
        execute(server.settings(name), *([setup] if setup else []))
        yield server.settings(name)
    finally:
        execute(server.settings("postgres"), f"drop database {name} with (force)")


def rehearsed(database: DatabaseSettings, pg: Binaries, script: Scripts) -> Ran:
    with ConnectionManager("main", database) as copy, Rehearsal(copy, MigrationSettings(), pg) as rehearsal:
        return rehearsal.script(script)


@pytest.mark.parametrize(
    "known",
    [*FAST, *(pytest.param(known, marks=pytest.mark.slow) for known in MORE)],
    ids=lambda known: known.id,
)
def test_a_statement_is_traced(known: Known, server: Server, template: str, pg: Binaries) -> None:
    with copied(server, template, known.setup) as database:
        ran = rehearsed(database, pg, Scripts(known.sql))

    assert rules.worst(ran.statements) == known.impact
    error = next((item.error for item in ran.statements if item.error), "")
    assert error.startswith(known.error)
    assert bool(error) is bool(known.error)
    assert ran.skipped == known.skipped
    assert len(ran.statements) == known.statements
    assert ran.leg("up") is (not known.error)
    if known.error and not known.locks:
        return  # what a failed statement had locked is gone with its transaction
    locks = rules.all_locks(ran.statements)
    if any(item.sampled for item in ran.statements):  # of an index that is rewritten it may be missed
        locks = {name: mode for name, mode in locks.items() if name in known.locks}
    assert locks == known.locks
    assert {name for item in ran.statements for name in item.rewritten} == set(known.rewritten)
    if known.id != "vacuum-full":
        assert sum(item.scanned_rows_while_blocking for item in ran.statements) == known.scanned
    assert all((item.blocks == "") == (item.impact in {"no-blocking-lock", "error"}) for item in ran.statements)


def test_up_down_and_up_again(server: Server, template: str, pg: Binaries) -> None:
    up = "ALTER TABLE books ADD COLUMN z int DEFAULT 4;\nCREATE INDEX CONCURRENTLY books_z ON books (z);"
    with copied(server, template) as database:
        ran = rehearsed(database, pg, Scripts(up, "ALTER TABLE books DROP COLUMN z;"))

    assert [leg.name for leg in ran.legs] == ["up", "down", "up_again"]
    assert ran.passed
    assert ran.schema_restored is True
    assert ran.changed_tables == ()
    assert [(item.direction, item.sampled) for item in ran.statements] == [("up", False), ("up", True), ("down", False)]
    index = ran.statements[1]
    assert index.wal_bytes > 0
    assert index.size_change_bytes > 0
    assert index.scanned >= 2000
    assert ran.sizes["books"].heap_bytes > 0


def test_a_way_down_that_leaves_something_is_told(server: Server, template: str, pg: Binaries) -> None:
    up = "CREATE FUNCTION leaked() RETURNS int LANGUAGE sql AS 'select 1';\nALTER TABLE books ADD COLUMN z int;"
    with copied(server, template) as database:
        ran = rehearsed(database, pg, Scripts(up, "ALTER TABLE books DROP COLUMN z;"))

    assert not ran.passed
    assert ran.schema_restored is False
    assert ran.schema_differences == ({"object": "FUNCTION public.leaked()", "kind": "appeared"},)
    assert ran.leg("up_again") is False  # the function is there already
    assert "leaked" in str(ran.problem())


def test_a_way_down_that_fails_ends_it(server: Server, template: str, pg: Binaries) -> None:
    with copied(server, template) as database:
        ran = rehearsed(
            database, pg, Scripts("ALTER TABLE books ADD COLUMN z int;", "ALTER TABLE books DROP COLUMN y;")
        )

    assert (ran.leg("up"), ran.leg("down"), ran.leg("up_again"), ran.schema_restored) == (True, False, None, None)
    assert ran.problem() == 'down: line 1: column "y" of relation "books" does not exist'


def test_what_changes_behind_the_statements_is_told(server: Server, template: str, pg: Binaries) -> None:
    """A label that is renamed changes what the rows of a table hold that no statement touches."""
    with copied(server, template) as database:
        ran = rehearsed(database, pg, Scripts("ALTER TYPE loan_state RENAME VALUE 'out' TO 'away';"))

    assert ran.changed_tables == ("loans",)
    assert not ran.passed


@pytest.mark.slow
def test_what_others_read_before_is_no_statements(server: Server, template: str, pg: Binaries) -> None:
    """An idle session reports what it has read ten seconds later: in the midst of a rehearsal of a large copy."""
    with copied(server, template) as database, connect(database) as other:
        other.autocommit = True
        other.execute("select 1")  # what is read within a second of this one is not reported at once
        other.execute("select count(*) from books")
        ran = rehearsed(
            database, pg, Scripts("-- @tx\nLOCK TABLE books IN ACCESS EXCLUSIVE MODE;\nSELECT pg_sleep(12);")
        )

    assert [item.scanned_rows_while_blocking for item in ran.statements] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *SOME], ids=lambda case: ("bad-" if case.blocks else "safe-") + case.id)
def test_what_is_measured_elsewhere_is_traced(case: Case, server: Server, template: str, pg: Binaries) -> None:
    if not case.since <= server.major <= case.until:
        pytest.skip(f"of PostgreSQL {case.since} to {case.until}")
    with copied(server, template, case.setup) as database:
        ran = rehearsed(database, pg, Scripts(case.sql))

    scanned = sum(item.scanned_rows_while_blocking for item in ran.statements)
    impact = rules.worst(ran.statements)
    blocks = impact in {"error", "rewrite-under-blocking-lock"} or scanned >= MANY_ROWS
    assert blocks is case.blocks, (impact, scanned, ran.problem())

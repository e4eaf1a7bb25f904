"""What lint says of a script is what running it on a real server shows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.lint import judge, script
from chanuka_ops.migrator.lint.catalogue import Catalogue
from chanuka_ops.migrator.lint.looking import look
from chanuka_ops.migrator.lint.world import World
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration.lint_adversary import ADVERSARY
from chanuka_ops_tests.integration.lint_cases import CASES, SETUP, Case
from chanuka_ops_tests.integration.lint_oracle import measure
from chanuka_ops_tests.integration.lint_traps import TRAPS
from chanuka_ops_tests.plugins.backup import execute

EVERY = [*CASES, *ADVERSARY, *TRAPS]

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def template(server: Server) -> Iterator[DatabaseSettings]:
    """A database with the cases' tables, that is copied for each."""
    name = f"lint_{uuid.uuid4().hex[:10]}"
    with ConnectionManager("admin", server.settings("postgres")) as admin:
        with admin.autocommit() as connection:
            connection.execute(text(f"create database {name} template template0"))
        execute(server.settings(name), *[s.sql for s in script.read(SETUP, name="setup").statements])
        yield server.settings(name)
        with admin.autocommit() as connection:
            connection.execute(text(f"drop database if exists {name} with (force)"))


@pytest.fixture(scope="module")
def catalogue(template: DatabaseSettings) -> Catalogue:
    with ConnectionManager("look", template) as manager:
        return look(manager)


@contextmanager
def copied(server: Server, template: DatabaseSettings) -> Iterator[DatabaseSettings]:
    name = f"lint_{uuid.uuid4().hex[:10]}"
    with ConnectionManager("admin", server.settings("postgres")) as admin:
        with admin.autocommit() as connection:
            connection.execute(text(f"create database {name} template {template.sqlalchemy_url.database}"))
        yield server.settings(name)
        with admin.autocommit() as connection:
            connection.execute(text(f"drop database if exists {name} with (force)"))


def dangers(sql: str, catalogue: Catalogue | None, version: int) -> set[str]:
    world = World(version, version_known=True, catalogue=catalogue)
    findings = judge.judge(script.read(sql, name="case").statements, world)
    return {finding.rule.id for finding in findings if finding.severity == "danger"}


def runs_in_one_transaction(case: Case) -> bool:
    return not case.setup and case.sql.startswith("-- @tx") and case.sql.count("-- @") == 1


@pytest.mark.parametrize("case", EVERY, ids=lambda case: ("bad-" if case.blocks else "safe-") + case.id)
def test_lint_says_what_running_shows(
    case: Case, template: DatabaseSettings, catalogue: Catalogue, server: Server
) -> None:
    if not case.since <= server.major <= case.until:
        pytest.skip(f"of PostgreSQL {case.since} to {case.until}")
    if runs_in_one_transaction(case):
        measured = measure(template, case.sql, keep=False)
    else:
        with copied(server, template) as database, ConnectionManager("look", database) as manager:
            execute(database, *([case.setup] if case.setup else []))
            catalogue = look(manager)
            measured = measure(database, case.sql, keep=True)
    said = dangers(case.sql, catalogue, server.major)
    assert measured.blocks is case.blocks, (measured, "the case itself is wrong")
    assert bool(said) is case.blocks, (said, measured)

"""The number of a migration's transaction, which the journal looks up from outside: that tells what was committed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.running.journal import Journal
from chanuka_ops.sql import catalog
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in
from chanuka_ops_tests.plugins.backup import as_role

pytestmark = pytest.mark.postgres

TURN = 2**32
BODY = "op.execute('create table a1 (id int)')\nop.execute('insert into a1 values (1)')"
MADE = "xmin::text::bigint from a1"
WRITTEN = "mod(xid::text::bigint, 4294967296) from chanuka_ops.migration_steps where statement like 'insert%'"


def only(manager: ConnectionManager, what: str) -> int:
    with manager.read() as connection:
        return int(connection.execute(text(f"select {what}")).scalar_one())


def test_it_is_the_number_of_the_transaction_that_did_the_work(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    in_this_process(database, scripts_in(tmp_path, a1=BODY)).move("up", "head")
    assert only(manager, WRITTEN) == only(manager, MADE)


@pytest.mark.parametrize(
    ("newest", "number"),
    [
        (100, 99),
        (100, 101),  # the newest that has ended may be older than the one that is open
        (3 * TURN + 10, 3 * TURN + 8),
        (3 * TURN + 10, 3 * TURN - 8),  # it began before the lower half began anew
        (3 * TURN - 8, 3 * TURN + 10),
        (2**31 + 5, 10),
    ],
)
def test_its_upper_half_is_that_of_the_newest_or_its_neighbour(
    newest: int, number: int, manager: ConnectionManager
) -> None:
    found = re.search(r"numbered as \(\n(.*?)\n\)", catalog.load("chanuka_ops.migrator").sql("journal_sent"), re.DOTALL)
    assert found is not None
    given = f"session as (select {number % TURN}::bigint as xid), newest as (select {newest}::bigint as xid)"
    assert only(manager, f"xid::text::bigint from (with {given} {found[1]}) as n") == number


def test_a_role_that_may_see_little_of_other_sessions_sees_it(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    with manager.autocommit() as connection:
        name = connection.execute(text("select quote_ident(current_database())")).scalar_one()
        for statement in (
            "create role owner_of_it",
            "create role migrates_it login in role owner_of_it",
            "alter role migrates_it set role to owner_of_it",  # which has no right to see what migrates_it is at
            "grant create on schema public to owner_of_it",
            f"grant create on database {name} to owner_of_it",
        ):
            connection.execute(text(statement))
    try:
        in_this_process(as_role(database, "migrates_it"), scripts_in(tmp_path, a1=BODY)).move("up", "head")
        assert only(manager, WRITTEN) == only(manager, MADE)
    finally:
        with manager.autocommit() as connection:
            connection.execute(text("drop owned by owner_of_it cascade"))
            connection.execute(text("drop role migrates_it, owner_of_it"))


def test_where_it_is_not_found_the_session_itself_is_asked(
    manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "sent", lambda *_: False)
    in_this_process(database, scripts_in(tmp_path, a1=BODY)).move("up", "head")
    assert only(manager, WRITTEN) == only(manager, MADE)

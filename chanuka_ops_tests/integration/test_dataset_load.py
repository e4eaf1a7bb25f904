"""The data set: the same everywhere, topped up and never mixed with somebody's own rows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.context import Progress
from chanuka_ops.dataset import rules, service
from chanuka_ops.dataset.model import DatasetSummary
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process

pytestmark = [pytest.mark.postgres, pytest.mark.slow]  # a load of the whole data set takes most of it

MB = 1_000_000


def size_of(manager: ConnectionManager) -> int:
    with manager.read() as connection:
        return int(connection.execute(text("select pg_database_size(current_database())")).scalar_one())


def sums(manager: ConnectionManager) -> dict[str, tuple[int, str]]:
    """Row count and content hash of each table and of the view, and where each sequence stands."""
    names = [*(table.name for table in (*rules.TABLES, rules.ROLL_UP)), service.VIEW]
    with manager.read() as connection:
        found = {}
        for name in names:
            hashes = f"select md5(t::text) as h from {name} t"
            sql = f"select count(*), coalesce(md5(string_agg(h, '' order by h)), '') from ({hashes}) s"
            rows, digest = connection.execute(text(sql)).one()
            found[name] = (rows, digest)
        for name, last in connection.execute(text("select sequencename, last_value from pg_sequences order by 1")):
            found[name] = (last, "")
    return found


def act(manager: ConnectionManager, *statements: str) -> None:
    with manager.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.fixture(scope="module")
def seen() -> list[Progress]:
    """The progress reports of the module's load."""
    return []


@pytest.fixture(scope="module")
def loaded(server: Server, seen: list[Progress]) -> Iterator[tuple[ConnectionManager, DatasetSummary, int]]:
    """The data set at scale 1, the summary of its load, and by how much the database grew. Left unchanged by tests."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with (
        ConnectionManager("admin", server.settings("postgres")) as admin,
        ConnectionManager("main", server.settings(name)) as manager,
    ):
        with admin.autocommit() as connection:
            connection.execute(text(f"create database {name} template template0"))
        in_this_process(manager.settings).move("up", "head")
        before = size_of(manager)
        with context.scope(on_progress=seen.append):
            summary = service.load(manager)
        yield manager, summary, size_of(manager) - before
        manager.close()
        with admin.autocommit() as connection:
            connection.execute(text(f"drop database {name} with (force)"))


Loaded = tuple[ConnectionManager, DatasetSummary, int]


def test_every_table_has_the_rows_that_the_rules_promise(loaded: Loaded, seen: list[Progress]) -> None:
    _, summary, grown = loaded
    assert summary.created
    assert {table.name: table.rows for table in rules.TABLES}.items() <= summary.tables.items()
    assert summary.tables["bill_daily_engagement"] > 20_000
    assert 40 * MB <= grown <= 65 * MB
    done = [report.done for report in seen if report.total == sum(table.rows for table in rules.TABLES)]
    assert done == sorted(done)
    assert done[-1] == sum(table.rows for table in rules.TABLES)


def test_a_second_run_changes_nothing(loaded: Loaded) -> None:
    manager, summary, _ = loaded
    before = sums(manager)
    again = service.load(manager)
    assert not again.created
    assert again.tables == summary.tables
    assert sums(manager) == before


def test_there_is_something_for_each_trap_of_a_restore(loaded: Loaded) -> None:
    manager, _, _ = loaded
    facts = {
        "a text out of line": "select max(pg_column_size(body)) > 100000 from bill_versions",
        "NaN": "select count(*) > 0 from user_profiles where trust = 'NaN'",
        "Infinity": "select count(*) > 0 from user_profiles where trust = '-Infinity'",
        "minus zero": "select count(*) > 0 from user_profiles where trust::text = '-0'",
        "0.1": "select count(*) > 0 from user_profiles where trust = 0.1",
        "the smallest float": "select count(*) > 0 from user_profiles where trust = 5e-324",
        "a NULL in an array": "select count(*) > 0 from comments where array_position(mentions, null) is not null",
        "an array of an enum": "select count(*) > 0 from bill_follows where 'push' = any (channels)",
        "bytea": "select max(length(avatar)) > 3000 from user_profiles",
        "emoji": "select count(*) > 0 from comments where body like '%👏🏿%'",
        "Sinhala": "select count(*) > 0 from user_profiles where bio like '%නීතිය%'",
        "a line break, a tab": "select count(*) > 0 from comments where body like E'%\\n%\\t%'",
        "an open range": "select count(*) > 0 from sponsors where upper_inf(in_office)",
        "JSON null": "select count(*) > 0 from bills where metadata -> 'fiscal_note' = 'null'",
        "skew": "select max(events) > 20 * avg(events) from bill_ranking",
        "many months": "select count(distinct tableoid) = 12 from engagement_events",
        "full text": "select count(*) > 0 from bills where search @@ plainto_tsquery('english', 'water')",
        "the status is the end of the history": "select count(*) = 0 from bills b where b.status is distinct from"
        " (select to_status from bill_status_changes c where c.bill_id = b.id order by changed_at desc limit 1)",
        "all before the base date": "select max(occurred_at) < '2026-01-01T00:00Z' from engagement_events",
    }
    with manager.read() as connection:
        missing = [fact for fact, sql in facts.items() if not connection.execute(text(sql)).scalar_one()]
    assert missing == []


def test_there_is_something_for_health_and_optimise_to_find(loaded: Loaded) -> None:
    manager, _, _ = loaded
    with manager.read() as connection:
        rows = connection.execute(
            text(
                "select relname, n_live_tup, n_dead_tup, last_analyze is not null from pg_stat_user_tables"
                " where relname in ('comments', 'comment_votes', 'users')"
            )
        )
        stats = {name: (live, dead, analysed) for name, live, dead, analysed in rows}
    live, dead, analysed = stats["comments"]
    assert dead > 50 + 0.2 * live  # past autovacuum's own trigger
    assert analysed
    assert not stats["comment_votes"][2]
    assert stats["users"][2]


@pytest.mark.slow
def test_another_database_gets_the_same_and_gaps_are_filled(manager: ConnectionManager, loaded: Loaded) -> None:
    in_this_process(manager.settings).move("up", "head")
    service.load(manager)
    same = sums(loaded[0])
    assert sums(manager) == same
    act(
        manager,
        "delete from comment_votes where comment_id % 100 = 6",
        "delete from engagement_events where id between 500 and 900",
        "delete from user_profiles where user_id < 50",
        "delete from bill_daily_engagement where bill_id = 7",
        "update comments set edited_at = null where id = 2",
    )
    topped_up = service.load(manager)
    assert topped_up.created
    assert sums(manager) == same
    assert not service.load(manager).created


@pytest.mark.slow
def test_growing_gives_what_loading_at_once_gives(manager: ConnectionManager, loaded: Loaded) -> None:
    in_this_process(manager.settings).move("up", "head")
    service.load(manager, scale=1)
    grown = service.load(manager, scale=2)
    assert grown.created
    assert {table.name: 2 * table.rows for table in rules.TABLES}.items() <= grown.tables.items()
    whole = sums(manager)
    assert not service.load(manager, scale=1).created  # what is there stays
    with manager.transaction() as connection:
        connection.execute(text("truncate users, bills, sponsors cascade"))
    assert service.load(manager, scale=2).tables == grown.tables
    assert sums(manager) == whole


def test_among_foreign_rows_nothing_is_loaded(manager: ConnectionManager) -> None:
    in_this_process(manager.settings).move("up", "head")
    act(
        manager,
        "insert into users (email, display_name) values ('somebody@example.org', 'Somebody')",
        "insert into bills (title, chamber) values ('The Water Bill', 'senate')",
        "insert into sponsors (name, chamber) values ('Somebody', 'senate')",
    )
    before = sums(manager)
    with pytest.raises(errors.RefusedError, match=r"bills \(1\), sponsors \(1\), users \(1\)"):
        service.load(manager)
    assert sums(manager) == before


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("insert into comments (id, bill_id, body) values (900000, 1, 'mine')", "comments"),
        (
            "insert into bill_status_changes (id, bill_id, to_status) values (900000, 1, 'lapsed')",
            "bill_status_changes",
        ),
        ("insert into sponsorships (bill_id, sponsor_id) values (1, 400)", "sponsorships"),
        ("insert into engagement_events (id, bill_id, kind) values (900000, 1, 'view')", "engagement_events"),
        ("insert into bill_follows (user_id, bill_id) values (9999, 600)", "bill_follows"),
    ],
)
def test_a_row_of_somebody_on_our_rows_is_seen(loaded: Loaded, statement: str, table: str) -> None:
    manager, _, _ = loaded
    with manager.transaction() as connection:  # rolled back, so the check has to look from within it
        connection.execute(text(statement))
        with pytest.raises(errors.RefusedError, match=rf"{table} \(1\)"):
            service._ours(connection, "main")
        connection.rollback()


def test_without_the_schema_it_says_what_to_do(manager: ConnectionManager) -> None:
    with pytest.raises(errors.RefusedError, match="migrate up"):
        service.load(manager)
    assert service.tables_present(manager) == []


def test_a_scale_below_one_is_a_mistake(manager: ConnectionManager) -> None:
    with pytest.raises(errors.ConfigurationError, match="1 or more, not 0"):
        service.load(manager, scale=0)


def test_the_tables_present_are_named(loaded: Loaded) -> None:
    present = service.tables_present(loaded[0])
    assert "public.users" in present
    assert "public.alembic_version" not in present
    assert not any("engagement_events_" in name for name in present)

"""Constraints in two steps: what they lock, what they leave when they're broken off, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.operations import constraints as module
from chanuka_ops.migrator.operations.session import Session
from chanuka_ops_tests.integration.operations_cases import again, ask, indexes, run, up
from chanuka_ops_tests.integration.test_migrator_trouble import holding

pytestmark = pytest.mark.postgres

CHECK = "ops.add_check('t_n_positive', 't', 'n > 0')"
KEY = "ops.add_foreign_key('t_other_fk', 't', ['other_id'], 'other', ['id'], on_delete='cascade')"
UNIQUE = "ops.add_unique('t_name_key', 't', ['name'])"
NOT_NULL = "ops.set_not_null('t', 'name')"
SHAPE = (
    "select conname::text, contype::text, convalidated from pg_constraint where conrelid = 't'::regclass"
    " and conname <> 't_id_not_null' and contype <> 'p' order by 1"
)


@pytest.fixture
def table(manager: ConnectionManager) -> ConnectionManager:
    """A database with two tables."""
    run(
        manager,
        "create table other (id int primary key)",
        "insert into other values (1), (2)",
        "create table t (id int primary key, n int, name text, other_id int)",
        "insert into t select n, n, 'name ' || n, 1 + n % 2 from generate_series(1, 200) n",
    )
    return manager


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHECK, ("t_n_positive", "c", True)),
        (KEY, ("t_other_fk", "f", True)),
        (UNIQUE, ("t_name_key", "u", True)),
        (CHECK.replace("'n > 0'", "'n > 0', validated=False"), ("t_n_positive", "c", False)),
        (KEY.replace("['id']", "['id'], validated=False"), ("t_other_fk", "f", False)),
    ],
)
def test_it_is_made_once_and_found_the_second_time(
    table: ConnectionManager,
    database: DatabaseSettings,
    tmp_path: Path,
    source: str,
    expected: tuple[str, str, bool],
) -> None:
    up(database, tmp_path, source)
    again(database, tmp_path, source)
    assert ask(table, SHAPE) == [expected]
    again(database, tmp_path, f"ops.drop_constraint({expected[0]!r}, 't')\n" * 2)
    assert ask(table, SHAPE) == []
    assert indexes(table, "t") == {}


@pytest.mark.parametrize("half", [True, False])
def test_not_null_is_proved_without_a_scan_under_a_lock(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path, *, half: bool
) -> None:
    [(major,)] = ask(table, "select current_setting('server_version_num')::int / 10000")
    if half:  # as a kill after the first statement leaves it
        named = "t_name_not_null not null name" if major >= 18 else "t_name_not_null_proof check (name is not null)"
        run(table, f"alter table t add constraint {named} not valid")
    up(database, tmp_path, NOT_NULL)
    again(database, tmp_path, NOT_NULL)
    assert ask(table, "select attnotnull from pg_attribute where attrelid = 't'::regclass and attname = 'name'") == [
        (True,)
    ]
    assert ask(table, SHAPE) == ([("t_name_not_null", "n", True)] if major >= 18 else [])
    again(database, tmp_path, "ops.drop_not_null('t', 'name')\n" * 2)
    assert ask(table, SHAPE) == []


def test_of_partitions_too(manager: ConnectionManager, database: DatabaseSettings, tmp_path: Path) -> None:
    run(
        manager,
        "create table t (id int primary key, n int, name text) partition by range (id)",
        "create table t_1 partition of t for values from (0) to (100)",
        "insert into t values (1, 1, 'a'), (2, 2, 'b')",
    )
    up(database, tmp_path, f"{CHECK}\n{NOT_NULL}")
    again(database, tmp_path, f"{CHECK}\n{NOT_NULL}")
    found = (
        "select bool_and(attnotnull) from pg_attribute where attname = 'name' and attrelid in ('t'::regclass, 't_1')"
    )
    assert ask(manager, found.replace("'t_1'", "'t_1'::regclass")) == [(True,)]
    with pytest.raises(errors.MigrationFailed, match=r"partitioned.*concurrent_index"):
        again(database, tmp_path, UNIQUE)


@pytest.mark.parametrize(
    ("spoil", "source"),
    [
        ("update t set n = -1 where id = 7", CHECK),
        ("update t set other_id = 9 where id = 7", KEY),
        ("update t set name = null where id = 7", NOT_NULL),
    ],
)
def test_rows_that_violate_it_are_told_and_new_ones_kept_out(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path, spoil: str, source: str
) -> None:
    run(table, spoil)
    with pytest.raises(errors.MigrationFailed, match=r"is violated|violates foreign key|null values"):
        up(database, tmp_path, source)
    with pytest.raises(errors.DatabaseError):
        run(table, spoil.replace("id = 7", "id = 8"))
    run(table, "delete from t where id = 7")
    up(database, tmp_path, source)


@pytest.mark.parametrize(
    ("made", "source"),
    [
        ("add constraint t_n_positive check (n < 1000)", CHECK),
        ("add constraint t_n_positive unique (n)", CHECK),
        ("add constraint t_other_fk foreign key (other_id) references other (id)", KEY),
        ("add constraint t_other_fk foreign key (n) references other (id) on delete cascade not valid", KEY),
        ("add constraint t_name_key unique (n)", UNIQUE),
        ("add constraint t_name_key unique (name, n)", UNIQUE),
    ],
)
def test_another_definition_is_refused(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path, made: str, source: str
) -> None:
    run(table, f"alter table t {made}")
    with pytest.raises(errors.MigrationFailed, match=r"is there already with another definition: \w+"):
        up(database, tmp_path, source)


def test_the_same_in_other_words_is_the_same(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path
) -> None:
    run(table, "alter table t add constraint t_n_positive check ((((n) > (0)))) not valid")
    up(database, tmp_path, CHECK)
    assert ask(table, SHAPE) == [("t_n_positive", "c", True)]


@pytest.mark.parametrize("source", [CHECK, KEY, NOT_NULL, UNIQUE])
def test_a_blocker_costs_tries_and_ends_it_at_the_deadline(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path, source: str
) -> None:
    run(table, "create unique index t_name_key on t (name)")  # so that only ADD CONSTRAINT is left to wait
    with (
        holding(table, "lock table t in row exclusive mode"),
        pytest.raises(errors.LockTimeout, match="safe to run it again"),
    ):
        up(database, tmp_path, source, lock_timeout_s=0.1, retry_deadline_s=0.4)
    up(database, tmp_path, source)


def test_readers_and_writers_go_on_during_the_scan(
    table: ConnectionManager, database: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VALIDATE beside a writer's lock: with the scan in ADD CONSTRAINT it would wait for it."""
    run(table, "alter table t add constraint t_n_positive check (n > 0) not valid")
    with holding(table, "update t set n = n + 1 where id = 1"):
        up(database, tmp_path, CHECK, lock_timeout_s=0.2, retry_deadline_s=0.3)
    assert ask(table, SHAPE) == [("t_n_positive", "c", True)]

    def at_once(session: Session, relation: object, name: str, definition: str) -> None:
        session.retried(f"alter table t add constraint {name} {definition}")

    monkeypatch.setattr(module, "_add", at_once)
    run(table, "alter table t drop constraint t_n_positive")
    with holding(table, "update t set n = n + 1 where id = 1"), pytest.raises(errors.LockTimeout):
        again(database, tmp_path, CHECK, lock_timeout_s=0.2, retry_deadline_s=0.3)


@pytest.mark.parametrize(
    ("source", "what"), [("ops.validate('gone', 't')", "constraint"), ("ops.set_not_null('t', 'gone')", "column")]
)
@pytest.mark.usefixtures("table")
def test_what_is_not_there_is_named(database: DatabaseSettings, tmp_path: Path, source: str, what: str) -> None:
    with pytest.raises(errors.MigrationFailed, match=f'"t" has no {what} gone'):
        up(database, tmp_path, source)

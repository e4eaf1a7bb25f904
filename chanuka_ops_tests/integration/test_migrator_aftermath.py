"""What a migration leaves unfinished is found, and only what is new."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import aftermath
from chanuka_ops.migrator.aftermath import Left

pytestmark = pytest.mark.postgres

BEFORE = """
create table parent (id int primary key, other int, unique (id, other));
create table old_child (parent_id int references parent);
alter table parent add constraint old_check check (id > 0) not valid;
"""
# Each as the server has it afterwards, and how it is told.
UNFINISHED = {
    "create table child (id int, parent_id int references parent)": Left(
        "unindexed_foreign_key",
        "child.child_parent_id_fkey",
        "create index concurrently on child (parent_id)",
    ),
    'create schema "S p"; create table "S p"."C d" (a int, b int); create index on "S p"."C d" (b) include (a);'
    ' alter table "S p"."C d" add constraint k foreign key (b, a) references parent (id, other)': Left(
        "unindexed_foreign_key", '"S p"."C d".k', 'create index concurrently on "S p"."C d" (b, a)'
    ),
    "create table part (parent_id int) partition by list (parent_id); create table part_1 partition of part for values"
    " in (1); alter table part add constraint pk foreign key (parent_id) references parent": Left(
        "unindexed_foreign_key", "part.pk", "create index concurrently on part (parent_id)"
    ),
    "create table half (a int); create index half_a on half (a);"
    " update pg_index set indisvalid = false where indexrelid = 'half_a'::regclass": Left(
        "invalid_index", "half_a", "reindex index concurrently half_a"
    ),
    "create table parted (a int) partition by list (a); create table parted_1 partition of parted for values in (1);"
    " create index parted_a on only parted (a)": Left(
        "invalid_index",
        "parted_a",
        "alter index parted_a attach partition NAME, for an index like it of each partition",
    ),
    "alter table parent add constraint fresh check (id < 9) not valid": Left(
        "unvalidated_constraint", "parent.fresh", "alter table parent validate constraint fresh"
    ),
}
FINISHED = (
    "create table child (id int, parent_id int references parent); create index on child (parent_id, id)",
    "create table child (a int, b int, foreign key (a, b) references parent (id, other)); create index on child (b, a)",
    "alter table parent validate constraint old_check",
    "create index on old_child (parent_id)",
    (
        "create table parted (a int) partition by list (a); create table parted_1 partition of parted"
        " for values in (1); create index parted_a on parted (a)"
    ),
)


def left_by(manager: ConnectionManager, sql: str) -> tuple[Left, ...]:
    """What a statement leaves; it is rolled back."""
    with manager.session() as connection:
        before = aftermath.look(connection)
        connection.exec_driver_sql(sql)
        found = aftermath.compare(before, aftermath.look(connection))
        connection.rollback()
    return found


@pytest.fixture
def prepared(manager: ConnectionManager) -> ConnectionManager:
    """A database in which something was left unfinished long ago."""
    with manager.transaction() as connection:
        connection.exec_driver_sql(BEFORE)
    return manager


def test_what_is_new_and_unfinished_is_found_with_its_remedy(prepared: ConnectionManager) -> None:
    found = {sql: left_by(prepared, sql) for sql in UNFINISHED}
    assert found == {sql: (left,) for sql, left in UNFINISHED.items()}
    assert all(left.words().endswith(f"Remedy: {left.remedy}") for left in UNFINISHED.values())


def test_what_is_finished_or_was_there_before_is_no_matter(prepared: ConnectionManager) -> None:
    assert {sql: left_by(prepared, sql) for sql in FINISHED} == dict.fromkeys(FINISHED, ())
    with prepared.read() as connection:
        assert {left.object for left in aftermath.look(connection)} == {
            "old_child.old_child_parent_id_fkey",
            "parent.old_check",
        }


def test_a_constraint_that_is_not_enforced_waits_for_no_proof(prepared: ConnectionManager) -> None:
    with prepared.read() as connection:
        major = connection.execute(text("select current_setting('server_version_num')::int / 10000")).scalar_one()
    if major < 18:
        pytest.skip("NOT ENFORCED is of PostgreSQL 18")
    assert left_by(prepared, "alter table parent add constraint loose check (id < 9) not enforced") == ()


def test_the_remedies_are_statements_that_do_it(prepared: ConnectionManager) -> None:
    with prepared.autocommit() as connection:
        for left in aftermath.look(connection):
            connection.exec_driver_sql(left.remedy)
        assert aftermath.look(connection) == frozenset()

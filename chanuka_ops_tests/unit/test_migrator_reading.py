"""What a revision's source tells: whether it can lose data, and whether it runs in one transaction."""

from __future__ import annotations

import pytest

from chanuka_ops.migrator import reading
from chanuka_ops.migrator.model import Nature

SAFE = Nature(destructive=False, transactional=True)
LOSING = Nature(destructive=True, transactional=True)
OWN_COMMITS = Nature(destructive=False, transactional=False)


def revision(body: str, *, above: str = "") -> str:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"from alembic import op\n{above}\ndef upgrade():\n{lines}\n\ndef downgrade():\n    pass\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", SAFE),
        ("op.execute('create table t (id bigint)')", SAFE),
        ("op.add_column('t', sa.Column('c', sa.Text))", SAFE),
        ("op.drop_index('i')", SAFE),
        ("op.drop_table('t')", LOSING),
        ("with op.batch_alter_table('t') as batch:\n    batch.drop_column('c')", LOSING),
        ("op.alter_column('t', 'c', type_=sa.Integer())", LOSING),
        ("op.alter_column('t', 'c', nullable=True)", SAFE),
        ("op.execute('DROP TABLE t')", LOSING),
        ("op.execute('alter table t drop constraint c')", SAFE),
        ("op.execute('alter table t alter c drop default')", SAFE),
        ("op.execute('alter table t drop column c')", LOSING),
        ("op.execute('alter table t drop if exists c')", LOSING),
        ("op.execute('alter table t alter column c type integer')", LOSING),
        ("op.execute('drop view v')", SAFE),
        ("op.execute('drop type t cascade')", LOSING),
        ("op.execute('truncate t')", LOSING),
        ("op.execute('with old as (delete from t returning *) insert into u select * from old')", LOSING),
        ("op.execute('create table t (u bigint references u on delete cascade)')", SAFE),
        ("op.execute('select 1; drop table t')", LOSING),
        ("op.execute('select 1 -- drop table t')", SAFE),
        ("op.execute('/* drop table t */ select 1')", SAFE),
        ("op.execute(\"insert into log values ('drop table t')\")", SAFE),
        ("op.execute('do $$ begin drop table t; end $$')", LOSING),
        ("op.execute('create function f() returns void language sql as $$ delete from t $$')", SAFE),
        ("op.execute(f'drop table {name}')", LOSING),
        ("op.execute(f'create table {name} (id bigint)')", SAFE),
        ("op.execute(open('x.sql').read())", LOSING),
        ("op.execute(statements()[0])", LOSING),
        ("op.execute(table.delete())", LOSING),
        ("op.execute(table.update().values(a=1))", SAFE),
        ("for sql in ('create table a ()', 'create table b ()'):\n    op.execute(sql)", SAFE),
        ("sql = 'create table a ()'\nop.execute(sql)", SAFE),
        ("with op.get_context().autocommit_block():\n    op.execute('vacuum t')", OWN_COMMITS),
        ("op.get_bind().execution_options(isolation_level='AUTOCOMMIT')", OWN_COMMITS),
        ("op.get_bind().commit()", OWN_COMMITS),
    ],
)
def test_the_nature_of_an_upgrade(body: str, expected: Nature) -> None:
    up, down = reading.natures(revision(body))
    assert up == expected
    assert down == SAFE


def test_the_functions_that_an_upgrade_calls_count_and_others_do_not() -> None:
    above = (
        "SQL = 'drop table t'\n"
        "def called():\n    '''drop table t'''\n    op.execute('select 1')\n    deeper()\n"
        "def deeper():\n    op.execute(SQL)\n"
        "def idle():\n    op.drop_table('t')\n"
    )
    assert reading.natures(revision("called()", above=above))[0] == LOSING
    assert reading.natures(revision("pass", above=above))[0] == SAFE
    assert reading.natures(revision("op.execute('select 1')", above=above))[0] == SAFE


@pytest.mark.parametrize(
    ("above", "call"),
    [
        ("from chanuka_ops.migrator import operations as ops", "ops.concurrent_index('i', 't', ['a'])"),
        ("from chanuka_ops.migrator import operations", "operations.set_not_null('t', 'a')"),
        ("from chanuka_ops.migrator.operations import backfill as fill", "fill('t', {'a': '1'})"),
        ("import chanuka_ops.migrator.operations", "chanuka_ops.migrator.operations.validate('c', 't')"),
        ("import chanuka_ops.migrator.operations as o", "o.drop_constraint('c', 't')"),
    ],
)
def test_an_operation_works_outside_a_transaction_and_loses_nothing(above: str, call: str) -> None:
    assert reading.natures(revision(call, above=above))[0] == OWN_COMMITS


def test_what_only_has_the_name_of_an_operation_is_none() -> None:
    assert reading.natures(revision("other.backfill('t')\nvalidate()"))[0] == SAFE


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("revision = 'a'", (None, None)),
        ("phase = 'expand'", ("expand", None)),
        ("phase: str = 'contract'\ncompletes = 'a1'", ("contract", "a1")),
        ("phase = 'contract'", ("contract", None)),
    ],
)
def test_the_half_that_a_revision_says_to_be(source: str, expected: tuple[str | None, str | None]) -> None:
    assert reading.phase(source) == expected


@pytest.mark.parametrize(
    "source", ["phase = 'Expand'", "phase = 3", "completes = 'a1'", "phase='expand';completes='a'"]
)
def test_a_half_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="phase is"):
        reading.phase(source)


def test_a_docstring_is_not_sql() -> None:
    assert reading.natures(revision("'''drop table t'''"))[0] == SAFE


def test_the_hash_does_not_change_with_line_endings_but_with_content() -> None:
    assert reading.sha256(b"a\r\nb\r\n") == reading.sha256(b"a\nb\n") == reading.sha256(b"a\rb\r")
    assert reading.sha256(b"a\nb\n") != reading.sha256(b"a\nc\n")

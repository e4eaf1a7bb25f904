"""Revisions to break off: each leaves another state if a statement of it is lost, or is run twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chanuka_ops.config import DatabaseSettings
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in
from chanuka_ops_tests.plugins.postgres import connect

TRANSACTIONAL = """
op.execute('create table counted (id int, n int not null default 0)')
op.execute('insert into counted select g from generate_series(1, 20) g')
op.execute('update counted set n = n + 1')
"""
AUTOCOMMIT = """
op.execute('create table counted (id int, n int not null default 0)')
op.execute('insert into counted select g from generate_series(1, 20) g')
with op.get_context().autocommit_block():
    op.execute("set lock_timeout = '10s'")
    op.execute('create index concurrently counted_id_idx on counted (id)')
    op.execute('create index concurrently counted_n_idx on counted (n)')
    op.execute('alter table counted add column more int')
    op.execute('update counted set n = n + 1')
    op.execute('drop index concurrently counted_n_idx')
    op.execute('vacuum counted')
op.execute('insert into counted values (21, 1)')
op.execute('delete from counted where id = 21')
"""
BACKFILL = """
op.execute('create table counted (id int, n int not null default 0)')
op.execute('insert into counted select g from generate_series(1, 20) g')
with op.get_context().autocommit_block():
    after = 0
    while op.get_bind().exec_driver_sql(
        f'update counted set n = n + 1 where id > {after} and id <= {after + 5}'
    ).rowcount > 0:
        after += 5
"""
HELPED = """
from chanuka_ops.migrator import operations as ops
op.execute('create table counted (id int primary key, n int not null default 0, m int)')
op.execute('insert into counted select g from generate_series(1, 20) g')
op.execute('update counted set n = n + 1')
ops.concurrent_index('counted_id_idx', 'counted', ['id', 'n'])
ops.backfill('counted', {'m': '1'}, where='m is null', batch=7)
"""
CASES: Mapping[str, str] = {"transactional": TRANSACTIONAL, "autocommit": AUTOCOMMIT, "backfill": BACKFILL}


def location_of(directory: Path, body: str) -> Path:
    return scripts_in(directory, a1="op.execute('create table before (id int)')", b2=body)


def state_of(database: DatabaseSettings) -> tuple[object, ...]:
    """What is left: the version, each row's count, the indexes and whether they are valid, the columns."""
    with connect(database) as connection:
        version = connection.execute("select array_agg(version_num::text) from alembic_version").fetchone()
        rows = connection.execute("select count(*), min(n), max(n) from counted").fetchone()
        indexes = connection.execute(
            "select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid"
            " where i.indrelid = 'counted'::regclass order by 1"
        ).fetchall()
        columns = connection.execute(
            "select attname from pg_attribute where attrelid = 'counted'::regclass and attnum > 0 order by attnum"
        ).fetchall()
    return version, rows, indexes, columns

"""Revisions rehearsed: the short locks of the operations are seen, and several heads go up, down and up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, MigrationSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator.rehearsal import sampling
from chanuka_ops.migrator.rehearsal.model import Ran
from chanuka_ops.migrator.rehearsal.service import Rehearsal, Scripts
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.integration.operations_cases import ask, body, run
from chanuka_ops_tests.integration.test_migrator_schema import in_this_process
from chanuka_ops_tests.integration.test_migrator_trouble import scripts_in, write

pytestmark = pytest.mark.postgres

AE, SRE, SUE = "AccessExclusiveLock", "ShareRowExclusiveLock", "ShareUpdateExclusiveLock"


def rehearsed(database: DatabaseSettings, pg: Binaries, work: Path | Scripts, to: str = "head") -> Ran:
    settings = MigrationSettings(script_location=work) if isinstance(work, Path) else MigrationSettings()
    with ConnectionManager("main", database) as copy, Rehearsal(copy, settings, pg) as rehearsal:
        return rehearsal.revisions(to) if isinstance(work, Path) else rehearsal.script(work)


def lock_of(sql: str) -> str:
    """The lock that a statement of an operation takes on its table."""
    if "validate constraint" in sql or "concurrently" in sql:
        return SUE
    return SRE if "foreign key" in sql else AE


def undone_by(where: Path, revision: str, sql: str) -> None:
    path = where / "versions" / f"{revision}.py"
    path.write_text(path.read_text().replace("op.execute('select 1')", sql))


@pytest.mark.slow
def test_the_short_locks_of_operations_are_seen_on_few_rows(
    manager: ConnectionManager, database: DatabaseSettings, pg: Binaries, tmp_path: Path
) -> None:
    run(manager, "create table t (id int primary key, n int)", "create table far (id int primary key)")
    source = """
        ops.add_check("t_n_ck", "t", "n > 0")
        ops.add_foreign_key("t_n_fk", "t", ["n"], "far", ["id"])
        ops.set_not_null("t", "n")
        ops.concurrent_index("t_n_idx", "t", ["n"])
    """
    where = scripts_in(tmp_path, a1=body(source))
    back = """from chanuka_ops.migrator import operations as ops
    ops.drop_concurrent_index("t_n_idx", "t")
    ops.drop_not_null("t", "n")
    ops.drop_constraint("t_n_fk", "t")
    ops.drop_constraint("t_n_ck", "t")"""
    undone_by(where, "a1", back)
    ran = rehearsed(database, pg, where)
    assert ran.problem() is None
    assert ran.schema_restored
    seen = [item for item in ran.statements if '"public"."t"' in item.sql and not item.sql.startswith("create temp")]
    assert len(seen) >= 10
    for item in seen:
        assert item.locks["t"] == lock_of(item.sql), item.sql
        assert item.sampled is ("concurrently" in item.sql)
        assert item.blocks == {SUE: "", SRE: "w", AE: "rw"}[lock_of(item.sql)]


ALONE = """
SET search_path = s;
CREATE INDEX CONCURRENTLY e_n_idx ON e (n);
REINDEX INDEX CONCURRENTLY e_n_idx;
DROP INDEX CONCURRENTLY e_n_idx;
VACUUM FULL e;
ALTER TABLE public.p DETACH PARTITION public.p_1 CONCURRENTLY;
"""
LOCKS_ALONE = [{}, {"s.e": SUE}, {"s.e": SUE}, {"s.e": SUE}, {"s.e": AE}, {"p": SUE, "p_1": AE}]


def test_what_is_over_before_the_next_look_is_held_until_it_was_seen(
    manager: ConnectionManager, database: DatabaseSettings, pg: Binaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty tables, and a second between two looks: without the gate nothing at all would be seen."""
    monkeypatch.setattr(sampling, "EVERY_S", 0.4)
    run(
        manager,
        "create schema s",
        "create table s.e (n int)",
        "create table p (n int) partition by list (n)",
        "create table p_1 partition of p for values in (1)",
    )
    ran = rehearsed(database, pg, Scripts(ALONE))
    assert ran.problem() is None
    assert [item.sampled for item in ran.statements] == [False, *[True] * 5]
    assert [item.locks for item in ran.statements] == LOCKS_ALONE


@pytest.mark.slow
def test_several_heads_go_up_back_to_where_each_stood_and_up_again(
    manager: ConnectionManager, database: DatabaseSettings, pg: Binaries, tmp_path: Path
) -> None:
    where = scripts_in(tmp_path, a1=made("a1"))
    for name, parent in (("b2", "a1"), ("c2", "a1"), ("b3", "b2"), ("c3", "c2"), ("d1", None)):
        write(where, name, parent, made(name))
    write(where, "m4", "b3", made("m4"))
    merge = where / "versions" / "m4.py"
    merge.write_text(merge.read_text().replace("'b3'", "('b3', 'c3')"))
    for name in ("a1", "b2", "c2", "b3", "c3", "d1", "m4"):
        undone_by(where, name, f"op.execute('drop table {name}')")
    steps = in_this_process(database, where)
    steps.move("up", "b2")
    steps.move("up", "c2")
    with pytest.raises(errors.HeadsConflict):
        rehearsed(database, pg, where)

    ran = rehearsed(database, pg, where, "heads")
    assert ran.problem() is None
    assert (ran.leg("up"), ran.leg("down"), ran.leg("up_again"), ran.schema_restored) == (True, True, True, True)
    up, down, again = (set(leg.revisions) for leg in ran.legs)
    assert up == down == again == {"b3", "c3", "m4", "d1"}
    assert set(steps.current()) == {"m4", "d1"}
    steps.move("down", "b2, c2")
    assert set(steps.current()) == {"b2", "c2"}
    assert ask(manager, "select count(*) from pg_class where relname ~ '^[abcdm][1-4]$'") == [(3,)]


def made(name: str) -> str:
    return f"op.execute('create table {name} (id int)')"

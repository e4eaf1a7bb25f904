"""What a statement is, and what a rerun does with it: tables of cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chanuka_ops.migrator.running import resuming
from chanuka_ops.migrator.running.blocking import Blocker, act_on
from chanuka_ops.migrator.running.resuming import Past, Player, Written, reckon
from chanuka_ops.migrator.running.statement import Kind, fingerprint, read


@pytest.mark.parametrize(
    ("sql", "kind", "named"),
    [
        ("create index concurrently if not exists i on s.t (a)", "build_index", "s.i"),
        ('CREATE UNIQUE INDEX CONCURRENTLY "I x" ON t (a)', "build_index", '"I x"'),
        ("create index concurrently on t (a)", "opaque", ""),  # its name is the server's choice
        ("drop index concurrently if exists s.i", "drop_index", "s.i"),
        ("alter table a detach partition b concurrently", "detach", "b"),
        ("alter table a detach partition b", "change", ""),
        ("reindex index concurrently i", "upkeep", ""),
        ("vacuum (analyze) t", "upkeep", ""),
        ("refresh materialized view concurrently v", "change", ""),
        ("alter type e add value 'concurrently'", "change", ""),
        ("-- concurrently\ncreate table t (a int)", "change", ""),
        ("insert into t values (1); commit; select 2", "opaque", ""),
        ("call p()", "opaque", ""),
        ("do $$ begin commit; end $$", "opaque", ""),
        ("do $$ begin perform 1; end $$", "change", ""),
        ("create database d", "opaque", ""),
        ("alter system set work_mem = '4MB'", "opaque", ""),
        ("select 1", "read", ""),
        ("with a as (select 1) select * from a", "read", ""),
        ("with a as (delete from t returning 1) select * from a", "change", ""),
        ("set lock_timeout = '1s'", "always", ""),
        ("create temp table q (a int)", "always", ""),
        ("commit", "control", ""),
        ("garbage", "opaque", ""),
        ("", "opaque", ""),
    ],
)
def test_what_a_statement_is(sql: str, kind: Kind, named: str) -> None:
    found = read(sql)
    assert (found.kind, found.object) == (kind, named)


def test_whose_rows_come_back() -> None:
    assert read("insert into t values (1) returning id").answers
    assert read("with b as (update t set a = 1) select max(id) from t").answers
    assert not read("with b as (select 1) update t set a = 1").answers
    assert not read("insert into t values ('returning')").answers


def test_a_temporary_table_is_filled_each_time() -> None:
    temporary = frozenset({read("create temporary table if not exists q (a int)").temporary})
    assert read("insert into q values (1)", None, temporary).kind == "always"
    assert read("insert into kept select * from q", None, temporary).kind == "change"


def test_a_fingerprint_minds_values_and_no_blanks() -> None:
    assert fingerprint("update  t\nset a = 1 -- one") == fingerprint("update t set a = 1;")
    assert fingerprint("update t set a = 'x  y'") != fingerprint("update t set a = 'x y'")
    assert fingerprint("update t set a = %(a)s", {"a": 1}) != fingerprint("update t set a = %(a)s", {"a": 2})
    assert "secret" not in read("create role r password 'secret'").shown


def written(sql: str = "update t set a = 1", outcome: str = "sent", **changes: object) -> Written:
    found = read(sql)
    step = Written(
        id=1, step=1, kind=found.kind, fingerprint=found.fingerprint, statement=found.shown, outcome=outcome,
        resolution="", answers=found.answers, autocommit=False, rows=3, xid="700",
    )  # fmt: skip
    return replace(step, **changes)  # type: ignore[arg-type]  # the keys are the fields


BUILD = "create index concurrently i on t (a)"


@pytest.mark.parametrize(
    ("step", "status", "state"),
    [
        (written(), "committed", "done"),
        (written(), "aborted", None),
        (written(), "in progress", "unknown"),
        (written(), None, "unknown"),  # so long ago that the server has forgotten
        (written(xid=None), None, None),  # a transaction that wrote nothing
        (written(outcome="done"), "aborted", "done"),
        (written(outcome="rolled_back"), None, None),
        (written(outcome="failed"), None, None),
        (written("select 1"), "committed", None),
        (written("select f()", answers=True), "committed", "done"),
        (written(BUILD, "running", autocommit=True), None, "look"),
        (written(BUILD, "failed", autocommit=True), None, "look"),
        (written(BUILD, "redone", autocommit=True), None, None),
        (written("vacuum t", "running", autocommit=True), None, None),
        (written("call p()", "running", autocommit=True), None, "unknown"),
        (written("call p()", "running", autocommit=True, resolution="redo"), None, None),
        (written("call p()", "running", autocommit=True, resolution="done"), None, "done"),
        (written("insert into t values (1)", "repeatable"), "committed", None),
    ],
)
def test_what_remains_of_a_step(step: Written, status: str | None, state: str | None) -> None:
    found = reckon([step], {"700": status})
    assert [past.state for past in found] == ([state] if state else [])


def past(sql: str, state: resuming.State = "done", **changes: Any) -> Past:
    return Past(written(sql, **changes), state)


def test_what_was_committed_is_left_out_in_its_order() -> None:
    player = Player([past("create table t (a int)"), past("update t set a = 1")])
    acts = [
        player.next(read(sql)).act
        for sql in ("set a = 1", "create table t (a int)", "select 1", "update t set a = 1", "update t set a = 1")
    ]
    assert acts == ["run", "skip", "run", "skip", "run"]


def test_a_revision_that_looks_first_may_leave_out_what_is_there() -> None:
    player = Player([past("create table t (a int)"), past("update t set a = 1")])
    assert player.next(read("update t set a = 1")).act == "skip"
    assert player.left == ()


@pytest.mark.parametrize(
    ("state", "sent", "why"),
    [
        (past("update t set a = 1"), "update t set a = 2", "something else"),
        (past("insert into t values (1) returning a"), "insert into t values (1) returning a", "its result"),
        (past("call p()", "unknown"), "call p()", "can't be known"),
    ],
)
def test_a_person_is_asked(state: Past, sent: str, why: str) -> None:
    verdict = Player([state]).next(read(sent))
    assert verdict.act == "ask"
    assert why in verdict.why
    said = resuming.how_to_resolve("b2", state, verdict.why)
    assert "migrate resolve b2 --step 1 --done" in said


def test_what_a_person_agreed_to_is_left_out() -> None:
    sql = "insert into t values (1) returning a"
    [agreed] = reckon([written(sql, resolution="done")], {})
    assert Player([agreed]).next(read(sql)).act == "skip"


def test_an_index_that_was_cut_off_is_looked_for_when_its_turn_comes() -> None:
    player = Player([past(BUILD, "look")])
    assert player.next(read("drop index concurrently if exists i")).act == "run"
    assert player.next(read(BUILD)).act == "look"


IDLE = Blocker(9, "psql", "app", False, "client backend", "idle in transaction", 900.0, 400.0, "select 1")  # noqa: FBT003
OWN = "chanuka/migrate/0a0a0a0a"


@pytest.mark.parametrize(
    ("blocker", "waits", "orphans", "idle"),
    [
        (IDLE, None, None, "end_idle"),
        (replace(IDLE, state="idle in transaction (aborted)"), None, None, "end_idle"),
        (replace(IDLE, state_age_s=200.0), None, None, None),
        (replace(IDLE, state="active"), None, None, None),
        (replace(IDLE, superuser=True), None, None, None),
        (replace(IDLE, application_name="pg_dump"), None, None, None),
        (replace(IDLE, application_name="chanuka/nightly/backup/0b0b0b0b"), None, None, None),
        (replace(IDLE, backend_type="autovacuum worker"), None, None, None),
        (replace(IDLE, pid=0), None, None, None),
        (replace(IDLE, application_name="chanuka/migrate/0b0b0b0b", state="active"), None, "end_orphan", None),
        (replace(IDLE, application_name=OWN, state="active"), None, None, None),
        (replace(IDLE, application_name="chanuka/health/0b0b0b0b", state="active"), None, None, None),
    ],
)
def test_who_may_be_ended(blocker: Blocker, waits: str | None, orphans: str | None, idle: str | None) -> None:
    assert act_on(blocker, "wait", idle_after_s=300.0, own_name=OWN) == waits
    assert act_on(blocker, "cancel_own_orphans", idle_after_s=300.0, own_name=OWN) == orphans
    assert act_on(blocker, "end_idle_in_transaction", idle_after_s=300.0, own_name=OWN) == idle

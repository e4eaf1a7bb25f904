"""Rehearsal's decisions: what locks mean, what is read from a script, and what is predicted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import errors
from chanuka_ops.migrator.rehearsal import prediction, rules, scripting, source
from chanuka_ops.migrator.rehearsal.model import Leg, Look, Ran, Relation, TableSize, Traced
from chanuka_ops.migrator.rehearsal.prediction import Basis
from chanuka_ops.migrator.rehearsal.watching import worth_telling

TABLE, INDEX, VIEW = (
    Relation(1, "bills", "r", 10, 0),
    Relation(2, "bills_pkey", "i", 20, 0),
    Relation(3, "v", "m", 30, 0),
)
ALL = {1: TABLE, 2: INDEX, 3: VIEW}
TRACED = Traced(
    sql="alter table bills add column z int", step=1, seconds=2.0, locks={"bills": "AccessExclusiveLock"}, blocks="rw",
    rewritten=(), scanned=0, scanned_rows_while_blocking=0, wal_bytes=1, size_change_bytes=1, rows=-1,
    impact="brief-lock-rw",
)  # fmt: skip
SMALL, LARGE = TableSize(100, 100), TableSize(300, 300)
BASIS = Basis(None, {"bills": SMALL}, {"bills": LARGE}, 1.0, {"bills": 50.0})
seconds = st.floats(min_value=0, max_value=1e6)
sizes = st.dictionaries(st.sampled_from("abc"), st.integers(0, 10**12))
ratios = st.floats(min_value=0.001, max_value=1e3)


def look(*relations: Relation, **rows: int) -> Look:
    return Look({relation.oid: relation for relation in relations}, {int(k[1:]): v for k, v in rows.items()}, 0, 0)


@pytest.mark.parametrize(
    ("locks", "autocommit", "shares", "hinders"),
    [
        ({1: "ShareUpdateExclusiveLock"}, False, None, False),
        ({1: "ShareLock"}, False, None, True),
        ({1: "AccessExclusiveLock"}, True, None, True),
        ({3: "ExclusiveLock"}, True, None, False),
        ({3: "ExclusiveLock"}, False, None, True),
        ({3: "AccessExclusiveLock"}, True, None, True),
        ({1: "AccessExclusiveLock"}, True, {(1, "AccessExclusiveLock"): 0.01}, False),
        ({1: "AccessExclusiveLock"}, True, {(1, "AccessExclusiveLock"): 0.9}, True),
    ],
)
def test_who_is_held_up(
    locks: dict[int, str],
    autocommit: bool,  # noqa: FBT001
    shares: dict[tuple[int, str], float] | None,
    hinders: bool,  # noqa: FBT001
) -> None:
    assert rules.hinders(locks, ALL, autocommit=autocommit, shares=shares) is hinders


def test_what_is_rewritten_existed_before_and_has_a_file() -> None:
    sequence = Relation(4, "numbers", "S", 40, 0)
    before = look(TABLE, INDEX, sequence)
    after = look(replace(TABLE, filenode=11), replace(INDEX, tablespace=7), replace(sequence, filenode=41))
    assert rules.rewritten(before, after, ALL) == ("bills", "bills_pkey")
    assert rules.rewritten(before, after, [2]) == ("bills_pkey",)
    assert rules.rewritten(before, look(INDEX), ALL) == ()


def test_rows_of_a_dropped_table_are_not_counted_back() -> None:
    assert rules.rows_read(look(r1=50, r2=9), look(r2=10)) == 1


def test_an_index_that_is_gone_held_up_nobody() -> None:
    locks = {1: "ShareUpdateExclusiveLock", 2: "AccessExclusiveLock"}
    assert rules.of_sampled(locks, ALL, look(TABLE)) == {1: "ShareUpdateExclusiveLock"}
    assert rules.of_sampled(locks, ALL, look(TABLE, INDEX)) == locks
    assert rules.of_sampled({2: "ShareUpdateExclusiveLock"}, ALL, look(TABLE, INDEX)) == {}


def test_batches_are_one_statement() -> None:
    batch = replace(TRACED, rows=5, revision="a1")
    assert rules.folded([batch, batch, batch]) == [
        replace(batch, seconds=6.0, wal_bytes=3, size_change_bytes=3, rows=15, times=3)
    ]
    assert len(rules.folded([batch, replace(batch, impact="error"), batch])) == 3


def test_a_trace_comes_back_from_its_document() -> None:
    traced = replace(TRACED, rewritten=("bills",), touched=("bills",), error="no", revision="a1")
    assert Traced.from_json(traced.to_json()) == traced


@pytest.mark.parametrize(
    ("ran", "problem"),
    [
        (Ran((Leg("up", 1.0),), ()), None),
        (Ran((Leg("up", 1.0), Leg("down", 1.0, error="no way")), ()), "down: no way"),
        (Ran((), (), ({"object": "TABLE a", "kind": "changed"},)), "lead back"),
        (Ran((), (), (), ("votes",)), "no statement touches"),
    ],
)
def test_what_is_wrong_is_said(ran: Ran, problem: str | None) -> None:
    assert ran.passed is (problem is None)
    assert (ran.problem() is None) if problem is None else (problem in str(ran.problem()))


def test_a_script_is_cut_into_orders() -> None:
    orders = scripting.read("\\set ON_ERROR_STOP on\n-- @tx\nselect 1;\n-- @autocommit\nbegin; select ';' ; commit;")
    assert [order.sql for order in orders] == ["@tx", "select 1", "@end", "begin", "select ';'", "commit"]
    assert [order.control for order in orders[3:]] == [True, False, True]
    assert [order.sql for order in scripting.read("-- @tx\nselect 1;")] == ["@tx", "select 1", "@end"]
    assert not scripting.Order("prepare p as select 1", 1).control
    for only_psql in ("\\i other.sql", "copy bills from stdin;\n1\n\\.\n"):
        with pytest.raises(errors.ConfigurationError, match="line 2"):
            scripting.read(f"select 1;\n{only_psql}")


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("insert into alembic_version (version_num) values ('a1')", False),
        ("UPDATE public.alembic_version SET version_num = 'a1'", False),
        ("select 1", False),
        ("set local lock_timeout = '1s'", False),
        ("update bills set z = 1", True),
        ("alter table alembic_version add column z int", True),
    ],
)
def test_what_is_a_revisions_own(sql: str, told: bool) -> None:  # noqa: FBT001
    assert worth_telling(replace(TRACED, sql=sql, blocks="")) is told


@given(seconds, ratios, ratios)
def test_an_interval_holds_the_copys_time_and_is_never_inverted(took: float, ratio: float, speed: float) -> None:
    found = prediction.interval(took, heap_ratio=ratio, speed=speed)
    assert 0 <= found.low_s <= found.high_s
    assert found.low_s <= took + 0.001
    assert found.high_s >= took - 0.001


@given(seconds, ratios, ratios, ratios)
def test_more_bloat_is_never_predicted_to_be_quicker(took: float, one: float, other: float, speed: float) -> None:
    low, high = sorted((one, other))
    less = prediction.interval(took, heap_ratio=low, speed=speed)
    more = prediction.interval(took, heap_ratio=high, speed=speed)
    assert (less.low_s, less.high_s) <= (more.low_s, more.high_s)
    assert less.low_s == more.low_s  # that the source may have no bloat there is never excluded


@given(sizes, sizes)
def test_a_smaller_source_shrinks_no_interval(copy: dict[str, int], there: dict[str, int]) -> None:
    here, other = ({name: TableSize(size, 0) for name, size in found.items()} for found in (copy, there))
    assert prediction.heap_ratio({"a"}, here, other) >= 1.0


def test_the_worst_table_counts_and_a_guess_is_never_a_zero() -> None:
    predicted = prediction.of_statement(TRACED, BASIS)["prediction"]
    assert predicted["heap_ratio"] == 3.0
    assert predicted["low_s"] < TRACED.seconds
    assert 3 * TRACED.seconds < predicted["high_s"] < 4 * TRACED.seconds
    delayed = prediction.impact(TRACED, BASIS)
    assert isinstance(delayed, dict)
    assert delayed["delayed_high"] == round(predicted["high_s"] * 50)
    assert prediction.impact(TRACED, replace(BASIS, calls_per_second=None)) == "unknown"
    assert prediction.impact(TRACED, replace(BASIS, reason="a part of it only")) == "unknown"
    assert prediction.impact(replace(TRACED, locks={"other": "ShareLock"}), BASIS) == "unknown"
    assert prediction.of_statement(replace(TRACED, error="no"), BASIS) == {
        "prediction": None, "no_prediction": "it failed: no",
    }  # fmt: skip


def test_calls_are_of_the_tables_that_statements_name() -> None:
    rows = [
        ('select 1 from "Bills" b', 10, 10.0),
        ("select * from votes, shop.carts", 40, 10.0),
        ("select bills2", 9, 1.0),
    ]
    assert source.calls_by_table(rows, ['"Bills"', "votes", "shop.carts"]) == {
        '"Bills"': 1.0,
        "votes": 4.0,
        "shop.carts": 4.0,
    }

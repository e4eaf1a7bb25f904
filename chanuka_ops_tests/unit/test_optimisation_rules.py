"""The optimiser's decisions, as tables of cases."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from chanuka_ops.errors import ConfigurationError
from chanuka_ops.optimisation import rules
from chanuka_ops.optimisation.model import Applied, Index, Plan, Subject, Table, Unresolved, applied_document


@dataclass(frozen=True)
class Found:
    check: str
    object: str | None
    summary: str = "something is wrong"
    value: float | None = 1.0
    status: str = "warning"


BILLS = Table(1, "public.bills", "r", temporary=False, bytes=8192)
EMAIL = Index(
    oid=2,
    identifier="public.users_email_b",
    name="users_email_b",
    table="public.users",
    definition="CREATE INDEX users_email_b ON public.users USING btree (email)",
    bytes=4096,
    valid=True,
    unique=False,
    partitioned=False,
    is_partition=False,
    replica_identity=False,
    building=False,
    constraint=None,
    twins=("public.users_email_a",),
)
INVALID = replace(EMAIL, valid=False, twins=())


def planned(*evidence: Found, **subjects: Subject) -> Plan:
    """Plan with subjects by the last part of their evidence's name."""
    return rules.plan("main", evidence, {item.object or "": subjects[item.object or ""] for item in evidence})


def test_each_table_check_has_its_statement() -> None:
    cases = {
        "stats.missing": ("analyze", "ANALYZE public.bills", 0),
        "stats.stale": ("analyze", "ANALYZE public.bills", 0),
        "vacuum.dead_tuples": ("vacuum", "VACUUM (ANALYZE) public.bills", None),
    }
    for check, (kind, sql, gain) in cases.items():
        (advice,) = planned(Found(check, "b"), b=BILLS).advice
        assert (advice.kind, advice.sql, advice.gain_bytes, advice.risk) == (kind, sql, gain, "low"), check
        assert advice.lock == "SHARE UPDATE EXCLUSIVE"
        assert advice.object == "public.bills"


def test_vacuum_takes_analyze_along() -> None:
    plan = planned(Found("stats.stale", "b", "old"), Found("vacuum.dead_tuples", "b", "dead"), b=BILLS)
    (advice,) = plan.advice
    assert advice.sql == "VACUUM (ANALYZE) public.bills"
    assert advice.checks == ("vacuum.dead_tuples", "stats.stale")
    assert advice.reason == "dead. old."


def test_the_same_finding_twice_is_one_reason() -> None:
    (advice,) = planned(Found("stats.stale", "b"), Found("stats.stale", "b"), b=BILLS).advice
    assert advice.reason == "something is wrong."


@pytest.mark.parametrize(
    ("check", "table", "words"),
    [
        ("vacuum.dead_tuples", replace(BILLS, kind="f"), "does nothing"),
        ("stats.missing", replace(BILLS, kind="v"), "does nothing"),
        ("stats.missing", replace(BILLS, kind="t"), "does nothing"),
        ("stats.missing", replace(BILLS, temporary=True), "temporary"),
        ("stats.missing", EMAIL, "an index, not a table"),
        ("index.unused", BILLS, "a table, not an index"),
        ("stats.missing", Unresolved("it doesn't exist any more"), "doesn't exist"),
    ],
)
def test_withheld_with_its_reason(check: str, table: Subject, words: str) -> None:
    plan = planned(Found(check, "x"), x=table)
    assert plan.advice == ()
    (withheld,) = plan.withheld
    assert withheld.check == check
    assert words in withheld.reason


def test_a_toast_table_is_vacuumed_without_analyze() -> None:
    (advice,) = planned(Found("vacuum.dead_tuples", "t"), t=replace(BILLS, kind="t")).advice
    assert advice.sql == "VACUUM public.bills"


def test_what_could_not_be_seen_is_no_ground_to_act() -> None:
    plan = planned(Found("index.unused", "i", status="unknown"), i=EMAIL)
    assert plan.advice == ()
    assert "could not look" in plan.withheld[0].reason


def test_measurements_and_other_checks_are_not_evidence() -> None:
    found = [Found("vacuum.dead_tuples", "b", status="ok"), Found("cache.hit_ratio", "b"), Found("stats.stale", None)]
    assert rules.plan("main", found, {}) == Plan("main", ())


@pytest.mark.parametrize(
    ("check", "risk"), [("index.duplicate", "low"), ("index.redundant", "medium"), ("index.unused", "high")]
)
def test_a_superfluous_index_is_dropped_without_locking_writers(check: str, risk: str) -> None:
    (advice,) = planned(Found(check, "i"), i=EMAIL).advice
    assert advice.sql == "DROP INDEX CONCURRENTLY public.users_email_b"
    assert advice.undo == "CREATE INDEX CONCURRENTLY users_email_b ON public.users USING btree (email)"
    assert (advice.risk, advice.gain_bytes) == (risk, 4096)


@pytest.mark.parametrize("check", ["index.duplicate", "index.redundant", "index.unused"])
@pytest.mark.parametrize(
    ("index", "words"),
    [
        (replace(EMAIL, constraint="users_pkey"), "users_pkey"),
        (replace(EMAIL, replica_identity=True), "replica identity"),
        (replace(EMAIL, is_partition=True), "partitioned index"),
        (replace(EMAIL, partitioned=True), "partitioned index"),
        (replace(EMAIL, building=True), "being built"),
        (replace(EMAIL, unique=True, twins=()), ""),
    ],
)
def test_an_index_something_rests_on_is_never_dropped(check: str, index: Index, words: str) -> None:
    plan = planned(Found(check, "i"), i=index)
    assert plan.advice == ()
    assert words in plan.withheld[0].reason


def test_of_two_twins_one_stays() -> None:
    a = replace(EMAIL, identifier="public.users_email_a", twins=("public.users_email_b",))
    plan = planned(Found("index.duplicate", "a"), Found("index.duplicate", "b"), a=a, b=EMAIL)
    assert [advice.object for advice in plan.advice] == ["public.users_email_a"]
    assert "no index that could do its work" in plan.withheld[0].reason


def test_a_duplicate_whose_twin_is_gone_stays() -> None:
    assert planned(Found("index.duplicate", "i"), i=replace(EMAIL, twins=())).advice == ()


def test_redundant_and_the_unused_one_it_leans_on_do_not_go_together() -> None:
    wide = replace(EMAIL, identifier="public.users_email_name", twins=())
    narrow = replace(EMAIL, twins=())
    plan = planned(Found("index.unused", "wide"), Found("index.redundant", "narrow"), wide=wide, narrow=narrow)
    assert [advice.object for advice in plan.advice] == ["public.users_email_b"]
    assert "look again" in plan.withheld[0].reason


def test_unused_indexes_of_one_table_go_one_at_a_time() -> None:
    other = replace(EMAIL, identifier="public.users_name")
    assert len(planned(Found("index.unused", "i"), Found("index.unused", "o"), i=EMAIL, o=other).advice) == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("users_email", "reindex_index"),
        ("users_ccnewsletter", "reindex_index"),
        ("users_email_ccnew", "drop_index"),
        ("users_email_ccnew1", "drop_index"),
        ("users_email_ccold12", "drop_index"),
        ("a" * 57 + "_ccnew", "drop_index"),
    ],
)
def test_an_invalid_index_is_rebuilt_and_a_leftover_dropped(name: str, kind: str) -> None:
    (advice,) = planned(Found("index.invalid", "i"), i=replace(INVALID, name=name)).advice
    assert advice.kind == kind
    assert (advice.gain_bytes is None) == (kind == "reindex_index")


def test_an_invalid_index_with_a_valid_twin_is_dropped() -> None:
    (advice,) = planned(Found("index.invalid", "i"), i=replace(INVALID, twins=("public.x",))).advice
    assert (advice.kind, advice.risk) == ("drop_index", "low")


def test_an_invalid_unique_index_wants_its_duplicates_settled_first() -> None:
    (advice,) = planned(Found("index.invalid", "i"), i=replace(INVALID, unique=True)).advice
    assert advice.sql == "REINDEX INDEX CONCURRENTLY public.users_email_b"
    assert "duplicate keys" in advice.reason


@pytest.mark.parametrize("index", [EMAIL, replace(INVALID, building=True), replace(INVALID, partitioned=True)])
def test_no_advice_on_an_index_valid_by_now_or_being_built(index: Index) -> None:
    assert planned(Found("index.invalid", "i"), i=index).advice == ()


def test_the_order_is_by_value_and_the_ids_are_stable() -> None:
    big = replace(BILLS, identifier="public.big", bytes=10**9)
    found = (Found("stats.stale", "b"), Found("stats.stale", "g"), Found("index.duplicate", "i"))
    plan = planned(*found, b=BILLS, g=big, i=EMAIL)
    again = planned(*reversed(found), b=BILLS, g=big, i=EMAIL)
    assert [advice.object for advice in plan.advice] == ["public.users_email_b", "public.big", "public.bills"]
    assert plan == again
    assert plan.id == again.id
    assert len({advice.id for advice in plan.advice}) == 3


def test_a_plan_survives_json_with_the_keys_of_the_contract() -> None:
    plan = planned(Found("stats.stale", "b"), Found("index.unused", "i"), b=BILLS, i=replace(EMAIL, constraint="c"))
    document = json.loads(json.dumps(plan.to_json()))
    assert {"id", "kind", "object", "reason", "sql", "gain_bytes", "risk", "lock"} <= document["advice"][0].keys()
    assert Plan.from_json(document) == plan
    applied = applied_document([Applied("1", "applied", 8, 0.5, "o", "s")])["applied"][0]
    assert {"id", "outcome", "gained_bytes", "seconds"} <= applied.keys()


@pytest.mark.parametrize("key", ["sql", "object", "kind"])
def test_a_plan_changed_by_hand_is_not_read(key: str) -> None:
    document = planned(Found("stats.stale", "b"), b=BILLS).to_json()
    document["advice"][0][key] = "DROP TABLE public.bills"
    with pytest.raises(ConfigurationError, match="changed since"):
        Plan.from_json(document)


@pytest.mark.parametrize("document", [None, [], {}, {"advice": [{}]}, {"advice": [3], "database": "x"}, "plan"])
def test_what_is_no_plan_is_said_to_be_none(document: object) -> None:
    with pytest.raises(ConfigurationError, match="not a plan"):
        Plan.from_json(document)


QUIET = rules.Conditions(standby=False, dumps=None, base_backups=None, vacuums=None, permitted=True)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (replace(QUIET, standby=True), "standby"),
        (replace(QUIET, dumps="pg_dump (pid 7)"), "pid 7"),
        (replace(QUIET, base_backups="pid 8"), "pid 8"),
        (replace(QUIET, vacuums="autovacuum worker (pid 9)"), "pid 9"),
        (replace(QUIET, permitted=False), "may not"),
    ],
)
def test_refusals_say_who(now: rules.Conditions, words: str) -> None:
    assert words in (rules.refusal(now, "public.bills") or "")


def test_nothing_in_the_way() -> None:
    assert rules.refusal(QUIET, "public.bills") is None

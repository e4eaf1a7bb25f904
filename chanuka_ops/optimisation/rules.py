"""From evidence to advice, and whether a planned statement may run now: pure decisions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from chanuka_ops.optimisation.model import Advice, Evidence, Index, Kind, Plan, Risk, Subject, Table, Withheld, digest

ANALYZE_CHECKS = frozenset({"stats.missing", "stats.stale"})
VACUUM_CHECKS = frozenset({"vacuum.dead_tuples"})
TABLE_CHECKS = ANALYZE_CHECKS | VACUUM_CHECKS
INDEX_CHECKS = frozenset({"index.duplicate", "index.redundant", "index.unused", "index.invalid"})
CHECKS = TABLE_CHECKS | INDEX_CHECKS

# Carried out without a person's approval: neither can change what a query returns or take an object away.
APPLICABLE: frozenset[Kind] = frozenset({"analyze", "vacuum"})

# https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES: of every statement here, on the table
LOCK = "SHARE UPDATE EXCLUSIVE"

# What REINDEX CONCURRENTLY leaves when it is cut short: numbered where the name was taken, and with the front of the
# name cut, never the label, where it was too long. A clean-up that looks for `<name>_ccnew` misses both.
_LEFTOVER = re.compile(r"_cc(?:new|old)\d*$")

_ANALYZABLE = {"r": "table", "p": "partitioned table", "m": "materialised view", "f": "foreign table"}
_VACUUMABLE = {"r": "table", "p": "partitioned table", "m": "materialised view", "t": "TOAST table"}

_DROP_RISK: dict[str, tuple[Risk, str]] = {
    "index.duplicate": ("low", ""),
    "index.redundant": ("medium", " The wider index takes over; it is larger to scan."),
    "index.unused": (
        "high",
        " Wait one full business cycle and look at every replica: scans there are not counted here.",
    ),
    "index.invalid": ("low", ""),
}


def statement(kind: Kind, identifier: str, relation_kind: str) -> str:
    """Return the statement of a kind for an identifier that the server itself quoted.

    >>> statement("vacuum", "public.bills", "r")
    'VACUUM (ANALYZE) public.bills'
    """
    if kind == "vacuum":
        return f"VACUUM {identifier}" if relation_kind == "t" else f"VACUUM (ANALYZE) {identifier}"
    verb = {
        "analyze": "ANALYZE",
        "drop_index": "DROP INDEX CONCURRENTLY",
        "reindex_index": "REINDEX INDEX CONCURRENTLY",
    }
    return f"{verb[kind]} {identifier}"


def plan(database: str, evidence: Iterable[Evidence], subjects: Mapping[str, Subject]) -> Plan:
    """Turn evidence into a plan. `subjects` is what the catalogue says of each object, by the evidence's name for it.

    The order is by value: the most bytes given back first, then the largest relation first.
    """
    advice: dict[str, Advice] = {}
    dropped: dict[str, str] = {}  # index → its table
    withheld: list[Withheld] = []
    sizes: dict[str, int] = {}
    for item in sorted(relevant(evidence), key=_strongest_first):
        name = item.object or ""
        subject = subjects[name]
        proposal = _advise(item, subject, dropped)
        if isinstance(proposal, str):
            withheld.append(Withheld(item.check, name, proposal))
            continue
        known = advice.get(proposal.object)
        advice[proposal.object] = proposal if known is None else _merge(known, proposal)
        sizes[proposal.object] = subject.bytes if isinstance(subject, Table | Index) else 0
        if isinstance(subject, Index) and proposal.kind == "drop_index":
            dropped[subject.identifier] = subject.table
    ordered = sorted(advice.values(), key=lambda a: (-(a.gain_bytes or 0), -sizes[a.object], a.object, a.id))
    return Plan(database, tuple(ordered), tuple(sorted(withheld, key=lambda w: (w.check, w.object))))


def relevant(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Keep what advice can come of: a finding, not a mere measurement, of a check known here, about one object."""
    return [item for item in evidence if item.check in CHECKS and item.object is not None and item.status != "ok"]


def _strongest_first(item: Evidence) -> tuple[int, str, str]:
    """Order evidence so that what includes the rest comes first, and the weakest ground for a drop comes last."""
    order = (
        "vacuum.dead_tuples",
        "stats.missing",
        "stats.stale",
        "index.invalid",
        "index.duplicate",
        "index.redundant",
    )
    return (order.index(item.check) if item.check in order else len(order), item.check, item.object or "")


def _merge(first: Advice, second: Advice) -> Advice:
    """Keep the stronger of two pieces of advice on one object, with both reasons: VACUUM (ANALYZE) does both."""
    if second.checks[0] in first.checks:
        return first
    return replace(first, reason=f"{first.reason} {second.reason}", checks=(*first.checks, *second.checks))


def _advise(item: Evidence, subject: Subject, dropped: Mapping[str, str]) -> Advice | str:
    """Return advice, or the reason why there is none."""
    if item.status == "unknown":
        return f"the check could not look, so there is no ground to act on: {item.summary}"
    if isinstance(subject, Table):
        return _for_table(item, subject) if item.check in TABLE_CHECKS else "it is a table, not an index"
    if isinstance(subject, Index):
        return _for_index(item, subject, dropped) if item.check in INDEX_CHECKS else "it is an index, not a table"
    return subject.reason


def _for_table(item: Evidence, table: Table) -> Advice | str:
    if table.temporary:
        return "it is a temporary table: only its own session can work on it"
    kind: Kind = "vacuum" if item.check in VACUUM_CHECKS else "analyze"
    fitting = _VACUUMABLE if kind == "vacuum" else _ANALYZABLE
    if table.kind not in fitting:
        return f"{kind.upper()} does nothing for a relation of kind {table.kind!r}"
    # A plain VACUUM makes space usable again; only what it can cut off the end goes back to the disk, which shows
    # when it is done. ANALYZE gives nothing back.
    gain = None if kind == "vacuum" else 0
    return _make(
        kind,
        table.identifier,
        _sentence(item.summary),
        gain_bytes=gain,
        risk="low",
        check=item.check,
        relation_kind=table.kind,
    )


def _for_index(item: Evidence, index: Index, dropped: Mapping[str, str]) -> Advice | str:
    if index.building:
        return "an index of this table is being built right now"
    if index.partitioned:
        return (
            "it is a partitioned index: it becomes valid when each partition has its own, attached"
            if item.check == "index.invalid"
            else "it is a partitioned index: dropping it locks every partition exclusively, which a person has to time"
        )
    leftover = item.check == "index.invalid" and (_LEFTOVER.search(index.name) is not None or bool(index.twins))
    if item.check == "index.invalid":
        if index.valid:
            return "it is valid by now"
        if not leftover:
            return _rebuild(item, index)
    reason_against = _keep(item.check, index, dropped)
    if reason_against is not None:
        return reason_against
    risk, caution = _DROP_RISK[item.check]
    reason = _sentence(item.summary) + caution
    if leftover:
        reason += " No query can use it, every write pays for it."
    return _make(
        "drop_index",
        index.identifier,
        reason,
        gain_bytes=index.bytes,
        risk=risk,
        check=item.check,
        undo=_undo(index.definition),
    )


def _rebuild(item: Evidence, index: Index) -> Advice:
    reason = _sentence(item.summary) + " No query can use it, every write pays for it."
    if index.unique:
        reason += (
            " It is unique: look for duplicate keys and settle them first, for with one of them the rebuild fails again"
            " and leaves another invalid index behind."
        )
    return _make("reindex_index", index.identifier, reason, gain_bytes=None, risk="medium", check=item.check)


def _keep(check: str, index: Index, dropped: Mapping[str, str]) -> str | None:
    """Say why an index must not be dropped, whatever the evidence; None: it may be."""
    if index.constraint is not None:
        return f"constraint {index.constraint} rests on it"
    if index.replica_identity:
        return "it is the table's replica identity: logical replication finds rows by it"
    if index.is_partition:
        return "it belongs to a partitioned index and can only go with that"
    return None if check == "index.invalid" else _still_needed(check, index, dropped)


def _still_needed(check: str, index: Index, dropped: Mapping[str, str]) -> str | None:
    """Say which work would be left undone by the other indexes that stay."""
    surviving = [twin for twin in index.twins if twin not in dropped]
    if check == "index.duplicate" and not surviving:
        return "no index that could do its work would be left: its twin is gone, or to be dropped itself"
    if index.unique and not surviving:
        return "it is unique: it enforces a rule of the data, used or not"
    if check == "index.unused" and any(t == index.table and name != index.identifier for name, t in dropped.items()):
        # A redundant index may go because a wider one stays; were that one unused, both would go at once.
        return "another index of this table is to be dropped first: look again when that is done"
    return None


def _make(
    kind: Kind,
    identifier: str,
    reason: str,
    *,
    gain_bytes: int | None,
    risk: Risk,
    check: str,
    undo: str | None = None,
    relation_kind: str = "i",
) -> Advice:
    sql = statement(kind, identifier, relation_kind)
    return Advice(digest(kind, identifier, sql), kind, identifier, reason, sql, gain_bytes, risk, LOCK, undo, (check,))


def _undo(definition: str) -> str:
    """Return the statement that makes a dropped index again, without locking writers out.

    >>> _undo("CREATE UNIQUE INDEX users_email_b ON public.users USING btree (email)")
    'CREATE UNIQUE INDEX CONCURRENTLY users_email_b ON public.users USING btree (email)'
    """
    return re.sub(r"^(CREATE (?:UNIQUE )?INDEX) ", r"\1 CONCURRENTLY ", definition)


def _sentence(text: str) -> str:
    stripped = text.strip()
    return stripped if not stripped or stripped[-1] in ".!?" else stripped + "."


@dataclass(frozen=True, slots=True)
class Conditions:
    """What goes on at the server just before a statement; each text names who."""

    standby: bool
    dumps: str | None
    base_backups: str | None
    vacuums: str | None
    permitted: bool


def refusal(now: Conditions, identifier: str) -> str | None:
    """Say why a statement must not run now; None: it may."""
    if now.standby:
        return "the server is a standby: maintenance belongs to its primary"
    if now.dumps:
        # VACUUM can't remove what the dump's snapshot still sees, and its truncation makes the dump's workers wait.
        return f"a dump of this database is running: {now.dumps}; wait for its end"
    if now.base_backups:
        return f"a base backup of this server is running: {now.base_backups}; wait for its end"
    if now.vacuums:
        # A waiting lock request makes the server cancel an autovacuum: it would start again from nothing.
        return f"{identifier} is being vacuumed or analysed already: {now.vacuums}"
    if not now.permitted:
        # The server would skip the table with a warning and report success.
        return (
            f"the role may not maintain {identifier}: it needs to own it, or GRANT MAINTAIN on PostgreSQL 17 and later"
        )
    return None

"""What locks mean, and what changed between two looks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from chanuka_ops.migrator.rehearsal.model import Blocks, Impact, Look, Relation, Traced

# https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES, from the weakest to the strongest
MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
_RANK = {mode: rank for rank, mode in enumerate(MODES)}
_ORDINARY = _RANK["RowExclusiveLock"]  # what every SELECT, INSERT, UPDATE and DELETE takes, and no more
_HOLDS_WRITERS = _RANK["ShareLock"]
_HOLDS_READERS = _RANK["AccessExclusiveLock"]
_STORED = frozenset("rmi")  # what has a file that a rewrite replaces; of a sequence it is one row
_INDEXES = frozenset("iI")
_MATERIALISED_VIEW = "m"
_BRIEF_SHARE = 0.25  # of the looks at a statement that commits by itself


def strongest(locks: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Return the strongest lock on each relation."""
    found: dict[int, str] = {}
    for oid, mode in locks:
        if oid not in found or _RANK[mode] > _RANK[found[oid]]:
            found[oid] = mode
    return found


def above_ordinary(locks: Mapping[int, str]) -> dict[int, str]:
    """Leave out the locks that reading and writing take."""
    return {oid: mode for oid, mode in locks.items() if _RANK[mode] > _ORDINARY}


def of_sampled(locks: Mapping[int, str], existing: Mapping[int, Relation], now: Look) -> dict[int, str]:
    """Leave out what a statement that runs CONCURRENTLY holds of indexes without holding up anybody.

    That is a weak lock, which comes with its table's; and any on an index that is gone afterwards: by the time it is
    locked no query uses it.
    """
    return {
        oid: mode
        for oid, mode in locks.items()
        if existing[oid].kind not in _INDEXES or (blocks([mode]) and oid in now.relations)
    }


def to_write(locks: Mapping[int, str]) -> dict[int, str]:
    """Leave out the locks that reading takes."""
    return {oid: mode for oid, mode in locks.items() if _RANK[mode] >= _ORDINARY}


def blocks(modes: Iterable[str]) -> Blocks:
    """Say whom locks hold up.

    >>> blocks(["ShareUpdateExclusiveLock"]), blocks(["ShareLock"]), blocks(["ShareLock", "AccessExclusiveLock"])
    ('', 'w', 'rw')
    """
    rank = max((_RANK[mode] for mode in modes), default=0)
    return "rw" if rank >= _HOLDS_READERS else "w" if rank >= _HOLDS_WRITERS else ""


def hinders(
    locks: Mapping[int, str],
    relations: Mapping[int, Relation],
    *,
    autocommit: bool,
    shares: Mapping[tuple[int, str], float] | None = None,
) -> bool:
    """Tell whether somebody else is held up by the locks while the statement works.

    REFRESH MATERIALIZED VIEW CONCURRENTLY by itself holds up no one but another REFRESH: a view has no other writers.
    `shares` say of a sampled statement for which part of its time each lock was seen: what was locked for a moment, as
    a partition that is detached CONCURRENTLY, was not locked while the rows were read.
    """
    return any(
        blocks([mode])
        and not (autocommit and mode == "ExclusiveLock" and relations[oid].kind == _MATERIALISED_VIEW)
        and (shares is None or shares.get((oid, mode), 1.0) >= _BRIEF_SHARE)
        for oid, mode in locks.items()
    )


def rewritten(before: Look, after: Look, existing: Iterable[int]) -> tuple[str, ...]:
    """Name the tables and indexes whose file was replaced or moved, of those that existed before the rehearsal."""
    names: list[str] = []
    for oid in existing:
        earlier, later = before.relations.get(oid), after.relations.get(oid)
        if earlier is None or later is None or later.kind not in _STORED:
            continue
        if (earlier.filenode, earlier.tablespace) != (later.filenode, later.tablespace):
            names.append(earlier.name)
    return tuple(sorted(names))


def rows_read(before: Look, after: Look) -> int:
    """Count the rows that were read between two looks; a table that is gone has no count any more."""
    return sum(max(0, count - before.rows.get(oid, 0)) for oid, count in after.rows.items())


def impact(*, error: str | None, held: Blocks, rewrote: bool, scanned: int) -> Impact:
    """Say in a word what the statement means for everybody else."""
    if error is not None:
        return "error"
    if held and rewrote:
        return "rewrite-under-blocking-lock"
    if held and scanned:
        return "scan-under-blocking-lock"
    if held:
        return "brief-lock-rw" if held == "rw" else "brief-lock-w"
    return "no-blocking-lock"


def worst(statements: Iterable[Traced]) -> Impact:
    """Say in a word what they mean together."""
    order: tuple[Impact, ...] = (
        "error",
        "rewrite-under-blocking-lock",
        "scan-under-blocking-lock",
        "brief-lock-rw",
        "brief-lock-w",
    )
    seen = {statement.impact for statement in statements}
    return next((word for word in order if word in seen), "no-blocking-lock")


def all_locks(statements: Iterable[Traced]) -> dict[str, str]:
    """Return the strongest lock on each relation over all statements."""
    found: dict[str, str] = {}
    for statement in statements:
        for name, mode in statement.locks.items():
            if name not in found or _RANK[mode] > _RANK[found[name]]:
                found[name] = mode
    return dict(sorted(found.items()))


def folded(statements: Iterable[Traced]) -> list[Traced]:
    """Put together what is the same statement sent again and again: the batches of a backfill."""
    found: list[Traced] = []
    for statement in statements:
        last = found[-1] if found else None
        if last is None or not _same(last, statement):
            found.append(statement)
            continue
        found[-1] = replace(
            last,
            seconds=round(last.seconds + statement.seconds, 6),
            scanned=last.scanned + statement.scanned,
            scanned_rows_while_blocking=last.scanned_rows_while_blocking + statement.scanned_rows_while_blocking,
            wal_bytes=last.wal_bytes + statement.wal_bytes,
            size_change_bytes=last.size_change_bytes + statement.size_change_bytes,
            rows=last.rows + max(0, statement.rows),
            times=last.times + 1,
        )
    return found


def _same(one: Traced, other: Traced) -> bool:
    alike = (one.sql, one.line, one.revision, one.direction, one.locks, one.rewritten, one.impact)
    that = (other.sql, other.line, other.revision, other.direction, other.locks, other.rewritten, other.impact)
    return alike == that

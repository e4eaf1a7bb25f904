"""Decisions about backups: no I/O, no clock; what they need to know is an argument."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from chanuka_ops import errors
from chanuka_ops.backup.answers import Catalogue, Freshness, Listed, Problem
from chanuka_ops.backup.model import Evidence, File, Status, Tier

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""How far the clocks of two machines that share a store may be apart."""

_ID = re.compile(r"[a-z0-9_]+(?:-[a-z0-9_]+)*-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
# a role's membership as pg_dumpall writes it: GRANT a TO b WITH INHERIT TRUE GRANTED BY "c";
_GRANTOR = re.compile(r"^(?P<grant>GRANT .+) GRANTED BY (?:\"(?:[^\"]|\"\")*\"|[^\s\";]+);$", re.MULTILINE)


def new_id(database: str, now: datetime, random_hex: str) -> str:
    """Name a backup: the database, the UTC second and six random hex digits; sorts by time within a database.

    >>> new_id("main", datetime(2026, 11, 22, 17, 5, 9, tzinfo=UTC), "0a1b2c")
    'main-20261122T170509Z-0a1b2c'
    """
    return f"{slug(database)}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{random_hex}"


def slug(database: str) -> str:
    """Write a database's name as an id holds it; two names can be written alike."""
    return re.sub(r"[^a-z0-9_]+", "-", database.lower()).strip("-") or "db"


def slug_of(backup_id: str) -> str:
    """Return which database an id is named for.

    >>> slug_of(new_id("main.Sales Data", datetime(2026, 11, 22, tzinfo=UTC), "0a1b2c"))
    'main-sales-data'
    """
    return backup_id.rsplit("-", 2)[0]


def checked_id(backup_id: str) -> str:
    """Return the id if it has the form of one, so that it can't name a path outside the store.

    Errors: `BackupNotFound`.
    """
    if not _ID.fullmatch(backup_id):
        raise errors.BackupNotFound(f"{backup_id!r} is not a backup id: `chanuka-ops backup list` shows them")
    return backup_id


def checked_name(database: str) -> str:
    """Return a database's name in the settings if it can name a directory of the store, and only there.

    Errors: `ConfigurationError`.
    """
    if not database or database.startswith(".") or {"/", "\0"} & set(database):
        raise errors.ConfigurationError(
            f"databases.{database}: a directory of the store has that name: it can't be empty, hold / or begin with ."
        )
    return database


def schema_hash(objects: Mapping[str, str]) -> str:
    """Hash a schema from the hashes of its objects."""
    lines = (f"{name}\0{definition}\n" for name, definition in sorted(objects.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def without_grantors(roles: str) -> str:
    """Leave out who granted the memberships in pg_dumpall's script.

    From PostgreSQL 16 on a grantor must be the cluster's first superuser or hold the role's ADMIN OPTION; the source's
    first superuser is an ordinary one on another server, so that no script with a membership would run there.

    >>> without_grantors('GRANT a TO "b c" WITH INHERIT TRUE GRANTED BY "o""x";')
    'GRANT a TO "b c" WITH INHERIT TRUE;'
    """
    return _GRANTOR.sub(lambda match: f"{match['grant']};", roles)


def file_problems(stated: Iterable[File], found: Mapping[str, File | None]) -> tuple[Problem, ...]:
    """Compare the manifest's files with those found; a file found that couldn't be read is None.

    >>> [(p.file, p.kind) for p in file_problems([File(path="a", bytes=1, sha256="x")], {"b": None})]
    [('a', 'missing'), ('b', 'extra')]
    """
    problems = []
    names = set()
    for file in stated:
        names.add(file.path)
        there = found.get(file.path)
        if file.path not in found:
            problems.append(Problem(file=file.path, kind="missing"))
        elif there is None:
            problems.append(Problem(file=file.path, kind="unreadable"))
        elif there.bytes != file.bytes:
            problems.append(Problem(file=file.path, kind="size"))
        elif there.sha256 != file.sha256:
            problems.append(Problem(file=file.path, kind="checksum"))
    problems += [Problem(file=name, kind="extra") for name in sorted(set(found) - names)]
    return tuple(problems)


def after_look(status: Status, look: Evidence) -> Status:
    """Return a backup's status after one more look at it.

    A verify that passes lifts to verified, a drill to proven; one that fails takes away what it disproved.
    """
    if look.step == "verify":
        tier = max(status.tier, Tier.VERIFIED, key=lambda t: t.rank) if look.passed else Tier.TAKEN
    else:
        tier = Tier.PROVEN if look.passed else min(status.tier, Tier.VERIFIED, key=lambda t: t.rank)
    return status.model_copy(update={"tier": tier, "evidence": (*status.evidence, look)})


def require(still: bool, backup_id: str) -> None:  # noqa: FBT001 - it's all there is to say
    """Keep a backup whose status isn't as it was when its fate was decided. Errors: `LockHeld`."""
    if not still:
        raise errors.LockHeld(f"backup {backup_id} was pinned or looked at meanwhile: it is kept")


def proven_beside(before: Status, store: str) -> Status:
    """Return the status of a copy whose bytes were found to be those of another store's copy that a drill just proved.

    It is as far proved as that look at its bytes goes, and so it has that look's date; nothing was read of it since.
    """
    looks = [look for look in before.evidence if look.step == "verify"]
    if before.tier is not Tier.VERIFIED or not looks or not looks[-1].passed:
        return before
    figures = {"the_same_bytes_as_in_store": store}
    return after_look(before, Evidence(at=looks[-1].at, step="drill", passed=True, figures=figures))


def newest(backups: Sequence[Listed], now: datetime) -> Listed | None:
    """Return the newest backup that can be read.

    One that is dated in the future was taken by a clock that was wrong: it is only the newest where all are.
    """
    whole = [backup for backup in backups if backup.problem is None and backup.created_at is not None]
    past = [backup for backup in whole if backup.created_at and backup.created_at - now <= CLOCK_TOLERANCE]
    return max(past or whole, key=lambda backup: (backup.created_at, backup.backup_id), default=None)


def freshness(found: Catalogue, within: timedelta, now: datetime) -> Freshness:
    """Judge by the newest *proven* backup; where a store couldn't be listed, what isn't seen may be what is missed.

    One that is dated in the future would be fresh for ever: it doesn't count, and is told of where no other does.
    """
    dates = [b.created_at for b in found.backups if b.tier == Tier.PROVEN and b.created_at]
    proven = [at for at in dates if at - now <= CLOCK_TOLERANCE]
    age = now - max(proven) if proven else None
    if age is not None and age <= within:
        return Freshness(verdict="proven in time", passed=True, age_seconds=age.total_seconds())
    for store, problem in found.problems.items():
        return Freshness(verdict=f"unknown: store {store}: {problem}", passed=False, age_seconds=None)
    if len(proven) < len(dates):
        ahead = f"{max(dates):%Y-%m-%d %H:%M} UTC"
        return Freshness(
            verdict=f"unknown: a clock is wrong: a proven backup is dated {ahead}", passed=False, age_seconds=None
        )
    if age is None:
        return Freshness(verdict="no backup was ever proven", passed=False, age_seconds=None)
    return Freshness(verdict="the newest proven backup is too old", passed=False, age_seconds=age.total_seconds())

"""Decisions about backups: no I/O, no clock; what they need to know is an argument."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from chanuka_ops import errors
from chanuka_ops.backup.answers import Comparison, Mismatch, Problem
from chanuka_ops.backup.model import Evidence, File, Fingerprint, SequenceState, Status, Tier

_ID = re.compile(r"[a-z0-9_]+(?:-[a-z0-9_]+)*-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
# a role's membership as pg_dumpall writes it: GRANT a TO b WITH INHERIT TRUE GRANTED BY "c";
_GRANTOR = re.compile(r"^(?P<grant>GRANT .+) GRANTED BY (?:\"(?:[^\"]|\"\")*\"|[^\s\";]+);$", re.MULTILINE)


def new_id(database: str, now: datetime, random_hex: str) -> str:
    """Name a backup: the database, the UTC second and six random hex digits; sorts by time within a database.

    >>> new_id("main", datetime(2026, 11, 22, 17, 5, 9, tzinfo=UTC), "0a1b2c")
    'main-20261122T170509Z-0a1b2c'
    """
    slug = re.sub(r"[^a-z0-9_]+", "-", database.lower()).strip("-") or "db"
    return f"{slug}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{random_hex}"


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


def compare(source: Fingerprint, restored: Fingerprint, *, same_major: bool) -> Comparison:
    """Compare a restored copy with its source.

    Across major versions PostgreSQL prints definitions differently, so there only the presence of each object is
    compared, and a warning says so.
    """
    mismatches, tables = _table_mismatches(source, restored)
    if source.large_objects != restored.large_objects:
        mismatches.append(
            Mismatch(
                object="large objects",
                source=f"{source.large_objects.rows} objects, hash {source.large_objects.hash}",
                restored=f"{restored.large_objects.rows} objects, hash {restored.large_objects.hash}",
            )
        )
    mismatches += _sequence_mismatches(source, restored)
    structure, warnings = _structure_problems(source, restored, same_major=same_major)
    compared = [name for name in source.tables if name in restored.tables]
    rows = sum(source.tables[name].rows or 0 for name in compared)
    return Comparison(
        tables_compared=len(compared),
        rows_compared=rows,
        coverage=rows / source.rows if source.rows else 1.0,
        mismatches=tuple(mismatches),
        structure_problems=tuple(structure),
        warnings=tuple(warnings),
        tables=tables,
    )


def _table_mismatches(
    source: Fingerprint, restored: Fingerprint
) -> tuple[list[Mismatch], dict[str, tuple[int, int, bool]]]:
    mismatches = []
    tables = {}
    for name, content in source.tables.items():
        copy = restored.tables.get(name)
        tables[name] = (content.rows or 0, (copy.rows or 0) if copy else 0, content == copy)
        if copy is None:
            mismatches.append(Mismatch(object=name, source=f"{content.rows} rows", restored="no such table"))
        elif copy.rows != content.rows:
            mismatches.append(Mismatch(object=name, source=f"{content.rows} rows", restored=f"{copy.rows} rows"))
        elif copy.hash != content.hash:
            mismatches.append(
                Mismatch(object=name, source=f"content hash {content.hash}", restored=f"content hash {copy.hash}")
            )
    mismatches += [
        Mismatch(object=name, source="no such table", restored=f"{restored.tables[name].rows} rows")
        for name in sorted(set(restored.tables) - set(source.tables))
    ]
    return mismatches, tables


def _sequence_mismatches(source: Fingerprint, restored: Fingerprint) -> list[Mismatch]:
    mismatches = []
    for name, state in source.sequences.items():
        copy = restored.sequences.get(name)
        if copy is None:
            mismatches.append(Mismatch(object=name, source="a sequence", restored="no such sequence"))
        elif not _within(state, copy):
            mismatches.append(Mismatch(object=name, source=_values(state), restored=_values(copy)))
    return mismatches


def _values(state: SequenceState) -> str:
    span = str(state.before) if state.before == state.after else f"{state.before} to {state.after}"
    return f"value {span}" + ("" if state.called_after else ", not yet given")


def _within(state: SequenceState, copy: SequenceState) -> bool:
    """Tell whether the copy's value lies where the source's sequence was while it was dumped."""
    if state.before == state.after:
        return copy.before == state.before and copy.called_before in {state.called_before, state.called_after}
    # one that cycles and moved may have passed any of its values, once around or more
    low, high = sorted((state.before, state.after))
    return state.cycle or low <= copy.before <= high


def _structure_problems(
    source: Fingerprint, restored: Fingerprint, *, same_major: bool
) -> tuple[list[Mismatch], list[str]]:
    problems = []
    for name, definition in source.objects.items():
        copy = restored.objects.get(name)
        if copy is None:
            problems.append(Mismatch(object=name, source="present", restored="missing"))
        elif same_major and copy != definition:
            problems.append(Mismatch(object=name, source=f"definition {definition}", restored=f"definition {copy}"))
    problems += [
        Mismatch(object=name, source="missing", restored="present")
        for name in sorted(set(restored.objects) - set(source.objects))
    ]
    warnings = [] if same_major else ["another major version: objects were compared by name, not by definition"]
    for name, version in source.extensions.items():
        if name not in restored.extensions:
            problems.append(Mismatch(object=f"extension {name}", source=version, restored="missing"))
        elif (
            restored.extensions[name] != version
        ):  # pg_dump doesn't write the version: CREATE EXTENSION takes the default
            warnings.append(f"extension {name}: {version} at the source, {restored.extensions[name]} in the copy")
    return problems, warnings

"""How a restored copy compares with its source's fingerprint. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from chanuka_ops.backup.answers import Comparison, Mismatch
from chanuka_ops.backup.model import ROW_TEXT, Fingerprint, Part, SequenceState, TableContent

# kinds of objects that the first algorithm's fingerprints hold: of the others they say nothing
_FIRST_KINDS = (
    "schema", "relation", "column", "view", "index", "constraint", "trigger", "rule", "policy", "sequence", "routine",
    "type", "statistics", "text search configuration", "publication", "comment", "default privileges",
)  # fmt: skip
_GRANTS_ALONE = "default privileges "


def compare(
    source: Fingerprint,
    restored: Fingerprint,
    *,
    same_major: bool,
    part: int | None = None,
    rights: bool = True,
    filtered: bool = False,
) -> Comparison:
    """Compare a restored copy with its source.

    Across major versions PostgreSQL prints definitions differently, so there only the presence of each object is
    compared, and a warning says so; likewise for a fingerprint of the first algorithm. `part` is the part that was read
    of tables that have parts. Without `rights` owners and grants are left out. What a copy of a `filtered` backup has
    beyond the filter (the schema `public`, those that hold picked tables) is a warning.
    """
    mismatches, tables = _table_mismatches(source, restored, part)
    if source.has_content and source.large_objects != restored.large_objects:
        mismatches.append(
            Mismatch(
                object="large objects",
                source=f"{source.large_objects.rows} objects, hash {source.large_objects.hash}",
                restored=f"{restored.large_objects.rows} objects, hash {restored.large_objects.hash}",
            )
        )
    mismatches += _sequence_mismatches(source, restored)
    structure, warnings = _structure_problems(source, restored, same_major=same_major, rights=rights)
    if filtered:
        warnings += [f"beyond the filter: {item.object}" for item in structure if item.source == "missing"]
        structure = [item for item in structure if item.source != "missing"]
    compared = {name: _compared_rows(table, part) for name, table in source.tables.items() if name in restored.tables}
    rows = sum(compared.values())
    return Comparison(
        tables_compared=len(compared),
        rows_compared=rows,
        coverage=_share(rows, source) if source.has_content else 0.0,
        mismatches=tuple(mismatches),
        structure_problems=tuple(structure),
        warnings=(*warnings, *_version_warnings(source, restored)),
        tables=tables,
        has_content=source.has_content,
        part=part,
    )


def next_part(seen: Sequence[int], parts: int) -> int:
    """Choose the part to compare now: one that none of the earlier drills compared (the oldest first), or the stalest.

    >>> next_part([], 3), next_part([0, 2], 3), next_part([1, 0, 2, 1], 3)
    (0, 1, 0)
    """
    latest = {part: at for at, part in enumerate(seen)}
    return min(range(parts), key=lambda part: (latest.get(part, -1), part))


def _compared_rows(table: TableContent, part: int | None) -> int:
    if table.parts and part is not None:
        return table.parts[part].rows
    return table.rows or 0


def _share(rows: int, source: Fingerprint) -> float:
    return rows / source.rows if source.rows else 1.0


def _table_mismatches(
    source: Fingerprint, restored: Fingerprint, part: int | None
) -> tuple[list[Mismatch], dict[str, tuple[int, int, bool]]]:
    mismatches = []
    tables = {}
    for name, content in source.tables.items():
        copy = restored.tables.get(name)
        found = _difference(content, copy, part)
        if content.rows is not None:
            tables[name] = (content.rows, (copy.rows or 0) if copy else 0, found is None)
        if found is not None:
            mismatches.append(Mismatch(object=name, source=found[0], restored=found[1]))
    mismatches += [
        Mismatch(object=name, source="no such table", restored=_rows(restored.tables[name]))
        for name in sorted(set(restored.tables) - set(source.tables))
    ]
    return mismatches, tables


def _rows(content: TableContent) -> str:
    return "a table" if content.rows is None else f"{content.rows} rows"


def _difference(content: TableContent, copy: TableContent | None, part: int | None) -> tuple[str, str] | None:
    """Say how a table differs, at the source and in the copy; None where nothing differs that was read."""
    if copy is None:
        return _rows(content), "no such table"
    if content.rows is None:
        return None
    if copy.rows != content.rows:
        return _rows(content), _rows(copy)
    if content.parts and part is not None and copy.parts:
        which = f"part {part} of {len(content.parts)}: "
        return _hash_difference(content.parts[part], copy.parts[0], which)
    return _hash_difference(content, copy, "")


def _hash_difference(source: TableContent | Part, copy: TableContent | Part, which: str) -> tuple[str, str] | None:
    if copy.rows != source.rows:
        return f"{which}{source.rows} rows", f"{which}{copy.rows} rows"
    if copy.hash != source.hash:
        return f"{which}content hash {source.hash}", f"{which}content hash {copy.hash}"
    return None


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
    source: Fingerprint, restored: Fingerprint, *, same_major: bool, rights: bool
) -> tuple[list[Mismatch], list[str]]:
    first = source.algorithm == ROW_TEXT
    by_name = first or not same_major
    problems = []
    for name, definition in source.objects.items():
        copy = restored.objects.get(name)
        if not rights and name.startswith(_GRANTS_ALONE):
            continue
        if copy is None:
            problems.append(Mismatch(object=name, source="present", restored="missing"))
        elif not by_name and _compared(definition, rights=rights) != _compared(copy, rights=rights):
            problems.append(_different(name, definition, copy))
    problems += [
        Mismatch(object=name, source="missing", restored="present")
        for name in sorted(set(restored.objects) - set(source.objects))
        if not first or name.startswith(tuple(f"{kind} " for kind in _FIRST_KINDS))
    ]
    reason = "another major version" if not same_major else "a manifest of the first algorithm"
    warnings = [f"{reason}: objects were compared by name, not by definition"] if by_name else []
    for name, version in source.extensions.items():
        if name not in restored.extensions:
            problems.append(Mismatch(object=f"extension {name}", source=version, restored="missing"))
    return problems, warnings


def _different(name: str, definition: str, copy: str) -> Mismatch:
    """Say whether it's the definition that differs, or who owns it and may use it."""
    if _compared(definition, rights=False) == _compared(copy, rights=False):
        of = tuple(value.partition(":")[2] or "none" for value in (definition, copy))
        return Mismatch(object=name, source=f"owner and grants {of[0]}", restored=f"owner and grants {of[1]}")
    return Mismatch(object=name, source=f"definition {definition}", restored=f"definition {copy}")


def _compared(value: str, *, rights: bool) -> str:
    return value if rights else value.partition(":")[0]


def _version_warnings(source: Fingerprint, restored: Fingerprint) -> list[str]:
    """Name the extensions and collations of another version: the dump doesn't hold them, the server does."""
    found = [
        f"extension {name}: {version} at the source, {restored.extensions[name]} in the copy"
        for name, version in source.extensions.items()
        if restored.extensions.get(name, version) != version
    ]
    found += [
        f"collation {name}: version {version} at the source, {restored.collations.get(name, 'none')} in the copy:"
        " texts may be ordered differently there"
        for name, version in source.collations.items()
        if restored.collations.get(name) != version
    ]
    return found

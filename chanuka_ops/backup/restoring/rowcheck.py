"""Compares a restored database with the manifest: each restored table's number of rows, each sequence's value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.backup.answers import Mismatch
from chanuka_ops.backup.model import Fingerprint, SequenceState
from chanuka_ops.backup.restoring.archive import Entry
from chanuka_ops.backup.restoring.entries import split
from chanuka_ops.backup.taking import fingerprint as fingerprints
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.sql.catalog import load

_VERBATIM = {"no_parameters": True}  # a name may hold a percent sign
Name = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a restored database holds: rows by table (None: this role can't count them), sequences."""

    rows: Mapping[Name, int | None]
    sequences: Mapping[Name, SequenceState]

    @property
    def uncounted(self) -> list[str]:
        """The tables whose rows this role can't count."""
        return [".".join(name) for name, rows in self.rows.items() if rows is None]


def count(manager: ConnectionManager, *, deadline_s: float) -> Counted:
    """Count the rows of every table. Errors: `DatabaseError`."""
    rows: dict[Name, int | None] = {}
    catalog = load("chanuka_ops.backup")
    with manager.transaction(
        isolation="REPEATABLE READ", read_only=True, profile=Profile.MAINTENANCE, deadline_s=deadline_s
    ) as connection:
        fingerprints.fix_settings(connection, deadline_s=deadline_s)
        named = [str(row.name) for row in connection.execute(text(catalog.sql("tables")))]
        for done, name in enumerate(named):
            context.progress("check", done, len(named), "tables")
            rows[split(name)] = None
            try:
                with manager.savepoint(connection):
                    found = connection.exec_driver_sql(f"select count(*) from only {name}", execution_options=_VERBATIM)  # noqa: S608 - quoted by the server
                    rows[split(name)] = int(found.scalar_one())
            except errors.PermissionDenied:  # row security that binds even the owner
                continue
        context.progress("check", len(named), len(named), "tables")
        states = fingerprints.sequences(connection)
    return Counted(rows, {split(name): state for name, state in states.items()})


def differences(source: Fingerprint, tables: Iterable[Entry], counted: Counted) -> list[Mismatch]:
    """Say which of the restored tables and sequences are not as the manifest has them. Pure."""
    stated = {split(name): content.rows for name, content in source.tables.items()}
    found = []
    for entry in tables:
        name = (entry.schema or "", entry.name)
        rows, copy = stated.get(name), counted.rows.get(name, -1)
        if rows is None or copy is None or rows == copy:
            continue
        restored = "no such table" if copy < 0 else f"{copy} rows"
        found.append(Mismatch(object=".".join(name), source=f"{rows} rows", restored=restored))
    for words, state in source.sequences.items():
        value = counted.sequences.get(split(words))
        if value is not None and not _between(state, value.before):
            span = f"value {state.before} to {state.after}"
            found.append(Mismatch(object=words, source=span, restored=f"value {value.before}"))
    return found


def _between(state: SequenceState, value: int) -> bool:
    """Tell whether a value is one that the sequence had while it was dumped; one that cycles may have had any."""
    moved = state.before != state.after
    return (state.cycle and moved) or min(state.before, state.after) <= value <= max(state.before, state.after)

"""Constraints in two steps: NOT VALID, then VALIDATE.

The first holds for what is written from now on and scans nothing; the second scans, under a lock that blocks neither
readers nor writers.

https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-NOTES
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy.engine import Row

from chanuka_ops import errors
from chanuka_ops.migrator.operations import rules
from chanuka_ops.migrator.operations.indexes import PATIENCE_S, concurrent_index
from chanuka_ops.migrator.operations.model import Relation
from chanuka_ops.migrator.operations.session import Session, outside_transaction

Action = Literal["no action", "restrict", "cascade", "set null", "set default"]
_NOT_VALID = " NOT VALID"
_NAMED_NOT_NULL = 18  # since then NOT NULL is a constraint, which can be NOT VALID
_NOT_VALID_FOR_PARTITIONS = 18


def add_check(name: str, table: str, condition: str, *, schema: str | None = None, validated: bool = True) -> None:
    """Add a CHECK constraint; with `validated=False` only for what is written from now on (see `validate`).

    Errors: `MigrationFailed` where another constraint has that name; `LockTimeout`; `DatabaseError` where rows violate
    it: it then holds for new ones, and the revision can be run again once they're put right.
    """
    with outside_transaction() as session:
        relation = session.relation(table, schema)
        found = session.row("constraint_named", table_oid=relation.oid, name=name)
        if found is None:
            _add(session, relation, name, f"check ({condition}\n)")  # the condition may end in a comment
        else:
            _same(relation, name, found, "check", _probed_check(session, relation, condition))
        if validated:
            _validate(session, relation, name)


def add_foreign_key(
    name: str,
    table: str,
    columns: Sequence[str],
    referenced_table: str,
    referenced_columns: Sequence[str],
    *,
    schema: str | None = None,
    referenced_schema: str | None = None,
    on_delete: Action = "no action",
    on_update: Action = "no action",
    validated: bool = True,
) -> None:
    """Add a foreign key; with `validated=False` only for what is written from now on (see `validate`).

    It makes no index on the columns, which deletions in the referenced table need: see `concurrent_index`.

    Errors: as `add_check`; `MigrationFailed` for a partitioned table before PostgreSQL 18, which can't do it unscanned.
    """
    with outside_transaction() as session:
        relation = session.relation(table, schema)
        there = session.relation(referenced_table, referenced_schema)
        found = session.row("constraint_named", table_oid=relation.oid, name=name)
        if found is None:
            if relation.partitioned and session.major < _NOT_VALID_FOR_PARTITIONS:
                raise errors.MigrationFailed(
                    f"PostgreSQL {session.major} has no NOT VALID foreign key for a partitioned table, and"
                    f" {session.of(relation)} is one: add {name} to each partition with this operation, then to the"
                    " table with ALTER TABLE … ADD FOREIGN KEY, which finds the partitions' and scans nothing"
                )
            here, far = (", ".join(session.terms(names)) for names in (columns, referenced_columns))
            tail = f"on delete {on_delete} on update {on_update}"
            _add(session, relation, name, f"foreign key ({here}) references {session.of(there)} ({far}) {tail}")
        else:
            wanted = [list(columns), there.oid, list(referenced_columns), on_delete, on_update]
            got = [found.columns, found.referenced_oid, found.referenced_columns, found.on_delete, found.on_update]
            _same(relation, name, found, "foreign key", found.definition if got == wanted else "")
        if validated:
            _validate(session, relation, name)


def validate(name: str, table: str, *, schema: str | None = None) -> None:
    """Prove a constraint for the rows that were there before it; done already where it is proved.

    Errors: `MigrationFailed` where there's none of that name; `DatabaseError` where rows violate it.
    """
    with outside_transaction() as session:
        _validate(session, session.relation(table, schema), name)


def drop_constraint(name: str, table: str, *, schema: str | None = None) -> None:
    """Drop a constraint, with a short wait for its lock; done already where there's none. Errors: `LockTimeout`."""
    with outside_transaction() as session:
        _drop(session, session.relation(table, schema), name)


def add_unique(
    name: str, table: str, columns: Sequence[str], *, schema: str | None = None, patience_s: float = PATIENCE_S
) -> None:
    """Add a UNIQUE constraint: its index is built concurrently first, and then only taken over.

    Errors: as `concurrent_index`; `MigrationFailed` for a partitioned table, which can't take an index over.
    """
    with outside_transaction() as session:
        relation = session.relation(table, schema)
        if relation.partitioned:
            raise errors.MigrationFailed(
                f"{session.of(relation)} is partitioned, and can't take over an index as a constraint: use"
                f" concurrent_index({name!r}, {table!r}, {list(columns)!r}, unique=True), which enforces the same"
            )
        found = session.row("constraint_named", table_oid=relation.oid, name=name)
        if found is not None:
            _same(relation, name, found, "unique", found.definition if found.columns == list(columns) else "")
            return
    concurrent_index(name, table, columns, schema=schema, unique=True, patience_s=patience_s)
    with outside_transaction() as session:
        quoted = session.quoted(name)
        session.retried(f"alter table {session.of(relation)} add constraint {quoted} unique using index {quoted}")


def set_not_null(table: str, column: str, *, schema: str | None = None) -> None:
    """Make a column NOT NULL without scanning the table under a lock that blocks.

    From PostgreSQL 18 on it's a NOT VALID constraint that is validated; before, a validated CHECK is the proof by
    which SET NOT NULL needs no scan, and it's dropped then.

    Errors: `LockTimeout`; `DatabaseError` where there are nulls: it then holds for new rows, and the revision can be
    run again once they're filled in.
    """
    with outside_transaction() as session:
        relation = session.relation(table, schema)
        proof = _proof_name(relation, column)
        found = _column(session, relation, column)
        if session.major >= _NAMED_NOT_NULL and not relation.partitioned:
            if not found.proved:
                name = found.constraint_name
                if name is None:
                    name = rules.fitted(f"{relation.name}_{column}_not_null")  # as the server itself would name it
                    _add(session, relation, name, f"not null {session.quoted(column)}")
                _validate(session, relation, name)
        elif not found.proved:
            if session.row("constraint_named", table_oid=relation.oid, name=proof) is None:
                _add(session, relation, proof, f"check ({session.quoted(column)} is not null)")
            _validate(session, relation, proof)
            session.retried(f"alter table {session.of(relation)} alter column {session.quoted(column)} set not null")
        _drop(session, relation, proof)


def drop_not_null(table: str, column: str, *, schema: str | None = None) -> None:
    """Let a column be null again; what `set_not_null` left half done goes too. Errors: `LockTimeout`."""
    with outside_transaction() as session:
        relation = session.relation(table, schema)
        session.retried(f"alter table {session.of(relation)} alter column {session.quoted(column)} drop not null")
        if not session.shown:
            _drop(session, relation, _proof_name(relation, column))


def _proof_name(relation: Relation, column: str) -> str:
    return rules.fitted(f"{relation.name}_{column}_not_null_proof")


def _column(session: Session, relation: Relation, column: str) -> Any:
    found = session.row("not_null", table_oid=relation.oid, column=column)
    if found is None and not session.shown:
        raise errors.MigrationFailed(f"{session.of(relation)} has no column {column}")
    return found or _Unknown()


class _Unknown:
    """A column that nobody was asked about."""

    proved = False
    constraint_name: str | None = None


def _add(session: Session, relation: Relation, name: str, definition: str) -> None:
    session.retried(f"alter table {session.of(relation)} add constraint {session.quoted(name)} {definition} not valid")


def _validate(session: Session, relation: Relation, name: str) -> None:
    found = session.row("constraint_named", table_oid=relation.oid, name=name)
    if found is None and not session.shown:
        raise errors.MigrationFailed(f"{session.of(relation)} has no constraint {name} to validate")
    if found is None or not found.validated:
        session.retried(f"alter table {session.of(relation)} validate constraint {session.quoted(name)}")


def _drop(session: Session, relation: Relation, name: str) -> None:
    found = session.row("constraint_named", table_oid=relation.oid, name=name)
    if found is not None or session.shown:
        session.retried(f"alter table {session.of(relation)} drop constraint if exists {session.quoted(name)}")


def _same(relation: Relation, name: str, found: Row[Any], kind: str, wanted: str) -> None:
    if found.kind != kind or found.definition.removesuffix(_NOT_VALID) != wanted.removesuffix(_NOT_VALID):
        raise errors.MigrationFailed(
            f"constraint {name} of {relation.schema}.{relation.name} is there already with another definition:"
            f" {found.definition}. Drop it, or give the new one another name"
        )


def _probed_check(session: Session, relation: Relation, condition: str) -> str:
    """Return the definition as the server writes it: the CHECK is made on an empty temporary copy of the table."""
    probe = f"pg_temp.{session.quoted(relation.name)}"
    session.run(f"drop table if exists {probe}")
    session.run(f"create temporary table {session.quoted(relation.name)} (like {session.of(relation)})")
    try:
        session.run(f"alter table {probe} add constraint chanuka_probe check ({condition}\n)")
        copy = session.row("relation", name=probe)
        found = session.row("constraint_named", table_oid=copy.oid if copy else 0, name="chanuka_probe")
    finally:
        session.run(f"drop table if exists {probe}")
    return str(found.definition) if found is not None else ""

"""What a dump says of its database itself: encoding and locale, owner, grants, settings, comment."""

from __future__ import annotations

import re
from collections.abc import Collection

from sqlalchemy import text

from chanuka_ops import errors
from chanuka_ops.backup.restoring import statements
from chanuka_ops.backup.restoring.archive import Archive, Entry
from chanuka_ops.backup.restoring.preflight import Plan
from chanuka_ops.backup.restoring.target import Target
from chanuka_ops.db import engines
from chanuka_ops.db.parameters import Profile
from chanuka_ops.sql.catalog import load

_COMMENT = re.compile(r"\bIS '(?P<words>(?:[^']|'')*)'$")


def create(target: Target, archive: Archive, name: str, *, tablespaces: bool) -> str | None:
    """Make a database with the source's encoding and locale; return what the server didn't know of them.

    Errors: `PermissionDenied`, `DatabaseError`.
    """
    made_by = next((entry.definition for entry in archive.entries if entry.kind == "DATABASE"), "")
    quoted = target.quoted(name)
    written = next(statements.parts(made_by), "")
    stated = statements.for_database(written, archive.dbname, quoted) or f"CREATE DATABASE {quoted} TEMPLATE template0"
    full = statements.creation(stated, tablespace=tablespaces, locale=True)
    bare = statements.creation(stated, tablespace=tablespaces, locale=False)
    refused = None
    for attempt in (full, bare, f"{bare} LOCALE 'C'"):
        try:
            with target.seat.autocommit() as connection:
                engines.execute_verbatim(connection, attempt)
        except (errors.PermissionDenied, errors.ConnectError, errors.ConnectionLost, errors.LockTimeout):
            raise
        except errors.DatabaseError as error:
            refused = refused or error
            if attempt.endswith("LOCALE 'C'"):
                raise refused from None
            continue
        break
    if refused is None:
        return None
    return f"the server doesn't know the source's locale ({refused}): the copy has another, so texts may sort otherwise"


def carry(target: Target, archive: Archive, name: str, plan: Plan) -> list[str]:
    """Give a database what the dump says of its own: grants and settings, and its owner if it was made for this.

    Return what could not be carried. Errors: `DatabaseError`.
    """
    refused = []
    quoted = target.quoted(name)
    catalog = load("chanuka_ops.backup")
    with target.seat.transaction(profile=Profile.MAINTENANCE) as connection:
        if not archive.standard_strings:
            engines.execute_verbatim(connection, "set local standard_conforming_strings = off")
        if plan.options.roles != "skip" and plan.way != "empty":
            values = {"name": name, "owner": _owner(archive)}
            if values["owner"]:
                written = connection.execute(text(catalog.sql("restore_owner")), values).scalar_one()
                engines.execute_verbatim(connection, written)
        for statement in _statements(archive, plan):
            renamed = statements.for_database(statement, archive.dbname, quoted)
            try:
                if renamed is not None:
                    with target.seat.savepoint(connection):
                        engines.execute_verbatim(connection, renamed)
                    continue
                reason = "it isn't about the database"
            except errors.DatabaseError as error:
                reason = str(error)
            refused.append(f"not carried over: {statement.split(' TO ')[0].split(' IS ')[0]}: {reason}")  # no value
    return refused


def comment(archive: Archive) -> str | None:
    """Return the comment of the source's database."""
    for entry in statements.of_database(archive):
        match = _COMMENT.search(next(statements.parts(entry.definition), "")) if entry.kind == "COMMENT" else None
        if match is not None:
            words = match["words"].replace("''", "'")
            return words if archive.standard_strings else words.replace("\\\\", "\\")
    return None


def _owner(archive: Archive) -> str:
    return next((entry.owner for entry in archive.entries if entry.kind == "DATABASE"), "")


def _statements(archive: Archive, plan: Plan) -> list[str]:
    """Return what is said of the database; its comment comes with the swap, as a sibling has one of its own."""
    kinds = {"COMMENT"} if plan.way != "empty" else set()
    if plan.options.roles == "skip":
        kinds |= {"ACL"}
    return [
        statement
        for entry in statements.of_database(archive)
        if entry.kind not in kinds
        for statement in statements.parts(entry.definition)
        if not _names(entry, statement, plan.roles_absent)
    ]


def _names(entry: Entry, statement: str, absent: Collection[str]) -> bool:
    """Tell whether a statement of an entry is for a role that isn't there."""
    return bool(absent) and bool(statements.grantees_of(statement, absent)) and entry.kind != "COMMENT"

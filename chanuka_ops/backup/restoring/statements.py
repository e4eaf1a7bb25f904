"""What pg_dump and pg_dumpall write of roles and of the database itself, statement by statement. Pure.

These are the parts that can't be replayed as they stand: a restored database may have another name than its source had,
and a role is made without its password.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from chanuka_ops.backup import rules
from chanuka_ops.backup.restoring.archive import Archive, Entry
from chanuka_ops.backup.restoring.entries import split

# comments and psql's own commands; literals and names, in which anything may stand; the end; all else
_TOKEN = re.compile(r"""(--[^\n]*|^\\[^\n]*)|('(?:[^']|'')*')|("(?:[^"]|"")*")|(;)|([^'";\\-]+|[-\\])""", re.MULTILINE)
NAME = r"""(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)"""
_DATABASE = re.compile(rf"\b(?P<before>DATABASE\s+)(?P<name>{NAME})")
_TABLESPACE = re.compile(rf" TABLESPACE = {NAME}")
_LOCALE = re.compile(r" (?:LOCALE_PROVIDER|LOCALE|LC_COLLATE|ICU_LOCALE) = .*$")
_GRANTEES = re.compile(rf"\b(?:TO|FROM|FOR ROLE|FOR|ROLE|AUTHORIZATION|BY)\s+(?P<names>{NAME}(?:\s*,\s*{NAME})*)")
_ROLE = re.compile(rf"^(?:CREATE ROLE|ALTER ROLE|COMMENT ON ROLE)\s+(?P<name>{NAME})")
_MEMBER = re.compile(rf"^GRANT\s+(?P<role>{NAME})\s+TO\s+(?P<member>{NAME})")
_PASSWORD = re.compile(r"\s+PASSWORD\s+'(?:[^']|'')*'")
_SUPERUSER = re.compile(r"\bSUPERUSER\b")
_NAMES_ROLES = frozenset({"ACL", "DEFAULT ACL", "POLICY", "USER MAPPING", "DATABASE PROPERTIES"})


def parts(script: str) -> Iterator[str]:
    r"""Split a script into its statements, without comments.

    >>> list(parts("-- it's\nCREATE ROLE a;\n\nCOMMENT ON ROLE a IS ';--';\n"))
    ['CREATE ROLE a', "COMMENT ON ROLE a IS ';--'"]
    """
    words: list[str] = []
    for comment, literal, quoted, end, other in _TOKEN.findall(script):
        if end:
            yield from filter(None, ["".join(words).strip()])
            words = []
        elif not comment:
            words.append(literal or quoted or other)
    yield from filter(None, ["".join(words).strip()])


def for_database(statement: str, source: str, quoted: str) -> str | None:
    """Write a statement about the source's database for one of another name, `quoted`; None where it isn't about it.

    >>> for_database("COMMENT ON DATABASE a IS 'DATABASE a'", "a", "c")
    "COMMENT ON DATABASE c IS 'DATABASE a'"
    """
    match = _DATABASE.search(statement)
    if match is None or split(match["name"]) != (source,):
        return None
    return f"{statement[: match.start()]}{match['before']}{quoted}{statement[match.end() :]}"


def creation(statement: str, *, tablespace: bool, locale: bool) -> str:
    """Leave out of a CREATE DATABASE what the server doesn't have: the tablespace, the locale (never the encoding)."""
    statement = statement if tablespace else _TABLESPACE.sub("", statement)
    return statement if locale else _LOCALE.sub("", statement)


def owners(entries: Iterable[Entry]) -> set[str]:
    """Return the roles that own something of these."""
    return {entry.owner for entry in entries if entry.owner}


def grantees(entries: Iterable[Entry], known: Collection[str]) -> set[str]:
    """Return which of the known roles are named by grants, policies, default privileges and settings."""
    return {name for entry in entries for name in named(entry, known)}


def named(entry: Entry, known: Collection[str]) -> set[str]:
    """Return which of the known roles an entry names beside its owner."""
    if entry.kind not in _NAMES_ROLES:
        return set()
    return {name for statement in parts(entry.definition) for name in grantees_of(statement, known)}


def grantees_of(statement: str, known: Collection[str]) -> set[str]:
    """Return which of the known roles a statement names.

    >>> sorted(grantees_of("CREATE POLICY p ON t TO a, b USING (v = ' TO d')", {"a", "b", "d", "e"}))
    ['a', 'b']
    """
    bare = re.sub(r"'(?:[^']|'')*'", "''", statement)
    found = {split(name)[0] for match in _GRANTEES.finditer(bare) for name in re.findall(NAME, match["names"])}
    return found & set(known)


def roles(script: str) -> dict[str, list[str]]:
    """Return the roles of pg_dumpall's script by name, with the statements that make each: without its password.

    None is made a superuser: that is given by a person.
    """
    found: dict[str, list[str]] = {}
    for statement in parts(rules.without_grantors(script)):
        match = _ROLE.match(statement)
        if match is None:
            continue
        made = found.setdefault(split(match["name"])[0], [])
        if " IN DATABASE " not in statement:
            made.append(_SUPERUSER.sub("NOSUPERUSER", _PASSWORD.sub("", statement)))
    return found


def memberships(script: str, made: Collection[str]) -> list[str]:
    """Return the grants of roles to the roles that are made."""
    found = []
    for statement in parts(rules.without_grantors(script)):
        match = _MEMBER.match(statement)
        if match is not None and split(match["member"])[0] in made:
            found.append(statement)
    return found


def superusers(script: str) -> set[str]:
    """Return the source's superusers."""
    return {
        split(match["name"])[0]
        for statement in parts(script)
        if (match := _ROLE.match(statement)) and _SUPERUSER.search(statement)
    }


def of_database(archive: Archive) -> tuple[Entry, ...]:
    """Return what an archive says of its database, but the statement that makes it."""
    return tuple(entry for entry in archive.entries if entry.of_database and entry.kind != "DATABASE")

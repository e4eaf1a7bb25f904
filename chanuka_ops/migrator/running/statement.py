"""What one statement is, as far as its text tells: what a rerun has to know of it. Pure.

A text that isn't understood counts as the kind that asks a person, never as one that is left out or run twice.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["always", "read", "change", "build_index", "drop_index", "detach", "upkeep", "control", "opaque"]
"""always: of the session, to be run each time. read: a query. change: can be part of a transaction, so whether it was
committed can be proven. build_index, drop_index, detach: CONCURRENTLY, settled by a look. upkeep: VACUUM and the like,
harmless to do again. control: BEGIN, COMMIT … as text. opaque: nothing can be known of it afterwards.
"""

SHOWN = 160
REMEMBERED = 16  # statements
_LITERAL = re.compile(r"(?:\b[eE])?'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_LITERAL_OR_BLANK = re.compile(r"((?:\b[eE])?'(?:[^']|'')*'|\$(\w*)\$.*?\$\2\$)|(?:\s|--[^\n]*|/\*.*?\*/)+", re.DOTALL)
_WORDS = re.compile(r"[a-z_]+")
_NAME = r'((?:"[^"]+"|[\w$]+)(?:\.(?:"[^"]+"|[\w$]+))?)'

_ALWAYS = {
    "set", "reset", "show", "lock", "listen", "unlisten", "notify", "prepare", "deallocate", "declare", "fetch", "move",
    "close", "discard", "load", "savepoint", "release", "explain",
}  # fmt: skip
_CONTROL = {"begin", "commit", "end", "rollback", "abort", "start"}
_CHANGE = {
    "insert", "update", "delete", "merge", "truncate", "comment", "grant", "revoke", "refresh", "alter", "create",
    "drop", "security", "import", "reassign", "copy",
}  # fmt: skip
_UPKEEP = {"vacuum", "analyze", "analyse", "checkpoint", "cluster", "reindex"}
_APART = {"database", "tablespace", "system", "subscription"}  # not in a transaction, and seen in no one catalogue
_CONTROL_WITHIN = re.compile(r";\s*(?:begin|commit|end|rollback|abort|start\s+transaction)\b", re.IGNORECASE)
_MAY_COMMIT = re.compile(r"\b(?:commit|rollback|call)\b", re.IGNORECASE)
_TEMPORARY = re.compile(
    rf"^\s*create\s+(?:(?:global|local)\s+)?temp(?:orary)?\s+(?:table|view|sequence)\s+(?:if\s+not\s+exists\s+)?{_NAME}",
    re.IGNORECASE,
)
_TARGET = re.compile(
    rf"^\s*(?:insert\s+into|update|delete\s+from|truncate(?:\s+table)?|(?:alter|drop)\s+table(?:\s+if\s+exists)?"
    rf"|create\s+(?:unique\s+)?index\s+.*?\bon|merge\s+into|copy)\s+(?:only\s+)?{_NAME}",
    re.IGNORECASE | re.DOTALL,
)
# What a revision may make use of: rows that come back, also from a WITH that changes and ends in a SELECT.
_ANSWERS = re.compile(r"\breturning\b|^with\b(?!.*\)\s*(?:insert|update|delete|merge)\b)", re.IGNORECASE | re.DOTALL)
_BUILD = re.compile(
    rf"^\s*create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?(?!on\s){_NAME}\s+on\s+(?:only\s+)?{_NAME}",
    re.IGNORECASE,
)
_DROP = re.compile(
    rf"^\s*drop\s+index\s+concurrently\s+(?:if\s+exists\s+)?{_NAME}\s*(?:cascade|restrict)?\s*$", re.IGNORECASE
)
_DETACH = re.compile(
    rf"^\s*alter\s+table\s+(?:if\s+exists\s+)?{_NAME}\s+detach\s+partition\s+{_NAME}\s+concurrently\s*$", re.IGNORECASE
)


_CONCURRENT: dict[Kind, re.Pattern[str]] = {"build_index": _BUILD, "drop_index": _DROP, "detach": _DETACH}
_CHANGING = {"insert", "update", "delete", "merge"}
_SIMPLE: dict[str, Kind] = {
    **dict.fromkeys(_ALWAYS, "always"),
    **dict.fromkeys(_UPKEEP, "upkeep"),
    **dict.fromkeys(("select", "values", "table"), "read"),
}


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement read. `object` is the index or partition that a look has to find, `table` what it belongs to."""

    kind: Kind
    fingerprint: str
    shown: str
    answers: bool = False
    object: str = ""
    table: str = ""
    temporary: str = ""

    @property
    def alone(self) -> bool:
        """Whether it can't be part of a transaction, so that its end has to be written down."""
        return self.kind in {"build_index", "drop_index", "detach", "upkeep", "opaque"}


def read(sql: str, parameters: Any = None, temporary: frozenset[str] = frozenset()) -> Statement:
    """Read a statement. `temporary` are the session's own tables, made earlier: they have to be filled each time."""
    found = _read(sql, temporary)
    return replace(found, fingerprint=fingerprint(sql, parameters)) if parameters else found


@functools.lru_cache(maxsize=REMEMBERED)  # each observer reads it
def _read(sql: str, temporary: frozenset[str]) -> Statement:
    bare = _bare(sql)
    masked = _LITERAL.sub("''", bare)
    made = _TEMPORARY.match(masked)
    found = _TARGET.match(masked)
    print_ = fingerprint(sql)
    shown = masked if len(masked) <= SHOWN else masked[: SHOWN - 1] + "…"
    if made or (found and _plain(found[1]) in temporary):
        return Statement("always", print_, shown, temporary=_plain(made[1]) if made else "")
    kind = _kind(masked)
    if masked.lower().startswith("do ") and not _MAY_COMMIT.search(bare):
        kind = "change"
    match = _CONCURRENT[kind].match(masked) if kind in _CONCURRENT else None
    if kind == "build_index" and match:
        return Statement(kind, print_, shown, object=_qualified(match[1], match[2]), table=match[2])
    if kind == "drop_index" and match:
        return Statement(kind, print_, shown, object=match[1])
    if kind == "detach" and match:
        return Statement(kind, print_, shown, object=match[2], table=match[1])
    answers = kind == "change" and _ANSWERS.search(masked) is not None
    return Statement(kind, print_, shown, answers=answers)


def fingerprint(sql: str, parameters: Any = None) -> str:
    """Return the SHA-256 of a statement with its values, whatever its blanks and comments.

    >>> fingerprint("select  1 -- one") == fingerprint("select 1")
    True
    """
    values = repr(parameters) if parameters else ""
    return hashlib.sha256(f"{_bare(sql)}\0{values}".encode()).hexdigest()


@functools.lru_cache(maxsize=REMEMBERED)
def _bare(sql: str) -> str:
    """Drop comments and fold blanks, except within literals."""
    return _LITERAL_OR_BLANK.sub(lambda found: found[0] if found[1] else " ", sql).strip().rstrip("; ")


def _kind(masked: str) -> Kind:
    words = _WORDS.findall(masked.lower())
    first = words[0] if words else ""
    kind: Kind = "opaque"
    if first in _CONTROL:
        kind = "control"
    elif _CONTROL_WITHIN.search(masked):
        kind = "opaque"
    elif first in _SIMPLE:
        kind = _SIMPLE[first]
    elif first == "with":
        kind = "read" if _CHANGING.isdisjoint(words) else "change"
    elif first in _CHANGE and not (first in {"create", "alter", "drop"} and not _APART.isdisjoint(words[1:2])):
        kind = "change" if "concurrently" not in words or first == "refresh" else _concurrent(masked)
    return kind


def _concurrent(masked: str) -> Kind:
    for kind, pattern in _CONCURRENT.items():
        if ";" not in masked and pattern.match(masked):
            return kind
    return "opaque"


def _plain(name: str) -> str:
    return name.replace('"', "").rpartition(".")[2].lower()


def _qualified(index: str, table: str) -> str:
    """Put an index into its table's schema, where it is made."""
    schema, dot, _ = table.rpartition(".")
    return f"{schema}{dot}{index}"

"""The nouns of lint."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from chanuka_ops.migrator.lint.tree import Node

Severity = Literal["danger", "caution", "style"]
SEVERITIES: tuple[Severity, ...] = ("danger", "caution", "style")
Direction = Literal["up", "down"]


class Mode(IntEnum):
    """PostgreSQL's lock modes on a relation, the weaker before the stronger."""

    NONE = 0
    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def words(self) -> str:
        """The mode as PostgreSQL's documentation writes it."""
        return self.name.replace("_", " ")

    @property
    def blocks(self) -> str:
        """What waits for it: "" nothing, "w" writes, "rw" reads too."""
        return "rw" if self is Mode.ACCESS_EXCLUSIVE else "w" if self >= Mode.SHARE else ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: what it says (`says` is filled with the object and the detail), why, what to do instead, where to read.

    `lock` is the mode that is held meanwhile, `work` what grows with the data: scan, rewrite, build, fails, or nothing.
    """

    id: str
    severity: Severity
    says: str
    why: str
    safer: str
    docs: str
    lock: Mode = Mode.NONE
    work: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a script. `node` is None for what is no SQL (a command of psql). `line` counts from 1.

    `managed`: it stands in a transaction that the tool opens and ends, as in a revision.
    """

    sql: str
    line: int
    node: Node | None = None
    section: int = 0
    managed: bool = False
    command: str | None = None
    allows: tuple[Waiver, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiver:
    """A finding that somebody answers for. `until` is the last day it holds; `fault` is why it is none."""

    rule: str
    line: int
    until: dt.date | None = None
    reason: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has found. `line` counts from 1 in the script, or in the revision's file."""

    rule: Rule
    severity: Severity
    statement: str
    line: int
    object: str
    message: str
    revision: str | None = None
    direction: Direction | None = None
    waived: Waiver | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `migrate lint`."""
        return {
            "rule": self.rule.id,
            "severity": self.severity,
            "statement": self.statement,
            "line": self.line,
            "object": self.object,
            "message": self.message,
            "safer": self.rule.safer,
            "docs": self.rule.docs,
            "lock": self.rule.lock.words if self.rule.lock else None,
            "revision": self.revision,
            "direction": self.direction,
            "waived_until": self.waived.until.isoformat() if self.waived and self.waived.until else None,
            "waiver_reason": self.waived.reason if self.waived else None,
        }


@dataclass(frozen=True, slots=True)
class Source:
    """Where a text came from: a file's path, or a revision's, and which way it goes."""

    path: str
    revision: str | None = None
    direction: Direction | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All of one run. `against` says what was known of the database."""

    findings: tuple[tuple[Source, Finding], ...] = ()
    against: str = "no database: the script alone"
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = field(default=())

    def worst(self) -> Severity | None:
        """Return the heaviest severity that no waiver answers for."""
        left = {finding.severity for _, finding in self.findings if finding.waived is None}
        return next((severity for severity in SEVERITIES if severity in left), None)

    def counts(self) -> dict[str, int]:
        """Return how many findings of each severity count, and how many are waived."""
        counted: dict[str, int] = dict.fromkeys([*SEVERITIES, "waived"], 0)
        for _, finding in self.findings:
            counted["waived" if finding.waived else finding.severity] += 1
        return counted

    def to_json(self) -> dict[str, Any]:
        """Return the document of `migrate lint`."""
        return {
            "findings": [{**finding.to_json(), "file": source.path} for source, finding in self.findings],
            "counts": self.counts(),
            "against": self.against,
            "notes": list(self.notes),
        }

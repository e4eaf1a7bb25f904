"""What a face shows of a database: its report, when it was looked at, and by which limits. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from chanuka_ops.health.model import CheckResult, Finding, HealthReport, Limits, Status

REACHABLE = "server.reachable"
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format, lone surrogates, line and paragraph separators


@dataclass(frozen=True, slots=True)
class Seen:
    """One database's report. `at` is when the look ended, aware; `limits` are those in force, by check."""

    report: HealthReport
    at: datetime
    limits: Mapping[str, Limits] = field(default_factory=dict)

    @property
    def database(self) -> str:
        """The database's name in the settings."""
        return self.report.database

    @property
    def up(self) -> bool | None:
        """Whether the server answered; None where that wasn't asked (`--only`)."""
        status = next((result.status for result in self.report.checks if result.check == REACHABLE), None)
        return None if status is None else status is not Status.CRITICAL

    @property
    def judged(self) -> int:
        """How many checks could be judged: all but those that are unknown, or have nothing to compare with yet."""
        unknown = sum(result.status is Status.UNKNOWN for result in self.report.checks)
        return len(self.report.checks) - unknown - sum(map(len, noted(self.report).values()))

    @property
    def coverage(self) -> str:
        """What share of the checks could be judged, in words."""
        return f"{self.judged} of {len(self.report.checks)} checks could be judged"


def listed(report: HealthReport) -> list[Finding]:
    """Return what there is to say, worst first: the findings, and each check that could not look at all."""
    found = [finding for finding in report.findings if finding.status is not Status.OK]
    told = {finding.check for finding in found if finding.status is Status.UNKNOWN}
    blind = [_blind(result) for result in report.checks if result.status is Status.UNKNOWN and result.check not in told]
    return sorted([*found, *blind], key=lambda finding: -finding.status.rank)


def noted(report: HealthReport) -> dict[str, list[str]]:
    """Return the checks that looked and could not judge, by the reason: there is no baseline yet, for one."""
    found: dict[str, list[str]] = {}
    for result in report.checks:
        if result.reason and result.status is Status.INFO and not result.findings and result.value is None:
            found.setdefault(result.reason, []).append(result.check)
    return found


def _blind(result: CheckResult) -> Finding:
    """Say of a check that it could not look; its reason has the cure."""
    reason = result.reason or "it could not look"
    return Finding(result.check, Status.UNKNOWN, None, None, "", None, reason, "")


def subject(check: str) -> str:
    """Return a check's subject, its id's first word.

    >>> subject("lock.ddl_queue")
    'lock'
    """
    return check.partition(".")[0]


def shown(text: str) -> str:
    r"""Write a name so that it stays on its line, and shows what would hide or reorder it.

    >>> shown("bills\nnext\u202egnp")
    'bills\\u000anext\\u202egnp'
    """
    return "".join(f"\\u{ord(char):04x}" if unicodedata.category(char) in _HIDDEN else char for char in text)


def cut(text: str, most_chars: int) -> str:
    """Shorten a text, and show that it was.

    >>> cut("public.bills", 8)
    'public.…'
    """
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"

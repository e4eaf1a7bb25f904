"""How health is told to a person: by subject, the worst first, then what is unknown and its cure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.padding import Padding
from rich.text import Text

from chanuka_ops.cli.face import Face
from chanuka_ops.cli.showing import styled
from chanuka_ops.health.exporting.model import Seen, listed, noted, shown, subject
from chanuka_ops.health.model import Finding, Status

MOST_OF_A_CHECK = 10  # more of the same tell no more; --json and the report have all
_INDENT = 12


def described(face: Face, seen: Seen) -> None:
    """Print one database's findings, what could not be judged, and the sum of it."""
    found = listed(seen.report)
    known = [finding for finding in found if finding.status is not Status.UNKNOWN]
    face.say(
        f"Findings on {shown(seen.database)}, worst first" if known else f"Findings on {shown(seen.database)}: none"
    )
    for heading, group in _by_subject(known):
        face.out.print(Text(f"\n{heading}", style="bold"))
        _lines(face, group)
    blind = [finding for finding in found if finding.status is Status.UNKNOWN]
    if blind:
        face.out.print(Text("\nunknown: could not be judged, and what would cure it", style="bold"))
        _lines(face, blind)
    notes = noted(seen.report)
    if notes:
        face.out.print(Text("\nnot judged", style="bold"))
        for reason, checks in notes.items():
            face.say(f"  {', '.join(checks)}: {shown(reason)}")
    face.say(f"\n{seen.report.status}: {_judged(seen)}, in {seen.report.seconds} s")


def listing(face: Face, seen: Sequence[Seen]) -> None:
    """Print a line for each database, the worst first."""
    rows = [
        (
            shown(one.database),
            one.report.status,
            *(_count(one, status) for status in (Status.CRITICAL, Status.WARNING, Status.UNKNOWN)),
            f"{one.judged} of {len(one.report.checks)}",
            one.report.server_version or "no answer",
        )
        for one in sorted(seen, key=lambda each: (-each.report.status.rank, each.database))
    ]
    face.table("Databases", ("database", "status", "critical", "warning", "unknown", "judged", "server"), rows)


def _judged(seen: Seen) -> str:
    return f"{seen.judged} of {len(seen.report.checks)} checks judged"


def _count(seen: Seen, status: Status) -> int:
    return sum(finding.status is status for finding in listed(seen.report))


def _by_subject(findings: Iterable[Finding]) -> list[tuple[str, list[Finding]]]:
    """Group by the ids' first word: the group with the worst finding first, and so within it."""
    ordered = sorted(findings, key=lambda f: subject(f.check))
    groups = [
        (heading, sorted(group, key=lambda f: (-f.status.rank, f.check)))
        for heading, group in groupby(ordered, key=lambda f: subject(f.check))
    ]
    return sorted(groups, key=lambda item: -item[1][0].status.rank)


def _lines(face: Face, findings: Iterable[Finding]) -> None:
    for check, group in groupby(findings, key=lambda f: f.check):
        of_it = list(group)
        for finding in of_it[:MOST_OF_A_CHECK]:
            _finding(face, finding)
        if len(of_it) > MOST_OF_A_CHECK:
            face.say(f"{'':{_INDENT}}and {len(of_it) - MOST_OF_A_CHECK} more of {check}: see --json")


def _finding(face: Face, finding: Finding) -> None:
    """Print a finding in a line, and its remedy below."""
    status = styled(str(finding.status))
    status.pad_right(_INDENT - 2 - len(status))
    name = f"  {shown(finding.object)}" if finding.object else ""
    face.out.print(Text.assemble("  ", status, f"{finding.check}{name}: {shown(finding.summary)}"))
    if finding.remedy:
        lines = "\n".join(shown(line) for line in finding.remedy.splitlines())
        face.out.print(Padding(Text(lines, style="dim"), (0, 0, 0, _INDENT), expand=False))

"""One line and an exit code, as Nagios and its heirs read a plugin. Pure.

`WORD - what | performance data`: https://nagios-plugins.org/doc/guidelines.html
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chanuka_ops.health.exporting.model import Seen, cut, listed, shown
from chanuka_ops.health.model import Finding, Limits, Status, worst

UNKNOWN_CODE = 3
MOST_FINDINGS = 5  # a pager shows no more; --json and the report have all
MOST_WORDS_CHARS = 120
# Agents pass on a few kilobytes and cut the rest off in the middle of a number
MOST_TEXT_CHARS, MOST_DATA_CHARS = 1500, 6000

_CODES = {Status.OK: 0, Status.INFO: 0, Status.WARNING: 1, Status.CRITICAL: 2, Status.UNKNOWN: UNKNOWN_CODE}
_COUNTED = (Status.CRITICAL, Status.UNKNOWN, Status.WARNING, Status.INFO)
_UNITS = {"%": "%", "s": "s", "ms": "ms", "bytes": "B"}  # all that the guidelines know and we measure in


@dataclass(frozen=True, slots=True)
class Answer:
    """What a plugin says: one line without its newline, and 0 ok, 1 warning, 2 critical or 3 unknown."""

    line: str
    code: int


def answer(seen: Sequence[Seen]) -> Answer:
    """Put one database's or several databases' health into a line; the worst of them decides.

    Info is Nagios's OK. Critical stands above unknown, and unknown above warning.
    """
    status = worst(one.report.status for one in seen)
    word = "OK" if status is Status.INFO else str(status).upper()
    found = sorted(
        ((one, finding) for one in seen for finding in listed(one.report)), key=lambda item: -item[1].status.rank
    )
    text = f"{word} - {_head(seen, [finding for _, finding in found])}"
    told = [(one, finding) for one, finding in found if finding.status is not Status.INFO]  # info is counted, no more
    items = [_item(finding, one.database if len(seen) > 1 else "") for one, finding in told[:MOST_FINDINGS]]
    if items:
        text += f": {'; '.join(items)}"
    if len(told) > len(items):
        text += f"; and {len(told) - len(items)} more"
    return Answer(f"{cut(_plain(text), MOST_TEXT_CHARS)} | {_data(seen)}", _CODES[status])


def failed(words: str) -> Answer:
    """Say that nothing could be looked at: a plugin's own trouble is unknown, whatever our exit code would be."""
    return Answer(f"UNKNOWN - {cut(_plain(words), MOST_TEXT_CHARS)}", UNKNOWN_CODE)


def _head(seen: Sequence[Seen], found: Iterable[Finding]) -> str:
    tally = [finding.status for finding in found]
    counts = [f"{tally.count(status)} {status}" for status in _COUNTED if status in tally]
    whom = seen[0].database if len(seen) == 1 else f"{len(seen)} databases"
    judged, checks = sum(one.judged for one in seen), sum(len(one.report.checks) for one in seen)
    return f"{whom}: {', '.join(counts) or f'{judged} of {checks} checks could be judged'}"


def _item(finding: Finding, database: str) -> str:
    words = [database, finding.check, cut(finding.object or "", MOST_WORDS_CHARS)]
    words.append(cut(finding.summary, MOST_WORDS_CHARS) if finding.value is None else _measured(finding))
    return " ".join(word for word in words if word)


def _measured(finding: Finding) -> str:
    number = f"{finding.value:.10g}"
    return f"{number} {finding.unit}".strip()


def _plain(text: str) -> str:
    """Keep a text on its line and out of the performance data, which begins at the first pipe."""
    return shown(" ".join(text.split())).replace("|", "\u00a6")


def _data(seen: Sequence[Seen]) -> str:
    """Write the performance data: counts first, then each check's worst number; whole items only."""
    items = [item for one in seen for item in _counts(one, f"{one.database}/" if len(seen) > 1 else "")]
    items += [item for one in seen for item in _values(one, f"{one.database}/" if len(seen) > 1 else "")]
    kept, length = [], 0
    for item in items:
        length += len(item) + 1
        if length > MOST_DATA_CHARS:
            break
        kept.append(item)
    return " ".join(kept)


def _counts(one: Seen, prefix: str) -> list[str]:
    tally = [finding.status for finding in listed(one.report)]
    counts = [f"{_label(prefix + str(status))}={tally.count(status)};;;0" for status in _COUNTED]
    checks = f"{_label(prefix + 'judged')}={one.judged};;;0;{len(one.report.checks)}"
    return [*counts, checks, f"{_label(prefix + 'time')}={_number(one.report.seconds)}s;;;0"]


def _values(one: Seen, prefix: str) -> list[str]:
    return [
        f"{_label(prefix + result.check)}={_number(result.value)}{_UNITS.get(result.unit, '')}"
        f"{_limits(one.limits.get(result.check, Limits()))}"
        for result in one.report.checks
        if result.value is not None
    ]


def _limits(limits: Limits) -> str:
    """Write warning and critical, empty where there is none; nothing where there is neither."""
    first, second = (_number(limit) if limit is not None else "" for limit in (limits.first, limits.second))
    return f";{first};{second}".rstrip(";")


def _label(name: str) -> str:
    """Quote a label; the format has no way to write a quote, and no plugin's reader forgives an equals sign."""
    safe = "".join("_" if char in "'=|" or char.isspace() else char for char in shown(name))
    return f"'{safe}'"


def _number(value: float) -> str:
    """Write a number as the guidelines have it: digits, a point, a sign; U where there is none.

    >>> [_number(n) for n in (97.3, 1e15, 0.000004, float("inf"))]
    ['97.3', '1000000000000000', '0.000004', 'U']
    """
    if not math.isfinite(value):
        return "U"
    return f"{value:.6f}".rstrip("0").rstrip(".")

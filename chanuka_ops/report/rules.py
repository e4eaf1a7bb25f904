"""What the page says first, how its numbers are written, where its bars stand: pure."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from chanuka_ops.report.model import AdviceRow, FindingRow, Health, Proof, Report, Step

TIERS = ("taken", "verified", "proven")
TONES: Mapping[str, str] = {
    **dict.fromkeys(("ok", "done", "applied", "proven", "passed", "success", "equal", "resolved"), "good"),
    **dict.fromkeys(("info", "skipped", "dry_run", "refused", "advised", "style", "silenced"), "info"),
    **dict.fromkeys(("warning", "lock_timeout", "gone", "verified", "taken", "caution", "pending"), "warn"),
    **dict.fromkeys(("critical", "failed", "error", "differs", "danger", "firing"), "bad"),
}
_GRAVITY = ("bad", "unknown", "warn", "info", "good")
_WORD = {"bad": "critical", "unknown": "unknown", "warn": "warning", "info": "info", "good": "ok"}
_STATUS_ORDER = ("critical", "unknown", "warning", "info", "ok")

NOT_KNOWN = "\u2013"
_KIB = 1024
_MINUTE_S = 60
_MOST_TICKS = 6
_NARROWEST_BAR_PERCENT = 0.6  # what took no time is still to be seen


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first thing read: a tone for the colour, a word for those who see none, one sentence, and some lines."""

    tone: str
    status: str
    headline: str
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Todo:
    """One thing to do, the gravest first."""

    tone: str
    status: str
    what: str
    object: str | None
    how: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One step in the chart: positions in percent of the whole."""

    step: Step
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Steps over time. `ticks` are (percent, label)."""

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    total_s: float


def tone(status: str) -> str:
    """Return the tone of a status; what isn't known here is unknown, never good."""
    return TONES.get(status.lower(), "unknown")


def worst_tone(report: Report) -> str:
    """Return the gravest tone of all parts: the page never looks better than the worst of what it holds."""
    tones = [tone(report.status), *(tone(step.status) for step in report.steps)]
    if report.health is not None:
        tones += [tone(report.health.status), *(tone(row.status) for row in report.health.findings)]
        tones += ["unknown"] if report.health.checks_unknown else []
    if report.proof is not None:
        tones.append("bad" if _differs(report.proof) else tone(report.proof.tier))
    return min(tones, key=_GRAVITY.index)


def verdict(report: Report) -> Verdict:
    """Say in one sentence how things stand."""
    failed = [step.name for step in report.steps if tone(step.status) == "bad"]
    gravest = worst_tone(report)
    if failed:
        headline = f"Failed: {', '.join(failed)}"
    elif report.proof is not None and _differs(report.proof):
        headline = "The restored copy does not hold the source's data"
    else:
        headline = {
            "bad": "Something needs attention now",
            "unknown": "Something could not be looked at",
            "warn": "It works; something wants attention soon",
        }.get(gravest, "All is well")
    # The run's own word, unless a part of it is graver: a green word in a red box would be believed by somebody.
    status = report.status if tone(report.status) == gravest else _WORD[gravest]
    return Verdict(gravest, status, headline, tuple(_facts(report)))


def _differs(proof: Proof) -> bool:
    return bool(proof.mismatches) or any(not table.equal for table in proof.tables)


def _facts(report: Report) -> Iterable[str]:
    proof = report.proof
    if proof is None:
        yield "No backup was taken in this run."
    elif _differs(proof):
        yield f"Backup {proof.backup_id} is not to be relied on: see the differences below."
    elif proof.tier == "proven":
        yield (
            f"Backup {proof.backup_id} is proven: a copy restored from it held the same"
            f" {count(proof.rows_compared)} rows in {count(proof.tables_compared)} tables as the source."
        )
        if proof.coverage is not None and proof.coverage < 1:
            yield f"Only {proof.coverage:.1%} of the tables could be compared."
    else:
        yield f"Backup {proof.backup_id} is {proof.tier}, not proven: no restored copy of it was compared yet."
    if report.health is None:
        yield "Health was not checked in this run."
    else:
        yield _health_fact(report.health)


def _health_fact(health: Health) -> str:
    found = counts(health)
    words = [
        f"{count(number)} {'warnings' if status == 'warning' and number > 1 else status}"
        for status, number in found
        if status not in {"ok", "info", "unknown"}
    ]
    unseen = f"; {count(health.checks_unknown)} could not look" if health.checks_unknown else ""
    return f"Health: {', '.join(words) or 'nothing of concern'} in {count(health.checks_judged)} checks{unseen}."


def counts(health: Health) -> list[tuple[str, int]]:
    """Return how many findings there are of each status, the gravest first; as stated, else as counted."""
    tally = dict(health.counts)
    if not tally:
        for row in health.findings:
            tally[row.status] = tally.get(row.status, 0) + 1
    known = [(status, tally[status]) for status in _STATUS_ORDER if tally.get(status)]
    return known + sorted((status, n) for status, n in tally.items() if status not in _STATUS_ORDER and n)


def todos(report: Report) -> list[Todo]:
    """Return what a person should do, the gravest first; information alone asks for nothing."""
    found = [
        Todo(tone(step.status), step.status, f"Step {step.name} ended {step.status}", None, step.detail)
        for step in report.steps
        if tone(step.status) in {"bad", "unknown"}
    ]
    if report.proof is not None:
        found += [
            Todo("bad", "differs", mismatch, None, "Don't rely on this backup. Take and drill another.")
            for mismatch in report.proof.mismatches
        ]
    if report.health is not None:
        found += [
            Todo(tone(row.status), row.status, row.summary, row.object, row.remedy)
            for row in report.health.findings
            if tone(row.status) in {"bad", "unknown", "warn"}
        ]
    return sorted(found, key=lambda todo: _GRAVITY.index(todo.tone))


def findings(health: Health) -> list[FindingRow]:
    """Return the findings, the gravest first."""
    return sorted(health.findings, key=lambda row: (_GRAVITY.index(tone(row.status)), row.check, row.object or ""))


def waiting(advice: Iterable[AdviceRow]) -> list[AdviceRow]:
    """Return the advice that was not carried out."""
    return [row for row in advice if row.outcome != "applied"]


def chart(steps: tuple[Step, ...]) -> Chart:
    """Lay the steps out over time, one line each."""
    starts: list[float] = []
    end = 0.0
    for step in steps:
        start = end if step.started_s is None else max(0.0, step.started_s)
        starts.append(start)
        end = start + max(0.0, step.seconds)
    total = max((start + max(0.0, step.seconds) for start, step in zip(starts, steps, strict=True)), default=0.0)
    scale = 100 / total if total > 0 else 0.0
    bars = []
    for start, step in zip(starts, steps, strict=True):
        width = min(100.0, max(_NARROWEST_BAR_PERCENT, max(0.0, step.seconds) * scale))
        bars.append(Bar(step, round(min(start * scale, 100 - width), 3), round(width, 3)))
    return Chart(tuple(bars), _ticks(total), total)


def _ticks(total: float) -> tuple[tuple[float, str], ...]:
    """Mark round seconds, six at most."""
    if total <= 0:
        return ()
    magnitude = 10 ** math.floor(math.log10(total / _MOST_TICKS))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if total / (magnitude * factor) < _MOST_TICKS)
    marks = [index * step for index in range(int(total / step) + 1)]
    return tuple((round(mark / total * 100, 3), f"{mark:g} s") for mark in marks)


def size(amount: int | None) -> str:
    """Write bytes for a person.

    >>> [size(n) for n in (0, 1023, 1536, -5 * 1024 ** 3)]
    ['0 B', '1023 B', '1.5 KiB', '-5.0 GiB']
    """
    if amount is None:
        return NOT_KNOWN
    number, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(number) < _KIB:
            break
        number, unit = number / _KIB, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def count(number: int | None) -> str:
    """Write a number with thin spaces between its thousands, as the SI has it.

    >>> count(1234567).replace(chr(0x202F), "_")
    '1_234_567'
    """
    return NOT_KNOWN if number is None else f"{number:,}".replace(",", "\u202f")


def seconds(amount: float | None) -> str:
    """Write a duration for a person.

    >>> [seconds(s) for s in (0.004, 1.234, 75.2, 3700)]
    ['4 ms', '1.23 s', '1 min 15 s', '61 min 40 s']
    """
    if amount is None:
        return NOT_KNOWN
    if amount < 1:
        return f"{amount * 1000:.0f} ms"
    if amount < _MINUTE_S:
        return f"{amount:.2f} s"
    return f"{int(amount // _MINUTE_S)} min {int(amount % _MINUTE_S)} s"


def quantity(value: float | str | None, unit: str) -> str:
    """Write a measured value with its unit; a ratio as it is, bytes as a size.

    >>> quantity(1048576, "bytes"), quantity(0.25, "ratio"), quantity(12345, "rows")[-4:]
    ('1.0 MiB', '0.25', 'rows')
    """
    if value is None or value == "":
        return NOT_KNOWN
    if isinstance(value, str):
        return f"{value} {unit}".strip()
    if unit in {"bytes", "B"}:
        return size(round(value))
    number = count(int(value)) if float(value).is_integer() else f"{value:.4g}"
    return f"{number}{unit}" if unit == "%" else f"{number} {'' if unit == 'ratio' else unit}".strip()


def utc(moment: datetime) -> str:
    """Write an aware time in UTC.

    >>> utc(datetime.fromisoformat("2026-11-28T12:00+02:00"))
    '2026-11-28 10:00:00 UTC'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def visible(text: str) -> str:
    r"""Show what would hide or reorder text: a name with a right-to-left override can't deceive.

    >>> visible("bills\u202egnp\x00")
    'bills\\u202egnp\\u0000'
    """
    hidden = {"Cc", "Cf", "Cs"}  # control, format, and lone surrogates, which no UTF-8 file can hold
    return "".join(
        f"\\u{ord(char):04x}" if char not in "\n\t" and unicodedata.category(char) in hidden else char for char in text
    )

"""A waiver: `-- lint: allow RULE until 2027-03-01: reason` before a statement, or `# lint: allow …` in a revision.

It answers for one rule until a day, for a reason. One without a reason, without a day, of an unknown rule or past its
day is a finding itself, and what it was for stays one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterator

from chanuka_ops.migrator.lint.model import Waiver

_MEANT = re.compile(r"^(?:--|#)+\s*lint\s*:\s*(?P<rest>.*)$", re.IGNORECASE | re.DOTALL)
_FORM = re.compile(
    r"^allow\s+(?P<rule>[\w:-]+)(?:\s+until\s+(?P<until>[^\s:]+))?\s*(?::\s*(?P<reason>.*))?$",
    re.IGNORECASE | re.DOTALL,
)
_SHAPE = "write `lint: allow RULE until YYYY-MM-DD: reason`"


def read_comment(comment: str, line: int) -> Waiver | None:
    """Return the waiver that a comment is, or is meant to be; None for any other comment."""
    meant = _MEANT.match(comment.strip())
    if meant is None:
        return None
    form = _FORM.match(meant["rest"].strip())
    if form is None:
        return Waiver("", line, fault=f"it isn't understood: {_SHAPE}")
    rule, reason = form["rule"], (form["reason"] or "").strip()
    until, fault = _day(form["until"])
    if not fault and not reason:
        fault = f"it has no reason: {_SHAPE}"
    return Waiver(rule, line, until, reason, fault)


def in_python(source: str) -> Iterator[Waiver]:
    """Yield the waivers of a revision's file: its comment lines."""
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("#"):
            found = read_comment(line, number)
            if found is not None:
                yield found


def judged(waiver: Waiver, *, today: dt.date, known: Collection[str]) -> Waiver:
    """Return the waiver with what is wrong with it on that day."""
    fault = waiver.fault
    if not fault and waiver.rule not in known and not waiver.rule.startswith("squawk:"):
        fault = f"there is no rule {waiver.rule!r}: see `chanuka-ops migrate lint --rules`"
    if not fault and waiver.until is not None and waiver.until < today:
        fault = f"it ended on {waiver.until}: look again, and renew it or take it out"
    return Waiver(waiver.rule, waiver.line, waiver.until, waiver.reason, fault)


def _day(text: str | None) -> tuple[dt.date | None, str]:
    if not text:
        return None, f"it has no day on which it ends: {_SHAPE}"
    try:
        return dt.date.fromisoformat(text), ""
    except ValueError:
        return None, f"{text!r} is no day: {_SHAPE}"

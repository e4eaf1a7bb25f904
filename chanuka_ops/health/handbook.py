"""docs/checks.md, written from the registry. Pure.

`python -m chanuka_ops.health.handbook > docs/checks.md`
"""

from __future__ import annotations

import inspect
import re
import sys
from itertools import groupby

from chanuka_ops.health.model import Check, Limits
from chanuka_ops.health.registry import CHECKS
from chanuka_ops.sql.catalog import OLDEST_MAJOR

_HEAD = """# Checks

`chanuka-ops health check` runs these. Written from the registry; `chanuka-ops health explain ID` says the same of one.

A finding of *info* is advice, *warning* something to do this week, *critical* something to do now. A check that could
not look is *unknown*, with what would cure that; *ok, a chart* is never an alarm. Every limit may be set by
`[operations.monitoring.thresholds]` in the configuration, every check switched off by `operations.monitoring.disabled`.
What a remedy says is for a person to run: nothing here changes a database.
"""


def handbook() -> str:
    """Return the document."""
    checks = sorted(CHECKS, key=lambda check: check.id)
    parts = [f"{_HEAD}\n{len(checks)} checks: {', '.join(_subjects(checks))}.\n"]
    for subject, group in groupby(checks, key=_subject):
        parts.append(f"\n## {subject}\n\n" + "\n".join(_entry(check) for check in group))
    return "".join(parts)


def _subject(check: Check) -> str:
    return check.id.split(".")[0]


def _subjects(checks: list[Check]) -> list[str]:
    return [f"[{subject}](#{subject})" for subject, _ in groupby(checks, key=_subject)]


def _entry(check: Check) -> str:
    facts = [
        "ok, a chart" if check.severity == "ok" else check.severity,
        f"scope {check.scope}",
        *([_limits(check)] if check.limits != Limits() else []),
        *([f"needs {', '.join(str(need) for need in check.needs)}"] if check.needs else []),
        *([f"since PostgreSQL {check.min_version}"] if check.min_version > OLDEST_MAJOR else []),
    ]
    reason = _reason(check)
    limits = f"**From where on.** {reason}\n\n" if reason else ""
    return (
        f"### {check.id}\n\n*{check.title}* · {' · '.join(facts)}\n\n"
        f"**Why.** {check.why}\n\n{limits}**What to do.** {check.remedy} ([docs]({check.link}))\n"
    )


def _reason(check: Check) -> str:
    """Return the comment above the constants that are a check's limits: their reason stands there, and only there."""
    source = inspect.getsource(sys.modules[check.rule.__module__])
    declared = re.search(rf'"{re.escape(check.id)}",.*?\n    \)', source, flags=re.DOTALL)
    named = re.search(r"limits=(?:Limits\(([^)]*)\)|(_\w+))", declared[0]) if declared else None
    if named is not None and named[2]:
        named = re.search(rf"^{named[2]} = Limits\(([^)]*)\)", source, flags=re.MULTILINE)
    first = named[1].split(",")[0].strip() if named else ""
    above = re.search(rf"((?:^# .*\n)+)(?:^[A-Z_]+ = .*\n)*?^{first} = ", source, flags=re.MULTILINE) if first else None
    return " ".join(line.removeprefix("# ") for line in above[1].splitlines()) if above else ""


def _limits(check: Check) -> str:
    numbers = [f"{limit:,.10g}" for limit in (check.limits.first, check.limits.second) if limit is not None]
    return f"from {', '.join(numbers)} {check.unit}".rstrip()


if __name__ == "__main__":
    sys.stdout.write(handbook())

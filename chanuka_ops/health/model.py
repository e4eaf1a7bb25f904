"""The nouns of a health check. Frozen, and without I/O.

A check reads rows with one named query, a pure rule turns the rows into findings, and the worst finding is the check's
status. A check that could not look is `unknown`, which no report may hide behind an `ok`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from chanuka_ops.health.words import CURES, Need, Scope, Status, worst

__all__ = [
    "CURES",
    "Case",
    "Check",
    "CheckResult",
    "Facts",
    "Finding",
    "HealthReport",
    "Limits",
    "Need",
    "Rates",
    "Row",
    "Rows",
    "Rule",
    "Scope",
    "Status",
    "Window",
    "worst",
]

Row = Mapping[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Facts:
    """What every rule may know of the server. `now` is the server's clock; `server_version` is 180006 for 18.6.

    `replicas` is how many the settings name.
    """

    now: datetime
    server_version: int
    database: str
    role: str = "postgres"
    standby: bool = False
    missing: frozenset[Need] = frozenset()
    settings: Mapping[str, str] = field(default_factory=dict)
    replicas: int = 0

    @property
    def major(self) -> int:
        """The major version, 18 for 18.6."""
        return self.server_version // 10000

    def number(self, setting: str, default: float = 0.0) -> float:
        """Return a numeric server setting in its base unit, or `default` where this version has none of that name."""
        return float(self.settings.get(setting, default))

    def is_on(self, setting: str) -> bool:
        """Tell whether a boolean server setting is on."""
        return self.settings.get(setting) == "on"


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a value is a finding: `first` with the check's first status, `second` with critical."""

    first: float | None = None
    second: float | None = None

    def overlaid(self, first: float | None, second: float | None) -> Limits:
        """Return the limits with what the settings state; a first limit raised past the second takes it along."""
        low = self.first if first is None else first
        high = self.second if second is None else second
        if second is None and low is not None and high is not None:
            high = max(low, high)
        return Limits(low, high)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    A finding of status ok is a measurement: it is plotted, and not listed. Without a value it is a note: why something
    was not judged, which becomes the check's `reason` and keeps it from a plain ok.

    `object` is schema-qualified and quoted where it names something of the database, so that SQL can be built from it.
    """

    check: str
    status: Status
    object: str | None
    value: float | None
    unit: str
    threshold: float | None
    summary: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """Return the keys of `health check`."""
        return {
            "check": self.check,
            "status": str(self.status),
            "object": self.object,
            "value": self.value,
            "unit": self.unit,
            "threshold": self.threshold,
            "summary": self.summary,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule is given beside its rows: its check with the limits in force, and the facts of the server.

    `objects` are limits by the shell pattern of an object's name, the longest last. `elapsed_s` are the seconds since
    the sample that the rows are compared with; None: there is no baseline.
    """

    check: Check
    limits: Limits
    facts: Facts
    objects: tuple[tuple[str, Limits], ...] = ()
    elapsed_s: float | None = None

    def limits_for(self, object_: str | None) -> Limits:
        """Return the limits that hold for one object."""
        for pattern, limits in reversed(self.objects):
            if object_ is not None and fnmatchcase(object_, pattern):
                return limits
        return self.limits

    def judge(self, value: float, object_: str | None = None) -> tuple[Status, float | None]:
        """Return the status of a value, and the limit that decided."""
        limits = self.limits_for(object_)
        if limits.second is not None and value >= limits.second:
            return worst([Status.CRITICAL, self.check.statuses[0]]), limits.second
        if limits.first is not None and value >= limits.first:
            return self.check.statuses[0], limits.first
        return Status.OK, limits.first

    def finding(
        self,
        object_: str | None,
        summary: str,
        remedy: str,
        *,
        value: float | None = None,
        status: Status | None = None,
    ) -> Finding:
        """Make a finding: judged by its value where the check has limits, else of the check's own status."""
        threshold = self.limits_for(object_).first
        if status is None and value is not None and self.check.limits != Limits():
            status, threshold = self.judge(value, object_)
        rounded = round(float(value), 3) if value is not None else None
        return Finding(
            self.check.id,
            self.check.statuses[0] if status is None else status,
            object_,
            rounded,
            self.check.unit,
            threshold,
            summary,
            remedy,
        )

    def note(self, summary: str) -> Finding:
        """Say that something was not judged, where that is neither wrong nor a lack of rights."""
        return self.finding(None, summary, "", status=Status.OK)

    def unknown(self, object_: str | None, summary: str, remedy: str, *, value: float | None = None) -> Finding:
        """Make a finding that says: here the check could not look."""
        return self.finding(object_, summary, remedy, value=value, status=Status.UNKNOWN)


Rule = Callable[[Rows, Case], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Window:
    """How old a sample must be, and may be, to be a baseline; one look a day, even a late one, has one."""

    least_s: float = 1.0
    most_s: float = 36 * 3600.0


@dataclass(frozen=True, slots=True)
class Rates:
    """That a check is judged by what was added since the last look: the columns that only grow, and the baseline's age.

    Its query's rows have a `key`, unique and stable; a `reset`, where there is one, changes when counters begin anew.
    The rule finds the row before as `was`, None where there is none.
    """

    counters: tuple[str, ...]
    window: Window = Window()


@dataclass(frozen=True, slots=True)
class Check:
    """A declaration: id, title, severity, query, rule, reason and remedy in one place.

    `title` is positive, so that "indexes are valid: ok" makes sense. `statuses` are the first limit's and the second's.
    `why` says what it costs to leave a finding alone, and what is left out on purpose; `remedy` what a person can do,
    with SQL and the lock that it takes; `link` is the page of PostgreSQL's documentation that both rest on.

    With `probes`, each row brings its own statement in `probe`, whose single value is put back as `probed`.
    A check without a query is judged from what the run itself saw. One that is `handed` in is judged elsewhere, from
    what no query of this database tells: its rows come with the call, or it isn't reported. One that `learns` finds in
    `usual` what each of its rows usually takes; one that `looks_at_disks` finds what the server's directory is on.
    """

    id: str
    title: str
    statuses: tuple[Status, ...]
    rule: Rule
    why: str
    remedy: str = field(default="", kw_only=True)
    link: str = field(default="", kw_only=True)
    query: str | None = None
    scope: Scope = Scope.DATABASE
    unit: str = ""
    limits: Limits = field(default_factory=Limits)
    needs: tuple[Need, ...] = ()
    min_version: int = 14
    probes: bool = False
    rates: Rates | None = None
    learns: bool = False
    looks_at_disks: bool = False
    handed: bool = False

    @property
    def explanation(self) -> str:
        """Why and what to do, as one paragraph."""
        return f"{self.why} {self.remedy}".rstrip()

    @property
    def severity(self) -> str:
        """The default severity, `warning → critical` where it rises with the number."""
        return " → ".join(dict.fromkeys(str(status) for status in self.statuses))

    def to_json(self) -> dict[str, Any]:
        """Return the keys of `health list`."""
        return {
            "check": self.id,
            "title": self.title,
            "severity": self.severity,
            "min_version": self.min_version,
            "needs": [str(need) for need in self.needs],
            "scope": str(self.scope),
            "unit": self.unit,
            "warning": self.limits.first,
            "critical": self.limits.second,
        }


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check ended. `reason` says why it could not look; `value` is its worst measurement, for a chart.

    `near` are measurements that are no finding and have reached half of their limit: an alert that has just cleared
    its limit isn't over before it has cleared it by some.
    """

    check: str
    status: Status
    seconds: float
    findings: tuple[Finding, ...] = ()
    reason: str | None = None
    value: float | None = None
    unit: str = ""
    near: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the keys of `checks` in `health check`; a reason and a value only where there is one."""
        row: dict[str, Any] = {"check": self.check, "status": str(self.status), "seconds": self.seconds}
        if self.reason is not None:
            row["reason"] = self.reason
        if self.value is not None:
            row |= {"value": self.value, "unit": self.unit}
        return row


@dataclass(frozen=True, slots=True)
class HealthReport:
    """One database's health at one time. `server_version` is text like "18.6", None where nobody answered."""

    database: str
    status: Status
    server_version: str | None
    seconds: float
    findings: tuple[Finding, ...]
    checks: tuple[CheckResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the keys of `health check`."""
        return {
            "database": self.database,
            "status": str(self.status),
            "server_version": self.server_version,
            "seconds": self.seconds,
            "findings": [finding.to_json() for finding in self.findings],
            "checks": [result.to_json() for result in self.checks],
        }

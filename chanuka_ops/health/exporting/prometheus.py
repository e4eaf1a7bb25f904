"""Health as Prometheus reads it: the same ids as labels, a bounded number of series. Pure.

The numbers' meaning is in each metric's HELP line. The text format, with its escaping, is the client library's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chanuka_ops.health.exporting.model import Seen, cut, shown
from chanuka_ops.health.model import Finding, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_OBJECTS = 20  # of one check in one database: ten thousand unused indexes must not become as many series
MOST_LABEL_CHARS = 200

_PREFIX = "chanuka_health_"


def text(seen: Sequence[Seen], *, now: datetime | None = None, stale_after_s: float | None = None) -> bytes:
    """Write every database's health in the text format.

    With `now`, what is served from memory says its age, and a database that was looked at longer than `stale_after_s`
    ago has none but that and `stale`: an old status must not pass for a new one. Without, the file that holds it is
    as old as its `last_run_timestamp_seconds`.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(_families(seen, now, stale_after_s)))
    return generate_latest(registry)


class _Collected(Collector):
    """What the library asks for its metrics."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(seen: Sequence[Seen], now: datetime | None, stale_after_s: float | None) -> Iterator[Metric]:
    fresh = [one for one in seen if not _is_stale(one, now, stale_after_s)]
    yield from _runs(seen, fresh)
    if now is not None:
        age = _gauge("age_seconds", "How long ago the database was last looked at.", ("database",))
        stale = _gauge("stale", "1 where that is too long ago, and its other figures are left out.", ("database",))
        for one in seen:
            age.add_metric([one.database], max(0.0, (now - one.at).total_seconds()))
            stale.add_metric([one.database], float(one not in fresh))
        yield from (age, stale)
    yield from _checks(fresh)
    yield from _values(fresh)


def _is_stale(one: Seen, now: datetime | None, stale_after_s: float | None) -> bool:
    return now is not None and stale_after_s is not None and (now - one.at).total_seconds() > stale_after_s


def _runs(seen: Sequence[Seen], fresh: Sequence[Seen]) -> Iterator[Metric]:
    up = _gauge("up", "1 where the server answered the last look, 0 where it did not.", ("database",))
    at = _gauge("last_run_timestamp_seconds", "When the database was last looked at, Unix time.", ("database",))
    took = _gauge("last_run_seconds", "How long the last look took.", ("database",))
    checks = _gauge("checks", "How many checks were run.", ("database",))
    judged = _gauge("checks_judged", "How many of them could be judged; the others are unknown.", ("database",))
    info = _gauge("server_info", "1, with the server's version.", ("database", "server_version"))
    for one in seen:
        at.add_metric([one.database], one.at.timestamp())
    for one in fresh:
        if one.up is not None:
            up.add_metric([one.database], float(one.up))
        took.add_metric([one.database], one.report.seconds)
        checks.add_metric([one.database], len(one.report.checks))
        judged.add_metric([one.database], one.judged)
        if one.report.server_version is not None:
            info.add_metric([one.database, one.report.server_version], 1)
    yield from (up, at, took, checks, judged, info)


def _checks(fresh: Sequence[Seen]) -> Iterator[Metric]:
    labels = ("database", "check")
    status = _gauge("status", "How a check ended: 0 ok, 1 info, 2 warning, 3 unknown, 4 critical.", labels)
    findings = _gauge("findings", "How many objects a check has something to say of.", labels)
    took = _gauge("check_seconds", "What a check cost.", labels)
    for one in fresh:
        for result in one.report.checks:
            status.add_metric([one.database, result.check], result.status.rank)
            findings.add_metric([one.database, result.check], sum(f.status is not Status.OK for f in result.findings))
            took.add_metric([one.database, result.check], result.seconds)
    yield from (status, findings, took)


def _values(fresh: Sequence[Seen]) -> Iterator[Metric]:
    value = _gauge(
        "value",
        "What a check measured: without object its worst number, with one that object's, where it is a finding.",
        ("database", "check", "object", "unit"),
    )
    for one in fresh:
        for result in one.report.checks:
            if result.value is not None:
                value.add_metric([one.database, result.check, "", result.unit], result.value)
            for name, finding in _objects(result.findings).items():
                value.add_metric([one.database, result.check, name, finding.unit], finding.value or 0.0)
    yield value


def _objects(findings: Sequence[Finding]) -> dict[str, Finding]:
    """Return the worst findings that have an object and a number, one for each name: a series may occur once."""
    found: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda each: (-each.status.rank, -(each.value or 0.0), each.object or "")):
        if finding.object and finding.value is not None and len(found) < MOST_OBJECTS:
            found.setdefault(cut(shown(finding.object), MOST_LABEL_CHARS), finding)
    return found


def _gauge(name: str, what: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, what, labels=labels)

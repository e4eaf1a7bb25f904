"""Limits as the settings have them, and what a check's rule makes of its rows: pure but for the clock of its cost."""

from __future__ import annotations

import time

from chanuka_ops.config import MonitoringSettings, ObjectThreshold
from chanuka_ops.health.model import Case, Check, CheckResult, Facts, Finding, Limits, Rows, Status, worst

_NEAR = 0.5  # of the limit: what is kept of measurements that are no finding


def limits_of(one: Check, monitoring: MonitoringSettings) -> Limits:
    """Return a check's limits as the settings have them; one that is critical at once has one limit, either key's."""
    stated = monitoring.thresholds.get(one.id)
    return one.limits if stated is None else _overlaid(one, one.limits, stated)


def _overlaid(one: Check, limits: Limits, stated: ObjectThreshold) -> Limits:
    if one.limits == Limits():
        return limits
    if one.statuses[0] is Status.CRITICAL:
        return limits.overlaid(stated.warning if stated.critical is None else stated.critical, None)
    return limits.overlaid(stated.warning, stated.critical)


def case_of(one: Check, monitoring: MonitoringSettings, facts: Facts, elapsed_s: float | None = None) -> Case:
    """Return what a rule is given beside its rows."""
    limits = limits_of(one, monitoring)
    stated = monitoring.thresholds.get(one.id)
    objects = () if stated is None else sorted(stated.objects.items(), key=lambda item: len(item[0]))
    by_object = tuple((pattern, _overlaid(one, limits, its)) for pattern, its in objects)
    return Case(one, limits, facts, by_object, elapsed_s)


def result_of(one: Check, case: Case, rows: Rows, start: float, note: str | None = None) -> CheckResult:
    """Let a check's rule judge its rows. `note` says what could not be judged, so that it's no plain ok."""
    all_found = list(one.rule(rows, case))
    if note is not None:
        all_found.append(case.note(note))
    findings = tuple(found for found in all_found if found.status is not Status.OK)
    notes = [found.summary for found in all_found if found.status is Status.OK and found.value is None]
    notes += [found.summary for found in findings if found.status is Status.UNKNOWN]
    values = [found.value for found in all_found if found.value is not None and found.status is not Status.UNKNOWN]
    status = worst([found.status for found in findings] + ([Status.INFO] if notes else []))
    return CheckResult(
        one.id,
        status,
        since(start),
        findings,
        reason="; ".join(notes) or None,
        value=max(values, default=None),
        unit=one.unit,
        near=tuple(found for found in all_found if found.status is Status.OK and _is_near(found)),
    )


def _is_near(measured: Finding) -> bool:
    if measured.value is None or measured.threshold is None:
        return False
    return 0 < measured.threshold * _NEAR <= measured.value


def since(start: float) -> float:
    """Return the seconds since a reading of `perf_counter`."""
    return round(time.perf_counter() - start, 6)

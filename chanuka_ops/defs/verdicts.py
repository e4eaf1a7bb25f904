"""Health as asset checks: one of each subject (a check id's first word) and database."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from chanuka_ops.defs.tables import markdown
from chanuka_ops.health import registry
from chanuka_ops.health.exporting.model import subject
from chanuka_ops.health.model import CheckResult, HealthReport, Status, worst

HEARTBEAT = timedelta(hours=1)  # an event costs a kilobyte: on a change, and now and then
PASSED = frozenset({Status.OK, Status.INFO})  # an unknown is no pass


def health_key(database: str) -> dg.AssetKey:
    """Return the key of a database's health."""
    return dg.AssetKey(["health", database])


def subjects() -> list[str]:
    """Return every subject there is, in the registry's order."""
    return list(dict.fromkeys(subject(check) for check in registry.ids()))


def statuses(report: HealthReport) -> dict[str, Status]:
    """Return each subject's worst status."""
    return {name: worst(result.status for result in results) for name, results in _by_subject(report).items()}


def evaluations(report: HealthReport, only: frozenset[str] | None = None) -> Iterator[dg.AssetCheckEvaluation]:
    """Say what each subject (or `only` those) came to: findings as a table, numbers as metadata that plots."""
    for name, results in _by_subject(report).items():
        if only is not None and name not in only:
            continue
        status = worst(result.status for result in results)
        yield dg.AssetCheckEvaluation(
            asset_key=health_key(report.database),
            check_name=name,
            passed=status in PASSED,
            severity=dg.AssetCheckSeverity.ERROR if status is Status.CRITICAL else dg.AssetCheckSeverity.WARN,
            metadata=_metadata(status, results),
        )


def due(instance: dg.DagsterInstance, report: HealthReport, now: datetime) -> frozenset[str]:
    """Return the subjects that stand otherwise than Dagster knows, or were noted so long ago that it's time again."""
    stands = statuses(report)
    keys = {dg.AssetCheckKey(health_key(report.database), name): name for name in stands}
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
    fresh = set()
    for key, record in latest.items():
        known = record.evaluation
        if not isinstance(known, dg.AssetCheckEvaluation) or "status" not in known.metadata:
            continue  # planned, and never come to a verdict
        age = now - datetime.fromtimestamp(record.create_timestamp, UTC)
        if timedelta() <= age < HEARTBEAT and known.metadata["status"].value == stands[keys[key]]:
            fresh.add(keys[key])
    return frozenset(stands.keys() - fresh)


def _metadata(status: Status, results: list[CheckResult]) -> Mapping[str, dg.MetadataValue]:
    found = [(f.status, f.check, f.object or "", f.summary, f.remedy) for one in results for f in one.findings]
    unknown = [(one.check, one.reason or "") for one in results if one.status is Status.UNKNOWN]
    metadata: dict[str, dg.MetadataValue] = {
        "status": dg.MetadataValue.text(str(status)),
        "checks": dg.MetadataValue.int(len(results)),
        "findings": markdown(("status", "check", "object", "summary", "remedy"), found),
    }
    if unknown:
        metadata["unknown"] = markdown(("check", "why"), unknown)
    numbers = {one.check: dg.MetadataValue.float(float(one.value)) for one in results if one.value is not None}
    return {**metadata, **numbers}


def _by_subject(report: HealthReport) -> dict[str, list[CheckResult]]:
    found: dict[str, list[CheckResult]] = defaultdict(list)
    for result in report.checks:
        found[subject(result.check)].append(result)
    return found

"""Looks at databases for the faces: one, or all of the settings, each with the time and the limits of the look."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from chanuka_ops import errors
from chanuka_ops.config import Settings
from chanuka_ops.health import registry
from chanuka_ops.health import service as health_service
from chanuka_ops.health.exporting.model import REACHABLE, Seen
from chanuka_ops.health.keeping import BY_HAND
from chanuka_ops.health.model import CheckResult, Finding, HealthReport, Limits, Status
from chanuka_ops.logs import Stopwatch, redact
from chanuka_ops.orchestrators.database import DatabaseOrchestrator, known_names

log = logging.getLogger(__name__)


def look(settings: Settings, name: str, only: Collection[str] | None = None, *, reader: str = BY_HAND) -> Seen:
    """Check one database; `reader` is as `DatabaseOrchestrator.health` takes it.

    Errors: as `DatabaseOrchestrator.open` and `.health`.
    """
    with DatabaseOrchestrator.open(settings, name) as orchestrator:
        report = orchestrator.health(only, reader=reader)
    return Seen(report, datetime.now(UTC), limits(settings, name))


def look_at_all(
    settings: Settings,
    only: Collection[str] | None = None,
    told: Callable[[Seen], None] = lambda _: None,
) -> list[Seen]:
    """Check every database of the settings, in their order. One that can't even be opened is unknown, and says why.

    `told` hears of each as it's done. Errors: `ConfigurationError` for an unknown check; `RefusedError` where health
    monitoring is switched off.
    """
    registry.check_known([check for check in only or () if not check.startswith("backup.")])
    if not settings.features.health_monitoring:
        raise errors.RefusedError("features.health_monitoring is false: health checks are switched off")
    found = []
    for name in known_names(settings):
        found.append(surely(settings, name, only))
        told(found[-1])
    return found


def limits(settings: Settings, name: str) -> Mapping[str, Limits]:
    """Return the limits in force for a database, by check."""
    monitoring = settings.operations.monitoring.of(name)
    return {check.id: health_service.limits_of(check, monitoring) for check in registry.CHECKS}


def surely(settings: Settings, name: str, only: Collection[str] | None = None, *, reader: str = BY_HAND) -> Seen:
    """Check one database; where that can't even be begun, it is unknown, and says why."""
    watch = Stopwatch()
    try:
        return look(settings, name, only, reader=reader)
    except errors.Interrupted:
        raise
    except errors.ChanukaError as error:
        reason = redact(f"{type(error).__name__}: {error}")
        log.warning("database %s can't be looked at: %s", name, reason,
                    extra={"event": "health.unopened", "database": name})  # fmt: skip
        return Seen(_unopened(name, reason, watch.seconds), datetime.now(UTC), limits(settings, name))


def _unopened(name: str, reason: str, seconds: float) -> HealthReport:
    """Report a database of which not even the connection could be prepared: a password file is missing, for one."""
    remedy = f"correct what the message says, then: chanuka-ops db ping --database {name}"
    finding = Finding(REACHABLE, Status.UNKNOWN, None, None, "", None, reason, remedy)
    result = CheckResult(REACHABLE, Status.UNKNOWN, seconds, (finding,), reason)
    return HealthReport(name, Status.UNKNOWN, None, seconds, (finding,), (result,))

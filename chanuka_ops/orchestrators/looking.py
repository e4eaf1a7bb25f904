"""Looks at databases for the faces and the alerts: one, or several at a time, each with its time and its limits."""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime

from chanuka_ops import errors
from chanuka_ops.config import Settings
from chanuka_ops.health import registry
from chanuka_ops.health.exporting.model import REACHABLE, Seen
from chanuka_ops.health.judging import limits_of
from chanuka_ops.health.keeping import BY_HAND
from chanuka_ops.health.model import CheckResult, Finding, HealthReport, Limits, Status
from chanuka_ops.logs import Stopwatch, redact
from chanuka_ops.orchestrators.database import DatabaseOrchestrator, known_names

log = logging.getLogger(__name__)

WORKERS = 8  # each with one connection


def look(settings: Settings, name: str, only: Collection[str] | None = None, *, reader: str = BY_HAND) -> Seen:
    """Check one database. Errors: as `DatabaseOrchestrator.open` and `.health`."""
    with DatabaseOrchestrator.open(settings, name) as orchestrator:
        report = orchestrator.health(only, reader=reader)
    return Seen(report, datetime.now(UTC), limits(settings, name))


def sweep(
    settings: Settings,
    names: Sequence[str],
    *,
    only: Collection[str] | None = None,
    budget_s: float | None = None,
    workers: int = WORKERS,
    reader: str = BY_HAND,
    told: Callable[[Seen], None] = lambda _: None,
) -> tuple[list[Seen], list[str]]:
    """Look at databases, `workers` at a time, each with one connection; return the looks, and who was left for later.

    One that can't be looked at is unknown, and keeps nobody up for longer than its own limits. `told` hears of each as
    it's done, in the caller's thread.

    Errors: `ConfigurationError` for an unknown check; `RefusedError` where health monitoring is switched off.
    """
    registry.check_known(only or ())
    if not settings.features.health_monitoring:
        raise errors.RefusedError("features.health_monitoring is false: health checks are switched off")
    ends = None if budget_s is None else time.monotonic() + budget_s
    found: dict[str, Seen] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="health") as threads:

        def work(name: str) -> Seen | None:
            if ends is not None and time.monotonic() >= ends:
                return None
            return surely(settings, name, only, reader=reader)

        # a thread has no context of its own: who asks, and for what, goes along
        under_way: dict[Future[Seen | None], str] = {
            threads.submit(contextvars.copy_context().run, work, name): name for name in names
        }
        try:
            for future in as_completed(under_way):
                one = future.result()
                if one is not None:
                    found[under_way[future]] = one
                    told(one)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[name] for name in names if name in found], [name for name in names if name not in found]


def look_at_all(settings: Settings, only: Collection[str] | None = None) -> list[Seen]:
    """Look at every database of the settings, by hand. Errors: as `sweep`."""
    return sweep(settings, known_names(settings), only=only)[0]


def limits(settings: Settings, name: str) -> Mapping[str, Limits]:
    """Return the limits in force for a database, by check."""
    monitoring = settings.operations.monitoring.of(name)
    return {check.id: limits_of(check, monitoring) for check in registry.CHECKS}


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

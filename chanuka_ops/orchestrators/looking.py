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
    it's done, in the caller's thread. With `budget_s` it's over by then: what isn't done yet is left, or unknown where
    half of that didn't suffice for it. Such a look comes to its own end later, and nobody waits for it.

    Errors: `ConfigurationError` for an unknown check; `RefusedError` where health monitoring is switched off.
    """
    registry.check_known(only or ())
    if not settings.features.health_monitoring:
        raise errors.RefusedError("features.health_monitoring is false: health checks are switched off")
    began: dict[str, float] = {}

    def work(name: str) -> Seen:
        began[name] = time.monotonic()
        return surely(settings, name, only, reader=reader)

    found: dict[str, Seen] = {}
    threads = ThreadPoolExecutor(workers, thread_name_prefix="health")
    # a thread has no context of its own: who asks, and for what, goes along
    under_way: dict[Future[Seen], str] = {
        threads.submit(contextvars.copy_context().run, work, name): name for name in names
    }
    try:
        for future in as_completed(under_way, budget_s):
            found[under_way[future]] = future.result()
            told(found[under_way[future]])
    except TimeoutError:
        now = time.monotonic()
        for name in under_way.values():
            took_s = now - began.get(name, now)
            if name not in found and budget_s and took_s >= budget_s / 2:
                found[name] = _unfinished(settings, name, took_s)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
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
        # not even the connection could be prepared: a password file is missing, for one
        remedy = f"correct what the message says, then: chanuka-ops db ping --database {name}"
        return _unknown(settings, name, reason, remedy, watch.seconds)
    except Exception as error:
        # a defect that one database shows must not blind the tool to all others
        log.exception("database %s can't be looked at", name, extra={"event": "health.defect", "database": name})
        reason = redact(f"a defect of this program: {type(error).__name__}: {error}")
        return _unknown(settings, name, reason, "report it, with what the log says", watch.seconds)


def _unfinished(settings: Settings, name: str, seconds: float) -> Seen:
    reason = f"the look was not over after {seconds:.0f} s"
    log.warning("%s: %s", name, reason, extra={"event": "health.unfinished", "database": name})
    remedy = f"see what is slow: chanuka-ops health check --database {name} --json"
    return _unknown(settings, name, reason, remedy, seconds)


def _unknown(settings: Settings, name: str, reason: str, remedy: str, seconds: float) -> Seen:
    finding = Finding(REACHABLE, Status.UNKNOWN, None, None, "", None, reason, remedy)
    result = CheckResult(REACHABLE, Status.UNKNOWN, seconds, (finding,), reason)
    report = HealthReport(name, Status.UNKNOWN, None, seconds, (finding,), (result,))
    return Seen(report, datetime.now(UTC), limits(settings, name))

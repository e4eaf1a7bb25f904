"""Looks at databases, a few at a time; what is found goes through the alerts, and what is new is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from chanuka_ops import notify
from chanuka_ops.config import Settings
from chanuka_ops.health.alerting import service
from chanuka_ops.health.alerting.grouping import Incident
from chanuka_ops.health.alerting.keeping import AlertKeeper, Undelivered
from chanuka_ops.health.alerting.service import Looked
from chanuka_ops.health.exporting.model import Seen
from chanuka_ops.health.keeping import DAEMON
from chanuka_ops.notify import Notice
from chanuka_ops.orchestrators.database import known_names
from chanuka_ops.orchestrators.looking import WORKERS, sweep

log = logging.getLogger(__name__)

LEASE_S = 120.0  # longer than a message may take: nobody else tells it meanwhile
FIRST_WAIT_S, MOST_WAIT_S = 30.0, 900.0
TELLING_S = 12.0  # no message is begun later: Dagster gives a tick a minute for all


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a sweep came to: the looks, what is told of them, and which databases there was no time for."""

    seen: tuple[Seen, ...]
    incidents: tuple[Incident, ...]
    left: tuple[str, ...] = ()
    untold: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the document of `health evaluate`."""
        return {
            "databases": [
                {"database": one.database, "status": str(one.report.status), "seconds": one.report.seconds}
                for one in self.seen
            ],
            "incidents": [
                {
                    "event": str(incident.event),
                    "severity": str(incident.severity),
                    "databases": list(incident.databases),
                    "title": incident.title(),
                    "checks": list(incident.checks),
                }
                for incident in self.incidents
            ],
            "left": list(self.left),
            "undelivered": self.untold,
        }


def evaluate(
    settings: Settings, names: Sequence[str], *, budget_s: float | None = None, workers: int = WORKERS
) -> Evaluated:
    """Look at these databases, take their alerts on, and tell what is new.

    With `budget_s`, what there is no time for is left, and named; one look takes no more than half of it.

    Errors: `KeepingError` where the alerts can't be read
    or written: nothing is told then, so that nothing is told twice; `RefusedError` where health is switched off.
    """
    seen, left = sweep(within(settings, budget_s), names, budget_s=budget_s, workers=workers, reader=DAEMON)
    incidents = service.evaluate(
        settings.state_dir,
        [Looked(one.report, server_of(settings, one.database), one.at) for one in seen],
        settings.operations.monitoring,
        known=known_names(settings),
    )
    return Evaluated(tuple(seen), tuple(incidents), tuple(left), untold=deliver(settings))


def within(settings: Settings, budget_s: float | None) -> Settings:
    """Let one look take no more than half of the time: what it can't look at by then is unknown."""
    monitoring = settings.operations.monitoring
    if budget_s is None or monitoring.budget_s <= budget_s / 2:
        return settings
    shorter = monitoring.model_copy(update={"budget_s": budget_s / 2})
    operations = settings.operations.model_copy(update={"monitoring": shorter})
    return settings.model_copy(update={"operations": operations})


def server_of(settings: Settings, name: str) -> str:
    """Name a database's server: those of one server are told together."""
    stated = settings.databases.get(name)
    if stated is None:
        return name
    url = stated.sqlalchemy_url
    host = url.host or url.query.get("host") or "localhost"
    return f"{host}:{url.port or url.query.get('port') or 5432}"


def deliver(settings: Settings, *, budget_s: float = TELLING_S) -> int:
    """Tell what is due to be told; return how much wasn't. What isn't told now is tried again, later each time.

    Errors: `KeepingError`.
    """
    keeper, ends = AlertKeeper(settings.state_dir), time.monotonic() + budget_s
    untold = 0
    for due in keeper.claim(datetime.now(UTC), LEASE_S):
        if time.monotonic() >= ends:
            untold += 1
            keeper.put_back(due.id, datetime.now(UTC))
            continue
        untold += not _told(settings, keeper, due)
    return untold


def _told(settings: Settings, keeper: AlertKeeper, due: Undelivered) -> bool:
    wanted: Collection[str] | None = due.document["routes"]  # None: whomever the routes name
    stated = settings.operations.notify
    routes = {name: route for name, route in stated.routes.items() if wanted is None or name in wanted}
    # one try now: the next ones are the outbox's, which outlives this process
    trying = stated.model_copy(update={"routes": routes, "attempts": 1})
    notice, tags = _notice(settings, due)
    told = notify.send(notice, trying, tags=tags)
    failed = {one.route: one.problem or "it was not delivered" for one in told if not one.delivered}
    now = datetime.now(UTC)
    if not failed:
        keeper.delivered(due.id, now)
        return True
    wait_s = min(FIRST_WAIT_S * 2**due.tries, MOST_WAIT_S)
    problem = "; ".join(f"{name}: {said}" for name, said in sorted(failed.items()))
    keeper.failed(due.id, {**due.document, "routes": sorted(failed)}, problem, now + timedelta(seconds=wait_s))
    log.warning("%s is not told to everybody yet, next in %.0f s: %s", due.document["title"], wait_s, problem,
                extra={"event": "health.undelivered"})  # fmt: skip
    return False


def _notice(settings: Settings, due: Undelivered) -> tuple[Notice, dict[str, str]]:
    """Make the message of an incident; its routes are those of the first of its databases.

    What comes late says so: by then it may have been told of that it's over.
    """
    document, name = due.document, due.document["database"]
    late = f" (told late: it's of {due.made_at:%Y-%m-%d %H:%M} UTC)" if due.tries else ""
    stated = settings.databases.get(name)
    notice = Notice(
        event=document["event"],
        severity=document["severity"],
        database=name,
        title=document["title"] + late,
        body=document["body"],
        facts={"checks": ", ".join(document["checks"])},
        checks=tuple(document["checks"]),
    )
    return notice, dict(stated.tags) if stated else {}

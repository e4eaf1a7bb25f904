"""Alerts through whatever happens to who looks and who tells: killed, too late, twice at once, with the clock put back.

What is told is read from the outbox, as a receiver would see it.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chanuka_ops.config import MonitoringSettings
from chanuka_ops.config.alerts import AlertSettings
from chanuka_ops.health.alerting import service
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.model import REACHABLE, Silence
from chanuka_ops.health.alerting.service import Looked
from chanuka_ops.health.keeping import opened
from chanuka_ops.health.model import CheckResult, Finding, HealthReport, Status

CHECK = "sequence.exhaustion"
MINUTE = timedelta(minutes=1)
WARNING_AFTER = 3
MONITORING = MonitoringSettings(
    alerts=AlertSettings.model_validate(
        {"warning_after": WARNING_AFTER, "remind_every": "20min", "unknown_after": "3min", "flap_window": "30min"}
    )
)
LEASE_S = 120.0


class KilledError(Exception):
    """Whoever was at it is gone."""


def result(check: str, status: Status) -> CheckResult:
    reason = "it could not look" if status is Status.UNKNOWN else None
    found = Finding(check, status, None, 99.0, "%", 75.0, "it is so", "mend it")
    return CheckResult(check, status, 0.0, () if status in {Status.OK, Status.UNKNOWN} else (found,), reason)


def report(what: str) -> HealthReport:
    """w warning, c critical, . nothing, ? could not look, d the server is down, b no password, x not checked."""
    of_check = {"w": Status.WARNING, "c": Status.CRITICAL, "?": Status.UNKNOWN, "d": Status.UNKNOWN}
    of_server = {"d": Status.CRITICAL, "b": Status.UNKNOWN}
    results = [result(REACHABLE, of_server.get(what, Status.OK))]
    if what not in "bx":
        results.append(result(CHECK, of_check.get(what, Status.OK)))
    findings = tuple(finding for one in results for finding in one.findings)
    return HealthReport("main", Status.OK, None, 0.1, findings, tuple(results))


class Alerts(RuleBasedStateMachine):
    """One database's alerts, and who tells of them."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="chanuka_alerts_")
        self.state_dir = Path(self.directory.name)
        self.now = datetime(2026, 11, 28, 12, tzinfo=UTC)
        self.silent_until = self.now
        self.seen = 0  # of the outbox
        self.fires: dict[str, bool] = {}
        self.told: list[str] = []  # what has arrived, in the order of arriving
        with self.keeper.turn():  # so that the tables are there
            pass

    @property
    def keeper(self) -> AlertKeeper:
        """Whoever asks comes new, as after a restart."""
        return AlertKeeper(self.state_dir)

    @rule(what=st.sampled_from("wc.?dbx"), times=st.integers(1, 3))
    def look(self, what: str, times: int) -> None:
        for _ in range(times):
            self.now += MINUTE
            service.evaluate(self.state_dir, [Looked(report(what), "db:5432", self.now)], MONITORING)

    @rule(what=st.sampled_from("wc."))
    def two_look_at_once(self, what: str) -> None:
        self.now += MINUTE
        for _ in range(2):
            service.evaluate(self.state_dir, [Looked(report(what), "db:5432", self.now)], MONITORING)

    @rule()
    def who_looks_is_killed(self) -> None:
        with suppress(KilledError), self.keeper.turn() as turn:
            turn.replace("main", [])
            turn.tell([{"event": "health.firing", "checks": [CHECK]}], self.now)
            raise KilledError

    @rule(how=st.sampled_from(("arrives", "fails", "killed before", "killed after")))
    def tell(self, how: str) -> None:
        for due in self.keeper.claim(self.now, LEASE_S):
            if how == "fails":
                self.keeper.failed(due.id, due.document, "nobody answers", self.now + MINUTE)
            elif how != "killed before":
                self.told.append(due.document["event"])
                if how == "arrives":
                    self.keeper.delivered(due.id, self.now)

    @rule(minutes=st.integers(1, 6))
    def silence(self, minutes: int) -> None:
        until = self.now + minutes * MINUTE
        self.keeper.silence(Silence(0, "*", "*", "*", self.now, until, "we know"))
        self.silent_until = max(self.silent_until, until)

    @rule(minutes=st.integers(1, 90))
    def nobody_looks(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule(what=st.sampled_from("wc."))
    def the_clock_is_put_back(self, what: str) -> None:
        self.now -= 30 * MINUTE
        service.evaluate(self.state_dir, [Looked(report(what), "db:5432", self.now)], MONITORING)
        self.now += 40 * MINUTE

    @invariant()
    def never_two_firings_without_a_resolve_between(self) -> None:
        for document in written(self.state_dir, after=self.seen):
            self.seen += 1
            for check in document["checks"]:
                event, fires = document["event"], self.fires.get(check, False)
                if re.search(rf"^worse: critical {check} ", document["body"], re.MULTILINE):
                    event = "health.escalated"  # told together with what fires
                assert fires is (event != "health.firing"), (event, check)
                self.fires[check] = event != "health.resolved"

    @rule(what=st.sampled_from("wc"))
    def what_stays_wrong_is_told(self, what: str) -> None:
        """Whatever went before: by as many looks as it takes to fire, and a receiver that answers, it has arrived."""
        self.now = max(self.now, self.silent_until)
        for _ in range(WARNING_AFTER):
            self.look(what, 1)
        self.never_two_firings_without_a_resolve_between()
        assert self.fires[CHECK]
        self.now += timedelta(seconds=LEASE_S)
        self.tell("arrives")
        assert self.keeper.undelivered() == []
        assert set(self.told) & {"health.firing", "health.escalated"}

    def teardown(self) -> None:
        self.directory.cleanup()


def written(state_dir: Path, *, after: int) -> list[dict[str, Any]]:
    """Return what was ever to be told, beyond the first so many."""
    with opened(state_dir) as connection:
        found = connection.execute("select document from outbox order by id limit -1 offset ?", (after,)).fetchall()
    return [json.loads(row[0]) for row in found]


TestAlerts = Alerts.TestCase
TestAlerts.settings = settings(deadline=None, max_examples=20, stateful_step_count=20)

"""The page of health, put together of what is seen, what is remembered and who was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chanuka_ops import config
from chanuka_ops.health.alerting import service
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.model import Silence
from chanuka_ops.health.alerting.service import Looked
from chanuka_ops.health.exporting.model import Seen
from chanuka_ops.health.keeping import FILE, Keeper
from chanuka_ops.health.model import CheckResult, Finding, HealthReport, Limits, Status
from chanuka_ops.health.sampling.model import Measurement
from chanuka_ops.orchestrators import health_page
from chanuka_ops.report.model import HealthPage

NOW = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
KEY, OBJECT = "sequence.exhaustion", "public.t_id_seq"
FOUND = Finding(KEY, Status.CRITICAL, OBJECT, 97.0, "%", 75.0, "it runs out", "widen it")
RESULT = CheckResult(KEY, Status.CRITICAL, 0.01, (FOUND,), value=97.0, unit="%")
REPORT = HealthReport("main", Status.CRITICAL, "18.6", 0.2, (FOUND,), (RESULT,))
SEEN = Seen(REPORT, NOW, {KEY: Limits(75.0, 90.0)})


@pytest.fixture
def settings(state_dir: Path) -> config.Settings:
    return config.load({"CHANUKA_STATE_DIR": str(state_dir)}, state_dir)


def measured(at: datetime, value: float, object_: str | None = None) -> Measurement:
    return Measurement(at, "main", KEY, object_, value, "%", Status.CRITICAL)


def page(settings: config.Settings, *seen: Seen) -> HealthPage:
    return health_page.page(settings, seen or (SEEN,), now=NOW)


def keep(settings: config.Settings, measurements: Sequence[Measurement]) -> None:
    Keeper(settings.state_dir).keep("main", {}, measurements)


def test_what_is_remembered_is_plotted_with_the_limits_in_force(settings: config.Settings) -> None:
    past = [measured(NOW - timedelta(minutes=5 * n), 97.0 - n) for n in (3, 2, 1)]
    keep(settings, [*past, measured(NOW, 97.0), measured(NOW, 97.0, OBJECT), measured(NOW - timedelta(days=8), 1.0)])
    (database,) = page(settings).databases
    assert database.history is not None
    worst, by_object = sorted(database.history, key=lambda series: series.object or "")
    assert [point.value for point in worst.points] == [94.0, 95.0, 96.0, 97.0], "seven days, oldest first"
    assert (worst.first, worst.second) == (75.0, 90.0)
    assert by_object.object == OBJECT
    assert database.why[KEY]
    assert database.links[KEY].startswith("https://www.postgresql.org/")


def test_a_first_look_is_a_point_though_nothing_is_remembered(settings: config.Settings) -> None:
    (database,) = page(settings).databases
    assert database.history is not None
    (series,) = database.history
    assert [(point.at, point.value) for point in series.points] == [(NOW, 97.0)]


def test_a_memory_that_cannot_be_read_is_said_and_stops_nothing(settings: config.Settings) -> None:
    (settings.state_dir / FILE).mkdir()
    found = page(settings)
    (database,) = found.databases
    assert "can't be read" in database.history_note
    assert found.alerts is None
    assert "can't be read" in found.alerts_note
    health_page.write(settings, [SEEN], settings.state_dir / "page.html")
    html = (settings.state_dir / "page.html").read_text(encoding="utf-8")
    assert "it runs out" in html
    assert "can&#39;t be read" in html


def evaluated(settings: config.Settings, at: datetime, report: HealthReport = REPORT) -> None:
    service.evaluate(settings.state_dir, [Looked(report, "db:5432", at)], settings.operations.monitoring)


def test_alerts_stand_on_the_page_with_their_silence_and_go_when_they_are_long_over(settings: config.Settings) -> None:
    evaluated(settings, NOW)
    found = page(settings)
    assert found.alerts is not None
    (firing,) = found.alerts
    assert (firing.state, firing.severity, firing.check, firing.object) == ("firing", "critical", KEY, OBJECT)
    assert firing.since == "2026-11-28 12:30:00 UTC"
    end = NOW + timedelta(hours=2)
    AlertKeeper(settings.state_dir).silence(Silence(0, "*", KEY, "*", NOW, end, "we migrate on Monday", "ada"))
    (silent,) = page(settings).alerts or ()
    assert silent.note == "silent until 2026-11-28 14:30:00 UTC: we migrate on Monday"
    assert page(settings, replace(SEEN, report=replace(REPORT, database="other"))).alerts == ()

    healthy = replace(REPORT, status=Status.OK, findings=(), checks=(replace(RESULT, status=Status.OK, findings=()),))
    for minute in range(1, 5):
        evaluated(settings, NOW + timedelta(minutes=minute), healthy)
    assert [row.state for row in page(settings).alerts or ()] == ["resolved"]
    assert health_page.page(settings, [SEEN], now=NOW + timedelta(days=2)).alerts == ()


def test_of_the_runs_pages_the_newest_are_kept(settings: config.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_page, "MOST_PAGES", 2)
    report = replace(REPORT, database="../x")
    paths = [health_page.write_of_run(settings, report, f"run-{n}") for n in range(4)]
    assert {path.parent for path in paths} == {settings.state_dir / "reports" / "health-.._x"}
    assert [path.exists() for path in paths] == [False, False, True, True]

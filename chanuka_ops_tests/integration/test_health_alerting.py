"""Alerts on their whole way: looked at, kept in the file, told to a receiver; also when somebody dies on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chanuka_ops import config, errors
from chanuka_ops.config import MonitoringSettings
from chanuka_ops.config.alerts import AlertSettings
from chanuka_ops.health.alerting import service
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.model import Key, Silence, State
from chanuka_ops.health.alerting.service import Looked
from chanuka_ops.health.judging import result_of
from chanuka_ops.health.model import Case, Check, CheckResult, Facts, Finding, HealthReport, Limits, Rows, Status
from chanuka_ops.health.rules import telling
from chanuka_ops.health.rules.telling import TRIES
from chanuka_ops.orchestrators import alerting
from chanuka_ops_tests.plugins.hooks import Receive

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MONITORING = MonitoringSettings()
CHECK = "sequence.exhaustion"


def looked(
    database: str = "main", *, wrong: bool = True, at: datetime = NOW, check: str = CHECK, near: float | None = None
) -> Looked:
    found = (Finding(check, Status.CRITICAL, "public.s", 99.0, "%", 75.0, "public.s is 99 % used up", "alter it"),)
    findings = found if wrong else ()
    measured = () if near is None else (Finding(check, Status.OK, "public.s", near, "%", 75.0, "", ""),)
    result = CheckResult(check, Status.CRITICAL if wrong else Status.OK, 0.0, findings, near=measured)
    report = HealthReport(database, result.status, "18.1", 0.1, findings, (result,))
    return Looked(report, "db:5432", at)


def events(state_dir: Path) -> list[str]:
    return [one.document["event"] for one in AlertKeeper(state_dir).undelivered()]


def test_state_outlives_the_process_and_a_telling_is_kept_until_it_is_told(state_dir: Path) -> None:
    service.evaluate(state_dir, [looked()], MONITORING)
    service.evaluate(state_dir, [looked(at=NOW + timedelta(minutes=1))], MONITORING)
    assert events(state_dir) == ["health.firing"]
    [alert] = AlertKeeper(state_dir).alerts()
    assert (alert.key, alert.state) == (Key("main", CHECK, "public.s"), State.FIRING)
    for minute in (2, 3):
        service.evaluate(state_dir, [looked(wrong=False, at=NOW + timedelta(minutes=minute))], MONITORING)
    assert events(state_dir) == ["health.firing", "health.resolved"]


def test_what_is_better_than_its_limit_by_a_hair_is_not_over(state_dir: Path) -> None:
    service.evaluate(state_dir, [looked()], MONITORING)
    for minute, value in enumerate((74.0, 74.0, 74.0, 70.0, 70.0), start=1):
        service.evaluate(state_dir, [looked(wrong=False, near=value, at=NOW + minute * MINUTE)], MONITORING)
        assert len(events(state_dir)) == (1 if minute < 5 else 2)


@pytest.mark.parametrize(("value", "is_kept"), [(30.0, False), (74.0, True), (76.0, False)])
def test_a_measurement_near_its_limit_is_kept(value: float, *, is_kept: bool) -> None:
    def rule(_: Rows, case: Case) -> Iterator[Finding]:
        yield case.finding("public.s", "it's so far", "", value=value)

    one = Check("a.check", "a", (Status.WARNING,), rule, "why", limits=Limits(75.0))
    near = result_of(one, Case(one, one.limits, Facts(NOW, 180000, "main")), (), 0.0).near
    assert [found.value for found in near] == ([value] if is_kept else [])


def test_what_is_the_whole_servers_is_told_once_though_one_database_is_looked_at_after_the_other(
    state_dir: Path,
) -> None:
    check = "archive.failing"
    for minute, name in enumerate(("a", "b", "a", "b")):
        service.evaluate(state_dir, [looked(name, check=check, at=NOW + minute * MINUTE)], MONITORING)
    assert events(state_dir) == ["health.firing"]
    for minute, name in enumerate(("a", "a", "b", "b"), start=4):
        assert events(state_dir) == ["health.firing"]
        service.evaluate(state_dir, [looked(name, check=check, wrong=False, at=NOW + minute * MINUTE)], MONITORING)
    assert events(state_dir) == ["health.firing", "health.resolved"]
    service.evaluate(state_dir, [looked(name) for name in "ab"], MONITORING)  # a database's own is each one's own
    assert events(state_dir)[2:] == ["health.firing"] * 2


def test_the_alerts_of_a_database_that_the_settings_no_longer_name_are_over(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANUKA_STATE_DIR", str(state_dir))
    monkeypatch.setenv("DATABASE_URL", "postgresql://ops@127.0.0.1:1/chanuka")
    service.evaluate(state_dir, [looked("ghost")], MONITORING)
    done = alerting.evaluate(config.load(), ["main"])
    assert [(str(one.event), one.databases) for one in done.incidents] == [
        ("firing", ("main",)), ("resolved", ("ghost",)),
    ]  # fmt: skip
    assert {alert.key.database for alert in AlertKeeper(state_dir).alerts()} == {"main"}


@pytest.mark.parametrize(("budget_s", "expected_s"), [(None, 30.0), (100.0, 30.0), (30.0, 15.0)])
def test_one_look_takes_no_more_than_half_of_a_tick(
    told_by: config.Settings, budget_s: float | None, expected_s: float
) -> None:
    assert alerting.within(told_by, budget_s).operations.monitoring.budget_s == expected_s


def test_two_at_once_tell_it_once(state_dir: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: service.evaluate(state_dir, [looked()], MONITORING), range(8)))
    assert events(state_dir) == ["health.firing"]


def test_who_is_killed_while_writing_has_written_nothing(state_dir: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from chanuka_ops.health.alerting.keeping import AlertKeeper
with AlertKeeper(Path(sys.argv[1])).turn() as turn:
    turn.tell([{"event": "health.firing"}], __import__("datetime").datetime.now(__import__("datetime").UTC))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(state_dir)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert events(state_dir) == []
    service.evaluate(state_dir, [looked()], MONITORING)
    assert events(state_dir) == ["health.firing"]


def test_a_silence_is_kept_and_ends(state_dir: Path) -> None:
    keeper = AlertKeeper(state_dir)
    silence = Silence(0, "main", "sequence.*", "*", NOW, NOW + timedelta(hours=1), "we know", "ops")
    number = keeper.silence(silence)
    service.evaluate(state_dir, [looked()], MONITORING)
    assert events(state_dir) == []
    assert keeper.unsilence(number, NOW + timedelta(minutes=1))
    assert not keeper.unsilence(number, NOW + timedelta(minutes=2))
    service.evaluate(state_dir, [looked(at=NOW + timedelta(minutes=2))], MONITORING)
    assert events(state_dir) == ["health.firing"]


def test_a_maintenance_window_of_the_settings_is_silent(state_dir: Path) -> None:
    window = {"reason": "patches", "begins": "11:00", "ends": "13:00"}
    monitoring = MonitoringSettings(alerts=AlertSettings.model_validate({"maintenance": [window]}))
    service.evaluate(state_dir, [looked()], monitoring)
    assert events(state_dir) == []
    service.evaluate(state_dir, [looked(at=NOW + timedelta(hours=2))], monitoring)
    assert events(state_dir) == ["health.firing"]


def test_alerts_that_can_not_be_kept_are_told_to_nobody(state_dir: Path) -> None:
    (state_dir / "health.sqlite").mkdir(parents=True)
    with pytest.raises(errors.KeepingError, match=r"health\.sqlite"):
        service.evaluate(state_dir, [looked()], MONITORING)


# ------------------------------------------------------------------ told


@pytest.fixture
def told_by(state_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> config.Settings:
    """Settings with routes `hook` and `late`, whose URLs are in the environment."""
    monkeypatch.setenv("CHANUKA_STATE_DIR", str(state_dir))
    (tmp_path / "chanuka.toml").write_text(
        "[operations.notify]\ntimeout = '5s'\n"
        "routes.hook = { url = { env = 'HOOK_URL' }, checks = ['sequence.*'] }\n"
        "routes.late = { url = { env = 'LATE_URL' } }\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("CHANUKA_CONFIG", str(tmp_path / "chanuka.toml"))
    return config.load()


def test_an_incident_arrives_and_who_could_not_be_told_is_told_later(
    told_by: config.Settings, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, late = receive(), receive(503, 200)
    monkeypatch.setenv("HOOK_URL", hook.url("json"))
    monkeypatch.setenv("LATE_URL", late.url("json"))
    monkeypatch.setattr(alerting, "FIRST_WAIT_S", 0.05)
    service.evaluate(told_by.state_dir, [looked()], MONITORING)
    assert alerting.deliver(told_by) == 1
    keeper = AlertKeeper(told_by.state_dir)
    [waiting] = keeper.undelivered()
    assert (waiting.tries, "503" in waiting.problem) == (1, True)
    time.sleep(0.2)
    assert alerting.deliver(told_by) == 0
    assert keeper.undelivered() == []
    assert [len(hook.requests), len(late.requests)] == [1, 2]  # who was told is not told again
    assert "told late" in json.loads(late.requests[1].body)["title"]
    arrived = json.loads(hook.requests[0].body)
    assert arrived["title"] == f"[critical] main: {CHECK} of public.s"
    assert "what to do: alter it" in arrived["message"]


def test_a_route_gets_the_checks_it_names(
    told_by: config.Settings, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, late = receive(), receive()
    monkeypatch.setenv("HOOK_URL", hook.url("json"))
    monkeypatch.setenv("LATE_URL", late.url("json"))
    with AlertKeeper(told_by.state_dir).turn() as turn:
        base = {"event": "health.firing", "severity": "critical", "database": "main", "databases": ["main"]}
        turn.tell([{**base, "title": "t", "body": "b", "checks": ["lock.blocked"], "routes": None}], NOW)
    assert alerting.deliver(told_by) == 0
    assert [len(hook.requests), len(late.requests)] == [0, 1]


def test_what_one_has_taken_to_tell_nobody_else_tells(told_by: config.Settings) -> None:
    service.evaluate(told_by.state_dir, [looked()], MONITORING)
    keeper = AlertKeeper(told_by.state_dir)
    now = datetime.now(UTC)
    assert len(keeper.claim(now, 60)) == 1
    assert keeper.claim(now, 60) == []
    assert len(keeper.claim(now + timedelta(seconds=61), 60)) == 1  # it was killed: another tells it


@pytest.mark.parametrize(("tries", "status"), [(TRIES - 1, Status.OK), (TRIES, Status.WARNING)])
def test_who_can_not_be_told_is_a_finding(state_dir: Path, tries: int, status: Status) -> None:
    service.evaluate(state_dir, [looked()], MONITORING)
    keeper = AlertKeeper(state_dir)
    [waiting] = keeper.undelivered()
    for _ in range(tries):
        keeper.failed(waiting.id, waiting.document, "hook: no answer within 5 s", NOW)
    (one,) = telling.CHECKS
    case = Case(one, one.limits, Facts(NOW, 180000, "main"))
    (found,) = one.rule(service.undelivered(state_dir, NOW + timedelta(minutes=9)), case)
    assert (found.check, found.status) == ("self.undelivered", status)
    assert ("9 minutes" in found.summary) is (status is Status.WARNING)
    keeper.delivered(waiting.id, NOW)
    (found,) = one.rule(service.undelivered(state_dir, NOW), case)
    assert (found.status, found.value) == (Status.OK, 0.0)


def test_a_file_that_can_not_be_read_says_not_that_all_were_told(state_dir: Path) -> None:
    (state_dir / "health.sqlite").mkdir(parents=True)
    (one,) = telling.CHECKS
    (found,) = one.rule(service.undelivered(state_dir, NOW), Case(one, one.limits, Facts(NOW, 180000, "main")))
    assert found.status is Status.UNKNOWN

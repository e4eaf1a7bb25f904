"""Alerts on their whole way: looked at, kept in the file, told to a receiver; also when somebody dies on the way."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops import config, errors
from chanuka_ops.config import DatabaseSettings, MonitoringSettings
from chanuka_ops.config.alerts import AlertSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health.alerting import service
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.model import Key, Silence, State
from chanuka_ops.health.alerting.service import Looked
from chanuka_ops.health.model import Case, CheckResult, Facts, Finding, HealthReport, Status
from chanuka_ops.health.rules import telling
from chanuka_ops.health.rules.telling import TRIES
from chanuka_ops.orchestrators import alerting, looking
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.hooks import Receive
from chanuka_ops_tests.plugins.processes import Cli, url_of

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
MONITORING = MonitoringSettings()
CHECK = "sequence.exhaustion"


def looked(database: str = "main", *, wrong: bool = True, at: datetime = NOW) -> Looked:
    found = (Finding(CHECK, Status.CRITICAL, "public.s", 99.0, "%", 75.0, "public.s is 99 % used up", "alter it"),)
    findings = found if wrong else ()
    result = CheckResult(CHECK, Status.CRITICAL if wrong else Status.OK, 0.0, findings)
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


# ------------------------------------------------------------------ a server's databases


@pytest.fixture
def fleet(server: Server, tmp_path: Path, state_dir: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """So many databases on one server, three of them broken in their own ways; the settings that name them."""
    run, number = uuid.uuid4().hex[:6], request.param
    names = [f"t{n:03}" for n in range(number)]
    with ConnectionManager("admin", server.settings("postgres")) as admin:
        with admin.autocommit() as connection:
            connection.execute(text(f"create database f_{run} template template0"))
            for name in names:
                if name != "t001":  # which is missing
                    connection.execute(text(f"create database f_{run}_{name} template f_{run}"))
        urls = {name: server.settings(f"f_{run}_{name}") for name in names}
        with ConnectionManager("t000", urls["t000"]) as broken, broken.autocommit() as connection:
            connection.execute(text("create table t(id serial primary key)"))
            connection.execute(text("select setval('t_id_seq', 2147000000)"))
        lines = [f"[databases.{name}]\nurl = {json.dumps(url_of(found))}\n" for name, found in urls.items()]
        lines[2] += 'password = { env = "NO_SUCH_VARIABLE" }\n'  # the password of t002 can't even be had
        path = tmp_path / "chanuka.toml"
        path.write_text("".join(lines) + "[operations.monitoring.alerts]\nunknown_after = '1ms'\n", encoding="utf-8")
        yield path
        with admin.autocommit() as connection:
            for name in ("", *(f"_{name}" for name in names)):
                connection.execute(text(f"drop database if exists f_{run}{name} with (force)"))


def fired(state_dir: Path) -> dict[str, str]:
    """What is told to fire, by database: the checks."""
    told = [one.document for one in AlertKeeper(state_dir).undelivered()]
    assert {one["event"] for one in told} <= {"health.firing"}
    return {", ".join(one["databases"]): ", ".join(one["checks"]) for one in told}


@pytest.mark.postgres
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fleet", [6, pytest.param(200, marks=pytest.mark.slow)], indirect=True)
def test_of_a_servers_databases_those_that_are_broken_are_incidents_and_no_other(
    fleet: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANUKA_CONFIG", str(fleet))
    monkeypatch.setenv("CHANUKA_STATE_DIR", str(state_dir))
    settings = config.load()
    names = sorted(settings.databases)
    began = time.monotonic()
    for _ in range(2):  # an unknown fires with its second look
        seen, left = looking.sweep(settings, names)
        service.evaluate(
            state_dir,
            [Looked(one.report, alerting.server_of(settings, one.database), one.at) for one in seen],
            settings.operations.monitoring,
        )
    took_s = (time.monotonic() - began) / 2
    print(f"{len(names)} databases in {took_s:.1f} s")  # noqa: T201 - a figure to read
    assert left == []
    own = {name: checks for name, checks in fired(state_dir).items() if name in {"t000", "t001", "t002"}}
    assert own == {"t000": "sequence.exhaustion", "t001": "server.reachable", "t002": "server.reachable"}
    # what is told besides is the whole server's, once
    assert all("," in name for name in fired(state_dir).keys() - own.keys())


def test_who_does_not_answer_is_unknown_and_who_there_is_no_time_for_is_left(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick that waits for one database is killed, and then nobody is told of any."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which accepts, and says nothing
        for name in "ab":
            url = f"postgresql://ops@127.0.0.1:{silent.getsockname()[1]}/{name}"
            monkeypatch.setenv(f"CHANUKA__DATABASES__{name.upper()}__URL", url)
        monkeypatch.setenv("CHANUKA_STATE_DIR", str(state_dir))
        began = time.monotonic()
        [one], left = looking.sweep(config.load(), ["a", "b"], budget_s=0.5, workers=1)
        assert time.monotonic() - began < 2.5  # the connection's own limit is 3 s
    assert (one.report.status, one.database, left) == (Status.UNKNOWN, "a", ["b"])
    assert "was not over after" in str(one.report.checks[0].reason)


def test_a_defect_that_one_database_shows_is_its_unknown(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANUKA_STATE_DIR", str(state_dir))
    monkeypatch.setenv("DATABASE_URL", "postgresql://ops@127.0.0.1:1/chanuka")
    monkeypatch.setattr(DatabaseOrchestrator, "health", lambda *_, **__: 1 // 0)
    [one], _ = looking.sweep(config.load(), ["main"])
    assert (one.report.status, "ZeroDivisionError" in str(one.report.checks[0].reason)) == (Status.UNKNOWN, True)


@pytest.mark.postgres
def test_from_firing_to_over_by_the_command_line(here: Cli, database: DatabaseSettings, state_dir: Path) -> None:
    env = {"DATABASE_URL": url_of(database)}
    with ConnectionManager("main", database) as manager, manager.autocommit() as connection:
        connection.execute(text("create table t(id serial primary key)"))
        connection.execute(text("select setval('t_id_seq', 2147000000)"))
        told = here("health", "evaluate", "--json", env=env)
        assert told.status == 0, told.output
        assert "sequence.exhaustion" in str([one["checks"] for one in told.json["incidents"]])
        listed = here("health", "alerts", "--json", env=env).json
        [alert] = [one for one in listed["alerts"] if one["check"] == "sequence.exhaustion"]
        assert (alert["state"], alert["severity"], alert["object"]) == ("firing", "critical", "public.t_id_seq")
        assert listed["undelivered"] == []
        looked_at = here("health", "check", "--only", "self.undelivered", "--json", env=env).json
        assert [one["status"] for one in looked_at["checks"]] == ["ok"]
        connection.execute(text("drop table t"))
    here("health", "evaluate", env=env)
    over = here("health", "evaluate", "--json", env=env).json["incidents"]
    assert [(one["event"], one["checks"]) for one in over if "sequence.exhaustion" in one["checks"]] == [
        ("resolved", ["sequence.exhaustion"])
    ]
    assert (state_dir / "health.sqlite").is_file()


def test_silences_by_the_command_line(here: Cli) -> None:
    made = here("health", "silence", "--check", "lock.*", "--for", "2h", "--reason", "we know", "--json")
    assert made.status == 0, made.output
    [kept] = here("health", "silences", "--json").json["silences"]
    assert (kept["check"], kept["reason"]) == ("lock.*", "we know")
    assert here("health", "unsilence", str(made.json["id"])).status == 0
    assert here("health", "silences", "--json").json["silences"] == []
    assert here("health", "unsilence", "99").status == 2
    assert here("health", "silence", "--for", "2 fortnights", "--reason", "x").status == 2
    assert here("health", "silence", "--for", "2h", "--reason", " ").status == 2

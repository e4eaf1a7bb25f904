"""Looks at many databases, some of them broken, and what comes of it; by the command line from firing to over."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from chanuka_ops import config
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health.alerting import service
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.service import Looked
from chanuka_ops.health.model import Status
from chanuka_ops.orchestrators import alerting, looking
from chanuka_ops.orchestrators.database import DatabaseOrchestrator
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.processes import Cli, url_of


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
        # true of the server under test, by the calendar
        lines.append("[operations.monitoring]\ndisabled = ['server.minor_behind', 'server.version_eol']\n")
        lines.append("alerts.unknown_after = '1ms'\n")
        path.write_text("".join(lines), encoding="utf-8")
        yield path
        with admin.autocommit() as connection:
            for name in ("", *(f"_{name}" for name in names)):
                connection.execute(text(f"drop database if exists f_{run}{name} with (force)"))


def fired(state_dir: Path) -> list[tuple[str, list[str], list[str]]]:
    """What is told: event, databases, checks."""
    told = [one.document for one in AlertKeeper(state_dir).undelivered()]
    return sorted((one["event"], one["databases"], one["checks"]) for one in told)


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
    assert fired(state_dir) == [
        ("health.firing", ["t000"], ["sequence.exhaustion"]),
        ("health.firing", ["t001"], ["server.reachable"]),
        ("health.firing", ["t002"], ["server.reachable"]),
    ]


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

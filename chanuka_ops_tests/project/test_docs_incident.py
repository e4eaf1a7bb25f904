"""The incident of the howto is planted, found, told, ended and resolved; what each command says is what is shown."""

from __future__ import annotations

import json
import os
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.health.rules.locks import BLOCKED_S
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.hooks import Receiver
from chanuka_ops_tests.plugins.postgres import connect
from chanuka_ops_tests.plugins.processes import Cli, url_of

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(240)]

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "health-and-alerts.md"
BLOCK = re.compile(r"^```(?P<kind>toml|sql|console|text)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
OF_THE_SERVER_UNDER_TEST = ("server.minor_behind", "server.version_eol")  # true of it, by the calendar
HOW_MANY = {"web": 3}
VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"), "TIME"),
    (re.compile(r"user \w+"), "user WHO"),
    (re.compile(r"\d[\d.]*"), "N"),
    (re.compile(r"\s+"), " "),
)


def plain(line: str) -> str:
    """A line without what differs from run to run."""
    for pattern, name in VOLATILE:
        line = pattern.sub(name, line)
    return line.strip()


@dataclass
class Incident:
    """The sessions of the howto, its directory, and whoever is told."""

    here: Cli
    database: DatabaseSettings
    directory: Path
    told: Receiver
    stack: ExitStack
    pids: dict[str, int] = field(default_factory=dict)

    def shown(self, kind: str, body: str) -> str:
        """Do what a block says; return what it shows when it's true."""
        if kind == "toml":
            (self.directory / "chanuka.toml").write_text(body, encoding="utf-8")
        elif kind == "sql":
            self._session(body)
        elif kind == "console":
            return "".join(self._command(part) for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:])
        else:
            message = json.loads(self.told.requests[-1].body)
            return f"{message['title']}\n\n{message['message']}\n"
        return body

    def _command(self, part: str) -> str:
        line, _, status = part.splitlines()[0].partition("  # exit ")
        env = {
            "DATABASE_URL": url_of(self.database),
            "ONCALL_URL": self.told.url("json"),
            "CHANUKA__OPERATIONS__MONITORING__DISABLED": json.dumps(OF_THE_SERVER_UNDER_TEST),
        }
        ran = self.here(*shlex.split(line)[1:], env=env, cwd=self.directory)
        assert ran.status == int(status or 0), (line, ran.output)
        said = "".join(f"{words.rstrip()}\n" for words in ran.stdout.splitlines())
        return f"$ {part.splitlines()[0]}\n{said}\n"

    def _session(self, body: str) -> None:
        """Run a block's statement in sessions of its own; in the background where it waits."""
        name = body.split()[1].rstrip(",")
        statement = body.partition("\n")[2].strip()
        if name == "oncall":
            execute(self.database, re.sub(r"\d+", str(self.pids["reporting"]), statement))
            assert wait_until(lambda: self._waiting() == 0, timeout_s=20)
            return
        for _ in range(HOW_MANY.get(name, 1)):
            waiting = self._waiting()
            thread = self._begin(name, statement)
            if name == "reporting":
                thread.join(timeout=20)
            else:
                assert wait_until(partial(self._more_wait_than, waiting), timeout_s=20)

    def _begin(self, name: str, statement: str) -> threading.Thread:
        session = connect(self.database)
        session.autocommit = True
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            session.execute(f"set {setting} = 0".encode())
        session.execute(f"set application_name = '{name}'".encode())
        self.pids[name] = session.info.backend_pid
        thread = threading.Thread(target=_run, args=(session, statement), daemon=True)
        thread.start()
        self.stack.callback(self._end, session, thread)
        return thread

    def _end(self, session: psycopg.Connection[object], thread: threading.Thread) -> None:
        """End a session from the server's side: one that waits can't be closed from here."""
        execute(self.database, f"select pg_terminate_backend({session.info.backend_pid})")
        thread.join(timeout=20)
        session.close()

    def _more_wait_than(self, number: int) -> bool:
        return self._waiting() > number

    def _waiting(self) -> int:
        """Count who has waited for so long that it is a finding: on a quick machine the looks come sooner."""
        sql = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            f" and clock_timestamp() - query_start > make_interval(secs => {BLOCKED_S})"
        )
        (number,) = scalars(self.database, sql)
        return int(str(number))


def _run(session: psycopg.Connection[object], statement: str) -> None:
    with suppress(psycopg.OperationalError):  # whoever is ended at last
        session.execute(statement.encode())


@pytest.fixture
def incident(here: Cli, database: DatabaseSettings, tmp_path: Path) -> Iterator[Incident]:
    execute(
        database,
        "create table bills(id bigint generated always as identity primary key, title text)",
        "insert into bills(title) select 'Bill ' || g from generate_series(1, 1000) g",
        "analyze bills",
    )
    with Receiver() as told, ExitStack() as stack:
        yield Incident(here, database, tmp_path, told, stack)


def walked(incident: Incident) -> str:
    """The howto with what really comes of each of its blocks."""

    def real(block: re.Match[str]) -> str:
        return f"```{block['kind']}\n{incident.shown(block['kind'], block['body']).rstrip()}\n```"

    return BLOCK.sub(real, HOWTO.read_text(encoding="utf-8"))


def test_the_incident_is_told_from_firing_to_resolved_and_no_more(incident: Incident) -> None:
    real = walked(incident)
    shown = HOWTO.read_text(encoding="utf-8")
    if target := os.environ.get("WRITE_HOWTO"):
        Path(target).write_text(real, encoding="utf-8")
    assert [plain(line) for line in real.splitlines()] == [plain(line) for line in shown.splitlines()]
    events = [json.loads(request.body)["title"] for request in incident.told.requests]
    assert len(events) == 2, "one when it fires, one when it's over"
    assert "main: resolved: " in events[1]

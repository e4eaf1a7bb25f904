"""`health`: its words, its documents, its page, and what Prometheus and Nagios read."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chanuka_ops.config import DatabaseSettings
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.processes import PROGRAM, Cli, Guarded, finished, running, url_of
from chanuka_ops_tests.unit.test_report_render import Document

pytestmark = pytest.mark.postgres

HOSTILE = '"<script>alert(1)</script>|\n{}%\'"'
PLANT = (
    "create table narrow(id integer primary key)",
    "create sequence narrow_id_seq owned by narrow.id",  # bigint, and so wider than what it feeds
    "alter table narrow alter id set default nextval('narrow_id_seq')",
    "select setval('narrow_id_seq', 2100000000)",
    f"create table {HOSTILE}(id integer generated always as identity, other int references narrow)",
    f"alter table {HOSTILE} alter id restart with 2147480000",
    f"insert into {HOSTILE} default values",
)
KEY = "sequence.exhaustion"


@pytest.fixture
def env(database: DatabaseSettings) -> Mapping[str, str]:
    execute(database, *PLANT)
    return {"DATABASE_URL": url_of(database)}


@pytest.fixture
def fleet(database: DatabaseSettings, tmp_path: Path) -> Mapping[str, str]:
    """Two databases that are there, one that nobody answers for, and one whose password is nowhere."""
    execute(database, *PLANT)
    url = url_of(database)
    (tmp_path / "chanuka.toml").write_text(
        f"""
        [databases.ill]
        url = "{url}"
        [databases.down]
        url = "postgresql://nobody@127.0.0.1:1/nothing"
        [databases.lost]
        url = "{url}"
        password = {{ file = "{tmp_path}/no-such-file" }}
        """,
        encoding="utf-8",
    )
    return {}


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_person_reads_by_subject_the_worst_first_with_the_remedy(here: Cli, env: Mapping[str, str]) -> None:
    ran = here("health", "check", "--only", KEY, "--only", "schema.fk_unindexed", env=env)
    assert ran.status == 1, ran.output
    lines = [line.rstrip() for line in ran.stdout.splitlines()]
    assert lines.index("sequence") < lines.index("schema")
    found = next(line for line in lines if "public.narrow_id_seq" in line)
    assert found.startswith(f"  critical  {KEY}  public.narrow_id_seq: ")
    assert "alert(1)</script>|\\u000a{}%" in ran.stdout, "a name stays on its line"
    assert lines[-1].startswith("critical: 2 of 2 checks judged, in ")


@pytest.mark.parametrize(("fail_on", "status"), [("never", 0), ("critical", 1), ("info", 1)])
def test_fail_on(here: Cli, env: Mapping[str, str], fail_on: str, status: int) -> None:
    assert here("health", "check", "--only", KEY, "--fail-on", fail_on, env=env).status == status


def test_a_failure_below_the_line_is_none(here: Cli, env: Mapping[str, str]) -> None:
    assert here("health", "check", "--only", "schema.fk_unindexed", env=env).status == 0
    assert here("health", "check", "--only", "schema.fk_unindexed", "--fail-on", "info", env=env).status == 1


def test_what_is_unknown_is_listed_with_its_cure(here: Cli, database: DatabaseSettings, guarded: Guarded) -> None:
    env = {"DATABASE_URL": url_of(guarded.of(database))}  # a role that may log in, and nothing else
    ran = here("health", "check", "--only", "session.long_query", env=env)
    assert "unknown: could not be judged, and what would cure it" in ran.stdout, ran.output
    assert "grant pg_monitor" in ran.stdout
    assert "unknown: 0 of 1 checks judged" in ran.stdout
    assert ran.status == 0
    nagios = here("health", "check", "--only", "session.long_query", "--nagios", env=env)
    assert nagios.status == 3
    assert nagios.stdout.startswith("UNKNOWN - main: 1 unknown: session.long_query ")


def test_a_first_look_says_what_it_has_no_baseline_for(here: Cli, env: Mapping[str, str]) -> None:
    said = here("health", "check", "--only", "lock.deadlocks", "--only", KEY, env=env).stdout
    assert "not judged\n  lock.deadlocks: no baseline yet" in said
    assert "critical: 1 of 2 checks judged" in said
    time.sleep(1.1)  # what is compared with a moment ago tells nothing, and is not judged either
    said = here("health", "check", "--only", "lock.deadlocks", env=env).stdout
    assert "ok: 1 of 1 checks judged" in said, "the first look was its baseline"


def test_all_databases_in_one_document_and_none_hides_another(here: Cli, fleet: Mapping[str, str]) -> None:
    ran = here("health", "check", "--all-databases", "--json", "--only", KEY, "--only", "server.reachable")
    assert ran.status == 1, ran.output
    document = ran.json
    assert document.keys() == {"status", "databases"}
    assert document["status"] == "critical"
    by_name = {one["database"]: one for one in document["databases"]}
    assert {name: one["status"] for name, one in by_name.items()} == {
        "ill": "critical", "down": "critical", "lost": "unknown",
    }  # fmt: skip
    assert {"database", "status", "server_version", "seconds", "findings", "checks"} <= by_name["ill"].keys()
    assert "no-such-file" in json.dumps(by_name["lost"])
    person = here("health", "check", "--all-databases", "--only", KEY, "--only", "server.reachable").stdout
    table = person[person.index("\nDatabases\n") :]
    assert [line.split()[0] for line in table.splitlines()[3:]] == ["down", "ill", "lost"], "the worst first"


def test_nagios_of_one_and_of_all(here: Cli, fleet: Mapping[str, str]) -> None:
    one = here("health", "check", "--nagios", "--database", "ill", "--only", KEY)
    assert one.status == 2
    (line,) = one.stdout.splitlines()
    assert line.startswith(f"CRITICAL - ill: 2 critical: {KEY} public.")
    assert line.count("|") == 1
    assert f"'{KEY}'=" in line.split("|")[1]
    everything = here("health", "check", "--nagios", "--all-databases", "--only", KEY, "--only", "server.reachable")
    assert everything.status == 2
    assert everything.stdout.startswith("CRITICAL - 3 databases: 3 critical, ")


@pytest.mark.parametrize(
    "args",
    [
        ("--database", "nope"), ("--only", "no.such_check"), ("--json",), ("--fail-on", "never"), ("--no-such-option",),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_run_is_unknown_not_critical(here: Cli, env: Mapping[str, str], args: list[str]) -> None:
    ran = here("health", "check", "--nagios", *args, env=env)
    assert ran.status == 3
    assert "UNKNOWN - " in ran.stdout


def test_a_textfile_for_prometheus(here: Cli, env: Mapping[str, str], tmp_path: Path) -> None:
    path = tmp_path / "health.prom"
    ran = here("health", "check", "--only", KEY, "--only", "server.reachable", "--prometheus", str(path), env=env)
    assert ran.status == 1, "the file is beside the answer, not in its place"
    found = samples(path.read_text(encoding="utf-8"))
    assert found["chanuka_health_up", "main"] == 1
    assert found["chanuka_health_status", KEY, "main"] == 4
    assert found["chanuka_health_findings", KEY, "main"] == 2
    assert found["chanuka_health_value", KEY, "main", "public.narrow_id_seq", "%"] > 90
    assert time.time() - found["chanuka_health_last_run_timestamp_seconds", "main"] < 60
    assert path.stat().st_mode & 0o044 == 0o044, "another account reads it"
    assert [each.name for each in tmp_path.iterdir() if "prom" in each.name] == ["health.prom"]


def test_a_textfile_that_cannot_be_written_says_so(here: Cli, env: Mapping[str, str], tmp_path: Path) -> None:
    ran = here("health", "check", "--only", KEY, "--prometheus", str(tmp_path / "no" / "x.prom"), env=env)
    assert ran.status == 2
    assert "can't be written: No such file or directory" in ran.stderr


def test_a_report_is_written_with_every_name_escaped(here: Cli, env: Mapping[str, str], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    answer = here("health", "report", "--output", str(path), "--json", env=env).json
    assert answer.keys() == {"report", "status", "databases"}
    assert answer["report"] == str(path)
    html = path.read_text(encoding="utf-8")
    document = Document(html)
    assert "script" not in document.tags
    assert "<script>alert(1)</script>|" in document.text
    assert "What to do, worst first" in document.text
    assert "checks could be judged" in document.text
    assert "svg" in document.tags, "the first look is a point already"


def test_a_report_of_all_goes_below_the_state(here: Cli, fleet: Mapping[str, str], state_dir: Path) -> None:
    ran = here("health", "report", "--all-databases")
    assert ran.status == 0, ran.output
    text = (state_dir / "reports" / "health.html").read_text(encoding="utf-8")
    assert "Health of 3 databases" in text
    assert all(f"<code>{name}</code>" in text for name in ("ill", "down", "lost"))


def test_list_by_subject(here: Cli) -> None:
    checks = here("health", "list", "--subject", "lock", "--subject", "wal", "--json").json["checks"]
    assert {one["check"].split(".")[0] for one in checks} == {"lock", "wal"}
    wrong = here("health", "list", "--subject", "locks")
    assert wrong.status == 2
    assert "there are: " in wrong.stderr


def test_explain_says_why_what_to_do_and_where_to_read(here: Cli) -> None:
    said = here("health", "explain", KEY).stdout
    assert [line.split(":")[0] for line in said.splitlines()][1:] == ["why", "what to do", "see"]
    assert here("health", "explain", KEY, "--json").json.keys() >= {"check", "why", "remedy", "link"}


@contextmanager
def served(environment: Mapping[str, str], cwd: Path, *args: str) -> Iterator[tuple[str, list[int]]]:
    """The endpoint's address; how it ended is put into the list."""
    ended: list[int] = []
    with running([*PROGRAM, "health", "serve", "--port", "0", *args], environment, cwd) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "health is at http://" in line, line
        yield line.split()[3].rstrip(";"), ended
        process.send_signal(signal.SIGTERM)
        ended.append(finished(process).status)


def scraped(url: str, *, within_s: float = 30) -> str:
    """What the endpoint says, once a database has been looked at."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.mark.slow
def test_an_endpoint_that_looks_by_itself_and_ends_on_sigterm(
    here: Cli, env: Mapping[str, str], base_environment: dict[str, str], tmp_path: Path
) -> None:
    with served({**base_environment, **env}, tmp_path, "--every", "3600") as (url, ended):
        first = samples(scraped(url))
        assert first["chanuka_health_status", KEY, "main"] == 4
        assert first["chanuka_health_up", "main"] == 1
        assert first["chanuka_health_stale", "main"] == 0
        time.sleep(0.2)
        second = samples(scraped(url))
        at = "chanuka_health_last_run_timestamp_seconds", "main"
        age = "chanuka_health_age_seconds", "main"
        assert second[at] == first[at], "a scrape is no look"
        assert second[age] > first[age] + 0.1
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.replace("/metrics", "/etc/passwd"), timeout=10)
        port = url.rsplit(":", 1)[1].removesuffix("/metrics")
        taken = here("health", "serve", "--port", port, env=env)
        assert taken.status == 2
        assert f"127.0.0.1 port {port} can't be listened on: Address already in use" in taken.stderr
    assert ended == [0]

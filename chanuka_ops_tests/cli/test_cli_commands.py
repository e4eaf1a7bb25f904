"""Each command: the JSON keys of the design, one document on standard output, and words for a person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.processes import Cli, Ran, url_of

pytestmark = pytest.mark.postgres

TABLES = (
    "create table bills(id int primary key, title text)",
    "insert into bills select g, 'bill ' || g from generate_series(1, 2000) g",
    "create table votes(bill int references bills, vote text)",
    "insert into votes select g, 'aye' from generate_series(1, 500) g",
)


class Program:
    """The program on one database."""

    def __init__(self, run: Cli, database: DatabaseSettings) -> None:
        self._run = run
        self._env = {"DATABASE_URL": url_of(database)}

    def __call__(self, *args: str) -> Ran:
        return self._run(*args, env=self._env)

    def answer(self, *args: str, status: int = 0) -> dict[str, object]:
        """The document that a command prints with --json, and nothing beside it."""
        ran = self._run(*args, "--json", env=self._env)
        assert ran.status == status, ran.output
        document: dict[str, object] = ran.json
        return document


@pytest.fixture
def program(here: Cli, database: DatabaseSettings) -> Program:
    execute(database, *TABLES)
    return Program(here, database)


@pytest.fixture
def empty(here: Cli, database: DatabaseSettings) -> Program:
    return Program(here, database)


def test_ping(program: Program) -> None:
    answer = program.answer("db", "ping")
    assert answer.keys() == {"database", "role", "server_version", "latency_ms"}
    assert (answer["database"], answer["role"]) == ("main", "primary")
    assert "primary" in program("db", "ping").stdout


@pytest.mark.parametrize(
    "line", [["--json", "db", "ping"], ["db", "ping", "--json"], ["--database", "main", "db", "ping", "--json"]]
)
def test_options_stand_before_or_after_the_command(program: Program, line: list[str]) -> None:
    assert program(*line).json["database"] == "main"


def test_the_database_may_be_named_before_or_after_the_command(program: Program) -> None:
    before, after = program("--database", "x", "db", "ping"), program("db", "ping", "--database", "x")
    assert before.status == after.status == 2
    assert before.stderr == after.stderr
    assert "'x' is not configured (configured: main)" in after.stderr


@pytest.mark.slow
def test_migrations_go_up_and_down(empty: Program) -> None:
    plan = empty.answer("migrate", "plan")
    assert plan.keys() == {"current", "heads", "pending", "problems", "plan_hash"}
    assert isinstance(plan["pending"], list)
    assert plan["pending"][0].keys() == {"revision", "doc", "sha256", "destructive", "transactional", "phase"}
    first = plan["pending"][0]["revision"]
    up = empty.answer("migrate", "up", "--to", first)
    assert up.keys() == {"from", "to", "applied", "gate", "left", "health", "report"}
    assert (up["from"], up["to"]) == (None, first)
    assert isinstance(up["applied"], list)
    assert up["applied"][0].keys() == {"revision", "seconds", "attempts"}
    assert first in empty("migrate", "plan").stdout
    down = empty.answer("migrate", "down", "--to", "base")
    assert (down["from"], down["to"]) == (first, None)
    assert "base" in empty("migrate", "down", "--help").stdout


@pytest.mark.slow
def test_setup_makes_the_database_and_migrates_it(here: Cli, server_database: DatabaseSettings) -> None:
    program = Program(here, server_database)
    first, second = program.answer("db", "setup"), program.answer("db", "setup")
    assert {"created", "from", "to", "applied"} <= first.keys()
    assert (first["created"], second["created"]) == (True, False)
    assert second["applied"] == []
    assert f"at revision {first['to']}" in program("db", "setup").stdout


def test_a_backup_is_created_listed_shown_verified_and_drilled(program: Program) -> None:
    created = program.answer("backup", "create")
    assert {"backup_id", "kind", "tier", "bytes", "source_bytes", "seconds", "store", "tables"} <= created.keys()
    backup_id = str(created["backup_id"])
    assert (created["tier"], created["tables"]) == ("taken", 2)

    (listed,) = program("backup", "list", "--json").json["backups"]
    assert {"backup_id", "kind", "tier", "created_at", "database", "bytes", "server_version"} <= listed.keys()
    assert listed["backup_id"] == backup_id

    manifest = program.answer("backup", "show", backup_id)
    assert {"backup_id", "files", "fingerprint", "tier", "evidence"} <= manifest.keys()

    verified = program.answer("backup", "verify", backup_id)
    assert {"backup_id", "tier", "files", "problems"} <= verified.keys()
    assert (verified["tier"], verified["problems"]) == ("verified", [])

    drilled = program.answer("backup", "drill")
    assert drilled.keys() >= {
        "backup_id", "tier", "restore_seconds", "tables_compared", "rows_compared", "coverage", "mismatches",
        "structure_problems", "rto_seconds", "rpo_seconds",
    }  # fmt: skip
    assert (drilled["tier"], drilled["tables_compared"], drilled["rows_compared"]) == ("proven", 2, 2500)

    human = program("backup", "list").stdout
    assert any(backup_id in line and "proven" in line for line in human.splitlines())  # in one line, unbroken


def test_a_damaged_backup_fails_its_verification_and_names_the_file(program: Program) -> None:
    backup_id = str(program.answer("backup", "create")["backup_id"])
    store = Path(str(program.answer("config", "show")["state_dir"])) / "backups" / "main" / backup_id
    victim = next((store / "dump").glob("*.dat*"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    verified = program.answer("backup", "verify", backup_id, status=1)
    assert verified["problems"] == [{"file": f"dump/{victim.name}", "kind": "checksum", "store": "default"}]
    assert victim.name in program("backup", "verify", backup_id).stdout
    assert program("backup", "drill", backup_id).status == 1


def test_health(program: Program) -> None:
    answer = program.answer("health", "check", "--fail-on", "never")
    assert answer.keys() >= {"database", "status", "server_version", "seconds", "findings", "checks"}
    assert isinstance(answer["findings"], list)
    assert isinstance(answer["checks"], list)
    assert answer["checks"][0].keys() >= {"check", "status", "seconds"}
    finding = {"check", "status", "object", "value", "unit", "threshold", "summary", "remedy"}
    assert all(found.keys() >= finding for found in answer["findings"])
    assert "checks judged" in program("health", "check", "--fail-on", "never").stdout


def test_fail_on_decides_the_exit_code(program: Program) -> None:
    checks = program.answer("health", "check", "--fail-on", "never")["checks"]
    assert isinstance(checks, list)
    status, check = next((c["status"], c["check"]) for c in checks if c["status"] in {"info", "warning"})
    assert program("health", "check", "--only", check, "--fail-on", status).status == 1
    assert program("health", "check", "--only", check, "--fail-on", "critical").status == 0


def test_checks_are_listed_and_explained(here: Cli) -> None:
    listed = here("health", "list", "--json").json["checks"]
    assert len(listed) >= 15
    assert all(check.keys() >= {"check", "title", "severity", "min_version", "needs"} for check in listed)
    human = here("health", "list").stdout.splitlines()
    assert len(human) == len(listed) + 2  # one line for each, a title and a heading
    explained = here("health", "explain", listed[0]["check"], "--json").json
    assert explained["explanation"]
    assert listed[0]["title"] in here("health", "explain", listed[0]["check"]).stdout


def test_a_plan_of_the_optimiser_is_made_and_carried_out(
    program: Program, database: DatabaseSettings, tmp_path: Path
) -> None:
    execute(database, "insert into bills select g, 'bill' from generate_series(2001, 14000) g")  # and never analysed
    plan = program("optimise", "plan", "--json")
    advice = plan.json["advice"]
    assert advice, plan.json
    assert all(a.keys() >= {"id", "kind", "object", "reason", "sql", "gain_bytes", "risk", "lock"} for a in advice)
    (tmp_path / "plan.json").write_text(plan.stdout, encoding="utf-8")
    applied = program.answer("optimise", "apply", str(tmp_path / "plan.json"))["applied"]
    assert isinstance(applied, list)
    assert applied[0].keys() >= {"id", "outcome", "gained_bytes", "seconds"}
    assert {a["outcome"] for a in applied} == {"applied"}
    assert "public.bills" in program("optimise", "apply", str(tmp_path / "plan.json")).stdout


def test_the_settings_are_shown_as_they_are_written(here: Cli, tmp_path: Path) -> None:
    toml = '[databases.main]\nurl = "postgresql://u:hunter2@h/d"\npool.acquire_timeout = 3\n'
    (tmp_path / "chanuka.toml").write_text(toml)
    shown = here("config", "show", "--json")
    assert shown.json["databases"]["main"]["url"] == "postgresql+psycopg://u:***@h/d"
    assert shown.json["databases"]["main"]["pool"]["acquire_timeout"] == 3.0
    assert shown.json["source"] == str(tmp_path / "chanuka.toml")
    assert "hunter2" not in shown.output
    assert here("config", "check", "--json").json == {"problems": []}
    assert here("config", "check").stdout == "the settings are valid\n"


def test_wrong_settings_are_listed(here: Cli, tmp_path: Path) -> None:
    (tmp_path / "chanuka.toml").write_text("[features]\nx = 1\n[operations.backup]\njobs = 0\n")
    checked = here("config", "check", "--json")
    assert checked.status == 2
    assert len(checked.json["problems"]) == 2
    human = here("config", "check")
    assert (human.status, len(human.stdout.splitlines())) == (2, 2)


GROUPS = ["backup", "config", "db", "health", "migrate", "optimise"]


@pytest.mark.parametrize("line", [[], ["demo"], ["up"], *[[group] for group in GROUPS]])
def test_help(here: Cli, line: list[str]) -> None:
    ran = here(*line, "--help")
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Usage: chanuka-ops")


@pytest.mark.parametrize("line", [[], *[[group] for group in GROUPS]])
def test_a_line_without_a_command_is_answered_with_the_help(here: Cli, line: list[str]) -> None:
    ran = here(*line)
    assert (ran.status, ran.stdout) == (2, "")
    assert ran.stderr.startswith("Usage: chanuka-ops")


def test_tables_without_rows_say_so(here: Cli) -> None:
    assert here("backup", "list").stdout == "Backups: none\n"


def test_a_document_is_strict_json(program: Program) -> None:
    for line in (["db", "ping"], ["health", "check", "--fail-on", "never"], ["optimise", "plan"], ["backup", "list"]):
        ran = program(*line, "--json")
        assert json.loads(ran.stdout) == ran.json
        assert ran.stdout.endswith("}\n")

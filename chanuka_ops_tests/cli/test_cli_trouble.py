"""Bad input: each has a clear message, its exit code, one document with --json, and nothing is changed."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops_tests.plugins.backup import as_role, execute, scalars
from chanuka_ops_tests.plugins.processes import MIGRATIONS, Cli, Guarded, Ran, left_of, url_of

pytestmark = pytest.mark.postgres

NOBODY = "postgresql://ops:hunter2@127.0.0.1:1/chanuka"  # no server listens on port 1
TABLES = "select relname::text from pg_class where relnamespace = 'public'::regnamespace order by 1"


def failed(ran: Ran, status: int, kind: str, said: str) -> None:
    """Assert that it failed as it should: in words on standard error, and with --json in a document too."""
    assert ran.status == status, ran.output
    assert said in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.output
    if ran.stdout.startswith("{"):
        error = ran.json["error"]
        assert (error["kind"], error["exit_code"]) == (kind, status)
        assert said in " ".join(error["message"].split())


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize(
    "line", [["db", "ping"], ["migrate", "plan"], ["migrate", "up"], ["backup", "create"], ["db", "setup"], ["demo"]]
)
def test_a_database_that_is_down(here: Cli, line: list[str], as_json: list[str]) -> None:
    ran = here(*line, *as_json, env={"DATABASE_URL": NOBODY})
    failed(ran, 1, "TargetUnavailable", "can't connect to ops:***@127.0.0.1:1/chanuka: nobody listens there")
    assert bool(ran.stdout) == (bool(as_json) or line == ["demo"])
    assert "hunter2" not in ran.output


def test_the_health_of_a_database_that_is_down_is_a_finding(here: Cli) -> None:
    ran = here("health", "check", "--json", env={"DATABASE_URL": NOBODY})
    assert ran.status == 1
    assert ran.json["status"] in {"critical", "unknown"}
    looked = {check["check"] for check in ran.json["checks"] if check["status"] == "ok"}
    # of the tool itself, and of backups, which are read from their store: all others could not look
    assert all(check.startswith(("self.", "backup.")) for check in looked), looked
    assert "hunter2" not in ran.output


LINES = (["db", "ping"], ["backup", "create"], ["migrate", "plan"], ["migrate", "up"], ["health", "check"])


@pytest.mark.parametrize("options", [[], ["--json"], ["--verbose", "--log-json"]])
def test_a_wrong_password_is_refused_and_printed_nowhere(
    here: Cli, database: DatabaseSettings, guarded: Guarded, options: list[str]
) -> None:
    env = {"DATABASE_URL": url_of(guarded.of(database, "hunter2-and-wrong"))}
    for line in LINES if "--verbose" in options else LINES[:2]:
        ran = here(*options, *line, env=env)
        assert ran.status == 1, ran.output
        assert "refused the role or its password" in ran.output
        assert "hunter2" not in ran.output
        assert "Traceback" not in ran.output


def test_a_right_password_is_printed_nowhere_either(
    here: Cli, database: DatabaseSettings, guarded: Guarded, state_dir: Path
) -> None:
    env = {"DATABASE_URL": url_of(guarded.of(database))}
    lines = (*LINES[:4], ["backup", "list"], ["config", "show"], ["optimise", "plan"])
    for line in lines:
        ran = here("--verbose", "--log-json", *line, "--json", env=env)
        assert ran.stdout
        assert guarded.password not in ran.output
    written = [path for path in state_dir.rglob("*") if path.is_file()]
    assert not [path for path in written if guarded.password.encode() in path.read_bytes()]


def test_a_missing_database(here: Cli, server_database: DatabaseSettings) -> None:
    for line in (["db", "ping"], ["backup", "create"], ["migrate", "up"]):
        ran = here(*line, "--json", env={"DATABASE_URL": url_of(server_database)})
        failed(ran, 1, "DatabaseMissing", "no database of that name")


@pytest.mark.parametrize("toml", ["[features]\nx = 1", "[operations.backup]\njobs = 0", "= ="])
@pytest.mark.parametrize("line", [["db", "ping"], ["backup", "list"], ["demo"], ["config", "show"], ["up"]])
def test_a_wrong_chanuka_toml(here: Cli, tmp_path: Path, state_dir: Path, line: list[str], toml: str) -> None:
    (tmp_path / "chanuka.toml").write_text(toml, encoding="utf-8")
    failed(here(*line, "--json"), 2, "ConfigurationError", "chanuka.toml: ")
    assert list(state_dir.iterdir()) == []


@pytest.mark.parametrize("line", [["db", "ping"], ["backup", "list"], ["backup", "drill"], ["demo"]])
def test_an_unknown_database(here: Cli, line: list[str], state_dir: Path) -> None:
    ran = here(*line, "--database", "nosuch", "--json")
    assert ran.status == 2
    assert "'nosuch'" in ran.json["error"]["message"]
    assert list(state_dir.iterdir()) == []


@pytest.mark.parametrize("command", ["show", "verify", "drill"])
@pytest.mark.parametrize("backup_id", ["main-20260101T000000Z-abcdef", "../../etc", "x"])
def test_an_unknown_backup(here: Cli, command: str, backup_id: str) -> None:
    ran = here("backup", command, backup_id, "--json")
    failed(ran, 2, "BackupNotFound", "chanuka-ops backup list")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["backup", "frobnicate"], "No such command 'frobnicate'"),
        (["db", "ping", "--nonsense"], "No such option '--nonsense'"),
        (["demo", "--scale", "0"], "Invalid value for '--scale'"),
        (["migrate", "down"], "Missing option '--to'"),
        (["health", "explain", "vacuum.nosuch"], "there is no check 'vacuum.nosuch'"),
        (["optimise", "apply", "gone.json"], "does not exist"),
    ],
)
def test_a_wrong_line(here: Cli, line: list[str], said: str) -> None:
    human, machine = here(*line), here(*line, "--json")
    assert (human.status, machine.status) == (2, 2)
    assert said in " ".join(human.stderr.split())
    assert human.stdout == ""
    assert said in " ".join(machine.json["error"]["message"].split())


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"database": "main", "advice": [{"id": 1}]}'])
def test_what_is_no_plan(here: Cli, tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content, encoding="utf-8")
    ran = here("optimise", "apply", "plan.json", "--json", env={"DATABASE_URL": NOBODY})
    failed(ran, 2, "ConfigurationError", "plan")


Parents = tuple[str | None, ...]
Refusal = type[errors.ChanukaError]


def revisions(directory: Path, *, parents: Parents) -> Path:
    """Write revisions r0, r1, … with those parents."""
    (directory / "versions").mkdir(parents=True)
    shutil.copy(MIGRATIONS / "env.py", directory)
    for number, parent in enumerate(parents):
        body = f'''
            """Revision {number}."""
            from alembic import op
            revision = "r{number}"
            down_revision = {parent!r}
            def upgrade():
                op.execute("create table t{number} (id int)")
            def downgrade():
                op.execute("drop table t{number}")
        '''
        (directory / "versions" / f"r{number}.py").write_text(textwrap.dedent(body), encoding="utf-8")
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parents", "refusal", "problem"),
    [((), errors.ConfigurationError, "no_revisions"), ((None, "r0", "r0"), errors.HeadsConflict, "several_heads")],
)
def test_revisions_that_cannot_be_applied(
    here: Cli, database: DatabaseSettings, tmp_path: Path, *, parents: Parents, refusal: Refusal, problem: str
) -> None:
    status = refusal.exit_code
    revisions(tmp_path / "migrations", parents=parents)
    env = {"DATABASE_URL": url_of(database)}
    planned = here("migrate", "plan", "--json", env=env)
    assert [p["kind"] for p in planned.json["problems"]] == [problem]
    assert planned.status == status  # as `up` would end, so that a pipeline sees it
    assert problem in here("migrate", "plan", env=env).stdout
    failed(here("migrate", "up", "--json", env=env), status, refusal.__name__, "Nothing was changed")
    assert scalars(database, TABLES) == []


def test_a_directory_without_scripts(here: Cli, tmp_path: Path) -> None:
    (tmp_path / "chanuka.toml").write_text('[operations.migration]\nscript_location = "nowhere"\n', encoding="utf-8")
    ran = here("migrate", "plan", "--json", env={"DATABASE_URL": NOBODY})
    failed(ran, 2, "ConfigurationError", "operations.migration.script_location")


def test_a_table_that_the_role_cannot_read_fails_the_backup_by_name(
    here: Cli, database: DatabaseSettings, guarded: Guarded
) -> None:
    execute(database, "create table secrets(id int)")
    env = {"DATABASE_URL": url_of(guarded.of(database))}
    failed(here("backup", "create", "--json", env=env), 1, "PermissionDenied", "secrets")
    assert here("backup", "list", "--json", env=env).json["backups"] == []


def test_the_demonstration_is_refused_in_production(here: Cli, state_dir: Path) -> None:
    ran = here("demo", "--json", env={"CHANUKA__ENVIRONMENT": "production"})
    failed(ran, 3, "RefusedError", "environment is production")
    assert list(state_dir.iterdir()) == []  # not even a server was made


@pytest.mark.parametrize(
    "statement",
    [
        "create table orders(id int)",
        "create table alembic_version(version_num varchar(32)); insert into alembic_version values ('of-another')",
    ],
)
def test_the_demonstration_is_refused_in_somebodys_database(
    here: Cli, database: DatabaseSettings, statement: str
) -> None:
    execute(database, *statement.split("; "))
    before = scalars(database, TABLES)
    ran = here("demo", "--json", env={"DATABASE_URL": url_of(database)})
    failed(ran, 3, "RefusedError", "Nothing was changed")
    assert scalars(database, TABLES) == before


def test_what_health_monitoring_false_switches_off_is_refused(here: Cli, database: DatabaseSettings) -> None:
    env = {"DATABASE_URL": url_of(database), "CHANUKA__FEATURES__HEALTH_MONITORING": "false"}
    failed(here("health", "check", "--json", env=env), 3, "RefusedError", "features.health_monitoring is false")
    assert here("backup", "create", "--json", env=env).status == 0


def test_another_operation_under_way_is_refused_by_name(here: Cli, database: DatabaseSettings) -> None:
    from chanuka_ops.db.lock import operation_lock  # noqa: PLC0415

    with ConnectionManager("main", database) as manager, operation_lock(manager):
        failed(here("backup", "create", "--json", env={"DATABASE_URL": url_of(database)}), 3, "LockHeld", "pid ")


def test_a_store_that_cannot_be_written(here: Cli, database: DatabaseSettings, state_dir: Path) -> None:
    (state_dir / "backups").write_text("a file", encoding="utf-8")
    failed(here("backup", "create", "--json", env={"DATABASE_URL": url_of(database)}), 1, "StoreError", "backups")


def test_a_defect_of_ours_prints_no_traceback_unless_asked(
    here: Cli, monkeypatch: pytest.MonkeyPatch, database: DatabaseSettings
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("postgresql://ops:hunter2@h/d")

    monkeypatch.setattr("chanuka_ops.cli.backup.BackupService", broken)
    failed(here("backup", "list", "--json"), 1, "ZeroDivisionError", "a defect of chanuka-ops")
    verbose = here("--verbose", "backup", "list")
    assert "Traceback" in verbose.stderr
    assert "hunter2" not in verbose.output


def test_nothing_is_left_after_a_failure(here: Cli, database: DatabaseSettings, state_dir: Path) -> None:
    env = {"DATABASE_URL": url_of(as_role(database, "nobody_of_that_name"))}
    assert here("backup", "create", env=env).status == 1
    assert left_of(state_dir) == []
    assert {path.name for path in state_dir.iterdir()} == {"breaker", "locks"}

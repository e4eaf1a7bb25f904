"""`backup restore` and `backup extract` as a person and a script use them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chanuka_ops import context
from chanuka_ops.cli import restore
from chanuka_ops_tests.plugins.backup import scalars
from chanuka_ops_tests.plugins.processes import PROGRAM, Cli, Ran, url_of
from chanuka_ops_tests.plugins.restoring import Backup, Spot

pytestmark = pytest.mark.postgres

Program = Callable[..., Ran]


@pytest.fixture
def environment(plain: Backup) -> dict[str, str]:
    """The store that holds the backup, and nothing else: neither a database nor a server is configured."""
    return {"CHANUKA__OPERATIONS__BACKUP__STORE": str(plain.directory.parents[1])}


@pytest.fixture
def program(here: Cli, environment: dict[str, str]) -> Program:
    return lambda *args, **env: here(*args, env={**environment, **env})


def test_a_restore_with_nothing_but_a_store(program: Program, plain: Backup, spot: Spot) -> None:
    ran = program("--json", "backup", "restore", plain.manifest.backup_id, "--into", url_of(spot.database))
    assert ran.status == 0
    assert {"backup_id", "database", "seconds", "phases", "checks", "tables", "rows"} <= ran.json.keys()
    assert (ran.json["backup_id"], ran.json["database"]) == (plain.manifest.backup_id, spot.name)
    assert {"fetch", "decrypt", "restore", "check"} <= ran.json["phases"].keys()
    assert ran.json["checks"]["bytes"] == "ok"
    assert ran.json["warnings"] == [
        "the backup is taken, not proven: no copy restored from it was compared with its source yet"
    ]
    assert scalars(spot.database, "select count(*) from bills") == [1000]


def test_into_a_database_of_the_settings(program: Program, plain: Backup, spot: Spot) -> None:
    env = {"CHANUKA__DATABASES__OTHER__URL": url_of(spot.database)}
    ran = program("backup", "restore", plain.manifest.backup_id, "--into", "other", **env)
    assert ran.status == 0
    assert f"is in database {spot.name}: 2 tables, 1,500 rows" in ran.stdout
    wrong = program("backup", "restore", plain.manifest.backup_id, "--into", "another", **env)
    assert (wrong.status, "'another' is not configured (configured: other)" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("into", "said"),
    [
        ("postgresql://u:s3cret@h/", "names no database"),
        ("mysql://u:s3cret@h/x", "is not PostgreSQL"),
        ("postgresql://h/x?password=s3cret", "the URL's query holds password"),
    ],
)
def test_a_wrong_url_is_not_repeated(program: Program, plain: Backup, into: str, said: str) -> None:
    ran = program("backup", "restore", plain.manifest.backup_id, "--into", into)
    assert ran.status == 2
    assert said in ran.stderr
    assert "s3cret" not in ran.output


def test_until_ready_tells_how_far_it_is_without_a_terminal(program: Program, plain: Backup, spot: Spot) -> None:
    args = ("--json", "backup", "restore", plain.manifest.backup_id, "--into", url_of(spot.database), "--until-ready")
    ran = program(*args)
    assert ran.json["database"] == spot.name
    lines = ran.stderr.splitlines()
    assert re.fullmatch(r"ready after \d+\.\d s", lines[-1])
    for step in ("analyze: ", "check: "):
        assert [line for line in lines if line.startswith(step)]
    assert all(re.fullmatch(r"[a-z ]+: .*\(\d+%\)|ready after .*|the backup is .*", line) for line in lines)


def test_the_narrator_speaks_once_a_second_and_at_each_new_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("chanuka_ops.cli.restore.time.monotonic", lambda: now[0])
    narrator = restore.Narrator()
    for at_s, label, done in ((0.0, "restore", 1), (0.5, "restore", 2), (1.0, "restore", 3), (1.1, "check", 1)):
        now[0] = at_s
        narrator.show(context.Progress(label, done, 4, "tables", 9.0))
    assert capsys.readouterr().err.splitlines() == [
        "restore: 1 of 4 tables, about 9 s left (25%)",
        "restore: 3 of 4 tables, about 9 s left (75%)",
        "check: 1 of 4 tables, about 9 s left (25%)",
    ]


def test_what_stands_in_the_way_is_refused(program: Program, plain: Backup, spot: Spot) -> None:
    spot.make("create table here()")
    args = ("--json", "backup", "restore", plain.manifest.backup_id, "--into", url_of(spot.database))
    full = program(*args)
    assert (full.status, full.json["error"]["kind"]) == (3, "RefusedError")
    assert "1 objects: table here" in full.json["error"]["message"]
    for environment in ("development", "production"):
        unnamed = program(*args, "--replace", CHANUKA__ENVIRONMENT=environment)
        assert unnamed.status == 3
        assert f"(environment {environment}) its name has to be typed" in unnamed.json["error"]["message"]
        wrong = program(*args, "--yes-replace", "main", CHANUKA__ENVIRONMENT=environment)
        assert wrong.status == 3
        assert "the name 'main' was given" in wrong.json["error"]["message"]
    assert spot.databases() == [spot.name]
    named = program(*args, "--yes-replace", spot.name, CHANUKA__ENVIRONMENT="production")
    assert named.status == 0
    assert named.json["old_database"] in spot.databases()
    nothing = program(
        "--json", "backup", "restore", "--into", url_of(spot.database), "--finish", "--yes-replace", spot.name
    )
    assert (nothing.status, "there is none" in nothing.json["error"]["message"]) == (3, True)
    unknown = program("--json", "backup", "restore", "--into", url_of(spot.database))
    assert (unknown.status, "which backup?" in unknown.json["error"]["message"]) == (2, True)


def test_a_damaged_backup_is_refused(program: Program, plain: Backup, spot: Spot, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "main").mkdir(parents=True)
    copy = plain.damaged(store / "main" / plain.manifest.backup_id)
    copy.data_file("public.votes").write_bytes(b"")
    args = ("--json", "backup", "restore", plain.manifest.backup_id, "--into", url_of(spot.database))
    ran = program(*args, CHANUKA__OPERATIONS__BACKUP__STORE=str(store))
    assert (ran.status, ran.json["error"]["kind"]) == (1, "BackupDamaged")
    assert "1 files are not as they were written" in ran.json["error"]["message"]
    assert spot.databases() == []


@pytest.mark.slow
@pytest.mark.parametrize("right", [True, False])
def test_the_name_is_typed_at_a_terminal(
    plain: Backup,
    spot: Spot,
    base_environment: dict[str, str],
    environment: dict[str, str],
    tmp_path: Path,
    *,
    right: bool,
) -> None:
    spot.make("create table here()")
    args = ["backup", "restore", plain.manifest.backup_id, "--into", url_of(spot.database), "--replace"]
    master, slave = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    env = {**base_environment, **environment}
    process = subprocess.Popen(
        [*PROGRAM, *args], stdin=slave, stdout=slave, stderr=slave, env=env, cwd=tmp_path,
        preexec_fn=own_terminal,  # noqa: PLW1509 - two system calls
    )  # fmt: skip
    os.close(slave)
    seen, typed, ends = b"", False, time.monotonic() + 60
    while time.monotonic() < ends:
        if select.select([master], [], [], 0.1)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:
                break
        if b"Type its name" in seen and not typed:
            os.write(master, (spot.name if right else "yes").encode() + b"\n")
            typed = True
    assert process.wait(timeout=10) == (0 if right else 3), seen.decode()
    os.close(master)
    there = scalars(spot.database, "select count(*) from pg_class where relname = 'bills'")
    assert there == [1 if right else 0]


def test_one_table_to_a_file_and_to_standard_output(program: Program, plain: Backup, tmp_path: Path) -> None:
    args = ("backup", "extract", plain.manifest.backup_id, "--table", "public.bills")
    ran = program("--json", *args, "--to", str(tmp_path / "bills.csv"))
    assert ran.status == 0
    assert {
        "backup_id",
        "table",
        "format",
        "file",
        "rows",
        "bytes",
        "columns",
        "encoding",
        "seconds",
    } <= ran.json.keys()
    assert (ran.json["rows"], ran.json["columns"]) == (1000, ["id", "title"])
    content = (tmp_path / "bills.csv").read_bytes()
    assert content.startswith(b"id,title\r\n1,bill 1\r\n2,bill 2\r\n")
    assert "public.bills: 1,000 rows" in program(*args, "--to", str(tmp_path / "bills.csv")).stdout

    piped = program(*args, "--to", "-", "--format", "sql")
    assert "\nCOPY public.bills (id, title) FROM stdin;\n1\tbill 1\n" in piped.stdout
    both = program("--json", *args, "--to", "-")
    assert (both.status, both.json["error"]["kind"]) == (2, "ConfigurationError")
    unknown = program("--json", *args[:-1], "public.bill", "--to", str(tmp_path / "x"))
    assert (unknown.status, "did you mean public.bills" in unknown.json["error"]["message"]) == (2, True)


@pytest.mark.slow
def test_a_reader_that_has_read_enough_is_no_failure(
    base_environment: dict[str, str], tmp_path: Path, heavy: Backup
) -> None:
    env = {**base_environment, "CHANUKA__OPERATIONS__BACKUP__STORE": str(heavy.directory.parents[1])}
    args = [*PROGRAM, "backup", "extract", heavy.manifest.backup_id, "--table", "public.heavy_0", "--to", "-"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"id,v\r\n"
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert "unexpected" not in said
    assert process.returncode == 0

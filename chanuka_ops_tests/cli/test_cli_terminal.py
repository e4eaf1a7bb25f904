"""What stands on a terminal and what in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.processes import PROGRAM, Ran, clean_environment, url_of

pytestmark = pytest.mark.postgres

BAR = "━"
# SQL as a migration that takes two seconds: its progress is reported per revision
SLOW_REVISION = '''
"""Revision {number}."""
from alembic import op
revision = "r{number}"
down_revision = {parent!r}
def upgrade():
    op.execute("select pg_sleep(0.7)")
def downgrade():
    pass
'''


def on_terminal(args: list[str], env: dict[str, str], cwd: Path, *, columns: int = 80, out: bool = False) -> Ran:
    """Run the program with standard error on a terminal, and with `out` standard output too."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    stdout = slave if out else subprocess.PIPE
    with subprocess.Popen([*PROGRAM, *args], stdin=slave, stdout=stdout, stderr=slave, env=env, cwd=cwd) as process:
        os.close(slave)
        seen, deadline = b"", time.monotonic() + 40
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.1)[0]:
                continue
            try:
                seen += os.read(master, 65536)
            except OSError:  # the other side is closed: the program has ended
                break
        piped = process.stdout.read().decode() if process.stdout else ""
    os.close(master)
    return Ran(process.returncode, piped, seen.decode(errors="replace"))


@pytest.fixture
def env(base_environment: dict[str, str], database: DatabaseSettings) -> dict[str, str]:
    execute(database, "create table bills as select g as id from generate_series(1, 100) g")
    return {**base_environment, "DATABASE_URL": url_of(database), "TERM": "xterm"}


@pytest.fixture
def slow_migrations(tmp_path: Path) -> None:
    from chanuka_ops_tests.plugins.processes import MIGRATIONS  # noqa: PLC0415

    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text((MIGRATIONS / "env.py").read_text())
    for number in range(4):
        parent = f"r{number - 1}" if number else None
        (versions / f"r{number}.py").write_text(SLOW_REVISION.format(number=number, parent=parent))


@pytest.mark.usefixtures("slow_migrations")
@pytest.mark.slow
def test_a_slow_step_has_a_bar_on_the_terminal_and_the_answer_stays_in_its_pipe(
    env: dict[str, str], tmp_path: Path
) -> None:
    ran = on_terminal(["migrate", "up", "--json"], env, tmp_path)
    assert ran.status == 0
    assert BAR in ran.stderr
    assert "of 4 revisions" in ran.stderr
    assert [step["revision"] for step in ran.json["applied"]] == ["r0", "r1", "r2", "r3"]


def test_a_quick_step_has_no_bar(env: dict[str, str], tmp_path: Path) -> None:
    ran = on_terminal(["backup", "create", "--json"], env, tmp_path)
    assert ran.status == 0
    assert BAR not in ran.stderr
    assert ran.json["tier"] == "taken"


@pytest.mark.usefixtures("slow_migrations")
@pytest.mark.slow
@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}])
def test_there_is_no_bar_in_a_pipe(env: dict[str, str], tmp_path: Path, forced: dict[str, str]) -> None:
    done = subprocess.run(
        [*PROGRAM, "migrate", "up"], capture_output=True, text=True, check=True, env={**env, **forced}, cwd=tmp_path
    )
    assert done.stderr == ""
    assert BAR not in done.stdout
    assert "r3" in done.stdout


@pytest.mark.slow
def test_an_id_is_in_one_piece_on_a_narrow_terminal_too(env: dict[str, str], tmp_path: Path) -> None:
    backup_id = on_terminal(["backup", "create", "--json"], env, tmp_path).json["backup_id"]
    seen = on_terminal(["backup", "list"], env, tmp_path, out=True).stderr
    assert backup_id in seen
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in seen.splitlines()]
    assert max(map(len, lines)) <= 80  # the rest is folded


def test_a_message_is_in_one_line_in_a_pipe(tmp_path: Path, state_dir: Path) -> None:
    env = clean_environment(state_dir, {"DATABASE_URL": "postgresql://ops@127.0.0.1:1/a_database_with_a_long_name"})
    done = subprocess.run([*PROGRAM, "db", "ping"], capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert done.returncode == 1
    first, *_ = done.stderr.splitlines()
    assert len(first) > 100


@pytest.mark.slow
def test_a_terminal_of_another_encoding_is_no_reason_to_fail(env: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "backup", "create"],
        capture_output=True,
        check=False,
        env={**env, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    drilled = subprocess.run(
        [*PROGRAM, "backup", "drill"],
        capture_output=True,
        check=False,
        env={**env, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        cwd=tmp_path,
    )
    assert drilled.returncode == 0, drilled.stderr

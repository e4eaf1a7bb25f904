"""A howto is walked through as a reader does: its files are written, its commands run, its output is what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops_tests.plugins.backup import execute, scalars
from chanuka_ops_tests.plugins.processes import MIGRATIONS, Cli, url_of

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "your-first-safe-migration.md"
SHOWN_ON = 18  # other versions run other statements in a place or two
ROWS = 3000
FENCE = re.compile(r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = {"toml": "chanuka.toml", "py": "migrations/versions/0013_token.py"}
FULL_HASH = re.compile(r"\b[0-9a-f]{64}\b")
VOLATILE = (
    # outside a transaction locks are looked at from beside, so that a short one may be seen or not
    (re.compile(r'(^up    alter table "public")([^…]*…).*'), r"\1\2"),
    (re.compile(r"main-\d{8}T\d{6}Z-[0-9a-f]{6}"), "BACKUP"),
    (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\b|\b[0-9a-f]{12}\b|\b(?=\d*[a-f])[0-9a-f]{8}\b"), "HASH"),
    (re.compile(r"report: \S+"), "report: PATH"),
    (re.compile(r"health afterwards: \w+"), "health afterwards: STATUS"),
    (re.compile(r"\b\S+ on \S+"), "WHO on WHERE"),
    (re.compile(r"approved by [^:]+"), "approved by WHO"),
    (re.compile(r"\d[\d.,]*(?: ?[kMG]?B\b)?"), "N"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Command:
    """A command of the document, how it ends, and the lines that it's shown to say."""

    line: str
    status: int
    shown: tuple[str, ...]


def plain(line: str) -> str:
    """A line without what differs from run to run."""
    for pattern, name in VOLATILE:
        line = pattern.sub(name, line)
    return line.strip()


def commands(body: str) -> list[Command]:
    found = []
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        first, *shown = part.splitlines()
        line, _, status = first.partition("  # exit ")
        found.append(Command(line, int(status or 0), tuple(text for text in shown if text.strip() not in {"", "…"})))
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copytree(MIGRATIONS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_first_safe_migration(here: Cli, database: DatabaseSettings, directory: Path) -> None:
    env = {"DATABASE_URL": url_of(database), "LOGNAME": "grace", "PATH": os.environ["PATH"]}
    assert here("db", "setup", env=env, cwd=directory).status == 0
    execute(database, "insert into bills (title, chamber) select 'Bill ' || g, 'senate' from"
                      f" generate_series(1, {ROWS}) g")  # fmt: skip
    with ConnectionManager("main", database) as manager:
        compared = manager.probe().major == SHOWN_ON
    ran, plan_hash = 0, ""
    for block in FENCE.finditer(HOWTO.read_text(encoding="utf-8")):
        if block["kind"] in FILES:
            (directory / FILES[block["kind"]]).write_text(block["body"], encoding="utf-8")
            continue
        assert block["kind"] == "console"
        for command in commands(block["body"]):
            program, *words = shlex.split(command.line)
            assert program == "chanuka-ops"
            done = here(*(FULL_HASH.sub(plan_hash, word) for word in words), env=env, cwd=directory)
            assert done.status == command.status, (command.line, done.output)
            said = [plain(line) for line in done.output.splitlines()]
            for line in command.shown if compared else ():
                assert plain(line) in said, (command.line, line, done.output)
            hashes = FULL_HASH.findall(done.stdout)
            plan_hash = hashes[0] if hashes else plan_hash
            ran += 1
    assert ran >= 10
    assert scalars(database, "select count(*) from bills where token is not null") == [ROWS]

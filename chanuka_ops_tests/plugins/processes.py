"""The program as a user runs it, and what is left of it when it's gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.config import DatabaseSettings

CLI_TIMEOUT_S = 100


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.stdout)


Cli = Callable[..., Ran]


def url_of(database: DatabaseSettings) -> str:
    return database.url.get_secret_value()


def clean_environment(state_dir: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without any configuration of ours or of Dagster's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CHANUKA", "DAGSTER", "DATABASE_URL", "PG"))}
    return {**kept, "CHANUKA_STATE_DIR": str(state_dir), **(extra or {})}


@pytest.fixture
def cli(state_dir: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Cli:
    """Run `chanuka-ops …` in a directory of its own: cli("backup", "list", env={…}, cwd=…)."""
    pg_bin = request.config.getoption("--pg-bin")

    def run(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
        extra = {"CHANUKA__POSTGRES__BIN_DIR": pg_bin} if pg_bin else {}
        done = subprocess.run(
            [sys.executable, "-m", "chanuka_ops.cli.main", *args],
            capture_output=True,
            text=True,
            timeout=CLI_TIMEOUT_S,
            check=False,
            cwd=cwd or tmp_path,
            env=clean_environment(state_dir, {**extra, **(env or {})}),
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run

"""What is imported where it isn't used costs each command, and each test that starts one, its tenth of a second."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALWAYS_TOO_MUCH = {"dagster", "obstore", "apprise", "pyrage", "postgast"}
CASES = {
    # before the migration process is started: that one imports while this one does
    "chanuka_ops.cli.main, chanuka_ops.cli.migrate": {"alembic", "jinja2", "pydantic", "psycopg", "rich", "sqlalchemy"},
    "chanuka_ops.cli.migrate_run": {"alembic", "jinja2", "rich"},
    "chanuka_ops.migrator.running.runner": {"click", "jinja2", "pydantic_settings", "rich"},
}


@pytest.mark.parametrize("names", CASES)
def test_what_a_migration_does_not_need_is_not_imported(names: str) -> None:
    program = f"import sys, {names}\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert {"sys", names.rsplit(", ", maxsplit=1)[-1]} <= set(done.stdout.split())
    assert not set(done.stdout.split()) & (ALWAYS_TOO_MUCH | CASES[names])

"""`chanuka-ops up`: the Dagster UI and daemon, over the embedded server unless a database is configured."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import click
from rich.text import Text

from chanuka_ops import errors
from chanuka_ops.cli.face import Face, common
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.orchestrators.database import create_database, database_settings
from chanuka_ops.postgres import process

STORAGE_VARIABLE = "CHANUKA_DAGSTER_STORAGE_URL"
STORAGE_DATABASE = "dagster"  # of its own: Dagster's storage has a table alembic_version, and so has ours
FOREVER_S = 10 * 365 * 86400.0
_STORAGE = f"""
storage:
  postgres:
    postgres_url: {{env: {STORAGE_VARIABLE}}}
"""
_WORKSPACE = """\
load_from:
  - python_module: {module_name: chanuka_ops.definitions, location_name: chanuka_ops}
"""


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@common
def up(face: Face, *, port: int, host: str) -> None:
    """Serve the Dagster UI and daemon until Ctrl-C."""
    settings = face.settings()
    home = settings.state_dir / "dagster"
    env = {"DAGSTER_HOME": str(home), "CHANUKA_STATE_DIR": str(settings.state_dir)}
    with ExitStack() as stack:
        storage = os.environ.get(STORAGE_VARIABLE)
        if not settings.databases:
            database = stack.enter_context(database_settings(settings, "main"))
            env["DATABASE_URL"] = database.url.get_secret_value()
            storage = storage or _own_storage(database)
        _write_home(home, with_storage=storage is not None)
        if storage is not None:
            env[STORAGE_VARIABLE] = storage
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "dagster",
            "dev",
            "-w",
            home / "workspace.yaml",
            "-h",
            host,
            "-p",
            str(port),
        ]
        face.err.print(Text(f"Dagster's UI will be at http://{host}:{port} in a few seconds; Ctrl-C ends it"))
        # in this directory, not in Dagster's home: chanuka.toml, its paths and migrations/ are meant from here
        running = stack.enter_context(process.started(argv, env=env, on_line=_pass_on, on_stderr=_pass_on))
        running.wait(deadline_s=FOREVER_S)


def _own_storage(database: DatabaseSettings) -> str:
    """Make Dagster's storage database on the embedded server, and return its URL as Dagster needs it."""
    storage = database.with_dbname(STORAGE_DATABASE)
    create_database(STORAGE_DATABASE, storage)
    # dagster-postgres speaks psycopg2 only: with psycopg 3 its NOTIFY fails
    return storage.sqlalchemy_url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


def _write_home(home: Path, *, with_storage: bool) -> None:
    """Write Dagster's home: this project's instance settings, and the storage where there is one."""
    here = Path(__file__).parents[1]
    instance = next((path for path in (here.parent / "dagster.yaml", here / "_dagster.yaml") if path.is_file()), None)
    if instance is None:
        raise errors.ConfigurationError("dagster.yaml is neither beside the package nor in it: reinstall chanuka-ops")
    try:
        home.mkdir(parents=True, exist_ok=True)
        text = instance.read_text(encoding="utf-8") + (_STORAGE if with_storage else "")
        (home / "dagster.yaml").write_text(text, encoding="utf-8")
        (home / "workspace.yaml").write_text(_WORKSPACE, encoding="utf-8")
    except OSError as error:
        raise errors.ConfigurationError(f"Dagster's home {home} can't be written: {error.strerror}") from None


def _pass_on(line: str) -> None:
    click.echo(line, err=True)

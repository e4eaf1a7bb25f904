"""The SQL that revisions would send, written by Alembic's offline mode, without a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alembic.runtime.migration import MigrationContext, MigrationStep

from chanuka_ops import errors
from chanuka_ops.migrator.model import Direction, Script
from chanuka_ops.migrator.running.environment import Environment
from chanuka_ops.migrator.scripts import Scripts


def sql_of(
    files: Scripts, environment: Environment, current: Sequence[str], scripts: Sequence[Script], direction: Direction
) -> str:
    """Return the script.

    Errors: `MigrationFailed` naming the revision that can't say what it does without a database.
    """
    if not scripts:
        return ""
    under_way = ""

    def told(step: Any, name: str) -> Any:
        work: Callable[..., Any] = step.migration_fn

        def run(*args: Any, **options: Any) -> Any:
            nonlocal under_way
            under_way = name
            return work(*args, **options)

        step.migration_fn = run
        return step

    def work(_: tuple[str, ...], __: MigrationContext) -> list[Any]:
        make = MigrationStep.upgrade_from_script if direction == "up" else MigrationStep.downgrade_from_script
        revision_map, get = files.directory.revision_map, files.directory.get_revision
        return [told(make(revision_map, get(script.revision)), script.revision) for script in scripts]

    try:
        return environment.offline(work, current)
    except errors.ChanukaError:
        raise
    except Exception as error:
        what = f"revision {under_way}" if under_way else f"{files.path}/env.py"
        raise errors.MigrationFailed(
            f"{what} can't be shown as SQL: it asks a database while it runs, and --sql has none"
            f" ({type(error).__name__}: {error}). `chanuka-ops migrate rehearse` shows every statement, run on a copy."
            " Nothing was changed."
        ) from error

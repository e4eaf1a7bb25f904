"""Where the revision files are. Knows nothing of Alembic, which only the migration process needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import chanuka_ops
from chanuka_ops.config import MigrationSettings
from chanuka_ops.errors import ConfigurationError


def locate(settings: MigrationSettings, cwd: Path) -> Path:
    """Return the directory of env.py: the configured one, ./migrations, or those that come with this package.

    The configured one may be a directory, or `package:path/within` of an installed package, which isn't imported.
    Errors: `ConfigurationError` naming the directory that has no env.py.
    """
    package = Path(chanuka_ops.__file__).parent
    configured = settings.script_location
    candidates = [cwd / "migrations", package.parent / "migrations", package / "_migrations"]
    if configured is not None:
        candidates = [cwd / directory for directory in _configured(str(configured))]
    for directory in candidates:
        if (directory / "env.py").is_file():
            return directory.resolve()
    looked = ", ".join(str(directory) for directory in candidates)
    raise ConfigurationError(f"no Alembic scripts: {looked} has no env.py (operations.migration.script_location)")


def _configured(stated: str) -> list[Path]:
    package, colon, within = stated.partition(":")
    if not colon:
        return [Path(stated)]
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(f"no package {package!r} is installed (operations.migration.script_location {stated})")
    return [Path(root) / within for root in found.submodule_search_locations]

"""The revision files: what they say."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import alembic
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import to_tuple

from chanuka_ops.migrator import reading
from chanuka_ops.migrator.model import Script

INI = "alembic.ini"


def _config_of(location: Path) -> Config:
    """Return Alembic's configuration: the alembic.ini that lies by the scripts, if one does, for what env.py reads."""
    for path in (location / INI, location.parent / INI):
        if path.is_file():
            config = Config(path)
            where = config.get_main_option("script_location")
            here = path.parent / where if where and ":" not in where else None
            if path.parent == location or (here is not None and here.resolve() == location):
                return config
    return Config()


@dataclass(frozen=True, slots=True)
class Scripts:
    """The files of one directory, parents first, and what can't be read of them."""

    directory: ScriptDirectory
    config: Config
    scripts: tuple[Script, ...]
    unreadable: tuple[str, ...]

    @property
    def path(self) -> str:
        """The directory's path."""
        return str(self.directory.dir)

    def script(self, revision: str) -> Script:
        """Return one of the files."""
        return next(script for script in self.scripts if script.revision == revision)


def load(location: Path) -> Scripts:
    """Read every revision file. Alembic imports them, so this belongs in the migration process."""
    config = _config_of(location)
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    directory = ScriptDirectory.from_config(config)
    scripts: list[Script] = []
    unreadable: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            for found in directory.walk_revisions():
                source = Path(found.path).read_bytes()
                up, down = reading.natures(source.decode("utf-8"))
                phase, completes = reading.phase(source.decode("utf-8"))
                parents = (*to_tuple(found.down_revision, ()), *to_tuple(found.dependencies, ()))
                scripts.append(
                    Script(found.revision, parents, found.doc, reading.sha256(source), up, down, phase, completes)
                )
        except Exception as error:  # noqa: BLE001 - a revision file is code: its import may raise anything
            unreadable.append(f"the revision files in {location} can't be read: {type(error).__name__}: {error}")
    # Alembic warns, and goes on, where two files share an id or build on one that isn't there. What a revision imports
    # warns too, of other things.
    home = str(Path(alembic.__file__).parent)
    doubts = [
        f"{location}: {warning.message}"
        for warning in said
        if issubclass(warning.category, UserWarning) and warning.filename.startswith(home)
    ]
    return Scripts(directory, config, tuple(reversed(scripts)), (*doubts, *unreadable))

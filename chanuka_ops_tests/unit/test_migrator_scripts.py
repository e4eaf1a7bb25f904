"""Where the revision files are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from chanuka_ops.config import MigrationSettings
from chanuka_ops.errors import ConfigurationError
from chanuka_ops.migrator import locating

REPOSITORY = Path(__file__).parents[2]


def with_env(directory: Path) -> Path:
    directory.mkdir()
    (directory / "env.py").touch()
    return directory


def test_the_configured_directory_wins(tmp_path: Path) -> None:
    with_env(tmp_path / "migrations")
    theirs = with_env(tmp_path / "theirs")
    assert locating.locate(MigrationSettings(script_location=Path("theirs")), tmp_path) == theirs
    assert locating.locate(MigrationSettings(script_location=theirs), Path("/")) == theirs


def test_the_configured_directory_has_to_be_one(tmp_path: Path) -> None:
    with_env(tmp_path / "migrations")
    with pytest.raises(ConfigurationError, match=r"gone.*script_location"):
        locating.locate(MigrationSettings(script_location=Path("gone")), tmp_path)


def test_without_configuration_it_is_the_working_directory_then_the_package(tmp_path: Path) -> None:
    assert locating.locate(MigrationSettings(), tmp_path) == REPOSITORY / "migrations"
    here = with_env(tmp_path / "migrations")
    assert locating.locate(MigrationSettings(), tmp_path) == here

"""Which installation is taken. The programs are scripts that say a version, as `pg_dump --version` does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.postgres import binaries


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    binaries._version.cache_clear()


def installation(directory: Path, version: str, programs: tuple[str, ...] = binaries.CLIENT) -> Path:
    directory.mkdir(parents=True)
    for program in programs:
        path = directory / program
        path.write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n")
        path.chmod(0o755)
    return directory


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory in which the versioned installations lie; none other is there."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(binaries, "_VERSIONED", (f"{tmp_path}/pg/*/bin",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    return tmp_path / "pg"


@pytest.mark.parametrize(("server", "taken"), [(15, "15.3"), (16, "16.1"), (17, "18.2"), (18, "18.2"), (None, "18.2")])
def test_the_servers_own_major_comes_before_a_newer_one(only: Path, server: int | None, taken: str) -> None:
    for version in ("18.2", "15.3", "16.1"):
        installation(only / version.split(".")[0] / "bin", version)
    assert binaries.find(configured=None, server_major=server).version == taken


def test_a_configured_one_is_taken_though_another_fits_better(only: Path, tmp_path: Path) -> None:
    installation(only / "16" / "bin", "16.1")
    own = installation(tmp_path / "own", "18.0")
    found = binaries.find(configured=own, server_major=16)
    assert (found.version, found.origin, found.path("pg_dump")) == ("18.0", "configured", own / "pg_dump")


def test_a_configured_one_that_is_too_old_is_refused_though_another_fits(only: Path, tmp_path: Path) -> None:
    installation(only / "18" / "bin", "18.1")
    own = installation(tmp_path / "own", "15.3")
    with pytest.raises(errors.ToolTooOld, match=r"server is PostgreSQL 18.*15\.3 in .*own") as refused:
        binaries.find(configured=own, server_major=18)
    assert refused.value.exit_code == 3


def test_all_are_too_old(only: Path) -> None:
    installation(only / "15" / "bin", "15.3")
    installation(only / "16" / "bin", "16.1")
    with pytest.raises(errors.ToolTooOld, match=r"can't be trusted"):
        binaries.find(configured=None, server_major=17)


@pytest.mark.parametrize("server", [None, 18])
def test_there_is_none(only: Path, server: int | None) -> None:
    with pytest.raises(errors.ToolMissing, match=r"install PostgreSQL's client package") as missing:
        binaries.find(configured=None, server_major=server)
    assert missing.value.exit_code == 2


def test_a_configured_directory_without_programs(only: Path, tmp_path: Path) -> None:
    installation(only / "18" / "bin", "18.1")
    with pytest.raises(errors.ToolMissing, match=r"postgres\.bin_dir: .* holds no"):
        binaries.find(configured=tmp_path, server_major=18)


def test_one_that_lacks_a_program_or_does_not_run_is_none(only: Path) -> None:
    installation(only / "19" / "bin", "19.0", ("pg_dump",))
    broken = installation(only / "17" / "bin", "17.0")
    (broken / "pg_dump").write_text("#!/no/such/interpreter\n")
    talks = installation(only / "16" / "bin", "16.0")
    (talks / "pg_dump").write_text("#!/bin/sh\necho hello\n")
    installation(only / "15" / "bin", "15.0")
    assert [found.major for found in binaries.installations(None, binaries.CLIENT)] == [15]


def test_a_wrapper_on_the_path_is_not_a_version_of_its_own(
    only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's /usr/bin/pg_dump is a link to pg_wrapper, which picks a version by the clusters of this machine."""
    wrapped = installation(tmp_path / "wrapped", "18.9")
    for program in binaries.CLIENT:
        (wrapped / program).rename(wrapped / f"{program}.real")
        (wrapped / "pg_wrapper").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 18.9'\n")
        (wrapped / "pg_wrapper").chmod(0o755)
        (wrapped / program).symlink_to("pg_wrapper")
    monkeypatch.setenv("PATH", str(wrapped))
    assert list(binaries.installations(None, binaries.CLIENT)) == []


def test_a_link_on_the_path_leads_to_the_installation_it_is_of(
    only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = installation(tmp_path / "real", "18.9")
    (tmp_path / "bin").mkdir()
    for program in binaries.CLIENT:
        (tmp_path / "bin" / program).symlink_to(real / program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (found,) = binaries.installations(None, binaries.CLIENT)
    assert (found.bin_dir, found.origin) == (real, "PATH")


@pytest.mark.parametrize(
    ("said", "major", "version"),
    [("18.6", 18, "18.6"), ("19beta2", 19, "19beta2"), ("18.6 (Debian 18.6-1)", 18, "18.6")],
)
def test_versions_as_the_programs_say_them(only: Path, said: str, major: int, version: str) -> None:
    installation(only / "x" / "bin", said)
    found = binaries.find(configured=None)
    assert (found.major, found.version) == (major, version)

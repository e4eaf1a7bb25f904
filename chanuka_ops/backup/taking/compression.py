"""How a dump is compressed: what the settings ask for, within what pg_dump was built with.

zstd and lz4 dumps carry no checksum of their content, so that a flipped bit can restore as wrong data without an error
(gzip has a CRC-32). That is what the SHA-256 of each file in our manifest is for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from chanuka_ops import errors
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries

log = logging.getLogger(__name__)

MOST: Final = {"gzip": 9, "lz4": 12, "zstd": 22}
NAMED_SINCE = 16  # https://www.postgresql.org/docs/16/release-16.html: before, --compress takes gzip's level only
PROBE_TIMEOUT_S = 10.0
# No server is ever there; `hostaddr` is stated so that the environment's doesn't lead to one.
_NOWHERE = "host=/dev/null hostaddr='' dbname=none connect_timeout=2"


@dataclass(frozen=True, slots=True)
class Compression:
    """A codec that pg_dump really has, and its level; "none" has level 0."""

    codec: str
    level: int

    def option(self, major: int) -> str:
        """Return the argument for a pg_dump of that major version.

        >>> Compression("zstd", 3).option(18), Compression("gzip", 3).option(15), Compression("none", 0).option(15)
        ('--compress=zstd:3', '--compress=3', '--compress=0')
        """
        if major < NAMED_SINCE:
            return f"--compress={self.level}"
        return "--compress=none" if self.codec == "none" else f"--compress={self.codec}:{self.level}"


def chosen(asked: str, level: int, tools: Binaries, has: Callable[[Binaries, str], bool]) -> Compression:
    """Choose the codec: the one asked for; for "auto" zstd where pg_dump has it, else gzip. Level 0 is none. Pure.

    `has` tells whether a pg_dump was built with a codec.
    Errors: `ConfigurationError` for a codec that it lacks, or a level that the codec doesn't know.
    """
    if asked == "none" or level == 0:
        return Compression("none", 0)
    if asked == "auto":
        codec = "zstd" if has(tools, "zstd") else "gzip"
        return Compression(codec, min(level, MOST[codec]))
    if not has(tools, asked):
        known = ", ".join(codec for codec in MOST if has(tools, codec))
        raise errors.ConfigurationError(
            f"compression: {tools.path('pg_dump')} ({tools.version}) was not built with {asked}, it has {known}: set"
            " compression to one of these or to auto, or postgres.bin_dir to tools that have it"
        )
    if level > MOST[asked]:
        raise errors.ConfigurationError(f"compression_level: {asked} knows 0 to {MOST[asked]}, and not {level}")
    return Compression(asked, level)


def built_with(tools: Binaries, codec: str) -> bool:
    """Tell whether a pg_dump has a codec. It is asked itself, once in this process; no server is.

    Errors: `ToolFailed` where it can't be started.
    """
    return codec == "gzip" or (tools.major >= NAMED_SINCE and _has(tools.path("pg_dump"), codec))


@cache
def _has(program: Path, codec: str) -> bool:
    """Let it try to dump a database that isn't there: it looks at the codec first."""
    argv: list[str | Path] = [program, f"--compress={codec}", "--no-password", f"--dbname={_NOWHERE}"]
    said = process.run(argv, deadline_s=PROBE_TIMEOUT_S, check=False).stderr
    found = "connection to server" in said
    log.debug("%s has %s: %s", program, codec, found, extra={"event": "tool.codec"})
    return found

"""Which codec a dump gets, by what pg_dump was built with."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup.taking import compression
from chanuka_ops.backup.taking.compression import Compression
from chanuka_ops.postgres.binaries import Binaries


def tools(major: int) -> Binaries:
    return Binaries(Path("/opt/pg/bin"), major, f"{major}.1", "configured")


@pytest.mark.parametrize(
    ("asked", "level", "major", "built_with", "option"),
    [
        ("auto", 1, 18, {"gzip", "zstd", "lz4"}, "--compress=zstd:1"),
        ("auto", 1, 18, {"gzip", "lz4"}, "--compress=gzip:1"),
        ("auto", 19, 18, {"gzip"}, "--compress=gzip:9"),
        ("auto", 0, 18, {"gzip", "zstd"}, "--compress=none"),
        ("auto", 3, 15, {"gzip"}, "--compress=3"),
        ("none", 5, 18, {"gzip"}, "--compress=none"),
        ("none", 5, 15, {"gzip"}, "--compress=0"),
        ("gzip", 6, 16, {"gzip", "zstd"}, "--compress=gzip:6"),
        ("lz4", 12, 18, {"gzip", "lz4"}, "--compress=lz4:12"),
        ("zstd", 0, 15, {"gzip"}, "--compress=0"),
    ],
)
def test_the_codec(asked: str, level: int, major: int, built_with: set[str], option: str) -> None:
    chosen = compression.chosen(asked, level, tools(major), lambda _, codec: codec in built_with)
    assert chosen.option(major) == option
    assert chosen.codec in {*built_with, "none"}


def test_a_codec_that_pg_dump_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(
        errors.ConfigurationError, match=r"/opt/pg/bin/pg_dump \(18\.1\) .* with lz4, it has gzip, zstd"
    ):
        compression.chosen("lz4", 1, tools(18), lambda _, codec: codec in {"gzip", "zstd"})


def test_a_level_that_the_codec_lacks_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="lz4 knows 0 to 12, and not 13"):
        compression.chosen("lz4", 13, tools(18), lambda *_: True)


def test_the_examples_hold() -> None:
    assert doctest.testmod(compression).failed == 0
    assert Compression("none", 0).option(18) == "--compress=none"


@pytest.mark.parametrize(
    ("said", "has"),
    [
        ("pg_dump: error: invalid compression specification: this build does not support compression with ZSTD", False),
        ('pg_dump: error: unrecognized compression algorithm: "zstd"', False),
        ('pg_dump: error: connection to server on socket "/dev/null/.s.PGSQL.5432" failed: Not a directory', True),
        ("pg_dump: Speicherzugriffsfehler", False),
    ],
)
def test_a_program_is_asked_itself(said: str, has: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a column of the table
    """A stand-in for the builds that aren't here; the real ones are asked in the engine's tests."""
    program = tmp_path / "pg_dump"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    assert compression.built_with(Binaries(tmp_path, 18, "18.1", "configured"), "zstd") == has

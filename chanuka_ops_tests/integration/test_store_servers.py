"""A backup's life in a bucket of two servers that share no code: moto's, in Python, and s3rver, in JavaScript from npm.

s3rver knows no conditional writes, of which moto's does some, and refuses a key that it doesn't know.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup.model import Pin, Status, Tier
from chanuka_ops.backup.storing.transfers import PART_BYTES
from chanuka_ops_tests.plugins.s3 import KEY_ID, SECRET, Bucket, bucket_on, sample, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

S3RVER = "s3rver@3.7.1"
INSTALL_S = 240
NOTE = "main/note.txt"
PROGRAM = f"""
const [address, port] = process.argv.slice(-2);
require("s3rver/lib/models/account").DUMMY_ACCOUNT.createKeyPair("{KEY_ID}", "{SECRET}");
new (require("s3rver"))({{ address, port: +port, silent: true, directory: "data", vhostBuckets: false }}).run();
"""


@pytest.fixture(scope="module")
def s3rver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of a server that npm installs here, for this module."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no node with npm")
    place = tmp_path_factory.mktemp("s3rver")
    (place / "package.json").write_text("{}")
    try:
        subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", S3RVER],
            cwd=place, check=True, capture_output=True, timeout=INSTALL_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as failure:
        pytest.skip(f"npm can't install {S3RVER} here: {failure}")
    program = place / "server.js"
    program.write_text(PROGRAM.replace('"data"', f'"{place / "data"}"'))
    with serving(node, str(program)) as (port, _):
        yield port


@pytest.fixture(params=["moto", "s3rver"])
def bucket(request: pytest.FixtureRequest, s3_secrets: None) -> Iterator[Bucket]:
    """A bucket of the test's own on each server."""
    moto = request.param == "moto"
    port: int = request.getfixturevalue("s3_port" if moto else "s3rver")
    with bucket_on(port, signed=moto) as made:
        made.write(NOTE, b"somebody's")  # of folders without a file of their own s3rver lists no name
        yield made


def test_a_backup_s_life(bucket: Bucket, tmp_path: Path) -> None:
    sizes = {"dump/toc.dat": 1000, "dump/empty.dat": 0, "dump/large.dat": 2 * PART_BYTES + 1, "globals/roles.sql": 30}
    one, store = sample(tmp_path, sizes), bucket.store()
    one.send(store)
    assert [(listed.backup_id, listed.tier, listed.problem) for listed in store.list()] == [
        (one.backup_id, "taken", None)
    ]
    assert one.is_whole_in(bucket.store("another"))
    assert store.paths(one.backup_id) == set(sizes)
    if bucket.signed:  # s3rver can't say
        assert bucket.uploads() == []
    with store.open(one.backup_id, "dump/large.dat") as stream:
        assert stream.read(10) + stream.read() == (tmp_path / "dump/large.dat").read_bytes()

    def pinned(before: Status) -> Status:
        pin = Pin(reason="ü", at=one.manifest.created_at, actor="me")
        return before.model_copy(update={"tier": Tier.VERIFIED, "pin": pin})

    store.change_status(one.backup_id, pinned)
    assert [(listed.tier, listed.pinned) for listed in bucket.store("another").list()] == [("verified", "ü")]
    with store.reading(one.backup_id), pytest.raises(errors.LockHeld):
        bucket.store("another").delete(one.backup_id)
    store.delete(one.backup_id)
    assert (store.list(), bucket.all_keys()) == ([], [NOTE])


def test_damage_is_seen(bucket: Bucket, tmp_path: Path) -> None:
    one, store = sample(tmp_path), bucket.store()
    one.plant(bucket)
    folder = f"main/{one.backup_id}"
    assert one.is_whole_in(store)
    bucket.write(f"{folder}/dump/1.dat", b"y" * 70_000)
    bucket.remove(f"{folder}/globals/roles.sql")
    stated = {file.path: file for file in one.manifest.files}
    found = store.files(one.backup_id)
    assert found.keys() == stated.keys() - {"globals/roles.sql"}
    assert {path for path, file in found.items() if file != stated[path]} == {"dump/1.dat"}


def test_a_wrong_key_says_so(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    if bucket.signed:
        pytest.skip("moto's server takes any key")
    monkeypatch.setenv("TEST_S3_KEY_ID", "AKIANOBODYSNOBODYSNO")
    with pytest.raises(errors.StoreError, match="InvalidAccessKeyId"):
        bucket.store(deadline_s=5.0).list()

"""Files are encrypted for public keys and come back as they were; nothing of a damaged one is ever kept."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from pydantic import ValidationError

from chanuka_ops import context, errors
from chanuka_ops.backup import encryption
from chanuka_ops.backup.encryption import Identity
from chanuka_ops.config import BackupSettings, SecretSource

BLOCK = 65536  # of the age format's payload
TAG = 16
SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 20_000_000)


@pytest.fixture(scope="module")
def secret() -> Identity:
    return pyrage.x25519.Identity.generate()


def public(secret: Identity) -> str:
    return str(secret.to_public())


def sealed(tmp_path: Path, secret: Identity, content: bytes) -> Path:
    """A file encrypted for a secret key's public one."""
    (tmp_path / "plain").write_bytes(content)
    encryption.encrypted(
        tmp_path / "plain", tmp_path / "a.age", encryption.recipients_of([public(secret)]), path="a.age"
    )
    return tmp_path / "a.age"


def opened(tmp_path: Path, source: Path, *secrets: Identity) -> bytes:
    with source.open("rb") as stream:
        encryption.decrypted(stream, tmp_path / "back", secrets, name="a.age", recipients=("age1one", "age1two"))
    return (tmp_path / "back").read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_back_as_it_was(tmp_path: Path, secret: Identity, size: int) -> None:
    content = os.urandom(size)
    source = sealed(tmp_path, secret, content)
    assert content not in source.read_bytes() or size < 2
    assert opened(tmp_path, source, secret) == content


def test_what_is_said_of_a_file_is_what_was_written(tmp_path: Path, secret: Identity) -> None:
    (tmp_path / "plain").write_bytes(os.urandom(300_000))
    target = tmp_path / "target"
    counted: list[int] = []
    file = encryption.encrypted(
        tmp_path / "plain",
        target,
        encryption.recipients_of([public(secret)]),
        path="dump/1.dat.age",
        count=counted.append,
    )
    content = target.read_bytes()
    assert (file.path, file.bytes, file.sha256) == (
        "dump/1.dat.age",
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
    assert sum(counted) == 300_000


def test_each_of_several_recipients_can_open_it_alone(tmp_path: Path, secret: Identity) -> None:
    other = pyrage.x25519.Identity.generate()
    (tmp_path / "plain").write_bytes(b"bills")
    keys = encryption.recipients_of([public(secret), f"  {public(other)}\n"])
    encryption.encrypted(tmp_path / "plain", tmp_path / "a.age", keys, path="a.age")
    for one in (secret, other):
        assert opened(tmp_path, tmp_path / "a.age", pyrage.x25519.Identity.generate(), one) == b"bills"


def test_a_wrong_key_says_for_whom_it_was_meant_and_leaves_nothing(tmp_path: Path, secret: Identity) -> None:
    source = sealed(tmp_path, secret, b"x" * 100_000)
    with pytest.raises(errors.DecryptionFailed) as failure:
        opened(tmp_path, source, pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate())
    assert str(failure.value) == (
        "a.age: none of the 2 secret keys of operations.backup.identity opens it, it was encrypted for age1one,"
        " age1two: configure one of theirs"
    )
    assert failure.value.exit_code == 1
    assert not (tmp_path / "back").exists()


def payload(content: bytes) -> int:
    """Where the payload begins: behind the header's last line and the nonce."""
    return content.index(b"\n", content.index(b"\n---") + 1) + 1 + TAG


FLIPS: dict[str, Callable[[bytes], int]] = {
    "version": lambda _: 5,
    "header's code": lambda content: content.index(b"\n---") + 10,
    "nonce": lambda content: payload(content) - 1,
    "last byte": lambda content: len(content) - 1,
    **{f"block {n}": lambda content, n=n: payload(content) + n * (BLOCK + TAG) + 7 for n in range(4)},  # type: ignore[misc]  # mypy wants a Protocol for the default
}


@pytest.mark.parametrize("where", FLIPS)
def test_a_flipped_bit_is_found_and_leaves_nothing(tmp_path: Path, secret: Identity, where: str) -> None:
    source = sealed(tmp_path, secret, os.urandom(3 * BLOCK + 1000))
    content = bytearray(source.read_bytes())
    content[FLIPS[where](bytes(content))] ^= 1
    source.write_bytes(content)
    with pytest.raises(errors.DecryptionFailed, match=r"a\.age is damaged"):
        opened(tmp_path, source, secret)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("blocks", range(4))
@pytest.mark.parametrize("further", [-1, 0, 1, 5000])
def test_a_truncated_file_is_found_and_leaves_nothing(
    tmp_path: Path, secret: Identity, blocks: int, further: int
) -> None:
    """Cut between two blocks too, where every block that is left is authentic."""
    source = sealed(tmp_path, secret, os.urandom(4 * BLOCK))
    content = source.read_bytes()
    source.write_bytes(content[: payload(content) + blocks * (BLOCK + TAG) + further])
    with pytest.raises(errors.DecryptionFailed, match=r"a\.age is damaged"):
        opened(tmp_path, source, secret)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("content", [b"", b"PGDMP\x01\x0f", b"age-encryption.org/v1\n"])
def test_what_is_not_encrypted_is_damaged(tmp_path: Path, secret: Identity, content: bytes) -> None:
    (tmp_path / "a.age").write_bytes(content)
    with pytest.raises(errors.DecryptionFailed, match="damaged"):
        opened(tmp_path, tmp_path / "a.age", secret)


def test_something_appended_is_found(tmp_path: Path, secret: Identity) -> None:
    source = sealed(tmp_path, secret, b"bills")
    source.write_bytes(source.read_bytes() + b"\0")
    with pytest.raises(errors.DecryptionFailed, match="damaged"):
        opened(tmp_path, source, secret)


class Breaks(io.BytesIO):
    """A stream that breaks after its first 100,000 bytes."""

    def __init__(self, content: bytes, error: BaseException) -> None:
        super().__init__(content)
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 100_000:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), errors.StoreError("gone"), SystemExit(1)])
def test_a_source_that_breaks_says_so_itself(tmp_path: Path, secret: Identity, error: BaseException) -> None:
    content = sealed(tmp_path, secret, os.urandom(300_000)).read_bytes()
    with pytest.raises(type(error)) as failure:
        encryption.decrypted(Breaks(content, error), tmp_path / "back", [secret], name="a.age")
    assert failure.value is error
    assert not (tmp_path / "back").exists()


def test_an_interrupt_is_no_failure_of_the_encryption(tmp_path: Path, secret: Identity) -> None:
    """pyrage would say EncryptError("KeyboardInterrupt: ")."""
    (tmp_path / "plain").write_bytes(os.urandom(300_000))

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encryption.encrypted(
            tmp_path / "plain", tmp_path / "a", encryption.recipients_of([public(secret)]), path="a", count=interrupt
        )
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_an_error_of_the_disk(tmp_path: Path, secret: Identity) -> None:
    (tmp_path / "plain").write_bytes(os.urandom(300_000))
    (tmp_path / "a").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        encryption.encrypted(tmp_path / "plain", tmp_path / "a", encryption.recipients_of([public(secret)]), path="a")
    assert not (tmp_path / "a").is_symlink()
    assert Path("/dev/full").exists()


def plain_files(directory: Path) -> dict[str, bytes]:
    contents = {f"dump/{n}.dat": os.urandom(n * 40_000) for n in range(6)} | {"globals/roles.sql": b"--"}
    for name, content in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return contents


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("jobs", [1, 3])
def test_all_files_of_a_directory(tmp_path: Path, secret: Identity, jobs: int, delete: bool) -> None:  # noqa: FBT001 - a parameter of the test's
    contents = plain_files(tmp_path / "here")
    into = tmp_path / "here" if delete else tmp_path / "there"
    seen: list[context.Progress] = []
    with context.scope(on_progress=seen.append):
        found = encryption.encrypt_all(
            tmp_path / "here",
            contents,
            into,
            encryption.recipients_of([public(secret)]),
            jobs=jobs,
            delete=delete,
        )
    assert [file.path for file in found] == sorted(f"{name}.age" for name in contents)
    for file in found:
        sealed = (into / file.path).read_bytes()
        assert (file.bytes, file.sha256) == (len(sealed), hashlib.sha256(sealed).hexdigest())
        assert opened(tmp_path, into / file.path, secret) == contents[file.path.removesuffix(".age")]
        assert (tmp_path / "here" / file.path.removesuffix(".age")).exists() is not delete
    total = sum(map(len, contents.values()))
    assert {(step.label, step.total, step.unit) for step in seen} == {("encrypt", total, "bytes")}
    assert [seen[0].done, seen[-1].done] == [0, total]


def test_a_file_that_cannot_be_read_fails_the_whole(tmp_path: Path, secret: Identity) -> None:
    contents = plain_files(tmp_path)
    with pytest.raises(errors.StoreError, match=r"missing can't be encrypted: No such file"):
        encryption.encrypt_all(
            tmp_path,
            [*contents, "missing"],
            tmp_path / "out",
            encryption.recipients_of([public(secret)]),
            jobs=2,
            delete=False,
        )


def test_a_plain_file_outlives_a_failure(tmp_path: Path, secret: Identity) -> None:
    contents = plain_files(tmp_path)
    (tmp_path / "out/dump/3.dat.age").mkdir(parents=True)  # nothing can be written there
    keys = encryption.recipients_of([public(secret)])
    with pytest.raises(errors.StoreError, match=r"3\.dat\.age can't be encrypted"):
        encryption.encrypt_all(tmp_path, contents, tmp_path / "out", keys, jobs=1, delete=True)
    assert (tmp_path / "dump/3.dat").read_bytes() == contents["dump/3.dat"]


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("age1qqqqqqqqqqqqqqqqqq", r"number 2 \(age1qqqqqqqq…\) is not a whole public key"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1", r"number 2 \(ssh-ed25519 …\) is not a whole public key"),
        ("ecdsa-sha2-nistp256 AAAA", "number 2 is no public key: it begins with age1, ssh-ed25519 or ssh-rsa"),
        ("", "number 2 is no public key"),
    ],
)
def test_a_bad_recipient_is_named(secret: Identity, stated: str, said: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"^operations.backup.recipients: {said}"):
        encryption.recipients_of([public(secret), stated])


@pytest.mark.parametrize("change", [str, str.lower, lambda key: f" {key}", lambda key: key[4:], lambda key: key[:40]])
def test_a_secret_key_among_the_recipients_is_refused_and_not_shown(
    secret: Identity, change: Callable[[str], str]
) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"recipients: number 1 is a secret key") as failure:
        encryption.recipients_of([change(str(secret))])
    body = str(secret)[16:40]
    assert body not in str(failure.value).upper()
    assert failure.value.__cause__ is None
    assert failure.value.__context__ is None


def test_the_rest_of_a_secret_key_is_not_shown_either(secret: Identity) -> None:
    with pytest.raises(errors.ConfigurationError) as failure:
        encryption.recipients_of([str(secret)[16:]])
    assert str(secret)[16:24] not in str(failure.value)


def test_nothing_is_encrypted_for_nobody(tmp_path: Path) -> None:
    assert encryption.recipients_of(()) == ()
    (tmp_path / "plain").write_bytes(b"bills")
    with pytest.raises(errors.ConfigurationError, match=r"^operations\.backup\.recipients: Missing recipients"):
        encryption.encrypted(tmp_path / "plain", tmp_path / "a", (), path="a")
    assert not (tmp_path / "a").exists()


def test_settings_with_a_secret_key_for_a_public_one_are_not_even_loaded(secret: Identity) -> None:
    """Whatever shows settings would show it."""
    with pytest.raises(ValidationError, match="number 2 is a secret key") as failure:
        BackupSettings(recipients=(public(secret), str(secret)))
    said = [problem["msg"] for problem in failure.value.errors(include_input=False, include_url=False)]
    assert str(secret)[16:30] not in str(said)


def identity_file(tmp_path: Path, content: str) -> SecretSource:
    (tmp_path / "identity").write_text(content, encoding="utf-8")
    return SecretSource(file=tmp_path / "identity")


def test_an_identity_file_as_age_keygen_writes_it(tmp_path: Path, secret: Identity) -> None:
    other = pyrage.x25519.Identity.generate()
    text = f"# created: 2026-11-22\n# public key: {public(secret)}\n{secret}\n\n{other}\r\n"
    found = encryption.identities_of(identity_file(tmp_path, text))
    assert [str(one) for one in found] == [str(secret), str(other)]


def test_an_identity_from_the_environment(monkeypatch: pytest.MonkeyPatch, secret: Identity) -> None:
    monkeypatch.setenv("AGE_KEY", str(secret))
    assert [str(one) for one in encryption.identities_of(SecretSource(env="AGE_KEY"))] == [str(secret)]


def test_a_missing_identity_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"^operations\.backup\.identity is not set"):
        encryption.identities_of(None)
    with pytest.raises(
        errors.ConfigurationError, match=r"^operations\.backup\.identity is .*NO_SUCH_KEY, which is not"
    ):
        encryption.identities_of(SecretSource(env="NO_SUCH_KEY"))
    with pytest.raises(
        errors.ConfigurationError, match=r"^operations\.backup\.identity is .*no/such/file, which can't"
    ):
        encryption.identities_of(SecretSource(file=Path("/no/such/file")))


def test_a_bad_identity_is_named_by_its_line_and_not_shown(tmp_path: Path, secret: Identity) -> None:
    broken = str(secret)[:-1]
    for content, said in (
        (f"# mine\n{broken}\n", "line 2 is no secret key of age: it begins with AGE-SECRET-KEY-1"),
        (f"{secret}\n{public(secret)}\n", "line 2 is a public key"),
        ("# nothing\n\n", "no secret key stands there"),
        ("", "no secret key stands there"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END", "the private key can't be read"),
    ):
        with pytest.raises(errors.ConfigurationError, match=f"^operations.backup.identity: {said}") as failure:
            encryption.identities_of(identity_file(tmp_path, content))
        assert str(secret)[16:30] not in str(failure.value)


MEMORY = """
import sys
from pathlib import Path
import pyrage
from chanuka_ops.backup import encryption

here = Path(sys.argv[1])
with (here / "plain").open("wb") as file:
    for n in range(200):
        file.write(bytes([n]) * (1 << 20))
secret = pyrage.x25519.Identity.generate()
keys = encryption.recipients_of([str(secret.to_public())])
encryption.encrypt_all(here, ["plain"], here, keys, jobs=2, delete=True)
with (here / "plain.age").open("rb") as file:
    encryption.decrypted(file, here / "plain", [secret], name="plain.age")
with (here / "plain").open("rb") as file:
    assert all(file.read(1 << 20) == bytes([n]) * (1 << 20) for n in range(200))
status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that this one was forked from
print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, timeout=100, check=True
    )
    assert int(done.stdout) < 150  # MB, for a file of 200

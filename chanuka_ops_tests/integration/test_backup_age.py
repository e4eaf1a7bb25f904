"""Encrypted files are age files: the program `age` alone opens them, and SSH keys serve as well."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup import encryption
from chanuka_ops.config import SecretSource
from chanuka_ops.postgres.process import run

TOOL_S = 20.0
CONTENT = os.urandom(200_000)


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"the program {name} isn't installed")
    return found


@pytest.fixture
def age_key(tmp_path: Path) -> tuple[str, Path]:
    """A pair made by age's own program: the public key, and the file of the secret one."""
    made = tmp_path / "identity.txt"
    run([program("age-keygen"), "-o", made], deadline_s=TOOL_S)
    public = run([program("age-keygen"), "-y", made], deadline_s=TOOL_S).stdout.strip()
    return public, made


def ssh_key(tmp_path: Path, *options: str, passphrase: str = "") -> tuple[str, Path]:
    made = tmp_path / "key"
    run(
        [program("ssh-keygen"), "-q", *options, "-N", passphrase, "-C", "ops@example.org", "-f", made],
        deadline_s=TOOL_S,
    )
    return made.with_suffix(".pub").read_text(encoding="utf-8"), made


def sealed(tmp_path: Path, *recipients: str) -> Path:
    (tmp_path / "plain").write_bytes(CONTENT)
    keys = encryption.recipients_of(recipients)
    encryption.encrypt_all(tmp_path, ["plain"], tmp_path, keys, jobs=1, delete=True)
    return tmp_path / "plain.age"


def opened(tmp_path: Path, source: Path, identity: Path) -> bytes:
    with source.open("rb") as stream:
        secrets = encryption.identities_of(SecretSource(file=identity))
        encryption.decrypted(stream, tmp_path / "back", secrets, name=source.name)
    return (tmp_path / "back").read_bytes()


def test_age_alone_decrypts(tmp_path: Path, age_key: tuple[str, Path]) -> None:
    public, secret = age_key
    source = sealed(tmp_path, public)
    run([program("age"), "--decrypt", "-i", secret, "-o", tmp_path / "back", source], deadline_s=TOOL_S)
    assert (tmp_path / "back").read_bytes() == CONTENT


def test_what_age_encrypted_is_decrypted(tmp_path: Path, age_key: tuple[str, Path]) -> None:
    public, secret = age_key
    (tmp_path / "plain").write_bytes(CONTENT)
    run([program("age"), "-r", public, "-o", tmp_path / "plain.age", tmp_path / "plain"], deadline_s=TOOL_S)
    assert opened(tmp_path, tmp_path / "plain.age", secret) == CONTENT


@pytest.mark.parametrize("kind", [("-t", "ed25519"), ("-t", "rsa", "-b", "2048")], ids=["ed25519", "rsa"])
def test_an_ssh_key(tmp_path: Path, kind: tuple[str, ...]) -> None:
    public, secret = ssh_key(tmp_path, *kind)
    source = sealed(tmp_path, public)
    assert opened(tmp_path, source, secret) == CONTENT


def test_age_alone_decrypts_with_an_ssh_key(tmp_path: Path) -> None:
    public, secret = ssh_key(tmp_path, "-t", "ed25519")
    source = sealed(tmp_path, public)
    run([program("age"), "--decrypt", "-i", secret, "-o", tmp_path / "back", source], deadline_s=TOOL_S)
    assert (tmp_path / "back").read_bytes() == CONTENT


def test_an_ssh_key_and_one_of_age_side_by_side(tmp_path: Path, age_key: tuple[str, Path]) -> None:
    ssh_public, ssh_secret = ssh_key(tmp_path, "-t", "ed25519")
    public, secret = age_key
    source = sealed(tmp_path, public, ssh_public)
    assert opened(tmp_path, source, secret) == CONTENT
    assert opened(tmp_path, source, ssh_secret) == CONTENT


def test_an_ssh_key_with_a_passphrase_is_refused_in_clear_words(tmp_path: Path) -> None:
    _, secret = ssh_key(tmp_path, "-t", "ed25519", passphrase="correct horse")
    with pytest.raises(errors.ConfigurationError, match=r"operations\.backup\.identity: .*protected by a passphrase"):
        encryption.identities_of(SecretSource(file=secret))


def test_an_ssh_key_that_age_has_no_use_for_is_refused(tmp_path: Path) -> None:
    public, secret = ssh_key(tmp_path, "-t", "ecdsa")
    with pytest.raises(errors.ConfigurationError, match="number 1 is no public key"):
        encryption.recipients_of([public])
    with pytest.raises(errors.ConfigurationError, match="must be Ed25519 or RSA"):
        encryption.identities_of(SecretSource(file=secret))

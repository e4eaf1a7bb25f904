"""Encrypts a backup's files for public keys, in the age format, and decrypts them again; streamed both ways.

The host that takes backups holds public keys only: who breaks into it can't read a single backup of the past. The
identity is needed for drill and restore. An encrypted file has its plain name and `.age`; `age --decrypt` alone opens
it. https://age-encryption.org/v1

pyrage holds Python's own lock while it works, so threads only gain what they'd wait for the disk (a tenth); one core
does 400 MB/s, which is several times what the dump before it does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeAlias

import pyrage

from chanuka_ops import errors
from chanuka_ops.backup import files, parallel
from chanuka_ops.backup.model import File
from chanuka_ops.backup.parallel import Meter
from chanuka_ops.config import SecretSource
from chanuka_ops.db import credentials

SUFFIX = ".age"
_RECIPIENTS = "operations.backup.recipients"
_IDENTITY = "operations.backup.identity"
_AGE_RECIPIENT = "age1"
_SSH_RECIPIENTS = ("ssh-ed25519 ", "ssh-rsa ")
_AGE_IDENTITY = "AGE-SECRET-KEY-1"
_PEM = "-----BEGIN "
_SHOWN = 12
# pyrage has one class for all its reasons; a damaged header may look the same, but what comes here was compared before
_NOBODYS = "No matching keys found"

Recipient: TypeAlias = pyrage.x25519.Recipient | pyrage.ssh.Recipient
Identity: TypeAlias = pyrage.x25519.Identity | pyrage.ssh.Identity


def recipients_of(stated: Sequence[str]) -> tuple[Recipient, ...]:
    """Read public keys: `age1…`, `ssh-ed25519 …` or `ssh-rsa …`; none where none is stated.

    Errors: `ConfigurationError` naming which is wrong. Nothing is shown of one that may be a secret key.
    """
    return tuple(_recipient(text.strip(), position) for position, text in enumerate(stated, start=1))


def _recipient(text: str, position: int) -> Recipient:
    try:
        if text.startswith(_AGE_RECIPIENT):
            return pyrage.x25519.Recipient.from_str(text)
        if text.startswith(_SSH_RECIPIENTS):
            return pyrage.ssh.Recipient.from_str(text)
    except pyrage.RecipientError:
        shown = f"{text[:_SHOWN]}…"
        raise errors.ConfigurationError(
            f"{_RECIPIENTS}: number {position} ({shown}) is not a whole public key: compare it with its original"
        ) from None
    if "SECRET" in text.upper() or "PRIVATE" in text.upper():
        raise errors.ConfigurationError(
            f"{_RECIPIENTS}: number {position} is a secret key: here stands the public one, which `age-keygen -y`"
            " prints; and make a new pair, as this one was written down in clear"
        )
    raise errors.ConfigurationError(
        f"{_RECIPIENTS}: number {position} is no public key: it begins with age1, ssh-ed25519 or ssh-rsa"
    )


def identities_of(source: SecretSource | None) -> tuple[Identity, ...]:
    """Read secret keys from where they are kept: what `age-keygen` writes, or an SSH private key.

    Errors: `ConfigurationError` naming the setting, never showing a key.
    """
    if source is None:
        raise errors.ConfigurationError(
            f"{_IDENTITY} is not set: the backup is encrypted, and this says where its secret key is kept"
        )
    content = credentials.resolve_secret(source, _IDENTITY)
    if content.lstrip().startswith(_PEM):
        return (_ssh_identity(content.strip()),)
    lines = [(number, line.strip()) for number, line in enumerate(content.splitlines(), start=1)]
    found = tuple(_age_identity(line, number) for number, line in lines if line and not line.startswith("#"))
    if not found:
        raise errors.ConfigurationError(f"{_IDENTITY}: no secret key stands there, only comments or nothing")
    return found


def _age_identity(line: str, number: int) -> Identity:
    if line.startswith(_AGE_RECIPIENT):
        raise errors.ConfigurationError(f"{_IDENTITY}: line {number} is a public key: the secret one opens a backup")
    try:
        return pyrage.x25519.Identity.from_str(line)
    except pyrage.IdentityError:
        raise errors.ConfigurationError(
            f"{_IDENTITY}: line {number} is no secret key of age: it begins with {_AGE_IDENTITY}"
        ) from None


def _ssh_identity(content: str) -> Identity:
    try:
        return pyrage.ssh.Identity.from_buffer(f"{content}\n".encode())
    except pyrage.IdentityError as unfit:
        why = "is protected by a passphrase" if "decrypted first" in str(unfit) else "can't be read"
        raise errors.ConfigurationError(
            f"{_IDENTITY}: the private key {why}: an SSH key must be Ed25519 or RSA and have no passphrase"
        ) from None


def encrypt_all(
    directory: Path, paths: Iterable[str], into: Path, recipients: Sequence[Recipient], *, jobs: int, delete: bool
) -> tuple[File, ...]:
    """Encrypt files of a directory into another one (or the same), and return what was written, fsynced.

    With `delete` each plain file is removed once its encrypted one lasts. Errors: `StoreError`.
    """

    def one(path: str, meter: Meter) -> File:
        stored = stored_path(path)
        target = into / stored
        target.parent.mkdir(parents=True, exist_ok=True)
        file = encrypted(directory / path, target, recipients, path=stored, count=meter.add)
        if delete:
            (directory / path).unlink()
        return file

    try:
        sizes = {path: (directory / path).stat().st_size for path in paths}
        largest_first = sorted(sizes, key=lambda path: (-sizes[path], path))
        done = parallel.on_each(largest_first, one, jobs=jobs, label="encrypt", total_bytes=sum(sizes.values()))
    except OSError as error:
        raise errors.StoreError(f"{error.filename or into} can't be encrypted: {error.strerror}") from None
    return tuple(sorted(done, key=lambda file: file.path))


def encrypted(
    source: Path,
    target: Path,
    recipients: Sequence[Recipient],
    *,
    path: str,
    count: Callable[[int], None] = lambda _: None,
) -> File:
    """Encrypt a file, make the target last, and return its size and SHA-256 under the name `path`.

    `count` is told the bytes of each plain chunk, and may raise to stop.
    Errors: `ConfigurationError` without a recipient; `OSError`. No target is left after any of them.
    """
    digest = hashlib.sha256()
    failures: list[BaseException] = []
    try:
        with source.open("rb") as plain, target.open("wb") as sealed:
            reader = _Stream(plain, failures, lambda data: count(len(data)))
            writer = _Stream(sealed, failures, digest.update)
            try:
                pyrage.encrypt_io(reader, writer, recipients)
            except (pyrage.EncryptError, OSError) as error:
                # where no stream failed, it is about whom to encrypt for
                raise (failures[0] if failures else errors.ConfigurationError(f"{_RECIPIENTS}: {error}")) from None
            sealed.flush()
            os.fsync(sealed.fileno())
            size = sealed.tell()
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return File(path=path, bytes=size, sha256=digest.hexdigest())


def decrypted(
    source: BinaryIO,
    target: Path,
    identities: Sequence[Identity],
    *,
    name: str,
    recipients: Sequence[str] = (),
    count: Callable[[int], None] = lambda _: None,
) -> None:
    """Decrypt a stream into a file; `name` and the `recipients` it was encrypted for are what an error says.

    `count` is told the bytes of each encrypted chunk, and may raise to stop.
    Errors: `DecryptionFailed`; `OSError`. No target is left after any of them: each chunk is authentic when it is
    written, but only the last one tells that nothing is missing.
    """
    failures: list[BaseException] = []
    try:
        with target.open("wb", buffering=files.CHUNK) as plain:
            reader = _Stream(source, failures, lambda data: count(len(data)))
            try:
                pyrage.decrypt_io(reader, _Stream(plain, failures, lambda _: None), identities)
            except (pyrage.DecryptError, OSError) as error:
                if failures:
                    raise failures[0] from None
                _refuse(error, name, recipients, len(identities))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _refuse(error: Exception, name: str, recipients: Sequence[str], identities: int) -> NoReturn:
    if str(error) == _NOBODYS:
        meant = f", it was encrypted for {', '.join(recipients)}" if recipients else ""
        raise errors.DecryptionFailed(
            f"{name}: none of the {identities} secret keys of {_IDENTITY} opens it{meant}: configure one of theirs"
        ) from None
    raise errors.DecryptionFailed(
        f"{name} is damaged: what is encrypted in it is not whole: take it from another store, or another backup"
    ) from None


def stored_path(path: str) -> str:
    """Return the name of a file once it is encrypted."""
    return path + SUFFIX


class _Stream:
    """What pyrage reads from or writes to. It makes an error of its own of whatever is raised here, so that's kept."""

    def __init__(self, stream: BinaryIO, failures: list[BaseException], seen: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._failures = failures
        self._seen = seen

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._stream.read(size)
            self._seen(data)
        except BaseException as error:
            self._failures.append(error)
            raise
        return data

    def write(self, data: bytes) -> int:
        try:
            self._seen(data)
            return self._stream.write(data)
        except BaseException as error:
            self._failures.append(error)
            raise

    def flush(self) -> None:
        """Do nothing: who opened the stream flushes it."""

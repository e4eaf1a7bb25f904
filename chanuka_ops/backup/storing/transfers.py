"""Files sent to a bucket and read from it: several at once, in memory that doesn't grow with their size."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from chanuka_ops import errors
from chanuka_ops.backup import parallel
from chanuka_ops.backup.model import File
from chanuka_ops.backup.parallel import Meter
from chanuka_ops.backup.storing.bucket import Bucket, Object

READ_BYTES = 1 << 20
PIECE_BYTES = 4 << 20
PART_BYTES = 8 << 20
MAX_PARTS = 9_000  # S3 takes 10,000: above 72 GB the parts grow
BUDGET_BYTES = 48 << 20  # of parts in memory, over all files under way


def upload(bucket: Bucket, folder: str, directory: Path, files: Sequence[File], *, jobs: int, label: str) -> None:
    """Send files, each as it's described. Errors: `StoreError`; what was sent until then is there."""

    def one(file: File, work: Meter) -> None:
        _send(
            bucket, f"{folder}/{file.path}", directory / file.path, file, work, together=max(1, min(jobs, len(files)))
        )

    parallel.on_each(files, one, jobs=jobs, label=label, total_bytes=sum(file.bytes for file in files))


def digests(bucket: Bucket, folder: str, objects: Sequence[Object], *, jobs: int, label: str) -> dict[str, File | None]:
    """Read every byte of objects: size and SHA-256 by path; None for one that is gone or not to be read.

    Errors: `StoreError` where the store itself fails, which says nothing of the file.
    """

    def one(found: Object, work: Meter) -> tuple[str, File | None]:
        path = found.key.removeprefix(f"{folder}/")
        digest, size = hashlib.sha256(), 0
        try:
            for piece in bucket.stream(found, PIECE_BYTES):
                work.add(len(piece))
                digest.update(piece)
                size += len(piece)
        except errors.StoreError:
            if bucket.readable(found):
                raise
            return path, None
        return path, File(path=path, bytes=size, sha256=digest.hexdigest())

    total = sum(found.bytes for found in objects)
    return dict(parallel.on_each(objects, one, jobs=jobs, label=label, total_bytes=total))


class Reader(io.RawIOBase):
    """An object as a stream that is read forwards; one piece of it is in memory."""

    def __init__(self, bucket: Bucket, found: Object) -> None:
        self._pieces = bucket.stream(found, PIECE_BYTES)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io gives it any writable buffer
        """Fill the buffer as far as what has arrived goes. Errors: `StoreError`."""
        if not self._rest:
            self._rest = next(self._pieces, self._rest)
        number = min(len(buffer), len(self._rest))
        buffer[:number] = self._rest[:number]
        self._rest = self._rest[number:]
        return number


def _send(bucket: Bucket, key: str, path: Path, file: File, work: Meter, *, together: int) -> None:
    chunks = _checked(path, file, work)
    if file.bytes <= PART_BYTES:
        bucket.put(key, b"".join(chunks))
        return
    part = max(PART_BYTES, -(-file.bytes // MAX_PARTS))
    # beside the parts under way there's always one being filled
    parts = max(1, BUDGET_BYTES // (part * together) - 1)
    bucket.send(key, chunks, part_bytes=part, parts=parts)


def _checked(path: Path, file: File, work: Meter) -> Iterator[bytes]:
    """Read a file; past its last byte say so if it isn't as described, so that it's never sent to its end."""
    digest, size = hashlib.sha256(), 0
    for chunk in _read(path):
        work.add(len(chunk))
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if (size, digest.hexdigest()) != (file.bytes, file.sha256):
        raise errors.StoreError(f"{path}: what was read is not what the manifest says: {size} of {file.bytes} bytes")


def _read(path: Path) -> Iterable[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                yield chunk
    except OSError as error:
        raise errors.StoreError(f"{path} can't be read: {error.strerror}") from None

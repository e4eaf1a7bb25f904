"""A backup on its way into a local store: every file and directory of it lasts before it appears, by one rename."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chanuka_ops import errors
from chanuka_ops.backup import documents, files
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.model import File, Manifest


class LocalWriter:
    """A backup being written to the store that `root` is; until it appears, all of it is in `partial`."""

    def __init__(self, root: Path, name: str, partial: Path) -> None:
        self._root = root
        self._name = name
        self._partial = partial

    @property
    def staging(self) -> Path:
        """The partial backup itself: what is written here needs no copying."""
        return self._partial

    def receive(self, directory: Path, wanted: Iterable[File]) -> None:
        """Copy files from elsewhere; those of `staging` are here, and were fsynced when they were hashed.

        Errors: `StoreError`.
        """
        for file in wanted if directory != self._partial else ():
            target = self._partial / file.path
            with translated(self._root, "written"):
                target.parent.mkdir(parents=True, exist_ok=True)
                copied = files.copied(directory / file.path, target)
            if copied != file.sha256:
                raise errors.StoreError(f"{target}: what arrived is not what was sent")

    def publish(self, manifest: Manifest) -> None:
        """Write status and manifest, fsync all, and let the backup appear by one rename. Errors: `StoreError`."""
        content, status = documents.first_documents(manifest)
        with translated(self._root, "written"):
            files.write(self._partial / STATUS, status)
            files.write(self._partial / MANIFEST, content)
            reached(f"local.documents:{self._name}")
            for directory, _, _ in os.walk(self._partial, topdown=False, onerror=files.refuse):
                files.fsync(Path(directory))
            reached(f"local.synced:{self._name}")
            self._appear(self._root / manifest.database / manifest.backup_id)

    def _appear(self, place: Path) -> None:
        self._partial.rename(place)
        reached(f"local.renamed:{self._name}")
        try:
            files.fsync(place.parent)
            files.fsync(self._root)
        except OSError:  # it might not outlast a power cut: then it is not there at all
            with suppress(OSError):
                place.rename(self._partial)
            raise


@contextmanager
def translated(root: Path, what: str) -> Iterator[None]:
    """Turn what the disk says into a `StoreError` of the store that `root` is."""
    try:
        yield
    except OSError as error:
        where = error.filename or root
        raise errors.StoreError(f"the backup store can't be {what}: {where}: {error.strerror}") from None

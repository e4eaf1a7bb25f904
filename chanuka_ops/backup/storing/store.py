"""What every store of backups can do, and which stores the settings name.

Two adapters: `local.LocalStore` (a directory) and `objects.ObjectStore` (a prefix of an S3, GCS or Azure bucket). The
manifests in a store are its catalogue; no database is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from chanuka_ops.backup.answers import Listed
from chanuka_ops.backup.model import File, Manifest, Status

Change = Callable[[Status], Status]
Condition = Callable[[Status], bool]


class Writer(Protocol):
    """A backup being written to one store; nothing of it is listed before `publish`."""

    @property
    def staging(self) -> Path | None:
        """A directory whose files the store takes over as they are; None where they must be sent."""

    def receive(self, directory: Path, files: Iterable[File]) -> None:
        """Take the files below `directory`, each as it is described, and make them last.

        Errors: `StoreError`; also where a file that arrived isn't as described.
        """

    def publish(self, manifest: Manifest) -> None:
        """Let the backup appear, whole, in one step. Errors: `StoreError`."""


class Store(Protocol):
    """One place where backups are kept."""

    name: str
    """Its name in the settings."""

    @property
    def where(self) -> str:
        """Its path or URL, without secrets."""

    def writing(self, database: str, backup_id: str) -> AbstractContextManager[Writer]:
        """Write a new backup in the block; what was not published is removed again. Errors: `StoreError`."""

    def list(self, database: str | None = None) -> list[Listed]:
        """List the backups, the newest first; one that is damaged is listed with the reason.

        Errors: `StoreError` where not everything could be listed: a partial listing is never shown as a whole one.
        """

    def manifest(self, backup_id: str) -> Manifest:
        """Read a manifest. Errors: `BackupNotFound`, `BackupDamaged`, `StoreError`."""

    def status(self, backup_id: str) -> Status:
        """Read a backup's tier and evidence. Errors: `BackupNotFound`, `BackupDamaged`, `StoreError`."""

    def change_status(self, backup_id: str, change: Change) -> Status:
        """Replace a backup's status by what `change` makes of it; two that look at once both count.

        One that is damaged or missing says nothing any more: `change` then gets a fresh one.
        Errors: `BackupNotFound`, `StoreError`.
        """

    def files(self, backup_id: str) -> dict[str, File | None]:
        """Read every byte of a backup's files (manifest and status aside); None for one that can't be read.

        Errors: `BackupNotFound`, `StoreError` where the store itself can't be read.
        """

    def paths(self, backup_id: str) -> set[str]:
        """Name a backup's files (manifest and status aside); none is read. Errors: `BackupNotFound`, `StoreError`."""

    def directory(self, backup_id: str) -> Path | None:
        """Return where the files lie on this machine; None where they must be fetched. Errors: `BackupNotFound`."""

    def open(self, backup_id: str, path: str) -> AbstractContextManager[BinaryIO]:
        """Read one file as a stream. Errors: `BackupNotFound`, `BackupDamaged` (no such file), `StoreError`."""

    def reading(self, backup_id: str) -> AbstractContextManager[None]:
        """Keep a backup from being deleted in the block, by anybody. Errors: `BackupNotFound`, `StoreError`."""

    def delete(self, backup_id: str, if_still: Condition | None = None) -> None:
        """Delete a backup: unlisted first, so that no half of it is ever listed.

        `if_still` is asked of its status at the last moment, when who looks at it or pins it (`reading`) is kept out.
        Errors: `BackupNotFound`; `LockHeld` where somebody reads it, or its status isn't as it was; `BackupDamaged`
        where that can't be read; `StoreError`.
        """

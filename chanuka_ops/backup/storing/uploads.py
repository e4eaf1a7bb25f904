"""A backup on its way to a bucket: everything else first, its manifest last."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from chanuka_ops import errors
from chanuka_ops.backup import documents
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.model import File, Manifest
from chanuka_ops.backup.storing import leases, transfers
from chanuka_ops.backup.storing.bucket import Bucket

log = logging.getLogger(__name__)


class ObjectWriter:
    """A backup being sent to a bucket."""

    def __init__(self, bucket: Bucket, name: str, folder: str, lease: leases.Lease, *, jobs: int) -> None:
        self._bucket = bucket
        self._name = name
        self._folder = folder
        self._lease = lease
        self._jobs = jobs
        self._settled = False  # nothing may be taken back any more

    @property
    def staging(self) -> Path | None:
        """None: the files must be sent."""
        return None

    def receive(self, directory: Path, files: Iterable[File]) -> None:
        """Send the files below a directory, each as it's described. Errors: `StoreError`."""
        wanted = list(files)
        transfers.upload(
            self._bucket, self._folder, directory, wanted, jobs=self._jobs, label=f"upload to {self._name}"
        )
        self._arrived(wanted)

    def publish(self, manifest: Manifest) -> None:
        """Let the backup appear by its manifest, when all it names has arrived. Errors: `StoreError`."""
        content, status = documents.first_documents(manifest)
        self._arrived(manifest.files)
        self._bucket.put(f"{self._folder}/{STATUS}", status)
        reached(f"objects.status:{self._name}")
        self._lease.confirm()  # nobody has swept it
        self._settled = True
        if not self._bucket.create(f"{self._folder}/{MANIFEST}", content):
            raise errors.StoreError(f"{self._folder} is there already: somebody else wrote a backup of that name")
        reached(f"objects.manifest:{self._name}")

    def discard_unless_published(self) -> None:
        """Remove what was sent, if the manifest was never asked to be put; it's swept later where that fails."""
        if self._settled:
            return
        try:
            self._bucket.delete([found.key for found in self._bucket.objects(self._folder)])
        except errors.StoreError as error:
            log.warning("what was sent of %s stays and is swept later: %s", self._folder, error,
                        extra={"event": "store.left", "store": self._name})  # fmt: skip

    def _arrived(self, files: Iterable[File]) -> None:
        there = {found.key: found.bytes for found in self._bucket.objects(self._folder)}
        for file in files:
            key = f"{self._folder}/{file.path}"
            if there.get(key) != file.bytes:
                raise errors.StoreError(
                    f"{self._bucket.url}: {key} has {there.get(key, 'no')} bytes there, and {file.bytes} were sent"
                )

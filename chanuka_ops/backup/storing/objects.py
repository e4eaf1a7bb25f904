"""Backups in a bucket of S3, GCS or Azure.

::

    <prefix>/<database>/<backup_id>/manifest.json    sealed; the last object written, and only if absent
                                    /status.json     tier and evidence; replaced only as it was read
                                    /dump/…  /globals/…
                       /.leases/<backup_id>/…        who writes, reads or deletes it at the moment

A backup is there if its manifest is: it's put when everything else has arrived, and deleted before anything else is.
Where the answer to that last put never came, nothing is taken back, since it may still arrive: then the backup is
whole, and else the next writer sweeps the rest, a day later. Of a writer that was killed in the middle of a large file
the server keeps the parts, which no listing shows: a lifecycle rule of the bucket (abort incomplete multipart uploads)
removes them.
"""

from __future__ import annotations

import builtins
import io
import logging
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from chanuka_ops import errors
from chanuka_ops.backup import documents, parallel, rules
from chanuka_ops.backup.answers import Listed
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.documents import MANIFEST, OWN, STATUS
from chanuka_ops.backup.model import File, Manifest, Status
from chanuka_ops.backup.storing import leases, transfers
from chanuka_ops.backup.storing.bucket import Bucket, Object
from chanuka_ops.backup.storing.store import Change, Condition
from chanuka_ops.backup.storing.uploads import ObjectWriter
from chanuka_ops.config import StoreSettings

log = logging.getLogger(__name__)

LOOKS_AT_ONCE = 16
CHANGE_TRIES = 12
SWEPT_AFTER = timedelta(days=1)
_BUFFER_BYTES = 1 << 16


class ObjectStore:
    """Backups in a prefix of a bucket. Nothing is connected to, and no secret read, before the first request.

    `jobs` files are sent or read at once. `deadline_s` bounds one request, at most 8 MB of a file, and no retry of it
    begins later than that; it has to be well below a lease's life (`leases.LEASE_S`).
    """

    def __init__(self, name: str, settings: StoreSettings, *, jobs: int = 4, deadline_s: float = 120.0) -> None:
        self.name = name
        self._jobs = jobs
        self._bucket = Bucket(name, settings, deadline_s)
        self._leases = leases.Leases(self._bucket)
        self._databases: dict[str, str] = {}  # where a backup was found: it never moves
        self._probed = False

    def __repr__(self) -> str:
        return f"ObjectStore({self.name!r}, {self.where!r})"

    @property
    def where(self) -> str:
        """Its URL."""
        return self._bucket.url

    @contextmanager
    def writing(self, database: str, backup_id: str) -> Iterator[ObjectWriter]:
        """Write a new backup in the block; what was sent is removed again unless it was published.

        Errors: `StoreError`, also where somebody else writes that backup, or it's there already.
        """
        rules.checked_id(backup_id)
        with ExitStack() as stack:
            try:
                lease = stack.enter_context(
                    self._leases.exclusive(rules.checked_name(database), backup_id, leases.WRITE)
                )
            except errors.LockHeld as held:
                raise errors.StoreError(str(held)) from None
            folder = f"{database}/{backup_id}"
            if self._bucket.objects(folder):
                raise errors.StoreError(f"{self.where}/{folder} is there already: a backup is never written twice")
            self._probe(lease)
            self._sweep(database, lease)
            writer = ObjectWriter(self._bucket, self.name, folder, lease, jobs=self._jobs)
            stack.callback(writer.discard_unless_published)
            yield writer

    def list(self, database: str | None = None) -> list[Listed]:
        """List the backups, the newest first; one that is damaged is listed with the reason.

        Errors: `StoreError` where not everything could be listed.
        """
        found = _by_backup(self._bucket.objects(database))
        whole = [(home, backup_id) for (home, backup_id), names in found.items() if MANIFEST in names]
        answers = parallel.on_each(
            whole, lambda one, _: self._listed(*one, found[one][MANIFEST].bytes), jobs=LOOKS_AT_ONCE
        )
        return documents.newest_first(answer for answer in answers if answer is not None)

    def manifest(self, backup_id: str) -> Manifest:
        """Read a manifest. Errors: `BackupNotFound`, `BackupDamaged`, `StoreError`."""
        read = self._bucket.read(f"{self._folder(backup_id)}/{MANIFEST}")
        if read is None:
            raise self._not_found(backup_id)
        return documents.opened(read[0], Manifest, backup_id, MANIFEST)

    def status(self, backup_id: str) -> Status:
        """Read a backup's tier and evidence. Errors: `BackupNotFound`, `BackupDamaged`, `StoreError`."""
        return _opened(self._bucket.read(f"{self._folder(backup_id, anew=True)}/{STATUS}"), backup_id)

    def change_status(self, backup_id: str, change: Change) -> Status:
        """Replace a backup's status by what `change` makes of it; two that look at once both count.

        It's put on the condition that nobody else has put one since it was read, and else begun anew: `change` may be
        called more than once. Errors: `BackupNotFound`, `StoreError`.
        """
        for tries in range(CHANGE_TRIES):
            key = f"{self._folder(backup_id, anew=True)}/{STATUS}"
            read = self._bucket.read(key)
            status = change(_opened_or_fresh(read, backup_id))
            content = documents.seal(status.model_dump(mode="json"))
            if self._bucket.create(key, content) if read is None else self._bucket.replace(key, content, read[1]):
                return status
            time.sleep(random.uniform(0.0, 0.05 * 2 ** min(tries, 6)))  # noqa: S311 - apart, not unguessable
        raise errors.StoreError(
            f"{self.where}: the status of {backup_id} was changed by somebody else {CHANGE_TRIES} times in a row"
        )

    def files(self, backup_id: str) -> dict[str, File | None]:
        """Read every byte of a backup's files (manifest and status aside); None for one that can't be read."""
        folder = self._folder(backup_id, anew=True)
        return transfers.digests(self._bucket, folder, self._data(folder), jobs=self._jobs, label="verify")

    def paths(self, backup_id: str) -> set[str]:
        """Name a backup's files (manifest and status aside). Errors: `BackupNotFound`, `StoreError`."""
        folder = self._folder(backup_id, anew=True)
        return {found.key.removeprefix(f"{folder}/") for found in self._data(folder)}

    def directory(self, backup_id: str) -> Path | None:
        """Return None: the files must be fetched. Errors: `BackupNotFound`, `StoreError`."""
        self._folder(backup_id, anew=True)
        return None

    @contextmanager
    def open(self, backup_id: str, path: str) -> Iterator[BinaryIO]:
        """Read one file as a stream, forwards.

        Errors: `BackupNotFound`, `BackupDamaged` (no such file), `StoreError`.
        """
        found = self._bucket.head(f"{self._folder(backup_id)}/{path}")
        if found is None:
            self._folder(backup_id, anew=True)  # or else the whole backup is gone
            raise errors.BackupDamaged(f"{backup_id}: {path} is missing")
        with io.BufferedReader(transfers.Reader(self._bucket, found), _BUFFER_BYTES) as stream:
            yield stream

    @contextmanager
    def reading(self, backup_id: str) -> Iterator[None]:
        """Keep a backup from being deleted in the block, by any host.

        Errors: `BackupNotFound`, also where it's deleted at this very moment; `LockHeld` where that doesn't end;
        `StoreError`.
        """
        database = self._database(backup_id)
        with self._leases.shared(database, backup_id, "read"):
            self._database(backup_id, anew=True)
            yield

    def delete(self, backup_id: str, if_still: Condition | None = None) -> None:
        """Delete a backup, its manifest first.

        Errors: `BackupNotFound`; `LockHeld` where somebody reads or deletes it, or its status isn't as it was;
        `BackupDamaged` where that can't be read; `StoreError`.
        """
        database = self._database(backup_id, anew=True)
        folder = f"{database}/{backup_id}"
        with self._leases.exclusive(database, backup_id, "delete"):
            if if_still is not None:
                rules.require(if_still(self.status(backup_id)), backup_id)
            self._bucket.delete([f"{folder}/{MANIFEST}"])
            reached(f"objects.unlisted:{self.name}")
            self._databases.pop(backup_id, None)
            try:
                self._bucket.delete([found.key for found in self._bucket.objects(folder)])
            except errors.StoreError as error:  # nothing of it is listed any more: the next writer sweeps it
                log.warning("what is left of backup %s is swept later: %s", backup_id, error,
                            extra={"event": "store.left", "store": self.name})  # fmt: skip
        log.info("backup %s deleted from %s", backup_id, self.where, extra={"event": "backup.deleted"})

    def _probe(self, lease: leases.Lease) -> None:
        """Find out, once, whether the server heeds the condition that two writers are kept apart by."""
        if not self._probed and not self._bucket.refuses_a_second(lease.key):
            log.warning("%s doesn't refuse to overwrite: two at work on one backup are not kept apart there",
                        self.where, extra={"event": "store.unconditional", "store": self.name})  # fmt: skip
        self._probed = True

    def _listed(self, database: str, backup_id: str, manifest_bytes: int) -> Listed | None:
        """Return a backup's line; None where it was deleted since its manifest was listed."""
        folder = f"{database}/{backup_id}"
        read = self._bucket.read(f"{folder}/{STATUS}")
        if read is None and self._bucket.head(f"{folder}/{MANIFEST}") is None:
            return None
        try:
            rules.checked_id(backup_id)
            status = _opened(read, backup_id)
            summary = status.summary
            if summary is None or summary.manifest_bytes != manifest_bytes:
                stated = self._bucket.read(f"{folder}/{MANIFEST}")
                if stated is None:
                    return None
                summary = documents.summary(documents.opened(stated[0], Manifest, backup_id, MANIFEST), stated[0])
        except (errors.BackupDamaged, errors.BackupNotFound) as damage:
            return documents.damaged(self.name, database, backup_id, str(damage))
        return documents.listed(self.name, status, summary)

    def _data(self, folder: str) -> builtins.list[Object]:
        own = {f"{folder}/{name}" for name in OWN}
        return [found for found in self._bucket.objects(folder) if found.key not in own]

    def _folder(self, backup_id: str, *, anew: bool = False) -> str:
        return f"{self._database(backup_id, anew=anew)}/{backup_id}"

    def _database(self, backup_id: str, *, anew: bool = False) -> str:
        """Find the database whose backup it is; `anew`: look whether it still is there. Errors: `BackupNotFound`."""
        rules.checked_id(backup_id)
        known = self._databases.get(backup_id)
        if known is not None and not anew:
            return known
        for database in [known] if known is not None else self._bucket.folders():
            if self._bucket.head(f"{database}/{backup_id}/{MANIFEST}") is not None:
                self._databases[backup_id] = database
                return database
        self._databases.pop(backup_id, None)
        raise self._not_found(backup_id)

    def _not_found(self, backup_id: str) -> errors.BackupNotFound:
        return errors.BackupNotFound(
            f"no backup {backup_id} in {self.where}: `chanuka-ops backup list` shows what there is"
        )

    def _sweep(self, database: str, lease: leases.Lease) -> None:
        """Remove what writers and deleters that were killed left, a day later; who still lives holds a lease."""
        try:
            own = self._bucket.head(lease.key)
            now = own.modified if own is not None else datetime.now(UTC)
            objects = self._bucket.objects(database)
            for (_, backup_id), names in _by_backup(objects).items():
                if MANIFEST not in names and _taken_at(backup_id, now) < now - SWEPT_AFTER:
                    self._sweep_one(database, backup_id)
            dead = f"{database}/{leases.FOLDER}/"
            self._bucket.delete(
                [found.key for found in objects if found.key.startswith(dead) and found.modified < now - SWEPT_AFTER]
            )
        except errors.StoreError as error:  # a backup isn't given up for want of a broom: its role may not delete
            log.warning("what was left unfinished stays: %s", error, extra={"event": "store.left", "store": self.name})

    def _sweep_one(self, database: str, backup_id: str) -> None:
        with suppress(errors.LockHeld), self._leases.exclusive(database, backup_id, "sweep"):
            found = self._bucket.objects(f"{database}/{backup_id}")
            if any(one.key.endswith(f"/{backup_id}/{MANIFEST}") for one in found):
                return  # published since
            self._bucket.delete([one.key for one in found])
            log.info("removed an unfinished backup: %s", backup_id, extra={"event": "backup.swept"})


def _by_backup(objects: Iterable[Object]) -> dict[tuple[str, str], dict[str, Object]]:
    """Sort objects by database and backup, then by path; leases aside."""
    found: dict[tuple[str, str], dict[str, Object]] = {}
    for one in objects:
        database, _, below = one.key.partition("/")
        backup_id, slash, path = below.partition("/")
        if slash and not backup_id.startswith("."):
            found.setdefault((database, backup_id), {})[path] = one
    return found


def _opened(read: tuple[bytes, Object] | None, backup_id: str) -> Status:
    if read is None:
        raise errors.BackupDamaged(f"{backup_id}: {STATUS} is missing")
    return documents.opened(read[0], Status, backup_id, STATUS)


def _opened_or_fresh(read: tuple[bytes, Object] | None, backup_id: str) -> Status:
    try:
        return _opened(read, backup_id)
    except errors.BackupDamaged:
        return Status(backup_id=backup_id)


def _taken_at(backup_id: str, otherwise: datetime) -> datetime:
    """Return the time an id states; `otherwise` where it states none."""
    try:
        rules.checked_id(backup_id)
        return datetime.strptime(backup_id.split("-")[-2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except (errors.BackupNotFound, ValueError):
        return otherwise

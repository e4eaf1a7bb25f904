"""Leases: who works on a backup in a bucket, said there, since an object store has no locks.

::

    <database>/.leases/<backup_id>/exclusive.json   one writes, deletes or sweeps it; created only if absent
                                  /<uuid>.json      one reads it; there may be many

Whoever comes first puts a lease, then looks at the others': of two that come at once at least one sees the other.
A lease is alive as long as its holder keeps putting it anew; its age is judged by the server's clock alone, so that no
host's clock can take anybody's lease away. One whose holder was killed is dead after `LEASE_S`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from chanuka_ops import context, errors, interrupts
from chanuka_ops.backup.storing.bucket import Bucket, Object

log = logging.getLogger(__name__)

FOLDER = ".leases"
LEASE_S = 300.0
WRITE = "write"
_EXCLUSIVE = "exclusive.json"
_REFRESHES = 5  # so many within a lease's life
_STANDS_ASIDE_S = 10.0
_POLL_S = 0.25


class Lease:
    """A lease that is held; a thread keeps it alive until the block ends."""

    def __init__(self, bucket: Bucket, key: str, purpose: str) -> None:
        self._bucket = bucket
        self.key = key
        who = context.current()  # here: it doesn't reach the thread
        holder = {"run_id": who.run_id, "actor": who.actor, "host": socket.gethostname(), "pid": os.getpid()}
        self._token = uuid.uuid4().hex
        self._stated = {"token": self._token, "purpose": purpose, "holder": holder}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"lease-{self._token[:8]}", daemon=True)

    def put(self) -> None:
        """Say that it's held, whoever held it before. Errors: `StoreError`."""
        self._bucket.put(self.key, self.content())

    def content(self) -> bytes:
        """Who holds it, what for, and until when at least. No two are alike."""
        until = datetime.now(UTC) + timedelta(seconds=LEASE_S)
        return json.dumps(
            {**self._stated, "nonce": uuid.uuid4().hex, "expires_at": until.isoformat()}, indent=1
        ).encode()

    def confirm(self) -> None:
        """Put it anew, if it's still this holder's. Errors: `StoreError`, also where somebody took it over."""
        with self._lock:
            found = self._bucket.read(self.key)
            if found is None or _stated(found[0]).get("token") != self._token:
                raise errors.StoreError(f"{self.key} was taken over: this host had not been heard of for too long")
            if not self._bucket.replace(self.key, self.content(), found[1]):
                raise errors.StoreError(f"{self.key} was taken over just now")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep it alive in the block, and give it back."""
        try:
            with interrupts.held():
                self._keeper.start()
            yield
        finally:
            self._ended.set()
            if self._keeper.is_alive():
                self._keeper.join(_STANDS_ASIDE_S)
            self._give_back()

    def _keep(self) -> None:
        while not self._ended.wait(LEASE_S / _REFRESHES):
            try:
                self.confirm()
            except errors.StoreError as error:  # a later try may go well; whoever depends on it confirms it himself
                log.warning("a lease was not renewed: %s", error, extra={"event": "store.lease"})

    def _give_back(self) -> None:
        try:
            found = self._bucket.read(self.key)
            if found is not None and _stated(found[0]).get("token") == self._token:
                self._bucket.delete([self.key])
        except errors.StoreError as error:  # it dies by itself
            log.warning("a lease was not given back: %s", error, extra={"event": "store.lease"})


class Leases:
    """The leases of a bucket's backups."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @contextmanager
    def exclusive(self, database: str, backup_id: str, purpose: str) -> Iterator[Lease]:
        """Work on a backup alone in the block. Errors: `LockHeld` naming the holder, `StoreError`."""
        lease = Lease(self._bucket, f"{folder(database, backup_id)}/{_EXCLUSIVE}", purpose)
        if not self._bucket.create(lease.key, lease.content()):
            self._take_over(lease, backup_id)
        with lease.held():
            for other in self._alive(lease):
                who = self._holder(other)
                raise errors.LockHeld(f"backup {backup_id} is kept: {who or 'somebody'} has it at the moment")
            yield lease

    @contextmanager
    def shared(self, database: str, backup_id: str, purpose: str) -> Iterator[None]:
        """Keep others from deleting a backup. Errors: `LockHeld` naming who does already, `StoreError`.

        Who wrote it is done with it once its manifest is there, though he was killed before he gave his lease back.
        """
        lease = Lease(self._bucket, f"{folder(database, backup_id)}/{uuid.uuid4().hex}.json", purpose)
        lease.put()
        with lease.held():
            deadline = time.monotonic() + _STANDS_ASIDE_S
            while alone := [other for other in self._alive(lease) if self._deletes(other)]:
                if time.monotonic() > deadline:
                    who = self._holder(alone[0])
                    raise errors.LockHeld(f"backup {backup_id} can't be read now: {who or 'somebody'} has it")
                time.sleep(_POLL_S)
            yield

    def _take_over(self, lease: Lease, backup_id: str) -> None:
        """Take an exclusive lease whose holder is dead. Errors: `LockHeld` where he isn't."""
        found = self._bucket.read(lease.key)
        if found is None:  # given back this moment
            taken = self._bucket.create(lease.key, lease.content())
        else:
            alive = (self._now(lease) - found[1].modified).total_seconds() < LEASE_S
            taken = not alive and self._bucket.replace(lease.key, lease.content(), found[1])
        if not taken:
            who = self._holder(self._bucket.head(lease.key))
            raise errors.LockHeld(f"backup {backup_id} is being worked on: {who or 'somebody'} has it")

    def _now(self, lease: Lease) -> datetime:
        """Return the server's time: that of something it just wrote."""
        key = f"{lease.key.rpartition('/')[0]}/{uuid.uuid4().hex}.clock"
        self._bucket.put(key, b"")
        try:
            written = self._bucket.head(key)
        finally:
            with suppress(errors.StoreError):
                self._bucket.delete([key])
        if written is None:
            raise errors.StoreError(f"{key} was written and is not there")
        return written.modified

    def _alive(self, lease: Lease) -> list[Object]:
        """Return the others' leases that are alive."""
        found = self._bucket.objects(lease.key.rpartition("/")[0])
        now = max((other.modified for other in found if other.key == lease.key), default=None)
        if now is None:
            raise errors.StoreError(f"{lease.key} was written and is not listed")
        return [
            other
            for other in found
            if other.key != lease.key
            and other.key.endswith(".json")
            and (now - other.modified).total_seconds() < LEASE_S
        ]

    def _deletes(self, lease: Object) -> bool:
        if not lease.key.endswith(f"/{_EXCLUSIVE}"):
            return False
        found = self._bucket.read(lease.key)
        return found is not None and _stated(found[0]).get("purpose") != WRITE

    def _holder(self, lease: Object | None) -> str | None:
        found = self._bucket.read(lease.key) if lease is not None else None
        if found is None:
            return None
        stated = _stated(found[0])
        who = stated.get("holder") or {}
        run = str(who.get("run_id", "?"))[:8]
        return (
            f"{who.get('actor', '?')} on {who.get('host', '?')} (pid {who.get('pid', '?')}, run {run},"
            f" to {stated.get('purpose', '?')} it)"
        )


def folder(database: str, backup_id: str) -> str:
    """Return where a backup's leases are."""
    return f"{database}/{FOLDER}/{backup_id}"


def _stated(content: bytes) -> dict[str, Any]:
    try:
        stated = json.loads(content)
    except ValueError:
        return {}
    return stated if isinstance(stated, dict) else {}

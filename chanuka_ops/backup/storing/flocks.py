"""The local store's locks: flocks, which end with their holder, however it ends."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from chanuka_ops import context, errors
from chanuka_ops.backup import rules

WAIT_S = 30.0  # for somebody who renames or writes a small file: past that he is frozen, or his disk is
LOOK_S = 0.3  # for somebody who only looks whether an operation is under way
_POLL_S = 0.02


@contextmanager
def shared(manifest: Path, backup_id: str) -> Iterator[None]:
    """Hold a backup's manifest for reading.

    Errors: `BackupNotFound` where it is deleted at this very moment; `LockHeld` where that doesn't end.
    """
    try:
        descriptor = os.open(manifest, os.O_RDONLY)
    except OSError:  # no manifest: nothing that could be restored
        yield
        return
    try:
        if not _taken(descriptor, fcntl.LOCK_SH, within_s=WAIT_S):
            raise errors.LockHeld(f"backup {backup_id} has been held by somebody who deletes it for {WAIT_S:.0f} s")
        if not manifest.exists():
            raise errors.BackupNotFound(f"backup {backup_id} was deleted just now")
        yield
    finally:
        os.close(descriptor)


def exclusive(path: Path) -> int | None:
    """Return a descriptor that holds the lock file's flock, None where somebody else does.

    The lock counts only if the file is still there by its name: one that was opened while another removed it is
    nobody's, and guards nothing.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def remove(partial: Path, lock: int) -> None:
    """Remove a partial backup, then its lock file, then let go of the lock: so no sweep sees it unguarded."""
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):
        partial.with_name(f"{partial.name}.lock").unlink()
    os.close(lock)


@contextmanager
def unread(manifest: Path, backup_id: str) -> Iterator[None]:
    """Hold a backup's manifest against readers for the block. Errors: `LockHeld` where one has it."""
    try:
        descriptor = os.open(manifest, os.O_RDONLY)
    except OSError:  # there's none that could be read
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise errors.LockHeld(f"backup {backup_id} is being read by a drill or a restore: it is kept") from None
    finally:
        os.close(descriptor)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a directory's own flock for the block: as long as it takes to write a small file. Errors: `StoreError`."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if not _taken(descriptor, fcntl.LOCK_EX, within_s=WAIT_S):
            raise errors.StoreError(f"{directory} has been held by another process for {WAIT_S:.0f} s")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def operation(state_dir: Path, database: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold this machine's lock of a database's operations for the block; it works with no database alive.

    Another's end is waited for at most `wait_s` seconds.

    Errors: `LockHeld` naming the holder.
    """
    directory = state_dir / "locks"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / f"{rules.checked_name(database)}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise errors.StoreError(f"the lock in {directory} can't be taken: {error.strerror}") from None
    try:
        if not _taken(descriptor, fcntl.LOCK_EX, within_s=max(LOOK_S, wait_s)):
            holder = os.pread(descriptor, 300, 0).decode(errors="replace").strip() or "a process of this machine"
            raise errors.LockHeld(
                f"database {database!r}: another operation is under way: {holder}. Nothing was changed.",
                holder=holder,
            )
        who = context.current()
        since = datetime.now(UTC)
        note = f"{who.application_name()} (pid {os.getpid()} on {platform.node()}, {who.actor}, {since:%F %TZ})"
        with suppress(OSError):  # on a full disk the lock holds all the same, and what makes room must go on
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int, kind: int, *, within_s: float) -> bool:
    """Take a lock that others hold for a moment only; False where the moment doesn't end."""
    ends_s = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > ends_s:
                return False
            time.sleep(_POLL_S)
        else:
            return True

"""What stays and what goes: carries out what `retention.decide` says, store by store, and pins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from chanuka_ops import context, errors
from chanuka_ops.backup import retention
from chanuka_ops.backup.answers import Expiry, Listed, Retention
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.model import Pin, Status, Tier
from chanuka_ops.backup.storing.store import Store
from chanuka_ops.config import KeepSettings

log = logging.getLogger(__name__)


def decide(store: Store, database: str, policy: KeepSettings, *, held_by: str | None) -> Retention:
    """Say what of one store would stay and go. A store that can't be listed whole keeps all, and says why."""
    listing_problem = None
    backups: Sequence[Listed] = ()
    try:
        backups = store.list(database)
    except (errors.StoreError, errors.ConfigurationError) as error:
        listing_problem = str(error)
    return _decided(store, backups, policy, listing_problem=listing_problem, held_by=held_by)


def expire(store: Store, database: str, policy: KeepSettings) -> Expiry:
    """Delete what the policy lets go; the caller holds the database's lock.

    The store is listed again before anything goes: what is to stay must still be there. A backup that somebody reads
    stays until the next time, and so does one that was pinned, proven or disproved meanwhile. Where a guard says no, or
    the store fails, nothing more goes and the answer says why.
    """
    backups: Sequence[Listed] = ()
    listing_problem = None
    try:
        backups = store.list(database)
    except (errors.StoreError, errors.ConfigurationError) as error:
        listing_problem = str(error)
    decided = _decided(store, backups, policy, listing_problem=listing_problem, held_by=None)
    if decided.refused is not None or not decided.expire:
        return Expiry(decided=decided, problem=decided.refused)
    deleted: list[str] = []
    in_use: list[str] = []
    problem = None
    try:
        _still_there(store, database, backups, {item.backup_id for item in decided.expire})
        seen = {backup.backup_id: backup for backup in backups}
        for item in decided.expire:
            reached(f"expiring:{item.backup_id}")
            (deleted if _delete(store, seen[item.backup_id], item.reason) else in_use).append(item.backup_id)
    except (errors.StoreError, errors.RefusedError) as error:
        problem = str(error)
    return Expiry(decided=decided, deleted=tuple(deleted), in_use=tuple(in_use), problem=problem)


def pin(store: Store, backup_id: str, reason: str | None) -> Status:
    """Pin a backup for a reason, so that it never expires; None unpins it.

    Errors: `BackupNotFound`, `StoreError`; `LockHeld` where somebody is about to delete it.
    """
    stated = None
    if reason is not None:
        if not reason.strip():
            raise errors.ConfigurationError("a pin needs a reason: who reads it in a year wants to know")
        stated = Pin(reason=reason.strip(), at=datetime.now(UTC), actor=context.current().actor)
    with store.reading(backup_id):  # so that nobody deletes it at this moment, and it seems to be pinned
        return store.change_status(backup_id, lambda before: before.model_copy(update={"pin": stated}))


def _decided(
    store: Store, backups: Sequence[Listed], policy: KeepSettings, *, listing_problem: str | None, held_by: str | None
) -> Retention:
    now = datetime.now(UTC)
    decided = retention.decide(backups, policy, now, listing_problem=listing_problem, held_by=held_by)
    return decided.model_copy(update={"store": store.name})


def _still_there(store: Store, database: str, backups: Sequence[Listed], going: set[str]) -> None:
    """Make sure that what is to stay is still listed. Errors: `RefusedError`, `StoreError`."""
    staying = {backup.backup_id for backup in backups if backup.problem is None} - going
    lacking = staying - {backup.backup_id for backup in store.list(database) if backup.problem is None}
    if lacking:
        listing = ", ".join(sorted(lacking)[:3])
        raise errors.RefusedError(f"a second listing lacks {len(lacking)} backups that are to stay ({listing})")


def _delete(store: Store, seen: Listed, reason: str) -> bool:
    """Delete a backup as it was seen; False where somebody reads it, or it is another by now, so that it stays."""
    backup_id = seen.backup_id

    def still(status: Status) -> bool:
        newly_proven = status.tier is Tier.PROVEN and seen.tier != Tier.PROVEN
        return status.pin is None and not newly_proven and status.disproved == seen.disproved

    try:
        store.delete(backup_id, still)
    except (errors.LockHeld, errors.BackupDamaged) as held:
        log.warning("%s", held, extra={"event": "backup.in_use", "backup_id": backup_id})
        return False
    except errors.BackupNotFound:  # another one was quicker
        return True
    log.info("backup %s expired: %s", backup_id, reason, extra={"event": "backup.expired", "backup_id": backup_id})
    return True

"""The stores that the settings name, and what several of them hold together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from chanuka_ops import errors
from chanuka_ops.backup import documents
from chanuka_ops.backup.answers import Catalogue, Listed
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.storing.local import LocalStore
from chanuka_ops.backup.storing.store import Store
from chanuka_ops.config import Settings, StoreSettings

log = logging.getLogger(__name__)


def from_settings(settings: Settings) -> dict[str, Store]:
    """Return every store by name, the first being the one that is read from first. Nothing is connected to yet."""
    jobs = settings.operations.backup.jobs
    return {name: _store(name, stated, jobs) for name, stated in settings.backup_stores.items()}


def _store(name: str, stated: StoreSettings, jobs: int) -> Store:
    if stated.is_local:
        return LocalStore(stated.path, name)
    from chanuka_ops.backup.storing.objects import ObjectStore  # noqa: PLC0415 - a cloud client is loaded where one is named

    return ObjectStore(name, stated, jobs=jobs)


def chosen(stores: Mapping[str, Store], name: str | None) -> list[Store]:
    """Return the store of that name, or all. Errors: `ConfigurationError`."""
    if name is None:
        return list(stores.values())
    if name not in stores:
        raise errors.ConfigurationError(f"no backup store is called {name!r}: there is {', '.join(stores)}")
    return [stores[name]]


def holding(stores: Iterable[Store], backup_id: str) -> tuple[list[Store], dict[str, str]]:
    """Return the stores that hold a backup, in their order, and by name why others couldn't be asked for it.

    Errors: `BackupNotFound`; where none has it and some couldn't be asked, `StoreError`, or `ConfigurationError` if
    nothing but the settings is wrong.
    """
    found: list[Store] = []
    kind: type[errors.ChanukaError] = errors.ConfigurationError
    unread: dict[str, str] = {}
    where = []
    for store in stores:
        where.append(store.where)
        try:
            store.directory(backup_id)
        except errors.BackupNotFound:
            continue
        except (errors.StoreError, errors.ConfigurationError) as error:
            unread[store.name] = str(error)
            kind = errors.StoreError if isinstance(error, errors.StoreError) else kind
            log.warning("store %s: %s", store.name, error, extra={"event": "store.unread", "store": store.name})
            continue
        found.append(store)
    if found:
        return found, unread
    if unread:
        raise kind(unreadable(unread))
    raise errors.BackupNotFound(
        f"no backup {backup_id} in {', '.join(where)}: `chanuka-ops backup list` shows what there is"
    )


def unreadable(problems: Mapping[str, str]) -> str:
    """Name every store that can't be read, and why."""
    return "; ".join(f"store {name}: {problem}" for name, problem in problems.items())


def look(stores: Iterable[Store], database: str | None) -> Catalogue:
    """List what every store holds, each backup once, with the best tier any copy of it has; the newest first.

    A store that can't be listed is a problem of the catalogue, which is then partial.
    """
    copies: dict[tuple[str, str], list[Listed]] = {}
    problems = {}
    for store in stores:
        try:
            listed = store.list(database)
        except (errors.StoreError, errors.ConfigurationError) as error:
            problems[store.name] = str(error)
            continue
        for backup in listed:
            copies.setdefault((backup.database, backup.backup_id), []).append(backup)
    return Catalogue(backups=tuple(documents.newest_first(map(_merged, copies.values()))), problems=problems)


def _merged(copies: list[Listed]) -> Listed:
    ranks = [str(tier) for tier in Tier]

    def worth(copy: Listed) -> tuple[int, bool]:
        return (ranks.index(copy.tier) if copy.tier in ranks else -1), copy.disproved is None

    best = max(copies, key=worth)  # the first of equals
    wrong = [(copy.store, copy.problem or copy.disproved) for copy in copies if copy is not best]
    return best.model_copy(
        update={
            "stores": tuple(copy.store for copy in copies),
            "pinned": next((copy.pinned for copy in copies if copy.pinned), None),
            "copy_problems": tuple(f"{store}: {reason}" for store, reason in wrong if reason),
        }
    )

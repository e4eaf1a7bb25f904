"""Every check there is, by id, in the order in which they are reported."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from chanuka_ops.errors import ConfigurationError
from chanuka_ops.health.model import Check
from chanuka_ops.health.rules import (
    backups,
    bloat,
    indexes,
    keys,
    largeobjects,
    locks,
    own,
    partitions,
    planner,
    rates,
    replication,
    sanity,
    schema,
    security,
    server,
    sessions,
    settings,
    statements,
    storage,
    telling,
    transactions,
    vacuum,
    wal,
)

CHECKS: tuple[Check, ...] = (
    *server.CHECKS,
    *settings.CHECKS,
    *sanity.CHECKS,
    *sessions.CHECKS,
    *locks.CHECKS,
    *transactions.CHECKS,
    *vacuum.CHECKS,
    *planner.CHECKS,
    *bloat.CHECKS,
    *indexes.CHECKS,
    *schema.CHECKS,
    *partitions.CHECKS,
    *keys.CHECKS,
    *largeobjects.CHECKS,
    *replication.CHECKS,
    *wal.CHECKS,
    *rates.CHECKS,
    *statements.CHECKS,
    *storage.CHECKS,
    *backups.CHECKS,
    *security.CHECKS,
    *own.CHECKS,
    *telling.CHECKS,
)
_BY_ID = {check.id: check for check in CHECKS}


def ids() -> list[str]:
    """Return the id of each check, in the order of the report."""
    return list(_BY_ID)


def find(check_id: str) -> Check:
    """Return one check.

    Errors: `ConfigurationError` that names the closest ids.
    """
    check = _BY_ID.get(check_id)
    if check is None:
        raise ConfigurationError(f"there is no check {check_id!r}{suggestion(check_id)}")
    return check


def suggestion(check_id: str, also: Iterable[str] = ()) -> str:
    """Say which ids come close to one that is unknown; empty where none does."""
    known = [*_BY_ID, *also]
    close = difflib.get_close_matches(check_id, known, n=3)
    tail = check_id.rsplit(".", 1)[-1]
    close = close or [name for name in known if name.split(".")[0] == check_id or name.endswith(f".{tail}")]
    return f" (did you mean {', '.join(close)}?)" if close else " (`health list` prints them all)"


def check_known(check_ids: Collection[str], also: Collection[str] = ()) -> None:
    """Make sure that each id is a check's.

    Errors: `ConfigurationError`, one line for each id that isn't.
    """
    wrong = sorted(set(check_ids) - set(_BY_ID) - set(also))
    if wrong:
        raise ConfigurationError("\n".join(f"there is no check {name!r}{suggestion(name, also)}" for name in wrong))

"""Loading the data set: only what is missing, in batches that commit by themselves, never among somebody's own rows."""

from __future__ import annotations

import logging

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.dataset import rules
from chanuka_ops.dataset.model import DatasetSummary, Load
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.logs import timed
from chanuka_ops.sql import catalog

log = logging.getLogger(__name__)

OPERATION = "data"
VIEW = "bill_ranking"
# As autovacuum would have left them by now. The rest was loaded a moment ago and nobody has analysed it yet.
ANALYSED = (
    *("users", "user_profiles", "sponsors", "bills", "bill_versions", "sponsorships", "comments", "bill_follows"),
    *("engagement_events", VIEW),
)


def load(manager: ConnectionManager, *, scale: int = 1) -> DatasetSummary:
    """Bring the data set to `scale` (about 55 MB each) and say what is there. Rows of a larger scale stay.

    Errors: `ConfigurationError` for a scale below 1; `LockHeld`; `RefusedError` where the schema is missing or a table
    holds rows that this data set didn't make (nothing was changed).
    """
    if scale < 1:
        raise errors.ConfigurationError(f"the scale of the data set is 1 or more, not {scale}")
    with (
        context.scope(operation=OPERATION, database=manager.name),
        operation_lock(manager),
        timed(log, "data.load", "loading the data set") as watch,
        manager.autocommit() as connection,
    ):
        connection.execute(text("set jit = off"))  # it would compile each batch anew: 8 s became 5 s
        have = _ours(connection, manager.name)
        added = _fill(connection, rules.plan(have, scale))
        have = _counts(connection)
        added += _fill(connection, rules.roll_up(have))
        if added or have["unedited_comments"]:
            _settle(connection, rules.units(have))
            have = _counts(connection)
            log.info("%d rows added", added, extra={"event": "data.loaded", "rows": added, "scale": scale})
    tables = {table.name: have[table.name] for table in (*rules.TABLES, rules.ROLL_UP)}
    return DatasetSummary(tables, watch.seconds, bool(added))


def tables_present(manager: ConnectionManager) -> list[str]:
    """Return the tables that the database holds, extensions' own left out: an empty one is free for the data set.

    Errors: `ConnectError`.
    """
    with manager.transaction(read_only=True) as connection:
        return list(connection.execute(text(_sql("tables_present"))).scalars())


def _sql(name: str) -> str:
    return catalog.load("chanuka_ops.dataset").sql(name)


def _counts(connection: Connection) -> dict[str, int]:
    row: dict[str, int] = dict(**connection.execute(text(_sql("counts"))).mappings().one())
    return row


def _ours(connection: Connection, database: str) -> dict[str, int]:
    """Count the rows, once it's certain that they are this data set's."""
    names = [table.name for table in (*rules.TABLES, rules.ROLL_UP)]
    missing = connection.execute(text(_sql("missing_tables")), {"names": [*names, VIEW]}).scalars().all()
    if missing:
        raise errors.RefusedError(
            f"database {database!r} has no table {', '.join(missing)}: run `chanuka-ops migrate up` first."
            " Nothing was changed."
        )
    foreign = {name: rows for name, rows in connection.execute(text(_sql("foreign_rows"))) if rows}
    have = _counts(connection)
    foreign = foreign or rules.surplus(have)
    if foreign:
        found = ", ".join(f"{name} ({rows})" for name, rows in sorted(foreign.items()))
        raise errors.RefusedError(
            f"database {database!r} holds rows that the demonstration data set didn't make: {found}."
            " It is loaded into a database of its own only. Nothing was changed."
        )
    return have


def _fill(connection: Connection, plan: tuple[Load, ...]) -> int:
    total, done = sum(load.missing for load in plan), 0
    for load in plan:
        statement = text(_sql(f"fill_{load.table.name}"))
        for first, last in rules.batches(load):
            done += connection.execute(statement, {"first": first, "last": last}).rowcount
            context.progress(OPERATION, min(done, total), total, "rows")
    return done


def _settle(connection: Connection, units: int) -> None:
    connection.execute(text(_sql("advance_sequences")))
    connection.execute(text(f"refresh materialized view {VIEW}"))
    for name in ANALYSED:
        connection.execute(text(f"analyze {name}"))
    comments = next(table for table in rules.TABLES if table.name == "comments")
    statement = text(_sql("edit_comments"))
    for first, last in rules.batches(Load(comments, 1, comments.keys * units, 0)):
        connection.execute(statement, {"first": first, "last": last})

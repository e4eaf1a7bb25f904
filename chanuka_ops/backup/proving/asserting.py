"""What the user says must hold of a restored copy: SQL by name, each of which must return true."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import context, errors
from chanuka_ops.backup.answers import Mismatch
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.sql.catalog import load

LABEL = "assertions"
_SHOWN = 60  # characters of what came back
_VERBATIM = {"no_parameters": True}  # a percent sign is SQL's own


def check(manager: ConnectionManager, assertions: Mapping[str, str], *, timeout_s: float) -> tuple[Mismatch, ...]:
    """Run each in a READ ONLY transaction of its own, for `timeout_s` at most; return those that fail.

    Only one row with one `true` holds; anything else, also an error of the server, doesn't.
    Errors: `ConnectError`, `ConnectionLost`.
    """
    problems = []
    for number, (name, query) in enumerate(assertions.items()):
        context.progress(LABEL, number, len(assertions), "assertions")
        try:
            with manager.transaction(read_only=True) as connection:
                limit = {"timeout_ms": str(round(timeout_s * 1000))}
                connection.execute(text(load("chanuka_ops.backup").sql("statement_timeout")), limit)
                came = _came_back(connection, query)
        except (errors.ConnectError, errors.ConnectionLost):
            raise
        except errors.DatabaseError as error:
            came = f"an error: {error}"
        if came is not None:
            problems.append(Mismatch(object=f"assertion {name!r}", source="true", restored=came))
    return tuple(problems)


def _came_back(connection: Connection, query: str) -> str | None:
    """Run it and say what came back, None where that is one true."""
    # as a part of a query: a statement by itself, no more of whose rows are fetched than have to be
    whole = f"select * from (\n{query.strip().rstrip(';')}\n) as assertion limit 2"  # noqa: S608 - the configuration's own SQL
    with engines.translated():
        rows = connection.exec_driver_sql(whole, execution_options=_VERBATIM).all()
    if len(rows) != 1:
        return "no row" if not rows else "more than one row"
    if len(rows[0]) != 1:
        return f"{len(rows[0])} columns"
    (value,) = rows[0]
    if value is True:
        return None
    return {None: "null", False: "false"}.get(value) if value is None or value is False else f"{str(value)[:_SHOWN]!r}"

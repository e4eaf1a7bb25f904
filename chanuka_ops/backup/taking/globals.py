"""What of a server belongs to no database: roles, tablespaces, and how it was configured.

Roles come with their settings (ALTER ROLE … SET); those of the database are in the dump itself, as is what a role has
set in that database only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import Connection

from chanuka_ops import errors
from chanuka_ops.config import BackupSettings, DatabaseSettings
from chanuka_ops.db import parameters
from chanuka_ops.logs import redact
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.sql.catalog import load

GLOBALS = "globals"
ROLES = f"{GLOBALS}/roles.sql"
TABLESPACES = f"{GLOBALS}/tablespaces.sql"
SETTINGS = f"{GLOBALS}/settings.conf"
_MAY_BE_SECRET = re.compile(
    r"conninfo|_command|passphrase|passw|secret|token|credential|private|api_?key|(^|[._])key$|dsn|url", re.IGNORECASE
)
HEAD = """\
# How the server was configured: what differs from PostgreSQL's defaults, in the syntax of postgresql.conf.
# Nothing restores this by itself: pick from it. Paths and sizes are those of the machine it ran on.
# Left out: what only members of pg_read_all_settings may see, where the role is none; and what our own session or the
# role's and the database's settings say instead (timeouts).
"""


def commands(
    database: DatabaseSettings, tools: Binaries, settings: BackupSettings, directory: Path
) -> Iterator[list[str | Path]]:
    """Yield the commands that write roles and tablespaces, if these aren't there already."""
    for what, file in (("--roles-only", ROLES), ("--tablespaces-only", TABLESPACES)):
        if (directory / file).exists():
            continue
        yield [
            tools.path("pg_dumpall"),
            what,
            *([] if settings.role_passwords else ["--no-role-passwords"]),
            "--no-password",
            f"--file={directory / file}",
            f"--dbname={parameters.conninfo(database)}",
            f"--database={parameters.dbname_only(database)}",
        ]


def refuse_hidden_passwords(connection: Connection) -> None:
    """Refuse to back up passwords with a role that can't read them. Errors: `RefusedError`."""
    if not connection.execute(text(load("chanuka_ops.backup").sql("may_read_role_passwords"))).scalar_one():
        raise errors.RefusedError(
            "role_passwords: this role may not read the roles' passwords (pg_authid), only a superuser may: back up as"
            " one, or set role_passwords to false. Nothing was written."
        )


def write(connection: Connection, directory: Path) -> None:
    """Write what needs no program: the server's configuration, secrets left out, and that it has no tablespaces.

    Errors: `StoreError`.
    """
    if not connection.execute(text(load("chanuka_ops.backup").sql("has_tablespaces"))).scalar_one():
        _write(directory / TABLESPACES, "-- The server had no tablespaces of its own.\n")
    rows = connection.execute(text(load("chanuka_ops.backup").sql("server_settings"))).all()
    lines = configuration((str(row.name), str(row.value or ""), str(row.source)) for row in rows)
    _write(directory / SETTINGS, lines)


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise errors.StoreError(f"{path} can't be written: {error.strerror}") from None


def configuration(settings: Iterable[tuple[str, str, str]]) -> str:
    """Write settings (name, value, source) as postgresql.conf has them; what may be a secret is left out. Pure.

    >>> print(configuration([("work_mem", "4MB", "configuration file"), ("primary_conninfo", "x", "global"),
    ...                      ("shared_buffers", "1GB", "command line")]).removeprefix(HEAD), end="")
    work_mem = '4MB'
    # primary_conninfo is set and left out: it may hold a secret
    shared_buffers = '1GB'  # command line
    """
    return HEAD + "".join(_line(*one) for one in settings)


def _line(name: str, value: str, source: str) -> str:
    if _MAY_BE_SECRET.search(name) or redact(value) != value:
        return f"# {name} is set and left out: it may hold a secret\n" if value else ""
    escaped = value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
    note = "" if source == "configuration file" else f"  # {source}"
    return f"{name} = '{escaped}'{note}\n"

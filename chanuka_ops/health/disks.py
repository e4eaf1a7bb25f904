"""The disk under a server's data directory, looked at where the server is provably on this host."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL

from chanuka_ops.health.model import Row, Rows

_DIRECTORY_LINE, _START_LINE = 1, 2  # of postmaster.pid
_START_WITHIN_S = 5


def is_local(url: URL) -> bool:
    """Tell whether a connection goes through a socket of this host's file system."""
    hosts = [url.host] if url.host else []
    stated = url.query.get("host", ())
    hosts += [stated] if isinstance(stated, str) else [*stated]
    return bool(hosts) and all(host.startswith("/") for host in hosts)


def looked_at(rows: Rows, *, local: bool) -> list[Row]:
    """Give each row of a data directory what its disk has: `total`, `free` in bytes, or `why` it can't be seen.

    A socket and a directory of the same name prove nothing yet (containers share both): the directory's own
    postmaster.pid must name the start that the server tells.
    """
    return [{**row, **_seen(row, local=local)} for row in rows]


def _seen(row: Row, *, local: bool) -> Row:
    unseen = {"total": None, "free": None}
    if not local:
        return {**unseen, "why": "the server is reached over the network, and SQL tells nothing of its disk"}
    if not row["directory"]:
        return {**unseen, "why": "the role may not read data_directory: grant pg_monitor to it"}
    directory = Path(row["directory"])
    try:
        lines = (directory / "postmaster.pid").read_text("utf-8").splitlines()
        same = Path(lines[_DIRECTORY_LINE]) == directory
        same = same and abs(int(lines[_START_LINE]) - row["started"]) <= _START_WITHIN_S
        found = os.statvfs(directory)
    except PermissionError:
        return {**unseen, "why": f"this account may not look into {directory}: run the check as the server's account"}
    except (OSError, ValueError, IndexError) as error:
        return {**unseen, "why": f"{directory} can't be looked at: {error}"}
    if not same:
        return {**unseen, "why": f"{directory} on this host is another server's"}
    return {"total": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize, "why": None}

"""Named SQL from `queries.sql` files, each block with the versions of PostgreSQL it is for.

A file holds blocks that begin with header comments::

    -- name: dead_tuples
    -- what: tables past their own vacuum trigger
    -- since: 16
    select …

The same name may stand several times with different `since:` (a major version); `since` absent means the oldest
server this package knows. `Catalog.sql(name, major)` picks the newest block that the server understands, so Python
holds no version ladders. Values are bound parameters in SQLAlchemy's `:name` form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from chanuka_ops.errors import ChanukaError

OLDEST_MAJOR = 14
NEWEST_MAJOR = 19

_HEADER = re.compile(r"^--\s*(?P<key>name|what|since):\s*(?P<value>.+?)\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """One statement: its name, what it is for, the first major version it is for, and its text."""

    name: str
    what: str
    since: int
    sql: str


class CatalogError(ChanukaError):
    """A queries.sql file is malformed: a defect of this package, found by its tests."""


def parse(text: str, *, origin: str) -> tuple[Block, ...]:
    """Split a file into its blocks.

    Errors: `CatalogError` for a block without a name, a purpose or a statement, or for one given twice.
    """
    blocks: list[Block] = []
    header: dict[str, str] = {}
    body: list[str] = []

    def flush() -> None:
        sql = "\n".join(body).strip().rstrip(";")
        if not header:
            if sql:
                raise CatalogError(f"{origin}: a statement stands before the first '-- name:'")
            return
        name, what = header.get("name"), header.get("what")
        if not name or not what or not sql:
            raise CatalogError(f"{origin}: block {name!r} needs a name, a what and a statement")
        blocks.append(Block(name, what, int(header.get("since", OLDEST_MAJOR)), sql))

    for line in text.splitlines():
        match = _HEADER.match(line)
        if match and match["key"] == "name":
            flush()
            header, body = {"name": match["value"]}, []
        elif match and not "".join(body).strip():
            header[match["key"]] = match["value"]
        elif header or not line.startswith("--"):
            body.append(line)
    flush()
    keys = [(block.name, block.since) for block in blocks]
    if len(set(keys)) != len(keys):
        raise CatalogError(f"{origin}: a block stands twice with the same since")
    return tuple(blocks)


@dataclass(frozen=True, slots=True)
class Catalog:
    """The blocks of one `queries.sql`."""

    origin: str
    blocks: tuple[Block, ...]

    def names(self) -> list[str]:
        """Return each name once, in the file's order."""
        return list(dict.fromkeys(block.name for block in self.blocks))

    def sql(self, name: str, major: int = NEWEST_MAJOR) -> str:
        """Return the newest block of that name for a server of that major version.

        Errors: `CatalogError` where there is none.
        """
        fitting = [block for block in self.blocks if block.name == name and block.since <= major]
        if not fitting:
            raise CatalogError(f"{self.origin}: no block {name!r} for PostgreSQL {major}")
        return max(fitting, key=lambda block: block.since).sql

    def since(self, name: str) -> int:
        """Return the first major version that has a block of that name."""
        return min(block.since for block in self.blocks if block.name == name)


@cache
def load(package: str) -> Catalog:
    """Read `queries.sql` of a package, once per process."""
    text = resources.files(package).joinpath("queries.sql").read_text(encoding="utf-8")
    return Catalog(f"{package}/queries.sql", parse(text, origin=f"{package}/queries.sql"))

r"""The fingerprint of a schema: what pg_dump writes of it, without what may differ between two looks at the same one.

A model's metadata doesn't see functions, triggers, grants or row security; pg_dump does. Left out are its comments, its
key that is random each time (\restrict), the session's settings, this program's own schema and Alembic's table. The
order of columns and of grants doesn't count: a downgrade can put back a column, but not where it stood.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import credentials, parameters
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries

VERSION_TABLE = "alembic_version"
DEADLINE_S = 600.0

_HEADER = re.compile(r"^-- (?:Data for )?Name: (?P<name>.*); Type: (?P<kind>[A-Z ]+); Schema: (?P<schema>[^;]*)")
_SETTING = re.compile(r"^(?:SET (?P<name>[a-z_]+) = (?P<value>.*);|SELECT pg_catalog\.set_config\(.*\);)$")
_RESTRICT = re.compile(r"^\\(?:un)?restrict\b")
_STORED = {"TABLE", "INDEX", "CONSTRAINT", "MATERIALIZED VIEW"}  # what default_tablespace, as pg_dump sets it, is for
_UNORDERED = {"TABLE", "FOREIGN TABLE", "ACL", "DEFAULT ACL"}
_CARRIED = ("default_tablespace", "default_table_access_method")
_USUAL = {"", "''", "heap"}


@dataclass(frozen=True, slots=True)
class SchemaFingerprint:
    """A schema as a number, and each object's: name → SHA-256. `server_major` is of the server that was looked at."""

    sha256: str
    objects: Mapping[str, str]
    server_major: int

    def to_json(self) -> dict[str, Any]:
        """Return the document that is kept for a later comparison."""
        return {"sha256": self.sha256, "objects": dict(self.objects), "server_major": self.server_major}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(document["sha256"], dict(document["objects"]), document["server_major"])


@dataclass(frozen=True, slots=True)
class Difference:
    """An object that two looks at a schema don't agree on. `kind`: appeared, vanished or changed."""

    object: str
    kind: str

    def to_json(self) -> dict[str, str]:
        """Return the entry of a report."""
        return {"object": self.object, "kind": self.kind}


def take(
    database: DatabaseSettings,
    tools: Binaries,
    *,
    server_major: int,
    own_schema: str,
    lock_timeout_s: float,
    deadline_s: float = DEADLINE_S,
) -> SchemaFingerprint:
    """Fingerprint a database's schema. `own_schema` is where this program keeps its journal; it isn't looked at.

    Errors: `ToolFailed` with pg_dump's words: among them that a table's lock wasn't had within `lock_timeout_s`.
    """
    argv: list[str | Path] = [
        tools.path("pg_dump"), "--schema-only", "--no-subscriptions", "--no-password",
        f"--exclude-schema={own_schema}", f"--exclude-table=*.{VERSION_TABLE}",
        f"--lock-wait-timeout={round(lock_timeout_s * 1000)}", f"--dbname={parameters.conninfo(database)}",
    ]  # fmt: skip
    lines: list[str] = []
    with process.password_file(credentials.password_of(database)) as (secret, fds):
        check = f"-c client_connection_check_interval={parameters.CONNECTION_CHECK_MS}"
        env = {
            **secret,
            "PGOPTIONS": f"{parameters.stated_options(database)} {check}".strip(),
            "PGCLIENTENCODING": "UTF8",
        }
        with process.started(argv, env=env, pass_fds=fds, on_line=lines.append) as running:
            running.wait(deadline_s=deadline_s)
    return of_dump(lines, server_major=server_major)


def of_dump(lines: Iterable[str], *, server_major: int) -> SchemaFingerprint:
    """Fingerprint what pg_dump wrote, line by line."""
    objects = {name: _digest(text) for name, text in sections(lines).items()}
    whole = "\n".join(f"{name}\t{digest}" for name, digest in sorted(objects.items()))
    return SchemaFingerprint(_digest(whole), objects, server_major)


def differences(before: SchemaFingerprint, after: SchemaFingerprint) -> tuple[Difference, ...]:
    """Name what differs, in the objects' order."""
    found: list[Difference] = []
    for name in sorted({*before.objects, *after.objects}):
        earlier, later = before.objects.get(name), after.objects.get(name)
        if earlier != later:
            kind = "appeared" if earlier is None else "vanished" if later is None else "changed"
            found.append(Difference(name, kind))
    return tuple(found)


def sections(lines: Iterable[str]) -> dict[str, str]:
    r"""Cut a dump into its objects, normalised: "TABLE public.bills" → its statements.

    >>> sections(["-- Name: v; Type: VIEW; Schema: public; Owner: me", "", "CREATE VIEW v AS", " SELECT 1;", ""])
    {'VIEW public.v': 'CREATE VIEW v AS\n SELECT 1;'}
    """
    found: dict[str, list[str]] = {}
    carried: dict[str, str] = {}
    name, kind, body = "", "", list[str]()
    for line in lines:
        header = _HEADER.match(line)
        if header is not None:
            settings = _close(found, name, kind, body)
            carried.update(settings)
            kind, body = header["kind"].strip(), []
            schema = "" if header["schema"] == "-" else f"{header['schema']}."
            name = f"{kind} {schema}{header['name']}"
            if kind in _STORED:
                body += [f"{key} {value}" for key, value in carried.items() if value not in _USUAL]
        elif not _RESTRICT.match(line):
            body.append(line)
    _close(found, name, kind, body)
    return {key: "\n".join(text) for key, text in found.items()}


def _close(found: dict[str, list[str]], name: str, kind: str, body: list[str]) -> dict[str, str]:
    """Put an object with the others; return the settings that stand behind it, which are the next one's."""
    settings: dict[str, str] = {}
    while body and (not body[-1].strip() or body[-1].startswith("--") or _SETTING.match(body[-1])):
        setting = _SETTING.match(body.pop())
        if setting is not None and setting["name"] in _CARRIED:
            settings.setdefault(setting["name"], setting["value"])
    while body and (not body[0].strip() or body[0].startswith("--")):
        del body[0]
    if name:  # before the first object there are settings only
        text = sorted(line.rstrip(",") for line in body) if kind in _UNORDERED else body
        found.setdefault(name, []).extend(text)
    return settings


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

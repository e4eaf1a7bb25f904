"""`chanuka-ops migrate up --all-databases`."""

from __future__ import annotations

import click

from chanuka_ops.cli.face import Face
from chanuka_ops.orchestrators import fleet
from chanuka_ops.orchestrators.fleet import Fleet, Member


def up(face: Face, how: Fleet, *, as_sql: bool) -> int:
    """Migrate every database of the settings; 1 if one of them isn't where it shall be."""
    if as_sql:
        raise click.UsageError("--sql is of one database: --database NAME")
    fared = fleet.migrate(face.settings(), how, lambda member: _told(face, member))
    if face.as_json:
        face.answer(fared.to_json())
    else:
        rows = [
            (member.database, member.status, member.seconds, len(member.document.get("applied", [])), _why(member))
            for member in fared.members
        ]
        face.table("Databases", ("database", "status", "seconds", "revisions", "why"), rows)
    return 0 if fared.done else 1


def _told(face: Face, member: Member) -> None:
    if member.status != "done":
        face.warn(f"{member.database}: {member.status}: {_why(member)}")


def _why(member: Member) -> str:
    error = member.document.get("error")
    return str(error["message"]) if error else ""

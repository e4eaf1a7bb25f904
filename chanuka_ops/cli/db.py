"""`chanuka-ops db …`."""

from __future__ import annotations

import click

from chanuka_ops.cli.face import Face, common


@click.group()
def db() -> None:
    """Look at databases and set them up."""


@db.command("ping")
@common
def ping(face: Face) -> None:
    """Ask the server what it is."""
    with face.opened() as orchestrator:
        probe = orchestrator.probe()
    document = {
        "database": face.database,
        "role": probe.role,
        "server_version": f"{probe.major}.{probe.server_version % 10000}",
        "latency_ms": probe.latency_ms,
    }
    if face.as_json:
        face.answer(document)
    else:
        face.table(f"Database {face.database}", tuple(document), [tuple(document.values())])


@db.command("setup")
@common
def setup(face: Face) -> None:
    """Make the database if it isn't there, and migrate it to the newest revision."""
    with face.opened() as orchestrator:
        created, migrated = orchestrator.setup()
    if face.as_json:
        face.answer({"created": created, **migrated.to_json()})
    else:
        face.say(f"database {face.database}: {'made' if created else 'was there'}, at revision {migrated.after}")

"""`chanuka-ops migrate history` and `migrate resolve`: what the journal holds, and what only a person knows."""

from __future__ import annotations

from typing import cast

import click

from chanuka_ops.cli.face import Face, common
from chanuka_ops.migrator.running.resolving import How, Resolution


@click.command("history")
@common
def history(face: Face) -> None:
    """List the runs of revisions, newest first: who, when, how long, and how they ended."""
    with face.opened() as orchestrator:
        entries = orchestrator.migration_history()
    if face.as_json:
        face.answer({"entries": [entry.to_json() for entry in entries]})
        return
    columns = ("started", "revision", "direction", "status", "seconds", "attempts", "who", "run", "message")
    rows = [
        (
            f"{entry.started_at:%F %T}", entry.revision, entry.direction, entry.outcome, entry.seconds, entry.attempts,
            f"{entry.actor} on {entry.host}", entry.run_id[:8], entry.message,
        )
        for entry in entries
    ]  # fmt: skip
    face.table("Runs of revisions", columns, rows)


@click.command("resolve")
@click.argument("revision")
@click.option("--step", type=click.IntRange(min=1), help="Which step: its number is in the message.")
@click.option("--done", "how", flag_value="done", help="The step is done: leave it out.")
@click.option("--redo", "how", flag_value="redo", help="The step isn't done: run it.")
@click.option("--edited", "how", flag_value="edited", help="Go on with the revision's file as it is now.")
@click.option("--forget", "how", flag_value="forget", help="All was undone by hand: run it from its start.")
@common
def resolve(face: Face, *, revision: str, step: int | None, how: str | None) -> None:
    """Say what became of a revision that was broken off, where the program can't find out."""
    if how is None or (step is None) == (how in {"done", "redo"}):
        raise click.UsageError("say --step N with --done or --redo; or --edited, or --forget, of the whole revision")
    resolution = Resolution(revision, cast("How", how), step)
    with face.opened() as orchestrator:
        said = orchestrator.resolve_migration(resolution)
    if face.as_json:
        face.answer({**resolution.to_json(), "message": said})
    else:
        face.say(said)

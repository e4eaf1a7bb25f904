"""`chanuka-ops migrate …`."""

from __future__ import annotations

import click

from chanuka_ops.cli.face import Face, common
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Migrated, Plan


@click.group()
def migrate() -> None:
    """Plan and run migrations."""


@migrate.command("plan")
@common
def plan(face: Face) -> int:
    """Say what is pending and what stands in the way: then the exit code is the one that `up` would end with."""
    with face.opened() as orchestrator:
        found = orchestrator.migration_plan()
    if face.as_json:
        face.answer(found.to_json())
    else:
        _print(face, found)
    refusal = rules.refusal(found)
    return refusal.exit_code if refusal else 0


@migrate.command("up")
@click.option("--to", default="head", show_default=True, metavar="REVISION")
@common
def up(face: Face, *, to: str) -> None:
    """Migrate up."""
    with face.opened() as orchestrator:
        migrated = orchestrator.migrate(to)
    _answer(face, migrated)


@migrate.command("down")
@click.option("--to", required=True, metavar="REVISION", help="The revision to be at afterwards, or base.")
@common
def down(face: Face, *, to: str) -> None:
    """Migrate down; what a revision made is dropped with its data."""
    with face.opened() as orchestrator:
        migrated = orchestrator.roll_back(to)
    _answer(face, migrated)


def _print(face: Face, found: Plan) -> None:
    face.say(
        f"current: {found.current or 'empty'} · heads: {', '.join(found.heads) or 'none'} · plan {found.plan_hash[:12]}"
    )
    rows = [
        (r.revision, r.doc, "destructive" if r.destructive else "", "" if r.transactional else "not in one transaction")
        for r in found.pending
    ]
    face.table("Pending", ("revision", "what", "data", "how"), rows)
    for problem in found.problems:
        face.say(f"{problem.kind}: {problem.message}")


def _answer(face: Face, migrated: Migrated) -> None:
    if face.as_json:
        face.answer(migrated.to_json())
        return
    rows = [(step.revision, step.seconds, step.attempts) for step in migrated.applied]
    face.table(f"{migrated.before or 'empty'} → {migrated.after or 'empty'}", ("revision", "seconds", "attempts"), rows)

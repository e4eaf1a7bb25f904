"""`chanuka-ops optimise …`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chanuka_ops import errors
from chanuka_ops.cli.face import Face, common
from chanuka_ops.optimisation.model import Plan, applied_document


@click.group()
def optimise() -> None:
    """Advise, and do what needs no approval."""


@optimise.command("plan")
@common
def plan(face: Face) -> None:
    """Say what would help, what it gains, and which lock it takes."""
    with face.opened() as orchestrator:
        found = orchestrator.optimise_plan()
    if face.as_json:
        face.answer(found.to_json())
        return
    rows = [(a.id, a.kind, a.object, a.reason, a.risk, a.lock) for a in found.advice]
    face.table("Advice", ("id", "kind", "object", "reason", "risk", "lock"), rows)
    if found.withheld:
        withheld = [(item.check, item.object, item.reason) for item in found.withheld]
        face.table("No advice on these", ("check", "object", "why"), withheld)


@optimise.command("apply")
@click.argument("plan_file", metavar="PLAN", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", multiple=True, metavar="ID", help="Only this advice; may be given several times.")
@common
def apply(face: Face, *, plan_file: Path, only: tuple[str, ...]) -> int:
    """Carry out a plan's VACUUM and ANALYZE; 1 if one of them failed."""
    try:
        document = json.loads(plan_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(f"{plan_file} is not a plan: {error}") from None
    with face.opened() as orchestrator:
        applied = orchestrator.optimise_apply(Plan.from_json(document), only or None)
    if face.as_json:
        face.answer(applied_document(applied))
    else:
        rows = [(a.id, a.object, a.outcome, a.seconds, a.reason) for a in applied]
        face.table("Applied", ("id", "object", "outcome", "seconds", "reason"), rows)
    return 1 if any(item.outcome in {"failed", "lock_timeout"} for item in applied) else 0

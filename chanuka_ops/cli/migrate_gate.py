"""`chanuka-ops migrate validate, gate, approve, accept`: what is known of a migration, and a person's word on it."""

from __future__ import annotations

import click

from chanuka_ops.cli.face import Face, common
from chanuka_ops.errors import RefusedError
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.gate import Verdict
from chanuka_ops.orchestrators.gating import Gate


@click.command("validate")
@common
def validate(face: Face) -> int:
    """Say whether files, database and journal agree: edited, unknown or unordered revisions, heads, drift."""
    with face.opened() as orchestrator:
        found = orchestrator.migration_plan()
    if face.as_json:
        face.answer({"problems": [problem.to_json() for problem in found.problems]})
    else:
        rows = [(p.kind, p.revision or "", "refuses" if p.refuses else "warns", p.message) for p in found.problems]
        face.table("Problems", ("kind", "revision", "what it does", "message"), rows)
    refusal = rules.refusal(found)
    return refusal.exit_code if refusal else 0


@click.command("gate")
@click.option("--to", default=None, metavar="TARGET", help="How far up (default: head).")
@click.option("--down-to", metavar="REVISION", help="The gate before the way back, down to here.")
@common
def gate(face: Face, *, to: str | None, down_to: str | None) -> int:
    """Say whether a migration may run now, and every reason why not; nothing is run. 3 where it may not."""
    if to is not None and down_to is not None:
        raise click.UsageError("--to goes up and --down-to goes down: which is meant?")
    with face.opened() as orchestrator:
        look = Gate(orchestrator)
        seen = look.look("up", to or rules.HEAD) if down_to is None else look.look("down", down_to)
    if face.as_json:
        face.answer({**seen.verdict.to_json(), "revisions": [step.revision for step in seen.steps]})
    else:
        _print(face, seen.verdict)
    return 0 if seen.verdict.allowed else RefusedError.exit_code


@click.command("approve")
@click.argument("plan_hash")
@click.option("--reason", required=True, help="Why it may run: it is kept, and shown.")
@click.option("--down-to", metavar="REVISION", help="It's the way back, down to here, that is approved.")
@common
def approve(face: Face, *, plan_hash: str, reason: str, down_to: str | None) -> None:
    """Approve exactly what is planned now, by its hash; whatever is edited afterwards has another."""
    with face.opened() as orchestrator:
        approval = Gate(orchestrator).approve(plan_hash, reason, down_to=down_to)
    if face.as_json:
        face.answer({"plan_hash": approval.plan_hash, "actor": approval.actor, "at": approval.at, "reason": reason})
    else:
        face.say(f"plan {approval.plan_hash[:12]} is approved by {approval.actor}: {reason}")


@click.command("accept")
@click.argument("revision")
@common
def accept(face: Face, *, revision: str) -> None:
    """Accept an applied revision's file as it is now, though it was edited after it was applied."""
    with face.opened() as orchestrator:
        said = orchestrator.accept_migration(revision)
    if face.as_json:
        face.answer({"revision": revision, "message": said})
    else:
        face.say(said)


def _print(face: Face, verdict: Verdict) -> None:
    face.say(f"plan {verdict.plan_hash}: {'it may run' if verdict.allowed else 'it may not run'}")
    for note in verdict.notes:
        face.say(note)
    rows = [(refusal.kind, refusal.message, refusal.remedy) for refusal in verdict.refusals]
    if rows:
        face.table("What is missing", ("what", "why", "what to do"), rows)

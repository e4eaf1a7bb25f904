"""`chanuka-ops demo`."""

from __future__ import annotations

from pathlib import Path

import click

from chanuka_ops.cli.face import Face, common
from chanuka_ops.cli.showing import styled
from chanuka_ops.health import registry
from chanuka_ops.health.model import HealthReport, Status
from chanuka_ops.orchestrators import demo as orchestrator
from chanuka_ops.orchestrators.steps import Step


@click.command()
@click.option("--scale", type=click.IntRange(1, 1000), default=1, show_default=True, help="About 50 MB of data each.")
@common
def demo(face: Face, *, scale: int) -> None:
    """Run the whole cycle on a database: migrate, load, check, back up, prove, optimise, report."""

    def on_step(step: Step) -> None:
        if not face.as_json:
            face.out.print(f"{step.name:<15}", styled(step.status), f"{step.seconds:8.2f} s  ", styled(step.detail))

    settings = face.settings()
    with face.watched():
        done = orchestrator.demonstrate(settings, face.database, scale=scale, on_step=on_step)
    if face.as_json:
        face.answer(done.to_json())
        return
    drill = done.cycle.drill
    face.say("")
    if done.cycle.health is not None:
        rows = [
            (finding.status, finding.check, finding.object or "", finding.summary)
            for finding in done.cycle.health.findings
            if finding.status != "ok"
        ]
        face.table("Health", ("status", "check", "object", "summary"), rows)
        _explain_first(face, done.cycle.health)
        face.say("")
    face.table(
        "Proof",
        ("backup", "tier", "tables compared", "rows compared", "differ", "restored and compared in"),
        [
            (
                drill.backup_id,
                drill.tier,
                drill.tables_compared,
                f"{drill.rows_compared:,}",
                len(drill.mismatches) + len(drill.structure_problems),
                f"{drill.rto_seconds} s",
            )
        ],
    )
    face.say("")
    for name, path in (("Report", done.report), ("Health", done.health_report)):
        if path is not None:
            face.say(f"{name}: {_from_here(path)}")


def _explain_first(face: Face, report: HealthReport) -> None:
    """Say of the worst finding what every finding says: why it matters, and what a person can do."""
    found = next((finding for finding in report.findings if finding.status.rank > Status.OK.rank), None)
    if found is not None:
        why = next((check.why for check in registry.CHECKS if check.id == found.check), found.summary)
        face.say(f"\n{found.check}: {why}\nwhat to do: {found.remedy}")


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path

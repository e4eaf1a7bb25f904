"""`chanuka-ops health …`."""

from __future__ import annotations

import click

from chanuka_ops.cli.face import Face, common
from chanuka_ops.health import registry
from chanuka_ops.health.model import HealthReport, Status


@click.group()
def health() -> None:
    """Check a database's health."""


@health.command("check")
@click.option("--only", multiple=True, metavar="ID", help="Only this check; may be given several times.")
@click.option(
    "--fail-on",
    type=click.Choice(["info", "warning", "unknown", "critical", "never"]),
    default="critical",
    show_default=True,
    help="From which status on the exit code is 1.",
)
@common
def check(face: Face, *, only: tuple[str, ...], fail_on: str) -> int:
    """Run the checks; one that can't look says unknown."""
    with face.opened() as orchestrator:
        report = orchestrator.health(only or None)
    if face.as_json:
        face.answer(report.to_json())
    else:
        _print(face, report)
    if fail_on == "never":
        return 0
    return 1 if report.status.rank >= Status(fail_on).rank else 0


@health.command("list")
@common
def list_(face: Face) -> None:
    """List every check there is."""
    if face.as_json:
        face.answer({"checks": [known.to_json() for known in registry.CHECKS]})
        return
    rows = [(c.id, c.title, c.severity, c.min_version, ", ".join(map(str, c.needs))) for c in registry.CHECKS]
    face.table("Checks", ("check", "title", "severity", "since", "needs"), rows)


@health.command("explain")
@click.argument("check_id")
@common
def explain(face: Face, *, check_id: str) -> None:
    """Say what a check looks at, why it matters and what to do."""
    known = registry.find(check_id)
    if face.as_json:
        told = {"explanation": known.explanation, "why": known.why, "remedy": known.remedy, "link": known.link}
        face.answer({**known.to_json(), **told})
        return
    face.say(f"{known.id}: {known.title} ({known.severity})")
    face.say(f"why: {known.why}")
    face.say(f"what to do: {known.remedy}")
    face.say(f"see: {known.link}")


def _print(face: Face, report: HealthReport) -> None:
    unknown = [result for result in report.checks if result.status == Status.UNKNOWN]
    judged = len(report.checks) - len(unknown)
    rows = [
        (f.status, f.check, f.object, f.summary, f.remedy)
        for f in report.findings
        if f.status not in {Status.OK, Status.UNKNOWN}
    ]
    face.table(f"Findings on {report.database}", ("status", "check", "object", "summary", "remedy"), rows)
    for result in unknown:
        face.say(f"unknown  {result.check}: {result.reason or 'see its findings'}")
    face.say(f"{report.status}: {judged} of {len(report.checks)} checks judged, in {report.seconds} s")

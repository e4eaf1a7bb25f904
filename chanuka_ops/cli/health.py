"""`chanuka-ops health …`."""

from __future__ import annotations

from pathlib import Path

import click

from chanuka_ops import durable, errors
from chanuka_ops.cli.face import Face, common
from chanuka_ops.cli.health_text import described, listing
from chanuka_ops.cli.lazy import LazyGroup
from chanuka_ops.health import registry
from chanuka_ops.health.exporting import nagios, prometheus
from chanuka_ops.health.exporting.model import Seen, subject
from chanuka_ops.health.model import Status, worst
from chanuka_ops.orchestrators import looking


@click.group(
    cls=LazyGroup,
    elsewhere={
        **{
            name: f"chanuka_ops.cli.health_alerts:{name}"
            for name in ("alerts", "evaluate", "silence", "silences", "unsilence")
        },
        "report": "chanuka_ops.cli.health_report:report",
        "serve": "chanuka_ops.cli.health_serve:serve",
    },
)
def health() -> None:
    """Check databases' health."""


@health.command("check")
@click.option("--only", multiple=True, metavar="ID", help="Only this check; may be given several times.")
@click.option("--all-databases", is_flag=True, help="Every database of the settings.")
@click.option(
    "--fail-on",
    type=click.Choice(["info", "warning", "unknown", "critical", "never"]),
    help="From which status on the exit code is 1 (default: critical).",
)
@click.option("--nagios", "as_nagios", is_flag=True, help="One line, and a Nagios plugin's exit code.")
@click.option(
    "--prometheus",
    "textfile",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write Prometheus's text format there, for a textfile collector.",
)
@common
def check(
    face: Face,
    *,
    only: tuple[str, ...],
    all_databases: bool,
    fail_on: str | None,
    as_nagios: bool,
    textfile: Path | None,
) -> int:
    """Run the checks; one that can't look says unknown."""
    if as_nagios and (face.as_json or fail_on):
        raise click.UsageError("--nagios has an output and exit codes of its own: neither --json nor --fail-on goes")
    seen = _seen(face, only, all_databases=all_databases)
    if textfile is not None:
        _write(face, textfile, seen)
    if as_nagios:
        answer = nagios.answer(seen)
        click.echo(answer.line)
        return answer.code
    status = worst(one.report.status for one in seen)
    if face.as_json:
        reports = [one.report.to_json() for one in seen]
        face.answer({"status": str(status), "databases": reports} if all_databases else reports[0])
    else:
        for one in seen:
            described(face, one)
        if all_databases:
            face.say("")
            listing(face, seen)
    failing = None if fail_on == "never" else Status(fail_on or "critical")
    return int(failing is not None and status.rank >= failing.rank)


@health.command("list")
@click.option("--subject", "subjects", multiple=True, metavar="WORD", help="Only checks of this subject: lock, index …")
@common
def list_(face: Face, *, subjects: tuple[str, ...]) -> None:
    """List every check there is."""
    there = sorted({subject(known.id) for known in registry.CHECKS})
    if wrong := sorted(set(subjects) - set(there)):
        raise errors.ConfigurationError(f"no check has the subject {', '.join(wrong)}; there are: {', '.join(there)}")
    checks = [known for known in registry.CHECKS if not subjects or subject(known.id) in subjects]
    if face.as_json:
        face.answer({"checks": [known.to_json() for known in checks]})
        return
    rows = [(c.id, c.title, c.severity, c.min_version, ", ".join(map(str, c.needs))) for c in checks]
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


def _seen(face: Face, only: tuple[str, ...], *, all_databases: bool) -> list[Seen]:
    """Look at the database that is meant, or at all."""
    settings = face.settings()
    with face.watched():
        if all_databases:
            return looking.look_at_all(settings, only or None)
        return [looking.look(settings, face.database, only or None)]


def _write(face: Face, path: Path, seen: list[Seen]) -> None:
    """Write a textfile collector's file in one step. Errors: `ConfigurationError`, by what the system says."""
    if path.suffix != ".prom":
        face.warn(f"{path}: node_exporter's textfile collector reads only files named *.prom")
    try:
        durable.replace(path, prometheus.text(seen))
    except OSError as error:
        raise errors.ConfigurationError(f"--prometheus {path} can't be written: {error.strerror or error}") from None

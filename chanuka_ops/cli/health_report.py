"""`chanuka-ops health report`."""

from __future__ import annotations

from pathlib import Path

import click

from chanuka_ops.cli.face import Face, common
from chanuka_ops.health.model import worst
from chanuka_ops.orchestrators import health_page, looking


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to (default: below the state).")
@click.option("--all-databases", is_flag=True, help="Every database of the settings, on one page.")
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True, max=90),
    default=health_page.DEFAULT_DAYS,
    show_default=True,
    help="How far back the plots go.",
)
@common
def report(face: Face, *, output: Path | None, all_databases: bool, days: float) -> None:
    """Look now, and write one HTML page: what to do, what isn't known, each number over time, what checks cost."""
    settings = face.settings()
    with face.watched():
        seen = looking.look_at_all(settings) if all_databases else [looking.look(settings, face.database)]
    path = output or health_page.default_path(settings)
    health_page.write(settings, seen, path, days=days)
    status = worst(one.report.status for one in seen)
    if face.as_json:
        databases = [
            {"database": one.database, "status": str(one.report.status), "judged": one.judged,
             "checks": len(one.report.checks)}
            for one in seen
        ]  # fmt: skip
        face.answer({"report": str(path), "status": str(status), "databases": databases})
        return
    for one in seen:
        face.say(f"{one.database}: {one.report.status}; {one.coverage}")
    face.say(f"Report: {path}")

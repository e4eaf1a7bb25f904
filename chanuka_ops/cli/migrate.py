"""`chanuka-ops migrate …`."""

from __future__ import annotations

import click

from chanuka_ops.cli import migrate_fleet
from chanuka_ops.cli.face import Face, common
from chanuka_ops.cli.lazy import LazyGroup
from chanuka_ops.migrator import rules
from chanuka_ops.migrator.model import Direction, Plan
from chanuka_ops.orchestrators import applying
from chanuka_ops.orchestrators.applying import Run
from chanuka_ops.orchestrators.fleet import Fleet

_SQL = click.option("--sql", "as_sql", is_flag=True, help="Print the SQL, and run nothing.")


_CLI = "chanuka_ops.cli"


@click.group(
    cls=LazyGroup,
    elsewhere={
        **{name: f"{_CLI}.migrate_gate:{name}" for name in ("validate", "gate", "approve", "accept")},
        **{name: f"{_CLI}.migrate_history:{name}" for name in ("history", "resolve")},
        **{name: f"{_CLI}.migrate_{name}:{name}" for name in ("lint", "new", "rehearse")},
    },
)
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
@click.option("--to", default="head", show_default=True, metavar="TARGET", help="A revision, heads, branch@head, +1 …")
@click.option(
    "--phase",
    type=click.Choice(["expand"]),
    help="Stop before the first pending revision that takes something away (phase = contract).",
)
@_SQL
@click.option("--all-databases", is_flag=True, help="Every database of the settings, each in a process of its own.")
@click.option("--max-parallel", type=click.IntRange(min=1), default=2, show_default=True, help="How many at a time.")
@click.option("--stop-after", type=click.IntRange(min=1), metavar="K", help="Begin no more after K failures.")
@click.option("--canary", metavar="NAME", help="This one first; the others only if it went well.")
@common
def up(
    face: Face, *, to: str, phase: str | None, as_sql: bool, all_databases: bool, max_parallel: int,
    stop_after: int | None, canary: str | None,
) -> int:  # fmt: skip
    """Migrate up."""
    if phase is not None and (all_databases or as_sql or to != rules.HEAD):
        raise click.UsageError("--phase says itself how far: not with --to, --sql or --all-databases")
    if all_databases:
        return migrate_fleet.up(face, Fleet(to, max_parallel, stop_after, canary), as_sql=as_sql)
    if stop_after is not None or canary is not None:
        raise click.UsageError("--stop-after and --canary are for --all-databases")
    if as_sql:
        return _preview(face, "up", to)
    with face.opened() as orchestrator:
        run = applying.migrate(orchestrator, "up", to) if phase is None else applying.expand(orchestrator)
    _answer(face, run)
    return 0


@migrate.command("down")
@click.option("--to", required=True, metavar="REVISION", help="The revision to be at afterwards, base, -1 …")
@_SQL
@common
def down(face: Face, *, to: str, as_sql: bool) -> int:
    """Migrate down; what a revision made is dropped with its data."""
    if as_sql:
        return _preview(face, "down", to)
    with face.opened() as orchestrator:
        run = applying.migrate(orchestrator, "down", to)
    _answer(face, run)
    return 0


def _preview(face: Face, direction: Direction, to: str) -> int:
    with face.opened() as orchestrator:
        sql = orchestrator.migration_preview(direction, to)
    if face.as_json:
        face.answer({"direction": direction, "to": to, "sql": sql})
    else:
        click.echo(sql, nl=False)
    return 0


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


def _answer(face: Face, run: Run) -> None:
    if face.as_json:
        face.answer(run.to_json())
        return
    migrated = run.migrated
    rows = [(step.revision, step.seconds, step.attempts) for step in migrated.applied]
    face.table(f"{migrated.before or 'empty'} → {migrated.after or 'empty'}", ("revision", "seconds", "attempts"), rows)
    for item in run.left:
        face.warn(f"left unfinished: {item.words()}")
    if run.health is not None and run.health.status != "ok":
        face.say(f"health afterwards: {run.health.status} (`chanuka-ops health check` says of what)")
    if run.report is not None:
        face.say(f"report: {run.report}")

"""`chanuka-ops migrate rehearse`: on a restored copy first, and what it would do to everybody else."""

from __future__ import annotations

from pathlib import Path

import click

from chanuka_ops.cli.face import Face, common
from chanuka_ops.errors import ConfigurationError
from chanuka_ops.migrator.lint.script import decode
from chanuka_ops.migrator.rehearsal.service import Scripts
from chanuka_ops.orchestrators.migration import MigrationOrchestrator, Rehearsed

_SHOWN = 60
_LOCKS = 2
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("rehearse")
@click.option("--sql", "sql", type=_FILE, help="Rehearse this script in place of the pending revisions.")
@click.option("--down-sql", "down_sql", type=_FILE, help="The script that undoes it.")
@click.option("--backup", "backup_id", metavar="ID", help="Rehearse on this backup (default: the newest).")
@click.option("--fresh-backup", is_flag=True, help="Take a backup first.")
@click.option("--to", default="head", show_default=True, metavar="REVISION")
@common
def rehearse(
    face: Face, *, sql: Path | None, down_sql: Path | None, backup_id: str | None, fresh_backup: bool, to: str
) -> int:
    """Restore a backup and run the pending revisions there: up, down, and up again, each statement traced.

    A plain script is read as psql does: BEGIN … COMMIT is one transaction, all else runs statement by statement.
    """
    if down_sql is not None and sql is None:
        raise ConfigurationError("--down-sql undoes a script: name that with --sql")
    if backup_id is not None and fresh_backup:
        raise ConfigurationError("--backup names one and --fresh-backup takes one: which is meant?")
    script = Scripts(_text(sql), _text(down_sql) if down_sql is not None else None) if sql is not None else None
    with face.opened() as orchestrator:
        rehearsed = MigrationOrchestrator(orchestrator).rehearse(
            to=to, script=script, backup_id=backup_id, fresh_backup=fresh_backup
        )
    if face.as_json:
        face.answer(rehearsed.to_json())
    else:
        _print(face, rehearsed)
    return 0 if rehearsed.passed else 1


def _text(path: Path | None) -> str:
    return "" if path is None else decode(path.read_bytes(), name=path.name)


def _print(face: Face, rehearsed: Rehearsed) -> None:
    document = rehearsed.to_json()
    rows = []
    for item in document["statements"]:
        locks = [f"{name}: {mode}" for name, mode in item["locks"].items()]
        more = [f"and {len(locks) - _LOCKS} more"] if len(locks) > _LOCKS else []
        predicted = item["prediction"]
        rows.append(
            (
                item["direction"],
                _short(item["sql"]),
                "; ".join([*locks[:_LOCKS], *more]),
                {"": "", "w": "writers", "rw": "readers and writers"}[item["blocks"]],
                item["scanned_rows_while_blocking"] or "",
                ", ".join(item["rewritten"]),
                item["seconds"],
                f"{predicted['low_s']:g}-{predicted['high_s']:g} s" if predicted else "none",
            )
        )
    columns = ("way", "statement", "locks", "holds up", "rows", "rewrites", "seconds", "predicted")
    face.table(f"Rehearsed on {rehearsed.backup_id} ({rehearsed.tier})", columns, rows)
    for leg in document["legs"]:
        face.say(f"{leg['name'].replace('_', ' ')}: {'done' if leg['passed'] else 'failed'} in {leg['seconds']:g} s")
    restored = document["schema_restored"]
    if restored is not None:
        face.say(f"the schema after the way down: {'as before' if restored else 'not as before'}")
    if not document["statements"] and rehearsed.passed:
        face.say("nothing was pending, so nothing was rehearsed")
    for warning in rehearsed.warnings:
        face.warn(warning)
    face.say(f"{document['impact']}: {rehearsed.ran.problem() or 'nothing failed'}")


def _short(sql: str) -> str:
    one_line = " ".join(sql.split())
    return one_line if len(one_line) <= _SHOWN else one_line[: _SHOWN - 1] + "…"

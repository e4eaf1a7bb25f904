"""`chanuka-ops backup …`. All but `create` works from the store alone, with no database alive."""

from __future__ import annotations

import click

from chanuka_ops import context
from chanuka_ops.backup.service import BackupService
from chanuka_ops.cli.face import Face, common
from chanuka_ops.orchestrators.database import known_names
from chanuka_ops.orchestrators.nightly import megabytes


@click.group()
def backup() -> None:
    """Take, look at and prove backups."""


@backup.command("create")
@common
def create(face: Face) -> None:
    """Take a backup, with a fingerprint of the data in the same snapshot."""
    with face.opened() as orchestrator:
        created = orchestrator.backup()
    if face.as_json:
        face.answer(created.model_dump(mode="json"))
    else:
        face.say(
            f"{created.backup_id}: {created.tables} tables, {created.rows:,} rows, {megabytes(created.source_bytes)}"
            f" in {megabytes(created.bytes)}, {created.seconds} s, tier {created.tier}"
        )


@backup.command("list")
@common
def list_(face: Face) -> None:
    """List the database's backups, the newest first."""
    settings = face.settings()
    backups = BackupService(settings).catalogue(face.database)
    if not backups and face.database not in known_names(settings):  # one that is no longer configured still has its own
        settings.database(face.database)
    if face.as_json:
        face.answer({"backups": [listed.model_dump(mode="json") for listed in backups]})
        return
    rows = [
        (b.backup_id, b.kind, b.tier, f"{b.created_at:%Y-%m-%d %H:%M:%SZ}" if b.created_at else "", b.database,
         b.bytes, b.server_version, b.problem)
        for b in backups
    ]  # fmt: skip
    face.table("Backups", ("backup", "kind", "tier", "created", "database", "bytes", "server", "problem"), rows)


@backup.command("show")
@click.argument("backup_id")
@common
def show(face: Face, *, backup_id: str) -> None:
    """Print a backup's manifest and the evidence for its tier."""
    manifest, status = BackupService(face.settings()).show(backup_id)
    face.answer(
        {
            **manifest.model_dump(mode="json"),
            "tier": status.tier,
            "evidence": status.model_dump(mode="json")["evidence"],
        }
    )


@backup.command("verify")
@click.argument("backup_id")
@common
def verify(face: Face, *, backup_id: str) -> int:
    """Reread every byte against the manifest; 1 if anything differs."""
    with face.watched(), context.scope(operation="verify"):
        verified = BackupService(face.settings()).verify(backup_id)
    if face.as_json:
        face.answer(verified.model_dump(mode="json"))
    elif verified.problems:
        face.table(f"{backup_id} is damaged", ("file", "problem"), [(p.file, p.kind) for p in verified.problems])
    else:
        face.say(
            f"{backup_id}: {verified.files} files, {megabytes(verified.bytes)}, all as written; tier {verified.tier}"
        )
    return 1 if verified.problems else 0


@backup.command("drill")
@click.argument("backup_id", required=False)
@common
def drill(face: Face, *, backup_id: str | None) -> int:
    """Restore into a scratch server and compare with the source; default: the newest backup."""
    service = BackupService(face.settings())
    with face.watched(), context.scope(operation="drill"):
        drilled = service.drill(backup_id or service.newest(face.database))
    if face.as_json:
        face.answer(drilled.model_dump(mode="json", exclude={"tables"}))
        return 0 if drilled.proven else 1
    rungs = " → ".join(
        f"{rung} {'?' if held is None else 'yes' if held else 'NO'}" for rung, held in drilled.ladder.items()
    )
    face.say(f"{drilled.backup_id}: tier {drilled.tier}; {rungs}")
    face.say(f"{drilled.tables_compared} tables, {drilled.rows_compared:,} rows compared in {drilled.rto_seconds} s")
    differing = [(i.object, i.source, i.restored) for i in (*drilled.mismatches, *drilled.structure_problems)]
    if differing:
        face.table("Not as at the source", ("object", "source", "restored"), differing)
    for problem in drilled.problems:
        face.say(f"{problem.file}: {problem.kind}")
    for warning in drilled.warnings:
        face.say(warning)
    return 0 if drilled.proven else 1

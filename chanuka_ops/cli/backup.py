"""`chanuka-ops backup …`. All but `create` works from the store alone, with no database alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from chanuka_ops.backup.answers import Created, Drilled, Expiry, Listed, Retention
from chanuka_ops.backup.service import BackupService
from chanuka_ops.cli.face import Face, common
from chanuka_ops.orchestrators.backups import BackupOperations
from chanuka_ops.orchestrators.database import known_names
from chanuka_ops.orchestrators.nightly import megabytes

_F = TypeVar("_F", bound=Callable[..., Any])

_STORE: Callable[[_F], _F] = click.option(
    "--store", metavar="NAME", help="Which of the settings' backup stores (default: all, or the first that has it)."
)


@click.group()
def backup() -> None:
    """Take, look at, prove, restore and expire backups."""


@backup.command("create")
@common
def create(face: Face) -> int:
    """Take a backup, with a fingerprint of the data in the same snapshot; 1 if a store didn't get its copy."""
    with face.opened() as orchestrator:
        created = orchestrator.backup_all()
    first, *others = created
    if face.as_json:
        beside = [other.model_dump(mode="json") for other in others]
        face.answer({**first.model_dump(mode="json"), **({"others": beside} if beside else {})})
    else:
        for one in created:
            _say_created(face, one)
    return 1 if any(one.missing for one in created) else 0


@backup.command("list")
@_STORE
@common
def list_(face: Face, *, store: str | None) -> int:
    """List the database's backups, the newest first; 1 if a store couldn't be listed."""
    settings = face.settings()
    found = BackupService(settings).look(face.database, store=store)
    if not found.backups and not found.problems and face.database not in known_names(settings):
        settings.database(face.database)  # one that is no longer configured still has its backups
    if face.as_json:
        face.answer(found.model_dump(mode="json"))
        return 1 if found.problems else 0
    rows = [
        (b.backup_id, b.kind, b.tier, _when(b.created_at), b.database, b.bytes, b.server_version, ", ".join(b.stores),
         _remarks(b))
        for b in found.backups
    ]  # fmt: skip
    columns = ("backup", "kind", "tier", "created", "database", "bytes", "server", "stores", "remarks")
    face.table("Backups", columns, rows)
    for name, problem in found.problems.items():
        face.warn(f"store {name} is not in this list: {problem}")
    return 1 if found.problems else 0


@backup.command("show")
@click.argument("backup_id")
@_STORE
@common
def show(face: Face, *, backup_id: str, store: str | None) -> None:
    """Print a backup's manifest and the evidence for its tier."""
    manifest, status = BackupService(face.settings()).show(backup_id, store=store)
    stated = status.model_dump(mode="json")
    face.answer({**manifest.model_dump(mode="json"), **{key: stated[key] for key in ("tier", "evidence", "pin")}})


@backup.command("verify")
@click.argument("backup_id")
@_STORE
@common
def verify(face: Face, *, backup_id: str, store: str | None) -> int:
    """Reread every byte of every copy against the manifest; 1 if anything differs, or a store couldn't be read."""
    with face.watched(), BackupOperations.from_store(face.settings(), face.database) as operations:
        verified = operations.verify(backup_id, store=store)
    if face.as_json:
        face.answer(verified.model_dump(mode="json"))
    elif verified.problems:
        rows = [(p.store, p.file, p.kind) for p in verified.problems]
        face.table(f"{backup_id} is damaged", ("store", "file", "problem"), rows)
    else:
        face.say(
            f"{backup_id}: {verified.files} files, {megabytes(verified.bytes)}, all as written; tier {verified.tier}"
        )
    for name, problem in verified.unread.items():
        face.warn(f"store {name} was not read: {problem}")
    return 1 if verified.problems or verified.unread else 0


@backup.command("drill")
@click.argument("backup_id", required=False)
@_STORE
@common
def drill(face: Face, *, backup_id: str | None, store: str | None) -> int:
    """Restore into a scratch server and compare with the source; default: the newest backup."""
    with face.watched(), BackupOperations.from_store(face.settings(), face.database) as operations:
        drilled = operations.drill(backup_id, store=store)
    if face.as_json:
        face.answer(drilled.model_dump(mode="json", exclude={"tables"}))
    else:
        _say_drilled(face, drilled)
    return 0 if drilled.proven else 1


@backup.command("expire")
@click.option("--dry-run", is_flag=True, help="Only say what would stay and go, and why.")
@_STORE
@common
def expire(face: Face, *, dry_run: bool, store: str | None) -> int:
    """Delete what operations.backup.keep lets go: never the last proven one, a pinned one, or one in use."""
    with face.watched(), BackupOperations.from_store(face.settings(), face.database) as operations:
        if dry_run:
            _say_retention(face, operations.retention(store=store), None)
            return 0
        done = operations.expire(store=store)
    _say_retention(face, [expiry.decided for expiry in done], done)
    if any(expiry.decided.refused for expiry in done):
        return 3
    return 1 if any(expiry.problem for expiry in done) else 0


@backup.command("pin")
@click.argument("backup_id")
@click.option("--reason", required=True, help="Why it must stay; who reads it in a year wants to know.")
@common
def pin(face: Face, *, backup_id: str, reason: str) -> None:
    """Keep a backup for ever, whatever the policy says."""
    BackupService(face.settings()).pin(backup_id, reason)
    _say_pinned(face, backup_id, reason)


@backup.command("unpin")
@click.argument("backup_id")
@common
def unpin(face: Face, *, backup_id: str) -> None:
    """Leave a pinned backup to the policy again."""
    BackupService(face.settings()).pin(backup_id, None)
    _say_pinned(face, backup_id, None)


def _say_pinned(face: Face, backup_id: str, reason: str | None) -> None:
    if face.as_json:
        face.answer({"backup_id": backup_id, "pinned": reason})
    else:
        face.say(f"{backup_id}: pinned: {reason}" if reason else f"{backup_id}: not pinned")


def _say_created(face: Face, created: Created) -> None:
    face.say(
        f"{created.backup_id}: {created.tables} tables, {created.rows:,} rows, {megabytes(created.source_bytes)}"
        f" in {megabytes(created.bytes)}, {created.seconds} s, tier {created.tier}"
    )
    for placed in created.missing:
        face.warn(f"store {placed.store} did not get its copy: {placed.problem}")


def _say_drilled(face: Face, drilled: Drilled) -> None:
    rungs = " → ".join(
        f"{rung} {'?' if held is None else 'yes' if held else 'NO'}" for rung, held in drilled.ladder.items()
    )
    face.say(f"{drilled.backup_id}: tier {drilled.tier}; {rungs}")
    face.say(
        f"{drilled.tables_compared} tables, {drilled.rows_compared:,} rows compared ({drilled.coverage:.0%}) in"
        f" {drilled.rto_seconds} s: {', '.join(f'{name} {seconds} s' for name, seconds in drilled.phases.items())}"
    )
    differing = [(i.object, i.source, i.restored) for i in drilled.differing]
    if differing:
        face.table("Not as at the source", ("object", "source", "restored"), differing)
    for problem in drilled.problems:
        face.say(f"{problem.store}: {problem.file}: {problem.kind}")
    for warning in drilled.warnings:
        face.say(warning)


def _say_retention(face: Face, decided: list[Retention], done: list[Expiry] | None) -> None:
    if face.as_json:
        face.answer(
            {
                "dry_run": done is None,
                "keep": [{"store": d.store, **k.model_dump(mode="json")} for d in decided for k in d.keep],
                "expire": [{"store": d.store, **e.model_dump(mode="json")} for d in decided for e in d.expire],
                "refused": {d.store: d.refused for d in decided if d.refused},
                "deleted": [{"store": e.decided.store, "backup_id": i} for e in done or () for i in e.deleted],
                "in_use": [{"store": e.decided.store, "backup_id": i} for e in done or () for i in e.in_use],
                "problems": {e.decided.store: e.problem for e in done or () if e.problem},
            }
        )
        return
    rows = [("stays", d.store, k.backup_id, "; ".join(k.reasons)) for d in decided for k in d.keep]
    rows += [("goes", d.store, e.backup_id, e.reason) for d in decided for e in d.expire]
    title = "What the policy would do" if done is None else "What the policy did"
    face.table(title, ("", "store", "backup", "why"), rows)
    for retention in decided:
        if retention.refused:
            face.warn(f"store {retention.store}: nothing expires: {retention.refused}")
    for expiry in done or ():
        for backup_id in expiry.in_use:
            face.warn(f"store {expiry.decided.store}: {backup_id} is in use, and stays until the next time")
        if expiry.problem and not expiry.decided.refused:
            face.warn(f"store {expiry.decided.store}: {expiry.problem}")


def _when(at: Any) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}" if at else ""


def _remarks(listed: Listed) -> str:
    pinned = [f"pinned: {listed.pinned}"] if listed.pinned else []
    problem = [reason for reason in (listed.problem, listed.disproved) if reason]
    return "; ".join([*problem, *listed.copy_problems, *pinned])

"""`chanuka-ops backup …`. All but `create` works from the store alone, with no database alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from chanuka_ops import context
from chanuka_ops.backup.answers import Catalogue, Created, Drilled, Expiry, Listed, Retention, Verified
from chanuka_ops.backup.service import BackupService
from chanuka_ops.cli.face import Face, common
from chanuka_ops.cli.lazy import LazyGroup
from chanuka_ops.config import Settings
from chanuka_ops.orchestrators.backups import BackupOperations, Taken
from chanuka_ops.orchestrators.database import known_names
from chanuka_ops.orchestrators.nightly import sized

_F = TypeVar("_F", bound=Callable[..., Any])

_STORE: Callable[[_F], _F] = click.option(
    "--store", metavar="NAME", help="Which of the settings' backup stores (default: all, or the first that has it)."
)
_WIDE = 110  # columns of a terminal from which a list shows what is nearly always the same


@click.group(
    cls=LazyGroup,
    elsewhere={"restore": "chanuka_ops.cli.restore:restore_", "extract": "chanuka_ops.cli.restore:extract"},
)
def backup() -> None:
    """Take, look at, prove, restore and expire backups."""


@backup.command("create")
@common
def create(face: Face) -> int:
    """Take a backup, with a fingerprint of the data in the same snapshot.

    With operations.backup.databases, of other databases of the server too. 1 if one of them or a store got none.
    """
    with face.opened() as orchestrator:
        taken = orchestrator.backup_all()
    if face.as_json:
        own, *others = (created.model_dump(mode="json") for created in taken.created)
        failed = [{"database": f.database, "kind": f.kind, "message": f.message} for f in taken.failed]
        face.answer({**own, "others": others, "failed": failed})
    else:
        _say_taken(face, taken)
    return 0 if taken.complete else 1


@backup.command("list")
@_STORE
@common
def list_(face: Face, *, store: str | None) -> int:
    """List the database's backups, the newest first; 1 if a store couldn't be listed."""
    settings = face.settings()
    with context.scope(operation="list", database=face.database):
        everything = BackupService(settings).look(None if settings.operations.backup.databases else face.database,
                                                  store=store)  # fmt: skip
    own = tuple(backup for backup in everything.backups if backup.database == face.database)
    found = everything.model_copy(update={"backups": own})
    if not found.backups and not found.problems:
        _refuse_unknown(settings, face.database)
    if face.as_json:
        face.answer(found.model_dump(mode="json"))
    else:
        _say_listed(face, found, several=len(settings.backup_stores) > 1)
        beside = {b.database for b in everything.backups if b.database.startswith(f"{face.database}.")}
        if beside:
            face.say(f"Backed up beside it: {', '.join(sorted(beside))} (--database NAME)")
        for name, problem in found.problems.items():
            face.warn(f"store {name} is not in this list: {problem}")
    return 1 if found.problems else 0


@backup.command("show")
@click.argument("backup_id")
@_STORE
@common
def show(face: Face, *, backup_id: str, store: str | None) -> None:
    """Print a backup's manifest and the evidence for its tier."""
    with context.scope(operation="show"):
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
    else:
        _say_verified(face, verified)
    return 1 if verified.problems or verified.unread else 0


@backup.command("drill")
@click.argument("backup_id", required=False)
@_STORE
@common
def drill(face: Face, *, backup_id: str | None, store: str | None) -> int:
    """Restore into a scratch server and compare with the source; default: the newest backup. 1 if it isn't proven."""
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
    """Delete what operations.backup.keep lets go: never the last proven one, a pinned one, or one in use.

    3 if a guard kept a store from it, 1 if a store failed.
    """
    settings = face.settings()
    done: list[Expiry] | None = None
    with face.watched(), BackupOperations.from_store(settings, face.database) as operations:
        if dry_run:
            decided = operations.retention(store=store)
        else:
            done = operations.expire(store=store)
            decided = [expiry.decided for expiry in done]
    if not any(one.keep or one.expire or one.refused for one in decided):
        _refuse_unknown(settings, face.database)
    if face.as_json:
        face.answer(_retention_document(decided, done))
    else:
        _say_retention(face, decided, done, several=len(settings.backup_stores) > 1)
    if any(expiry.problem and not expiry.decided.refused for expiry in done or ()):
        return 1
    return 3 if any(expiry.decided.refused for expiry in done or ()) else 0


@backup.command("pin")
@click.argument("backup_id")
@click.option("--reason", required=True, help="Why it must stay; who reads it in a year wants to know.")
@common
def pin(face: Face, *, backup_id: str, reason: str) -> int:
    """Keep a backup for ever, whatever the policy says; 1 if a store couldn't be told."""
    return _pinned(face, backup_id, reason)


@backup.command("unpin")
@click.argument("backup_id")
@common
def unpin(face: Face, *, backup_id: str) -> int:
    """Leave a pinned backup to the policy again; 1 if a store couldn't be told."""
    return _pinned(face, backup_id, None)


def _pinned(face: Face, backup_id: str, reason: str | None) -> int:
    with context.scope(operation="unpin" if reason is None else "pin"):
        unread = BackupService(face.settings()).pin(backup_id, reason)
    if face.as_json:
        face.answer({"backup_id": backup_id, "pinned": reason, "unread": unread})
    else:
        face.say(f"{backup_id}: pinned: {reason}" if reason else f"{backup_id}: not pinned")
        if unread:
            face.warn(f"not told: {_stores(unread)}; a copy there is as it was. Say it again when it can be read.")
    return 1 if unread else 0


def _refuse_unknown(settings: Settings, database: str) -> None:
    """Take a name without backups for a mistake, unless it's configured. Errors: `ConfigurationError`."""
    if database not in known_names(settings):  # one that is no longer configured still has its backups
        settings.database(database)


def _say_taken(face: Face, taken: Taken) -> None:
    for created in taken.created:
        _say_created(face, created)
    if taken.failed:  # the log has said why
        names = ", ".join(one.database for one in taken.failed)
        face.warn(f"{len(taken.failed)} of {len(taken.created) + len(taken.failed)} databases have no backup: {names}")


def _say_created(face: Face, created: Created) -> None:
    there = [placed.store for placed in created.stores if placed.problem is None]
    where = f", in {', '.join(there)}" if len(created.stores) > 1 else ""
    face.say(
        f"{created.backup_id}: {created.tables} tables, {created.rows:,} rows, {sized(created.source_bytes)}"
        f" in {sized(created.bytes)}, {created.seconds} s, tier {created.tier}{where}"
    )
    if created.missing:  # the log has said why
        names = [placed.store for placed in created.missing]
        face.warn(f"{len(names)} of {len(created.stores)} stores did not get its copy: {', '.join(names)}")


def _say_listed(face: Face, found: Catalogue, *, several: bool) -> None:
    wide = face.out.width >= _WIDE
    columns: dict[str, Callable[[Listed], object]] = {
        "backup": lambda b: b.backup_id,
        **({"kind": lambda b: b.kind} if wide else {}),
        "tier": lambda b: b.tier,
        "created": lambda b: f"{b.created_at:%Y-%m-%d %H:%M}Z" if b.created_at else "",
        **({"database": lambda b: b.database} if wide else {}),
        "size": lambda b: "" if b.bytes is None else sized(b.bytes),
        **({"server": lambda b: b.server_version} if wide else {}),
        **({"stores": lambda b: ", ".join(b.stores)} if several else {}),
    }
    face.table("Backups", list(columns), [[cell(b) for cell in columns.values()] for b in found.backups])
    for listed in found.backups:
        for remark in _remarks(listed):
            face.say(f"{listed.backup_id}: {remark}")


def _remarks(listed: Listed) -> list[str]:
    pinned = [f"pinned: {listed.pinned}"] if listed.pinned else []
    return [*(reason for reason in (listed.problem, listed.disproved) if reason), *listed.copy_problems, *pinned]


def _say_verified(face: Face, verified: Verified) -> None:
    if verified.problems:
        rows = [(p.store, p.file, p.kind) for p in verified.problems]
        face.table(f"{verified.backup_id} is damaged", ("store", "file", "problem"), rows)
    else:
        read = f"{verified.files} files, {sized(verified.bytes)}, all as written"
        face.say(f"{verified.backup_id}: {read}; tier {verified.tier}")
    if verified.unread:
        face.warn(f"not read: {_stores(verified.unread)}; nobody knows of a copy there")


def _say_drilled(face: Face, drilled: Drilled) -> None:
    names: dict[str, list[str]] = {"holds": [], "FAILED": [], "not asked": [], "not reached": []}
    for rung, held in drilled.ladder.items():
        unasked = "not asked" if drilled.ladder.get("restores") else "not reached"
        names[unasked if held is None else "holds" if held else "FAILED"].append(rung)
    rungs = "; ".join(f"{word}: {', '.join(found)}" for word, found in names.items() if found)
    face.say(f"{drilled.backup_id}: {'proven' if drilled.proven else f'NOT PROVEN, tier {drilled.tier}'}; {rungs}")
    if drilled.rto_seconds is not None:
        phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in drilled.phases.items())
        face.say(
            f"{drilled.tables_compared} tables, {drilled.rows_compared:,} rows ({drilled.coverage:.0%}) restored and"
            f" compared in {drilled.rto_seconds:.2f} s ({phases})"
        )
    if drilled.proven:
        face.say(f"the newest proven data is {drilled.rpo_seconds:,.0f} s old")
    elif not drilled.differing and not drilled.problems:
        face.say(drilled.failure())
    differing = [(i.object, i.source, i.restored) for i in drilled.differing]
    if differing:
        face.table("Not as at the source", ("object", "source", "restored"), differing)
    for problem in drilled.problems:
        face.say(f"store {problem.store}: {problem.file}: {problem.kind}")
    for warning in drilled.warnings:
        face.warn(warning)


def _retention_document(decided: list[Retention], done: list[Expiry] | None) -> dict[str, object]:
    def of(one: Retention) -> dict[str, object]:
        return {"store": one.store, "database": one.database}

    finished = done or []
    return {
        "dry_run": done is None,
        "keep": [{**of(d), **kept.model_dump(mode="json")} for d in decided for kept in d.keep],
        "expire": [{**of(d), **expired.model_dump(mode="json")} for d in decided for expired in d.expire],
        "refused": [{**of(d), "reason": d.refused} for d in decided if d.refused],
        "deleted": [{**of(e.decided), "backup_id": i} for e in finished for i in e.deleted],
        "in_use": [{**of(e.decided), "backup_id": i} for e in finished for i in e.in_use],
        "problems": [{**of(e.decided), "problem": e.problem} for e in finished if e.problem],
    }


def _say_retention(face: Face, decided: list[Retention], done: list[Expiry] | None, *, several: bool) -> None:
    fates = {(e.decided.store, i): "gone" for e in done or () for i in e.deleted}
    fates |= {(e.decided.store, i): "in use" for e in done or () for i in e.in_use}
    due = "goes" if done is None else "due"  # what is still due: its store failed before its turn came
    rows = [("stays", d.store, k.backup_id, "; ".join(k.reasons)) for d in decided for k in d.keep]
    rows += [
        (fates.get((d.store, e.backup_id), due), d.store, e.backup_id, e.reason) for d in decided for e in d.expire
    ]
    shown = [0, 1, 2, 3] if several else [0, 2, 3]
    columns = ("", "store", "backup", "why")
    title = "What the policy would do" if done is None else "What the policy did"
    face.table(title, [columns[i] for i in shown], [[row[i] for i in shown] for row in rows])
    for retention in decided:
        if retention.refused:
            face.warn(f"store {retention.store}: {retention.refused}")
    for expiry in done or ():
        if expiry.problem and not expiry.decided.refused:
            face.warn(f"store {expiry.decided.store}: {expiry.problem}")


def _stores(unread: dict[str, str]) -> str:
    return f"store{'s' if len(unread) > 1 else ''} {', '.join(unread)}"

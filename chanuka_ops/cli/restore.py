"""`chanuka-ops backup restore` and `backup extract`: data back out of a backup, with nothing but a store and this."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr, ValidationError

from chanuka_ops import context, errors
from chanuka_ops.backup.restoring import restore
from chanuka_ops.backup.restoring.extract import Format
from chanuka_ops.backup.restoring.restored import Finished, Options, Restored
from chanuka_ops.backup.service import BackupService
from chanuka_ops.cli.face import Face, common
from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.logs import Stopwatch
from chanuka_ops.orchestrators.backups import BackupOperations
from chanuka_ops.orchestrators.database import database_settings, known_names

log = logging.getLogger(__name__)

TELL_EVERY_S = 1.0
READY_WITHIN_S = 60.0
_POLL_S = 0.1


@click.command("restore")
@click.argument("backup_id", required=False)
@click.option("--into", required=True, metavar="URL", help="The target database: a URL, or its name in the settings.")
@click.option("--store", metavar="NAME", help="From which of the settings' stores (default: the first that has it).")
@click.option(
    "--schema", "schemas", multiple=True, metavar="NAME", help="Only this schema; may be given several times."
)
@click.option(
    "--table", "tables", multiple=True, metavar="SCHEMA.TABLE", help="Only this table, with what belongs to it."
)
@click.option("--replace", is_flag=True, help="Take the place of an existing database, after its name was typed.")
@click.option("--yes-replace", metavar="NAME", help="The same for scripts: the name of the database to be replaced.")
@click.option(
    "--roles",
    type=click.Choice(["refuse", "create", "skip"]),
    default="refuse",
    show_default=True,
    help="Where roles are missing: refuse, create them without passwords, or skip owners and grants.",
)
@click.option("--no-verify", is_flag=True, help="Don't compare the backup's bytes with its manifest first.")
@click.option("--no-analyze", is_flag=True, help="Don't gather the planner's statistics.")
@click.option("--no-check", is_flag=True, help="Don't compare the restored rows with the manifest.")
@click.option("--until-ready", is_flag=True, help="Tell on standard error how far it is, until the database answers.")
@click.option("--finish", is_flag=True, help="Put a restore in its place that was finished, but not swapped in.")
@common
def restore_(face: Face, *, backup_id: str | None, into: str, finish: bool, until_ready: bool, **stated: Any) -> int:
    """Restore a backup into a new, an empty or (with --replace) an existing database.

    A new one appears when it is whole; an existing one is replaced by two renames in one step, and stays beside the new
    one until a person drops it. 1 if the restored rows differ from the manifest: then nothing is put in place.
    """
    settings = face.settings()
    watch = Stopwatch()
    with _target(settings, into) as target, _told(face, until_ready=until_ready), context.scope(operation="restore"):
        name = str(target.sqlalchemy_url.database)
        replace = _confirmed(face, settings, name, asked=stated["replace"], stated=stated["yes_replace"])
        if finish:
            done = restore.finish(target, replace=replace)
            _say_finished(face, done)
            return 0
        if backup_id is None:
            raise errors.ConfigurationError("which backup? `chanuka-ops backup list` shows them")
        options = Options(
            schemas=stated["schemas"],
            tables=stated["tables"],
            replace=replace,
            roles=stated["roles"],
            analyze=not stated["no_analyze"],
            check=not stated["no_check"],
        )
        with BackupOperations.from_store(settings, face.database) as operations:
            answer = operations.restore(
                backup_id, target, options, store=stated["store"], verify=not stated["no_verify"]
            )
        if until_ready and answer.restored:
            _wait_until_it_answers(target)
            click.echo(f"ready after {watch.seconds:.1f} s", err=True)
    _say_restored(face, answer)
    return 0 if answer.restored else 1


@click.command("extract")
@click.argument("backup_id")
@click.option(
    "--table", required=True, metavar="SCHEMA.TABLE", help="Which table; of a partitioned one all partitions."
)
@click.option("--to", required=True, metavar="FILE", help="Where to; - is standard output.")
@click.option("--format", "form", type=click.Choice(["csv", "sql"]), default="csv", show_default=True)
@click.option("--store", metavar="NAME", help="From which of the settings' stores (default: the first that has it).")
@click.option("--no-verify", is_flag=True, help="Don't compare the table's bytes with the manifest first.")
@common
def extract(
    face: Face, *, backup_id: str, table: str, to: str, form: Format, store: str | None, no_verify: bool
) -> None:
    """Write one table's rows to a file, with no server: as CSV with a header, or as SQL that psql runs.

    In the CSV (RFC 4180) a null is nothing, and an empty text two quotes; PostgreSQL's COPY … CSV reads it back.
    Generated columns are in no backup.
    """
    if to == "-" and face.as_json:
        raise errors.ConfigurationError("--to - and --json both need standard output: give a file, or leave out --json")
    service = BackupService(face.settings())
    target = sys.stdout.buffer if to == "-" else Path(to)
    with face.watched(), context.scope(operation="extract"):
        try:
            done = service.extract(backup_id, table, to=target, form=form, store=store, verify=not no_verify)
        except BrokenPipeError:  # `| head -1` has read enough
            return
    for warning in done.warnings:
        face.warn(warning)
    if face.as_json:
        face.answer(done.model_dump(mode="json"))
    elif to != "-":
        face.say(f"{done.table}: {done.rows:,} rows, {done.bytes:,} bytes in {to} ({done.format}, {done.encoding})")


class Narrator:
    """Says how far a restore is, a line a second and one for each new step: for a terminal and for a log alike."""

    def __init__(self) -> None:
        self._label: str | None = None
        self._said_at = float("-inf")

    def show(self, step: context.Progress) -> None:
        """Say it, if it's time to."""
        now = time.monotonic()
        if step.label == self._label and now < self._said_at + TELL_EVERY_S:
            return
        self._label, self._said_at = step.label, now
        share = f" ({min(1.0, step.done / step.total):.0%})" if step.total else ""
        click.echo(f"{step.words()}{share}", err=True)


@contextmanager
def _told(face: Face, *, until_ready: bool) -> Iterator[None]:
    if until_ready:
        with context.scope(on_progress=Narrator().show):
            yield
    else:
        with face.watched():
            yield


@contextmanager
def _target(settings: Settings, into: str) -> Iterator[DatabaseSettings]:
    """Give the settings of the target. Errors: `ConfigurationError`, which doesn't repeat the URL."""
    if "://" not in into:
        if into not in known_names(settings):
            settings.database(into)  # says which there are
        with database_settings(settings, into) as database:
            yield database
        return
    try:
        stated = DatabaseSettings(url=SecretStr(into))
    except ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise errors.ConfigurationError(f"--into: {said}") from None
    if stated.sqlalchemy_url.password is not None:
        log.warning("a password in --into is seen by others of this machine: use a name of the settings, or PGPASSFILE")
    yield stated


def _confirmed(face: Face, settings: Settings, name: str, *, asked: bool, stated: str | None) -> str | None:
    """Return the name of the database that may be replaced, as it was typed or given.

    Errors: `RefusedError` where it has to be typed, and nobody can.
    """
    if stated is not None or not asked:
        return stated
    if face.as_json or not sys.stdin.isatty():
        raise errors.RefusedError(
            f"to replace database {name!r} (environment {settings.environment}) its name has to be typed, and no"
            f" one is at a terminal here: say --yes-replace {name} instead. Nothing was changed."
        )
    return str(click.prompt(f"Database {name!r} will be replaced. Type its name to go on", err=True))


def _wait_until_it_answers(target: DatabaseSettings) -> None:
    """Wait until a session can be had and answers. Errors: `ConnectError` after `READY_WITHIN_S`."""
    ends = time.monotonic() + READY_WITHIN_S
    with ConnectionManager("restored", target) as manager:
        while True:
            try:
                manager.probe()
            except errors.ConnectError:
                if time.monotonic() >= ends:
                    raise
                time.sleep(_POLL_S)
            else:
                return


def _say_restored(face: Face, answer: Restored) -> None:
    if face.as_json:
        face.answer(answer.model_dump(mode="json"))
        return
    if answer.restored:
        phases = ", ".join(f"{name} {seconds} s" for name, seconds in answer.phases.items())
        face.say(
            f"{answer.backup_id} is in database {answer.database}: {answer.tables} tables, {answer.rows:,} rows in"
            f" {answer.seconds} s ({phases})"
        )
    else:
        rows = [(one.object, one.source, one.restored) for one in answer.mismatches]
        face.table("Not as the manifest says", ("object", "source", "restored"), rows)
    if answer.old_database:
        face.say(f"the old database is {answer.old_database}: drop it when nobody misses it")
    for ended in answer.ended_sessions:
        face.say(f"ended: pid {ended.pid} of role {ended.role} ({ended.application or 'no name'}, {ended.address})")
    for what, outcome in answer.checks.items():
        if not outcome.startswith("ok"):
            face.say(f"{what}: {outcome}")
    for line in (*answer.left_out, *(f"{name}: its definition only, as another needs it" for name in answer.added)):
        face.say(f"left out: {line}" if line in answer.left_out else line)
    for warning in answer.warnings:
        face.warn(warning)


def _say_finished(face: Face, done: Finished) -> None:
    if face.as_json:
        face.answer(done.model_dump(mode="json"))
        return
    old = f"; the old one is {done.old_database}" if done.old_database else ""
    face.say(f"{done.backup_id} is in database {done.database}{old}")

"""Gets data back out of a backup, wherever it is kept: restore, and extract of one table."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from chanuka_ops import errors
from chanuka_ops.backup.model import Manifest, Status, Tier
from chanuka_ops.backup.proving import service as proving
from chanuka_ops.backup.restoring import archive, extract, restore
from chanuka_ops.backup.restoring.extract import Format
from chanuka_ops.backup.restoring.restored import Extracted, Options, Restored
from chanuka_ops.backup.storing.fetching import Fetched
from chanuka_ops.backup.storing.store import Store
from chanuka_ops.config import DatabaseSettings, Settings
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.binaries import Binaries

log = logging.getLogger(__name__)

DUMP = "dump"
_NAMED = 5


def into_database(
    store: Store,
    manifest: Manifest,
    settings: Settings,
    target: DatabaseSettings,
    options: Options,
    *,
    verify: bool = True,
) -> Restored:
    """Fetch a backup, check it against its manifest, and restore it.

    Errors: `BackupDamaged` where a file isn't as it was written; `ToolMissing`, `ToolTooOld`; those of
    `BackupService.fetched` and of `restore.restore`.
    """
    watch = Stopwatch()
    tools = _tools(manifest, settings)
    warnings = _doubts(store, manifest)
    with _good(store, manifest, settings, verify=verify) as got:
        restored = restore.restore(
            got.directory, manifest, target, tools=tools, backup=settings.operations.backup, options=options
        )
    return restored.model_copy(
        update={
            "seconds": watch.seconds,
            "phases": {"fetch": got.fetch_seconds, "decrypt": got.decrypt_seconds, **restored.phases},
            "checks": {"bytes": "ok" if verify else "not looked at", **restored.checks},
            "warnings": (*warnings, *restored.warnings),
        }
    )


def one_table(
    store: Store,
    manifest: Manifest,
    settings: Settings,
    table: str,
    *,
    to: Path | BinaryIO,
    form: Format,
    verify: bool = True,
) -> Extracted:
    """Write one table's rows to a file, which appears whole or not at all, or to a stream.

    Only the table of contents and the files of that table are fetched.
    Errors: as `into_database` and `extract.extract`; `ChanukaError` where the file can't be written.
    """
    watch = Stopwatch()
    tools = _tools(manifest, settings)
    warnings = _doubts(store, manifest)
    with _good(store, manifest, settings, only=[extract.TOC], verify=verify) as got:
        contents = archive.read(got.directory / DUMP, tools)
    found = extract.wanted(contents, table)
    only = extract.files_of(manifest, found)
    with _good(store, manifest, settings, only=only, verify=verify) as got, _opened(to) as stream:
        taken = extract.extract(
            got.directory / DUMP,
            contents,
            found,
            expected=extract.expected_rows(manifest, found),
            tools=tools,
            to=stream,
            form=form,
            deadline_s=settings.operations.backup.deadline_s,
        )
    return Extracted(
        backup_id=manifest.backup_id,
        table=table,
        format=form,
        file=str(to) if isinstance(to, Path) else "-",
        rows=taken.rows,
        bytes=taken.bytes,
        columns=taken.columns,
        encoding=contents.encoding,
        seconds=watch.seconds,
        warnings=tuple(warnings),
    )


def _tools(manifest: Manifest, settings: Settings) -> Binaries:
    # the archive's format is that of the pg_dump that wrote it, so that major version reads it
    return binaries.find(configured=settings.postgres.bin_dir, server_major=manifest.tool_major)


@contextmanager
def _good(
    store: Store, manifest: Manifest, settings: Settings, *, only: list[str] | None = None, verify: bool
) -> Iterator[Fetched]:
    """Fetch files of which none is damaged. Errors: `BackupDamaged`."""
    with proving.fetched(store, manifest, settings, only=only, verify=verify) as got:
        if got.problems:
            named = ", ".join(f"{problem.file} ({problem.kind})" for problem in got.problems[:_NAMED])
            raise errors.BackupDamaged(
                f"{manifest.backup_id} in store {store.name} is damaged: {len(got.problems)} files are not as they were"
                f" written: {named}. Nothing was changed. `chanuka-ops backup list` shows others, and other stores."
            )
        yield got


def _doubts(store: Store, manifest: Manifest) -> list[str]:
    """Say what speaks against a backup that wasn't proven."""
    try:
        status: Status = store.status(manifest.backup_id)
    except errors.BackupDamaged as damage:
        return [f"nobody knows how far the backup was proved: {damage}"]
    if status.disproved:
        return [f"the backup is in doubt: {status.disproved}"]
    if status.tier is not Tier.PROVEN:
        return [f"the backup is {status.tier}, not proven: no copy restored from it was compared with its source yet"]
    return []


@contextmanager
def _opened(to: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(to, Path):
        with extract.written(to) as stream:
            yield stream
    else:
        yield to
        to.flush()

"""Takes one table's rows out of a backup, as CSV or as SQL, with no server anywhere.

pg_restore writes them as a script, whatever the dump's compression. The rows stream through: one is held at a time.
Their number must be what the manifest says.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from chanuka_ops import context, errors
from chanuka_ops.backup.model import Manifest
from chanuka_ops.backup.restoring import copytext, entries
from chanuka_ops.backup.restoring.archive import Archive, Entry
from chanuka_ops.backup.restoring.entries import Pick, split
from chanuka_ops.backup.restoring.statements import NAME
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries

Format = Literal["csv", "sql"]
_COPY = re.compile(rf"COPY {NAME}(?:\.{NAME})*\s+(?:\((?P<columns>.*)\)\s+)?FROM stdin;\n?", re.DOTALL)
_TOLD_EVERY = 20_000  # rows
_BUFFER = 1 << 20
TOC = "dump/toc.dat"


@dataclass(frozen=True, slots=True)
class Taken:
    """What came out."""

    rows: int
    bytes: int
    columns: tuple[str, ...]


def wanted(archive: Archive, words: str) -> tuple[Entry, ...]:
    """Return the entries that hold a table's rows: one, or those of its partitions.

    Errors: `ConfigurationError` for a table that the backup doesn't hold, or whose rows it doesn't.
    """
    found = entries.rows_of(archive, entries.table(archive, words))
    if not found:
        raise errors.ConfigurationError(f"the backup holds no rows of {words}: its filter left them out")
    return found


def files_of(manifest: Manifest, found: Sequence[Entry]) -> list[str]:
    """Return the files, named as in the plain layout, that these entries need."""
    names = {str(entry.file) for entry in found}
    plain = [file.path.removesuffix(".age") for file in manifest.files]
    return [path for path in plain if path == TOC or re.sub(r"(\.dat)\.\w+$", r"\1", path[5:]) in names]


def extract(
    dump: Path,
    archive: Archive,
    found: Sequence[Entry],
    *,
    expected: int | None,
    tools: Binaries,
    to: BinaryIO,
    form: Format,
    deadline_s: float,
) -> Taken:
    """Write the rows of some entries of a dump's directory; `expected` is how many the manifest says there are.

    Errors: `ToolFailed` with pg_restore's words; `BackupDamaged` where there are more or fewer rows than expected;
    `RefusedError` where the partitions have not the same columns.
    """
    columns = [_columns(entry) for entry in found]
    first = columns[0]
    if form == "csv" and any(sorted(other) != sorted(first) for other in columns):
        raise errors.RefusedError("its partitions have different columns, which one CSV can't hold: take them singly")
    writer = _Writer(to, form)
    if form == "csv":
        writer.write(copytext.csv([archive.encoded(name) for name in first]) + copytext.NEWLINE)
    with _script(dump, Pick(tuple(found)), tools, deadline_s) as (stream, ended):
        for entry, own in zip(found, columns, strict=True):
            order = None if own == first else [own.index(name) for name in first]
            if not writer.skip_to(stream, archive.encoded(entry.copy)) or not writer.take(
                stream, len(first), order, expected
            ):
                break
        writer.rest(stream)
        ended()
    if expected is not None and writer.rows != expected:
        raise errors.BackupDamaged(f"the backup holds {writer.rows} rows of it, and its manifest says {expected}")
    return Taken(writer.rows, writer.bytes, first)


def expected_rows(manifest: Manifest, found: Sequence[Entry]) -> int | None:
    """Return how many rows the manifest says these entries hold; None where it counted none."""
    stated = {split(name): content.rows for name, content in manifest.fingerprint.tables.items()}
    rows = [stated.get((entry.schema or "", entry.name)) for entry in found]
    known = [number for number in rows if number is not None]
    return sum(known) if len(known) == len(rows) else None


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole at the end of the block, or not at all.

    Errors: `ChanukaError` where it can't be written.
    """
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise errors.ChanukaError(f"{path} can't be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


class _Writer:
    """Passes rows on, and counts them."""

    def __init__(self, to: BinaryIO, form: Format) -> None:
        self._to, self._form = to, form
        self.rows = self.bytes = 0

    def write(self, some: bytes) -> None:
        self._to.write(some)
        self.bytes += len(some)

    def skip_to(self, stream: BinaryIO, statement: bytes) -> bool:
        """Read on to the end of a statement, which has several lines where a name has a line break in it."""
        lines = [line + b"\n" for line in statement.removesuffix(b"\n").split(b"\n")]
        matched = 0
        for line in stream:
            self._pass(line)
            matched = matched + 1 if line == lines[matched] else int(line == lines[0])
            if matched == len(lines):
                return True
        return False

    def take(self, stream: BinaryIO, columns: int, order: Sequence[int] | None, total: int | None) -> bool:
        """Take the rows up to their end; False where the script ends before."""
        as_csv = self._form == "csv"
        for line in stream:
            if line == b"\\.\n":
                self._pass(line)
                context.progress("extract", self.rows, total, "rows")
                return True
            self.write(copytext.row(line[:-1], columns, order) + copytext.NEWLINE if as_csv else line)
            self.rows += 1
            if self.rows % _TOLD_EVERY == 0:
                context.progress("extract", self.rows, total, "rows")
        return False

    def rest(self, stream: BinaryIO) -> None:
        for line in stream:
            self._pass(line)

    def _pass(self, line: bytes) -> None:
        if self._form == "sql":
            self.write(line)


@contextmanager
def _script(
    dump: Path, pick: Pick, tools: Binaries, deadline_s: float
) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """Have pg_restore write rows into a pipe: what can be read from it, and what waits for its good end."""
    ends = time.monotonic() + deadline_s
    reads, writes = os.pipe()
    with open(reads, "rb", buffering=_BUFFER) as stream, ExitStack() as stack:  # noqa: PTH123 - it has no path
        try:
            argv: list[str | Path] = [
                tools.path("pg_restore"),
                "--data-only",
                "--use-list=/dev/stdin",
                f"--file=/dev/fd/{writes}",
                dump,
            ]
            running = stack.enter_context(process.started(argv, stdin=pick.listing(), pass_fds=(writes,)))
        finally:
            os.close(writes)  # so that its end is the stream's end
        late = threading.Timer(deadline_s, running.stop)
        late.daemon = True
        late.start()
        stack.callback(late.cancel)

        def ended() -> None:
            if time.monotonic() >= ends:
                raise errors.ToolFailed(f"pg_restore ran past its deadline of {deadline_s:.0f} s and was stopped")
            running.wait(deadline_s=max(0.001, ends - time.monotonic()))

        yield stream, ended


def _columns(entry: Entry) -> tuple[str, ...]:
    """Return the columns that a COPY names.

    Errors: `BackupDamaged` where the rows are written otherwise.
    """
    match = _COPY.fullmatch(entry.copy)
    if match is None:
        raise errors.BackupDamaged(f"the rows of {entries.described(entry)} are not written as COPY")
    return tuple(split(name)[0] for name in re.findall(NAME, match["columns"] or ""))

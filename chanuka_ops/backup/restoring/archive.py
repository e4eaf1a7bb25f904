"""A dump's table of contents: every object that pg_dump wrote, with its definition and what it depends on.

`pg_restore -l` prints it for people: a name with a space or a line break in it can't be told from its neighbours there.
So toc.dat itself is read, and the listing is used as its proof: each entry, printed as pg_restore prints it, must be a
line of that listing, and the other way round. A format that this module doesn't know is refused, not guessed at.

Every number is a sign byte and `integer size` bytes, the least significant first; every text is its length (-1: none)
and its bytes. https://www.postgresql.org/docs/current/app-pgrestore.html
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chanuka_ops import errors
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries

TOC = "toc.dat"
LISTING_DEADLINE_S = 300.0
_UTF8 = "utf-8"
_MAGIC = b"PGDMP"
_INTEGER_SIZE = 4
_OLDEST, _NEWEST = (1, 14), (1, 16)  # written by PostgreSQL 14 and 15; by 17 and 18
_WITH_ALGORITHM, _WITH_RELKIND = (1, 15), (1, 16)
_LINE = re.compile(r"^(?P<id>\d+); \d+ \d+ ")
# what pg_restore handles by itself, whatever a list says
_UNLISTED = frozenset({"ENCODING", "STDSTRINGS", "SEARCHPATH"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of an archive.

    `kind` is pg_dump's word for it (TABLE, TABLE DATA, FK CONSTRAINT, …); `name` is the object's own, not quoted, with
    the table's name before that of what belongs to a table. `file` is that of its rows.
    """

    id: int
    kind: str
    schema: str | None
    name: str
    owner: str
    tablespace: str
    definition: str
    copy: str
    needs: tuple[int, ...]
    file: str | None
    catalog: tuple[int, int]

    @property
    def line(self) -> str:
        """It as `pg_restore -l` prints it."""
        words = (self.kind, _shown(self.schema or "-"), _shown(self.name), _shown(self.owner))
        return f"{self.id}; {self.catalog[0]} {self.catalog[1]} {' '.join(words)}"

    @property
    def of_database(self) -> bool:
        """Whether it is about the database itself, which no list restores."""
        return self.kind in {"DATABASE", "DATABASE PROPERTIES"} or (
            self.kind in {"ACL", "COMMENT", "SECURITY LABEL"} and self.name.startswith("DATABASE ")
        )


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive holds, in the order in which it is restored."""

    dbname: str
    encoding: str
    standard_strings: bool
    entries: tuple[Entry, ...]

    def encoded(self, words: str) -> bytes:
        """Return a name or a statement of the archive as it stands there."""
        return words.encode(_codec(self.encoding), errors="surrogateescape")

    def by_id(self) -> dict[int, Entry]:
        """Return the entries by their number."""
        return {entry.id: entry for entry in self.entries}


def read(dump: Path, tools: Binaries) -> Archive:
    """Read the table of contents of a dump's directory, and have pg_restore confirm it.

    Errors: `BackupDamaged` where it can't be read; `ToolFailed`; `RefusedError` where pg_restore sees another one.
    """
    try:
        content = (dump / TOC).read_bytes()
    except OSError as error:
        raise errors.BackupDamaged(f"{dump / TOC} can't be read: {error.strerror}") from None
    archive = parse(content)
    listing: list[str] = []
    process.run([tools.path("pg_restore"), "--list", dump], deadline_s=LISTING_DEADLINE_S, on_line=listing.append)
    _confirm(archive, listing)
    return archive


def parse(content: bytes) -> Archive:
    """Read the bytes of a toc.dat.

    Errors: `BackupDamaged` where they aren't one; `RefusedError` for a format that isn't known here.
    """
    try:
        archive = _archive(_Reader(content))
        codec = _codec(archive.encoding)  # which is said in it
        return archive if codec == _UTF8 else _archive(_Reader(content, codec))
    except (IndexError, ValueError, UnicodeDecodeError):
        raise errors.BackupDamaged(f"{TOC} is not a whole table of contents of pg_dump") from None


def _archive(reader: _Reader) -> Archive:
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise errors.BackupDamaged(f"{TOC} is not a table of contents of pg_dump")
    major, minor, _, reader.integer_size, _, _ = reader.take(6)
    version = (major, minor)
    if reader.integer_size != _INTEGER_SIZE:
        raise errors.BackupDamaged(f"{TOC} has integers of {reader.integer_size} bytes: pg_dump writes {_INTEGER_SIZE}")
    if not _OLDEST <= version <= _NEWEST:
        raise errors.RefusedError(
            f"the dump's archive format is {major}.{minor}, and this program knows {_OLDEST[0]}.{_OLDEST[1]} to"
            f" {_NEWEST[0]}.{_NEWEST[1]}: a newer chanuka-ops is needed. Nothing was changed."
        )
    if version >= _WITH_ALGORITHM:
        reader.take(1)
    else:
        reader.number()
    for _ in range(7):  # when it was made
        reader.number()
    dbname = reader.text() or ""
    for _ in range(2):  # the server's version, pg_dump's
        reader.text()
    entries = [_entry(reader, version) for _ in range(reader.number())]
    if not reader.at_its_end:
        raise errors.BackupDamaged(f"{TOC} goes on after its last entry")
    stated = {entry.kind: entry.definition for entry in entries if entry.kind in _UNLISTED}
    encoding = re.search(r"'([^']*)'", stated.get("ENCODING", ""))
    return Archive(
        dbname=dbname,
        encoding=encoding[1] if encoding else "UTF8",
        standard_strings="'off'" not in stated.get("STDSTRINGS", ""),
        entries=tuple(entry for entry in entries if entry.kind not in _UNLISTED),
    )


def _entry(reader: _Reader, version: tuple[int, int]) -> Entry:
    number = reader.number()
    reader.number()  # whether it has data
    catalog = (int(reader.text() or 0), int(reader.text() or 0))
    name, kind = reader.text() or "", reader.text() or ""
    reader.number()  # its section
    definition = reader.text() or ""
    reader.text()  # how to drop it
    copy, schema, tablespace = reader.text() or "", reader.text(), reader.text() or ""
    reader.text()  # the access method
    if version >= _WITH_RELKIND:
        reader.number()
    owner = reader.text() or ""
    reader.text()  # whether it has OIDs
    needs = []
    while (needed := reader.text()) is not None:
        needs.append(int(needed))
    file = reader.text() or None
    return Entry(
        id=number, kind=kind, schema=schema or None, name=name, owner=owner, tablespace=tablespace,
        definition=definition, copy=copy, needs=tuple(needs), file=file, catalog=catalog,
    )  # fmt: skip


class _Reader:
    """Takes what is next of a toc.dat."""

    def __init__(self, content: bytes, codec: str = _UTF8) -> None:
        self._content = content
        self._codec = codec
        self._at = 0
        self.integer_size = _INTEGER_SIZE

    @property
    def at_its_end(self) -> bool:
        return self._at == len(self._content)

    def take(self, count: int) -> bytes:
        begins, self._at = self._at, self._at + count
        if self._at > len(self._content):
            raise IndexError
        return self._content[begins : self._at]

    def number(self) -> int:
        sign = self.take(1)[0]
        value = int.from_bytes(self.take(self.integer_size), "little")
        return -value if sign else value

    def text(self) -> str | None:
        length = self.number()
        # what isn't in that encoding must come out again as it went in
        return None if length < 0 else self.take(length).decode(self._codec, errors="surrogateescape")


def _shown(words: str) -> str:
    """Write a name as pg_restore's comments do: one line."""
    return words.replace("\n", " ").replace("\r", " ")


def _confirm(archive: Archive, listing: Iterable[str]) -> None:
    """Compare with pg_restore's own listing. Errors: `RefusedError`."""
    printed = {match["id"]: _comparable(line) for line in listing if (match := _LINE.match(line))}
    ours = {str(entry.id): _comparable(entry.line) for entry in archive.entries if not entry.of_database}
    differing = [number for number, line in ours.items() if printed.pop(number, None) not in {line, None}]
    missing = [number for number in printed if number not in ours]
    known = {str(entry.id) for entry in archive.entries}
    unknown = [number for number in missing if number not in known]
    if differing or unknown:
        raise errors.RefusedError(
            f"pg_restore reads entry {[*differing, *unknown][0]} of the dump's table of contents otherwise than this"
            " program: a newer chanuka-ops is needed. Nothing was changed."
        )


def _comparable(line: str) -> str:
    """Return a line up to where the terminal's encoding begins to matter."""
    return re.split(r"[^ -~]", line, maxsplit=1)[0]


def _codec(encoding: str) -> str:
    """Name Python's codec for a server's encoding; SQL_ASCII, and what Python doesn't know, are read as UTF-8."""
    name = {"KOI8R": "koi8_r", "KOI8U": "koi8_u"}.get(encoding, encoding.replace("WIN", "cp"))
    try:
        return codecs.lookup(name).name
    except LookupError:
        return _UTF8

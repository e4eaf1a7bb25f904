"""Which entries of an archive a restore takes: all, those of schemas, or tables with what belongs to them. Pure.

pg_restore's own patterns (-t, -n) bring neither a table's indexes, sequences and triggers nor its schema, and stumble
over odd names; here the entries are picked by what depends on what, and handed to it as a list.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chanuka_ops import errors
from chanuka_ops.backup.restoring.archive import Archive, Entry

_RELATIONS = frozenset({"TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"})
_NOTES = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})
# what belongs to a table, or to what belongs to one
_PARTS = frozenset({
    "TABLE DATA", "TABLE ATTACH", "INDEX", "INDEX ATTACH", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "DEFAULT",
    "TRIGGER", "RULE", "POLICY", "ROW SECURITY", "STATISTICS", "STATISTICS DATA", "SEQUENCE", "SEQUENCE OWNED BY",
    "SEQUENCE SET", "MATERIALIZED VIEW DATA",
})  # fmt: skip
_ATTACH = frozenset({"TABLE ATTACH", "INDEX ATTACH"})
_HOSTS = _RELATIONS | {"INDEX", "CONSTRAINT", "SEQUENCE"}
_SUBSCRIPTIONS = frozenset({"SUBSCRIPTION", "SUBSCRIPTION TABLE"})
_LARGE = frozenset({"BLOB", "BLOBS", "BLOB METADATA"})
_WORD = re.compile(r'"(?:[^"]|"")+"|[^".]+')


@dataclass(frozen=True, slots=True)
class Pick:
    """What is restored: entries in the archive's order, and what is not, with the reasons.

    `bare` are tables whose definition another one needs: they come without rows.
    """

    entries: tuple[Entry, ...]
    left_out: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[Entry, ...]:
        """The entries that bring a table's rows."""
        return self.of_kind("TABLE DATA")

    def of_kind(self, *kinds: str) -> tuple[Entry, ...]:
        """Return the entries of some kinds."""
        return tuple(entry for entry in self.entries if entry.kind in kinds)

    def but(self, unwanted: Iterable[Entry], reason: str) -> Pick:
        """Return it without some entries, and the reason beside each of them."""
        without = {entry.id for entry in unwanted}
        kept = tuple(entry for entry in self.entries if entry.id not in without)
        said = tuple(f"{described(entry)}: {reason}" for entry in self.entries if entry.id in without)
        return Pick(kept, (*self.left_out, *said), self.bare)

    def listing(self) -> str:
        """Write the list file of `pg_restore --use-list`."""
        return "".join(f"{entry.id};\n" for entry in self.entries)


def described(entry: Entry) -> str:
    """Name an entry for a person: its kind and its name."""
    where = f"{entry.schema}." if entry.schema else ""
    return f"{entry.kind} {where}{entry.name}"


def split(words: str) -> tuple[str, ...]:
    """Take a qualified name apart as the server quotes it.

    >>> split('public."A.b ""c"'), split("public.bills")
    (('public', 'A.b "c'), ('public', 'bills'))
    """
    parts = _WORD.findall(words)
    return tuple(part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts)


def whole(archive: Archive) -> Pick:
    """Pick everything but subscriptions: a copy must not take its source's changes out of another's hands."""
    everything = Pick(tuple(entry for entry in archive.entries if not entry.of_database))
    subscriptions = [
        entry
        for entry in everything.entries
        if entry.kind in _SUBSCRIPTIONS or (entry.kind in _NOTES and entry.name.startswith("SUBSCRIPTION "))
    ]
    return everything.but(subscriptions, "a copy doesn't subscribe by itself: make it by hand where it is meant")


def schemas(archive: Archive, names: Sequence[str]) -> Pick:
    """Pick what is in schemas, and what it needs from elsewhere. Errors: `ConfigurationError` for an unknown one."""
    known = {entry.schema for entry in archive.entries if entry.schema}
    known |= {entry.name for entry in archive.entries if entry.kind == "SCHEMA"}
    for name in names:
        if name not in known:
            raise errors.ConfigurationError(f"the backup has no schema {name!r}{_nearest(name, known)}")
    roots = {
        entry.id
        for entry in archive.entries
        # grants and comments come with what they are for, which may be an extension's and is in no schema then
        if (entry.schema in names and entry.kind not in _NOTES and not entry.kind.startswith("PUBLICATION"))
        or (entry.kind == "SCHEMA" and entry.name in names)
    }
    return _Picker(archive, roots).pick()


def tables(archive: Archive, names: Sequence[str]) -> Pick:
    """Pick tables (of a partitioned one all partitions) with what belongs to them, and what they need.

    Errors: `ConfigurationError` for a table that the backup doesn't hold, or a name that fits several.
    """
    return _Picker(archive, {table(archive, name).id for name in names}).pick()


def table(archive: Archive, words: str) -> Entry:
    """Find a table by `schema.table`, as it is stored or as SQL quotes it. Errors: `ConfigurationError`."""
    found = [e for e in archive.entries if e.kind == "TABLE" and f"{e.schema}.{e.name}" == words]
    found = found or [e for e in archive.entries if e.kind == "TABLE" and (e.schema, e.name) == split(words)]
    if len(found) == 1:
        return found[0]
    if found:
        raise errors.ConfigurationError(f'{words!r} fits {len(found)} tables: quote each part, as "a"."b.c"')
    other = next((e for e in archive.entries if e.kind in _RELATIONS and f"{e.schema}.{e.name}" == words), None)
    if other is not None:
        raise errors.ConfigurationError(f"{words!r} is a {other.kind.lower()}: only a table has rows in a backup")
    if "." not in words:
        raise errors.ConfigurationError(f"{words!r}: a table is named schema.table, such as public.{words}")
    known = {f"{entry.schema}.{entry.name}" for entry in archive.entries if entry.kind == "TABLE"}
    raise errors.ConfigurationError(f"the backup has no table {words!r}{_nearest(words, known)}")


def rows_of(archive: Archive, wanted: Entry) -> tuple[Entry, ...]:
    """Return the entries with a table's rows: its own, or those of its partitions."""
    roots = _Picker(archive, {wanted.id}).roots
    return tuple(e for e in archive.entries if e.kind == "TABLE DATA" and not roots.isdisjoint(e.needs))


def _nearest(name: str, known: Iterable[str]) -> str:
    there = set(known)
    near = difflib.get_close_matches(name, there, n=3)
    if near:
        return f": did you mean {', '.join(near)}?"
    return f", and of {len(there)} others none has a name like that" if there else ", nor any other"


class _Picker:
    """Follows the dependencies from some roots."""

    def __init__(self, archive: Archive, roots: set[int]) -> None:
        self._entries = archive.entries
        self._by_id = archive.by_id()
        # the partition, then its parent; so with their indexes
        self._links = {entry.needs[:2] for entry in archive.entries if entry.kind in _ATTACH}
        self.roots = self._with_partitions(roots)
        self._bare: set[int] = set()
        self._reasons: dict[int, str | None] = {}

    def pick(self) -> Pick:
        reasons = {number: self._reason(number) for number in self.roots}
        chosen = {number for number, reason in reasons.items() if reason is None}
        left = {number: reason for number, reason in reasons.items() if reason is not None}
        growing = True
        while growing:
            for number in list(chosen):
                self._support(number, chosen)
            added, refused = self._belonging(chosen)
            left |= refused
            growing = bool(added)
            chosen |= added
        said = [
            f"{described(entry)}: {left[entry.id]}"
            for entry in self._entries
            if entry.id in left and entry.kind not in _NOTES
        ]
        if any(entry.kind in _LARGE for entry in self._entries):
            said.append("large objects: they belong to no schema and no table, so only a whole restore brings them")
        bare = [described(entry) for entry in self._entries if entry.id in self._bare]
        picked = tuple(entry for entry in self._entries if entry.id in chosen | self._bare)
        return Pick(picked, tuple(said), tuple(bare))

    def _with_partitions(self, roots: set[int]) -> set[int]:
        found, new = set(roots), set(roots)
        while new:
            new = {child for child, parent in self._links if parent in new} - found
            found |= new
        return found

    def _reason(self, number: int) -> str | None:
        """Say why an entry can't come along: it needs a table that doesn't."""
        if number in self._reasons:
            return self._reasons[number]
        self._reasons[number] = None  # where two need each other, the rest decides
        entry = self._by_id[number]
        reasons = (self._reason_of_need(entry, needed) for needed in entry.needs if needed in self._by_id)
        self._reasons[number] = next((reason for reason in reasons if reason is not None), None)
        return self._reasons[number]

    def _reason_of_need(self, entry: Entry, needed: int) -> str | None:
        other = self._by_id[needed]
        if self._is_partition(entry, needed):
            return None
        if needed in self.roots or other.kind not in _RELATIONS:
            return self._reason(needed)
        if self._takes_bare(entry, other):
            return None
        return f"it needs {described(other)}, which isn't restored"

    def _is_partition(self, entry: Entry, parent: int) -> bool:
        """Tell whether the need is only that of a partition, which is a table by itself before it's attached."""
        return (entry.id, parent) in self._links

    def _takes_bare(self, entry: Entry, other: Entry) -> bool:
        """Tell whether an entry needs no more of a table than its definition: to inherit from it, or as a type."""
        return other.kind == "TABLE" and entry.kind not in _PARTS | _NOTES | {"VIEW", "MATERIALIZED VIEW"}

    def _support(self, number: int, chosen: set[int]) -> None:
        """Add what an entry needs: types, functions, extensions, its schema; of tables the bare definition."""
        entry = self._by_id[number]
        for needed in entry.needs:
            other = self._by_id.get(needed)
            if other is None or needed in chosen | self._bare or self._is_partition(entry, needed):
                continue
            if other.kind not in _RELATIONS:
                chosen.add(needed)
            elif not self._takes_bare(entry, other):
                continue
            else:
                self._bare.add(needed)
            self._support(needed, chosen)

    def _belonging(self, chosen: set[int]) -> tuple[set[int], dict[int, str]]:
        """Find what belongs to the chosen: (what can come along, what can't and why)."""
        added: set[int] = set()
        refused: dict[int, str] = {}
        hosts = {number for number in chosen if self._by_id[number].kind in _HOSTS}
        for entry in self._entries:
            if entry.id in chosen or entry.id in self.roots:
                continue
            belongs = (entry.kind in _PARTS and not hosts.isdisjoint(entry.needs)) or (
                entry.kind in _NOTES and not chosen.isdisjoint(entry.needs)
            )
            reason = self._reason(entry.id) if belongs else None
            if belongs and reason is None:
                added.add(entry.id)
            elif reason is not None and self._host(entry) & chosen:
                refused[entry.id] = reason
        return added, refused

    def _host(self, entry: Entry) -> set[int]:
        """Return the tables that an entry is a part of: a foreign key is its own table's, not that of the other one."""
        found = {n: self._by_id[n] for n in entry.needs if n in self._by_id and self._by_id[n].kind in _RELATIONS}
        if entry.kind in {"INDEX", "STATISTICS"}:  # named for themselves
            return set(found)
        return {n for n, one in found.items() if entry.name == one.name or entry.name.startswith(f"{one.name} ")}

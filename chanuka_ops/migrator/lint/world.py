"""The database as it stands before each statement of a script: what the catalogue says, and what came since.

Pure: the script is read, never run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from chanuka_ops.migrator.lint.catalogue import Catalogue, Routine, Table, UserType
from chanuka_ops.migrator.lint.model import Mode
from chanuka_ops.migrator.lint.tree import Node

_ZERO = ("utc", "uct", "gmt", "gmt0", "gmt+0", "gmt-0", "greenwich", "zulu", "universal")
UTC = frozenset({*_ZERO, *(f"etc/{name}" for name in _ZERO), "0", "0.0", "+00", "-00", "+00:00"})
_SYSTEM = frozenset({"pg_catalog", "information_schema", "pg_toast"})


@dataclass
class Transaction:
    """What the open transaction has done. `alone`: it is one statement's own. `managed`: the tool ends it."""

    alone: bool = False
    managed: bool = False
    line: int = 0
    locks: dict[str, Mode] = field(default_factory=dict)
    not_valid: set[tuple[str, str]] = field(default_factory=set)
    enum_values: set[str] = field(default_factory=set)
    settings: dict[str, str] = field(default_factory=dict)
    altered: list[str] = field(default_factory=list)
    savepoints: dict[str, dict[str, Mode]] = field(default_factory=dict)
    """The locks that were held at each."""


@dataclass
class World:
    """State. `version` is the server's major; where it isn't known the oldest is assumed, and `version_known` false.

    `runner_timeouts`: who runs the script sets lock_timeout and statement_timeout in each transaction.
    """

    version: int
    version_known: bool = False
    catalogue: Catalogue | None = None
    runner_timeouts: bool = False
    tables: dict[str, Table] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    types: dict[str, UserType] = field(default_factory=dict)
    routines: dict[str, Routine] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    transaction: Transaction = field(default_factory=lambda: Transaction(alone=True))
    dropped_indexes: set[str] = field(default_factory=set)
    renamed: set[str] = field(default_factory=set)
    covered: set[str] = field(default_factory=set)
    """Old names of tables that a view has now."""
    prepared: dict[str, Node] = field(default_factory=dict)
    longest_wait_ms: float = 0.0
    """The longest lock_timeout that was spoken of."""

    @property
    def in_transaction(self) -> bool:
        """Whether more than the one statement commits together."""
        return not self.transaction.alone

    def setting(self, name: str) -> str | None:
        """Return what the script, or the catalogue, says of a setting."""
        if name in self.transaction.settings:
            return self.transaction.settings[name]
        if name in self.settings:
            return self.settings[name]
        return self.catalogue.time_zone if name == "timezone" and self.catalogue else None

    @property
    def utc(self) -> bool:
        """Whether the session's time zone is UTC for sure."""
        return (self.setting("timezone") or "").lower() in UTC

    def name(self, node: Node | None, *, new: bool = False) -> str:
        """Return a relation's name, with its schema where that isn't on the database's own search path.

        `new`: the statement makes it, so it comes to be in the first schema of the path.
        """
        if node is None:
            return ""
        return self.joined(tuple(part for part in (node.schemaname, node.relname) if part), new=new)

    def joined(self, parts: Any, *, new: bool = False) -> str:
        """Return a qualified name in the same form."""
        if not isinstance(parts, tuple):
            return str(parts or "")
        words = [str(part) for part in parts or () if isinstance(part, str)]
        schemas = self._schemas()
        if len(words) != 1 or schemas is None:
            return self._shortened(words)
        candidates = [self._shortened([schema, *words]) for schema in schemas]
        there = [name for name in (words[0], *candidates) if name in self.tables and self.tables[name].temporary]
        there += [] if new else [name for name in candidates if self._known(name)]
        return (there or candidates or words)[0]

    def _schemas(self) -> list[str] | None:
        """Return the search path that the script has set; None where it's the database's own."""
        path = self.setting("search_path")
        if path is None:
            return None
        schemas = [schema.strip().strip('"') for schema in path.split(",")]
        return [schema for schema in schemas if schema and schema != "$user"]

    def _known(self, name: str) -> bool:
        return bool(self.exists(name)) or self.type(name) is not None or self.routine(name) is not None

    def _shortened(self, words: list[str]) -> str:
        path = self.catalogue.path if self.catalogue else ("public",)
        return ".".join(words[1:] if len(words) > 1 and words[0] in (*path, "pg_temp") else words)

    def table(self, name: str) -> Table:
        """Return what is known of a relation; one of which nothing is known is a full table."""
        if name in self.tables:
            return self.tables[name]
        if self.catalogue is not None and name not in self.gone and name in self.catalogue.tables:
            return self.catalogue.tables[name]
        return Table(name)

    def exists(self, name: str) -> bool | None:
        """Tell whether a relation is there; None where that isn't known."""
        if name in self.tables:
            return True
        if self.catalogue is None:
            return False if name in self.gone else None
        return name in self.catalogue.tables and name not in self.gone

    def keep(self, table: Table) -> None:
        """Note what a relation is from here on."""
        self.tables[table.name] = table
        self.gone.discard(table.name)

    def drop(self, name: str) -> None:
        """Note that it is gone."""
        self.tables.pop(name, None)
        self.gone.add(name)

    def all_tables(self) -> dict[str, Table]:
        """Return every relation that is known."""
        known = dict(self.catalogue.tables) if self.catalogue else {}
        return {name: table for name, table in {**known, **self.tables}.items() if name not in self.gone}

    def partitions(self, parent: str) -> list[Table]:
        """Return the known children of a partitioned table."""
        return [table for table in self.all_tables().values() if table.parent == parent]

    def type(self, name: str) -> UserType | None:
        """Return what is known of a user's type."""
        if name in self.types:
            return self.types[name]
        return self.catalogue.types.get(name) if self.catalogue else None

    def routine(self, name: str) -> Routine | None:
        """Return what is known of a user's function."""
        if name in self.routines:
            return self.routines[name]
        return self.catalogue.routines.get(name) if self.catalogue else None

    def owner_of(self, index: str) -> Table | None:
        """Return the table of an index, where it is known."""
        for table in self.all_tables().values():
            if index in table.indexes:
                return table
        return None

    def used(self, name: str) -> bool:
        """Tell whether somebody else may be using a relation: it was not made by this script, nor is it of its own."""
        if name.split(".", maxsplit=1)[0] in _SYSTEM or name.startswith("pg_"):
            return False
        table = self.table(name)
        return not (table.fresh or table.temporary)

    def held(self) -> dict[str, Mode]:
        """Return the locks of the open transaction that block others."""
        return {name: mode for name, mode in self.transaction.locks.items() if mode.blocks and self.used(name)}

    def begin(self, *, managed: bool = False, line: int = 0) -> None:
        """Open a transaction."""
        self.transaction = Transaction(managed=managed, line=line)

    def end(self) -> None:
        """End it: locks and what was set for it are gone."""
        self.transaction = Transaction(alone=True)

    def age(self) -> None:
        """Let what was made become old: others may use it from here on."""
        self.tables = {name: replace(table, fresh=False, filled=False) for name, table in self.tables.items()}
        self.types = {name: replace(kind, fresh=False) for name, kind in self.types.items()}

    def settle(self) -> None:
        """Let it become old, and forget the session: another revision follows, perhaps weeks later."""
        self.end()
        self.settings.clear()
        self.longest_wait_ms = 0.0
        self.age()
        for names in (self.dropped_indexes, self.renamed, self.covered):
            names.clear()


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that speaks of a statement."""

    rule: str
    object: str
    detail: str = ""


@dataclass
class Effects:
    """What one statement does: gathered by the checks."""

    hits: list[Hit] = field(default_factory=list)
    locks: dict[str, Mode] = field(default_factory=dict)
    scans: list[str] = field(default_factory=list)

    def hit(self, rule: str, what: str = "", detail: str = "") -> None:
        """Note a rule that speaks."""
        hit = Hit(rule, what, detail)
        if hit not in self.hits:
            self.hits.append(hit)

    def lock(self, relation: str, mode: Mode) -> None:
        """Note a lock: the strongest of a relation counts."""
        if relation and self.locks.get(relation, Mode.NONE) < mode:
            self.locks[relation] = mode

    def take(self, other: Effects) -> None:
        """Add another's."""
        self.hits += [hit for hit in other.hits if hit not in self.hits]
        self.scans += other.scans
        for relation, mode in other.locks.items():
            self.lock(relation, mode)

    def scan(self, relation: str) -> None:
        """Note that it reads rows of a relation, as many as there are."""
        self.scans.append(relation)

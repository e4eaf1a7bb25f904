"""What of a database a backup holds: the settings' filters, resolved to names in the backup's own snapshot. Pure.

A pattern is shell-style and matched as `fnmatch` does, case and all, against names as they are stored: a schema's, or
`schema.table` (a star never reaches from one over the dot into the other). pg_dump is then told exact names, so that
what it dumps and what the fingerprint reads is decided in one place:

- with `tables`, those relations alone, their indexes and the sequences they own; no schema, type, function, extension
  or large object, as `pg_dump --table`;
- with `schemas`, all that is in these schemas and the extensions installed in them, as `pg_dump --schema`, which leaves
  out what belongs to no schema;
- otherwise everything but what is excluded.

A partition goes where its parent goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from chanuka_ops import errors
from chanuka_ops.config.backup import FilterSettings

TABLES = frozenset("rp")
NAMED = frozenset("rpvmfS")  # what a pattern may name: tables, views, sequences; indexes go with their table
PARTITIONED = "rpf"
INDEXES = "iI"
PUBLIC = "public"
NAMES_TOLD = 8

Told = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Selection:
    """The schemas, relations and tables' rows that are backed up; None stands for all there are.

    Names are as the server quotes them: `public`, `public.bills`, `"Odd"."Name"`. `outside` says whether what belongs
    to no schema is backed up: large objects, publications, extensions.
    """

    schemas: frozenset[str] | None = None
    relations: frozenset[str] | None = None
    without_rows: frozenset[str] = frozenset()
    outside: bool = True

    def has_rows(self, table: str) -> bool:
        """Whether a table's rows are in the backup."""
        return self.has_object(None, table) and table not in self.without_rows

    def has_object(self, schema: str | None, relation: str | None) -> bool:
        """Whether an object is in the backup: one of a relation by its relation, any other by its schema.

        One that belongs to neither (an extension, a publication) is in it unless only schemas or tables were picked.
        """
        if relation is not None:
            return self.relations is None or relation in self.relations
        if schema is not None:
            return self.schemas is None or schema in self.schemas
        return self.outside


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation of the catalog; `follows` is the one it goes along with: parent, owning table, indexed table.

    `quoted` is its name as the server quotes it, `kind` pg_class.relkind.
    """

    quoted: str
    schema: str
    name: str
    kind: str
    follows: str | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """What there is to pick from: schemas with their names as the server quotes them, extensions with their schemas."""

    schemas: Mapping[str, str]
    relations: Sequence[Relation]
    extensions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What is backed up, and what pg_dump is told for it: pairs of an object kind and a quoted pattern."""

    selection: Selection
    include: tuple[Told, ...] = ()
    exclude: tuple[Told, ...] = ()


ALL = Resolved(EVERYTHING)


def resolve(filters: FilterSettings, names: Names) -> Resolved:
    """Resolve a database's filters against the names it has.

    Errors: `RefusedError` for a pattern that matches nothing, naming some that are there; or where nothing is left.
    """
    if filters.keeps_all:
        return ALL
    index = _Index(names)
    schemas = index.schemas(filters.schemas, "schemas") if filters.schemas else set(names.schemas)
    schemas -= index.schemas(filters.exclude_schemas, "exclude_schemas")
    dropped = index.closed(index.tables(filters.exclude_tables, "exclude_tables"), PARTITIONED)
    emptied = index.closed(index.tables(filters.exclude_table_data, "exclude_table_data", TABLES), PARTITIONED)
    if filters.tables:
        wanted = index.closed(index.tables(filters.tables, "tables"), PARTITIONED)
    else:
        dropped = index.closed(dropped, "S")
        wanted = {relation.quoted for relation in names.relations if relation.kind not in INDEXES}
    picked = {one for one in wanted - dropped if index.by_name[one].schema in schemas}
    picked = index.closed(picked, INDEXES + "S")  # a sequence goes with its table, as pg_dump has it
    if not (picked if filters.tables else schemas):
        raise errors.RefusedError("filter: together these patterns leave nothing to back up. Nothing was written.")
    whole = not filters.tables
    choice = _Choice(
        selection=Selection(
            schemas=frozenset(names.schemas[schema] for schema in schemas) if whole else frozenset(),
            relations=frozenset(picked),
            without_rows=frozenset(emptied & picked),
            outside=whole and not filters.schemas,
        ),
        schemas=frozenset(schemas),
        dropped=frozenset(one for one in dropped if index.by_name[one].schema in schemas),
    )
    told = _tables_alone if filters.tables else _schemas_alone if filters.schemas else _all_but
    include, exclude = told(choice, names, index)
    no_rows = tuple(("table_data", index.pattern(name)) for name in sorted(choice.selection.without_rows))
    return Resolved(choice.selection, tuple(include), (*exclude, *no_rows))


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was chosen; schemas as they are stored, of what is left out only what lies in them."""

    selection: Selection
    schemas: frozenset[str]
    dropped: frozenset[str]


def _tables_alone(choice: _Choice, _: Names, index: _Index) -> tuple[list[Told], list[Told]]:
    """Say it for pg_dump: (what to include, what to exclude)."""
    picked = sorted(choice.selection.relations or ())
    return [("table", index.pattern(name)) for name in picked if index.by_name[name].kind in NAMED], []


def _schemas_alone(choice: _Choice, names: Names, index: _Index) -> tuple[list[Told], list[Told]]:
    """Pick schemas; `public` in a way that can be restored.

    `pg_dump --schema=public` writes CREATE SCHEMA public, which no database takes that has it, as a new one does. To
    pick an extension leaves out the same, which is what belongs to no schema, and writes public as a whole dump does:
    so the extensions are picked (one that every database has, for want of another) and the other schemas excluded.
    """
    tables = [("table", index.pattern(name)) for name in sorted(choice.dropped)]
    extensions = [name for name, schema in sorted(names.extensions.items()) if schema in choice.schemas]
    picked = extensions or [name for name, schema in sorted(names.extensions.items()) if schema == "pg_catalog"][:1]
    if PUBLIC in choice.schemas and picked:
        away = sorted(set(names.schemas) - choice.schemas)
        excluded = [("schema", quoted(schema)) for schema in away]
        return [("extension", quoted(name)) for name in picked], [*excluded, *tables]
    told = [("schema", quoted(schema)) for schema in sorted(choice.schemas)]
    return [*told, *(("extension", quoted(name)) for name in extensions)], tables


def _all_but(choice: _Choice, names: Names, index: _Index) -> tuple[list[Told], list[Told]]:
    away = set(names.schemas) - choice.schemas
    told = [("schema", quoted(schema)) for schema in sorted(away)]
    told += [("extension", quoted(name)) for name, schema in sorted(names.extensions.items()) if schema in away]
    return [], [*told, *(("table", index.pattern(name)) for name in sorted(choice.dropped))]


class _Index:
    """The names, looked up by one another."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.by_name = {relation.quoted: relation for relation in names.relations}
        self._following: dict[str, list[Relation]] = {}
        for relation in names.relations:
            if relation.follows is not None:
                self._following.setdefault(relation.follows, []).append(relation)

    def schemas(self, patterns: Iterable[str], setting: str) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            matching = {schema for schema in self._names.schemas if fnmatchcase(schema, pattern)}
            if not matching:
                raise _matches_nothing(setting, pattern, self._names.schemas)
            found |= matching
        return found

    def tables(self, patterns: Iterable[str], setting: str, kinds: frozenset[str] = NAMED) -> set[str]:
        found: set[str] = set()
        there = [relation for relation in self._names.relations if relation.kind in kinds]
        for pattern in patterns:
            halves = list(_halves(pattern))
            matching = {relation.quoted for relation in there if _fits(relation, halves)}
            if not matching:
                raise _matches_nothing(setting, pattern, (f"{one.schema}.{one.name}" for one in there))
            found |= matching
        return found

    def pattern(self, name: str) -> str:
        relation = self.by_name[name]
        return f"{quoted(relation.schema)}.{quoted(relation.name)}"

    def closed(self, tables: set[str], kinds: str) -> set[str]:
        """Add what follows them, and what follows that, of these kinds."""
        found, new = set(tables), list(tables)
        while new:
            for relation in self._following.get(new.pop(), ()):
                if relation.kind in kinds and relation.quoted not in found:
                    found.add(relation.quoted)
                    new.append(relation.quoted)
        return found


def _halves(pattern: str) -> Iterator[tuple[str, str]]:
    """Split a pattern at each of its dots: a name may hold one too."""
    for at, character in enumerate(pattern):
        if character == ".":
            yield pattern[:at], pattern[at + 1 :]


def _fits(relation: Relation, halves: Iterable[tuple[str, str]]) -> bool:
    return any(fnmatchcase(relation.schema, left) and fnmatchcase(relation.name, right) for left, right in halves)


def _matches_nothing(setting: str, pattern: str, there: Iterable[str]) -> errors.RefusedError:
    known = sorted(there)
    more = f" and {len(known) - NAMES_TOLD} more" if len(known) > NAMES_TOLD else ""
    listing = ", ".join(known[:NAMES_TOLD]) + more if known else "none at all"
    return errors.RefusedError(
        f"filter.{setting}: {pattern!r} matches nothing; there are {listing}. Nothing was written."
    )


def databases(patterns: Sequence[str], there: Sequence[str]) -> list[str]:
    """Choose databases of a server by shell-style patterns, each once, in the server's order.

    Errors: `RefusedError` for a pattern that matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in there):
            listing = ", ".join(there)
            raise errors.RefusedError(f"databases: {pattern!r} matches no database of the server; there are {listing}")
    return [name for name in there if any(fnmatchcase(name, pattern) for pattern in patterns)]


def quoted(name: str) -> str:
    """Write a name so that pg_dump's own pattern characters in it mean nothing. Always in quotes.

    >>> quoted('a*"b".c')
    '"a*""b"".c"'
    """
    return '"' + name.replace('"', '""') + '"'


_OPTIONS = {
    ("include", "table"): "--table",
    ("include", "schema"): "--schema",
    ("include", "extension"): "--extension",
    ("exclude", "table"): "--exclude-table",
    ("exclude", "schema"): "--exclude-schema",
    ("exclude", "table_data"): "--exclude-table-data",
    ("exclude", "extension"): "--exclude-extension",
}
FILTER_FILE_SINCE = 17
LONGEST_ARGUMENTS = 64 * 1024  # beyond it, a filter file where pg_dump takes one


def arguments(resolved: Resolved, major: int) -> tuple[list[str], str | None]:
    """Return what a pg_dump of that major version is told: (arguments, what it reads from standard input, if any).

    One older than 17 can't leave out an extension: then its schema must be among what is backed up, or the restore
    fails, as its drill shows.
    """
    told = [("include", *one) for one in resolved.include] + [("exclude", *one) for one in resolved.exclude]
    if major < FILTER_FILE_SINCE:
        told = [one for one in told if one[:2] != ("exclude", "extension")]
    strict = ["--strict-names"] if resolved.include else []
    options = [f"{_OPTIONS[how, kind]}={pattern}" for how, kind, pattern in told]
    if major < FILTER_FILE_SINCE or sum(map(len, options)) <= LONGEST_ARGUMENTS or not all(map(str.isascii, options)):
        return [*strict, *options], None
    return [*strict, "--filter=-"], "".join(f"{how} {kind} {pattern}\n" for how, kind, pattern in told)

"""What is looked at before a restore begins. Whatever is refused here, nothing was changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from chanuka_ops import errors
from chanuka_ops.backup.model import Manifest
from chanuka_ops.backup.restoring import entries, statements
from chanuka_ops.backup.restoring.archive import Archive, Entry
from chanuka_ops.backup.restoring.entries import Pick
from chanuka_ops.backup.restoring.restored import Options, Way
from chanuka_ops.backup.restoring.target import Existing, Target

HEADROOM = 1.1  # of the source's size: indexes are built from sorted runs, and pages are filled anew
_NOTHING = "Nothing was changed."
_DEFAULT_TABLESPACE = "pg_default"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done: the way, the entries, and what has to be made or left out for them."""

    way: Way
    pick: Pick
    options: Options
    existing: Existing | None
    role_statements: tuple[str, ...] = ()
    roles_made: tuple[str, ...] = ()
    roles_absent: frozenset[str] = frozenset()
    tablespaces: bool = True
    expected_bytes: int = 0
    checks: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def plan(target: Target, archive: Archive, manifest: Manifest, options: Options, roles_script: str) -> Plan:
    """Decide what a restore will do, or that it can't.

    Errors: `RefusedError` saying what stands in the way; `ConfigurationError` for a schema or table that isn't in the
    backup; `DatabaseError`.
    """
    _refuse_server(target, manifest)
    pick = _picked(archive, options)
    way, existing = _way(target, options)
    made = _Roles(target, archive, pick, roles_script, options)
    extensions, pick = _extensions(target, made.pick, way)
    tablespaces, said = _tablespaces(target, archive, pick)
    expected_bytes = round(manifest.source.source_bytes * _share(archive, manifest, pick))
    checks = {
        "version": f"ok: {manifest.source.server_version} into {target.server.version}",
        "disk": _disk(target, expected_bytes),
        "extensions": extensions,
        "roles": made.outcome,
        "tablespaces": "ok" if tablespaces else "left out",
    }
    return Plan(
        way=way,
        pick=pick,
        options=options,
        existing=existing,
        role_statements=made.statements,
        roles_made=made.missing if made.statements else (),
        roles_absent=frozenset(made.missing) if options.roles == "skip" else frozenset(),
        tablespaces=tablespaces,
        expected_bytes=expected_bytes,
        checks=checks,
        warnings=(*made.warnings, *said),
    )


def _picked(archive: Archive, options: Options) -> Pick:
    if options.whole:
        return entries.whole(archive)
    if options.replace is not None:
        raise errors.RefusedError(
            "a part of a backup can't take the place of a whole database, which would be gone but for that part:"
            f" restore it into a new database, and copy from there. {_NOTHING}"
        )
    if options.schemas and options.tables:
        raise errors.ConfigurationError("schemas or single tables: not both in one restore")
    return entries.schemas(archive, options.schemas) if options.schemas else entries.tables(archive, options.tables)


def _refuse_server(target: Target, manifest: Manifest) -> None:
    if target.server.in_recovery:
        raise errors.RefusedError(f"the target server is a standby: restore into its primary. {_NOTHING}")
    if target.server.major < manifest.source.major:
        raise errors.RefusedError(
            f"the backup is of PostgreSQL {manifest.source.server_version}, and the target server is"
            f" {target.server.version}: a dump restores into the same major version or a newer one. {_NOTHING}"
        )


def _way(target: Target, options: Options) -> tuple[Way, Existing | None]:
    """Tell how the target is come by. Errors: `RefusedError` where it isn't empty, or may not be replaced."""
    existing = target.existing()
    if options.replace is not None:
        refuse_replacing(target, options.replace)
    if existing is None:
        if not target.server.may_create:
            raise errors.RefusedError(
                f"there is no database {target.name!r}, and this role may not create one: give it CREATEDB, or have the"
                f" database made. {_NOTHING}"
            )
        return "new", None
    if not existing.connectable:
        raise errors.RefusedError(f"database {target.name!r} takes no connections: it isn't touched. {_NOTHING}")
    if options.replace is not None:
        return "replace", existing
    contents = target.contents()
    if contents.number:
        raise errors.RefusedError(
            f"database {target.name!r} is not empty ({contents.words()}): restore into a new or an empty one, or"
            f" replace this one (--replace). {_NOTHING}"
        )
    return "empty", existing


def refuse_replacing(target: Target, stated: str | None) -> None:
    """Refuse to replace a database unless it was named, and it can be done. Errors: `RefusedError`."""
    if stated != target.name:
        given = "no name was" if stated is None else f"the name {stated!r} was"
        raise errors.RefusedError(
            f"database {target.name!r} would be replaced, and {given} given: give the one that is meant. {_NOTHING}"
        )
    existing = target.existing()
    if existing is None:
        return
    if not (target.server.may_create and (existing.owned or target.server.superuser)):
        raise errors.RefusedError(
            f"to replace database {target.name!r} this role must own it and have CREATEDB (its owner is"
            f" {existing.owner!r}), as it is done by a new database and two renames. {_NOTHING}"
        )
    if existing.prepared:
        raise errors.RefusedError(
            f"database {target.name!r} has {existing.prepared} prepared transactions, which hold it: commit or roll"
            f" them back (pg_prepared_xacts). {_NOTHING}"
        )
    immune = [who for who, endable in target.sessions() if not endable]
    if immune:
        raise errors.RefusedError(
            f"this role may not end {len(immune)} of the sessions in database {target.name!r}, such as pid"
            f" {immune[0].pid} of role {immune[0].role!r}: end them first, or restore as a superuser. {_NOTHING}"
        )


class _Roles:
    """Whom the restored objects belong to, and who may use them."""

    def __init__(self, target: Target, archive: Archive, pick: Pick, script: str, options: Options) -> None:
        self._options = options
        self.pick = pick
        self.statements: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        known = statements.roles(script)
        about = [e for e in archive.entries if e.of_database] if options.whole else []
        owners = statements.owners([*pick.entries, *(entry for entry in about if entry.kind == "DATABASE")])
        named = statements.grantees([*pick.entries, *about], known)
        there = target.roles(owners | named)
        self.missing = tuple(sorted((owners | named) - set(there)))
        barred = sorted(name for name in owners if not there.get(name, True))
        if options.roles == "skip":
            self._leave_out()
        elif barred:
            self._refuse([*self.missing, *barred], "aren't there, or can't be given objects by this role")
        elif self.missing and options.roles == "create":
            self._create(script, known)
        elif self.missing:
            self._refuse(list(self.missing), "aren't there")
        else:
            self.outcome = "ok"

    def _refuse(self, names: list[str], why: str) -> None:
        raise errors.RefusedError(
            f"{len(names)} roles that own or may use what is in the backup {why}: {', '.join(names)}. Have them made"
            " from the backup, without passwords (--roles create), or leave owners and grants out (--roles skip), so"
            f" that all belongs to the role that restores. {_NOTHING}"
        )

    def _create(self, script: str, known: dict[str, list[str]]) -> None:
        unknown = [name for name in self.missing if name not in known]
        if unknown:
            self._refuse(unknown, "aren't there, and the backup doesn't say how to make them")
        own = [statement for name in self.missing for statement in known[name]]
        self.statements = (*own, *statements.memberships(script, self.missing))
        self.outcome = f"{len(self.missing)} to be made"
        self.warnings = (f"roles made, without passwords: {', '.join(self.missing)}",)
        lowered = sorted(statements.superusers(script).intersection(self.missing))
        if lowered:
            self.warnings += (f"not made superusers, as they were at the source: {', '.join(lowered)}",)

    def _leave_out(self) -> None:
        absent = [
            entry for entry in self.pick.of_kind("POLICY", "USER MAPPING") if statements.named(entry, self.missing)
        ]
        kept = tuple(entry for entry in self.pick.entries if entry.kind not in {"ACL", "DEFAULT ACL"})
        self.pick = Pick(kept, self.pick.left_out, self.pick.bare).but(absent, "it is for a role that isn't there")
        self.outcome = "left out"
        self.warnings = ("owners and grants were left out: all belongs to the role that restored",)


def _extensions(target: Target, pick: Pick, way: Way) -> tuple[str, Pick]:
    """Refuse where the server lacks an extension; leave out comments on those that somebody else installed."""
    names = {entry.name for entry in pick.of_kind("EXTENSION")}
    there = target.extensions(names) if names else {}
    missing = sorted(names - set(there))
    if missing:
        raise errors.RefusedError(
            f"the target server doesn't have the backup's extensions {', '.join(missing)}: install them there."
            f" {_NOTHING}"
        )
    barred = sorted(name for name, for_superusers in there.items() if for_superusers)
    if barred and not target.server.superuser and way != "empty":  # in an existing one they may have been installed
        raise errors.RefusedError(
            f"the backup's extensions {', '.join(barred)} can be created by a superuser only: restore as one, or into"
            f" an empty database in which they are installed. {_NOTHING}"
        )
    if target.server.superuser:
        return "ok", pick
    comments = [entry for entry in pick.of_kind("COMMENT") if entry.name.startswith("EXTENSION ")]
    return "ok", pick.but(comments, "only the extension's owner may comment on it")


def _tablespaces(target: Target, archive: Archive, pick: Pick) -> tuple[bool, tuple[str, ...]]:
    about = [entry for entry in archive.entries if entry.kind == "DATABASE"]
    names = {entry.tablespace for entry in (*pick.entries, *about)} - {"", _DEFAULT_TABLESPACE}
    missing = sorted(names - target.tablespaces(names)) if names else []
    if not missing:
        return True, ()
    return False, (f"tablespaces that aren't there: {', '.join(missing)}; all went into the default one",)


def _disk(target: Target, expected_bytes: int) -> str:
    """Refuse where there is too little room, if that can be known. What isn't known is never called ok."""
    needed = round(expected_bytes * HEADROOM)
    free = target.free_bytes()
    if free is None:
        return f"unknown: it needs about {needed:,} bytes where the server keeps its data"
    if free < needed:
        raise errors.RefusedError(
            f"the target server has {free:,} bytes free where it keeps its data, and the restore needs about"
            f" {needed:,}: make room. {_NOTHING}"
        )
    return f"ok: {free:,} bytes free, about {needed:,} needed"


def _share(archive: Archive, manifest: Manifest, pick: Pick) -> float:
    """Return what part of the source's bytes is restored, by the files that hold the rows."""
    sizes = {file.path.split("/")[-1].split(".dat")[0]: file.bytes for file in manifest.files if ".dat" in file.path}

    def of(some: Iterable[Entry]) -> int:
        return sum(sizes.get(entry.file.removesuffix(".dat"), 0) for entry in some if entry.file)

    everything = of(entry for entry in archive.entries if entry.kind == "TABLE DATA")
    return 1.0 if everything == 0 or pick.of_kind("BLOBS") else of(pick.tables) / everything

"""The nouns: evidence in, advice out, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, Self, get_args

from chanuka_ops.errors import ConfigurationError

Kind = Literal["analyze", "vacuum", "drop_index", "reindex_index"]
Risk = Literal["low", "medium", "high"]
OutcomeWord = Literal["applied", "refused", "lock_timeout", "gone", "failed", "dry_run"]

_ID_LENGTH = 12  # 48 bits: enough for the few thousand pieces of advice one database can give rise to


class Evidence(Protocol):
    """What a check found; the orchestrator hands in findings of health, which this room doesn't know."""

    @property
    def check(self) -> str:
        """The check's id, as in `stats.missing`."""

    @property
    def status(self) -> str:
        """One of ok (a measurement only), info, warning, critical, unknown (the check could not look)."""

    @property
    def object(self) -> str | None:
        """The relation it is about, schema-qualified and quoted as SQL wants it; None: the whole database."""

    @property
    def value(self) -> Any:
        """The measured number, in the check's unit."""

    @property
    def summary(self) -> str:
        """One sentence for a person."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the catalogue says of a table that evidence points at. `kind` is `pg_class.relkind`."""

    oid: int
    identifier: str
    kind: str
    temporary: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class Index:
    """What the catalogue says of an index that evidence points at.

    `twins` are the other valid indexes of the table that could do all this one does, column for column.
    """

    oid: int
    identifier: str
    name: str
    table: str
    definition: str
    bytes: int
    valid: bool
    unique: bool
    partitioned: bool
    is_partition: bool
    replica_identity: bool
    building: bool
    constraint: str | None
    twins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Evidence whose object could not be looked up, and why."""

    reason: str


Subject = Table | Index | Unresolved


@dataclass(frozen=True, slots=True)
class Advice:
    """One change that would help.

    `gain_bytes` is what the disk gets back: exact for a dropped index, 0 where none can be, None where only the doing
    shows it. `lock` is the strongest lock the statement queues for, in the words of PostgreSQL's manual. `undo` is
    the statement that takes it back, None where there is nothing to take back.
    """

    id: str
    kind: Kind
    object: str
    reason: str
    sql: str
    gain_bytes: int | None
    risk: Risk
    lock: str
    undo: str | None = None
    checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Withheld:
    """Evidence on which no advice is given, and why: silence would look like health."""

    check: str
    object: str
    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of one piece of advice.

    `gained_bytes` is the measured difference of the relation's total size, negative where it grew meanwhile, and None
    where nothing was done. `reason` says why for every outcome but a plain success.
    """

    id: str
    outcome: OutcomeWord
    gained_bytes: int | None
    seconds: float
    object: str
    sql: str
    reason: str | None = None
    dead_tuples_before: int | None = None
    dead_tuples_after: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document's entry."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Plan:
    """All advice for one database, the most valuable first."""

    database: str
    advice: tuple[Advice, ...]
    withheld: tuple[Withheld, ...] = ()

    @property
    def id(self) -> str:
        """The same for the same advice on the same database."""
        return digest(self.database, *sorted(item.id for item in self.advice))

    def to_json(self) -> dict[str, Any]:
        """Return the document that `optimise plan --json` prints and `optimise apply` reads."""
        return {
            "plan_id": self.id,
            "database": self.database,
            "advice": [{**asdict(item), "checks": list(item.checks)} for item in self.advice],
            "withheld": [asdict(item) for item in self.withheld],
        }

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Read what `to_json()` wrote.

        Errors: `ConfigurationError` naming what is wrong, also for an entry changed since it was planned.
        """
        try:
            advice = tuple(_advice(entry) for entry in document["advice"])
            withheld = tuple(Withheld(**entry) for entry in document.get("withheld", ()))
            return cls(str(document["database"]), advice, withheld)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"not a plan of the optimiser ({error!r}): make one with `optimise plan`"
            ) from None


def digest(*parts: str) -> str:
    """Return a short id that stays the same for the same words."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_ID_LENGTH]


def applied_document(applied: Iterable[Applied]) -> dict[str, Any]:
    """Return the document that `optimise apply --json` prints."""
    return {"applied": [item.to_json() for item in applied]}


def _advice(entry: Mapping[str, Any]) -> Advice:
    known = {field.name for field in fields(Advice)}
    item = Advice(**{**{key: value for key, value in entry.items() if key in known}, "checks": tuple(entry["checks"])})
    if item.kind not in get_args(Kind) or item.id != digest(item.kind, item.object, item.sql):
        raise ConfigurationError(
            f"advice {item.id!r} is not what was planned: its kind, object or sql was changed since. Plan again."
        )
    return item

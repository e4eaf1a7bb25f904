"""What a report is made of. The orchestrator fills it; nothing here knows where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Kind = Literal["text", "code", "number", "pill"]
Row = tuple[str, ...]
Columns = tuple[tuple[str, Kind], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page: some lines, and a table of (label, kind) columns. `absent`: nothing is known of it."""

    anchor: str
    title: str
    lines: tuple[str, ...] = ()
    columns: Columns = ()
    rows: tuple[Row, ...] = ()
    absent: bool = False
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the run. `started_s` is the offset from the run's start; None: it began when the one before ended."""

    name: str
    status: str
    seconds: float
    detail: str = ""
    started_s: float | None = None


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One finding of a health check; `object` None: the whole database."""

    check: str
    status: str
    object: str | None
    value: float | int | str | None
    unit: str
    threshold: float | int | str | None
    summary: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Health:
    """Findings, how many there are of each status, and how many checks judged or could not look."""

    status: str
    findings: tuple[FindingRow, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    checks_judged: int = 0
    checks_unknown: int = 0


@dataclass(frozen=True, slots=True)
class TableProof:
    """One table in the source and in the restored copy. Rows None: not counted there."""

    table: str
    source_rows: int | None
    restored_rows: int | None
    equal: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of the backup. `tier` is how far it got: taken, verified, proven.

    `coverage` is the share of the source's tables that were compared, 0 to 1; None: not compared.
    `mismatches` are sentences, each naming its object.
    """

    backup_id: str
    tier: str
    files: int | None = None
    bytes: int | None = None
    source_bytes: int | None = None
    tables_compared: int = 0
    rows_compared: int = 0
    coverage: float | None = None
    restore_seconds: float | None = None
    mismatches: tuple[str, ...] = ()
    tables: tuple[TableProof, ...] = ()


@dataclass(frozen=True, slots=True)
class AdviceRow:
    """One piece of advice and, where it was tried, what came of it."""

    kind: str
    object: str
    reason: str
    sql: str
    gain_bytes: int | None
    risk: str
    lock: str
    outcome: str | None = None
    outcome_reason: str | None = None
    gained_bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one page says. `generated_at` carries a time zone; the page shows UTC.

    A part that is None wasn't done in this run, and the page says so rather than leave it out.
    """

    title: str
    generated_at: datetime
    database: str
    server_version: str
    status: str
    steps: tuple[Step, ...] = ()
    health: Health | None = None
    proof: Proof | None = None
    advice: tuple[AdviceRow, ...] | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement; `status` is what the check said of it."""

    at: datetime
    value: float
    status: str


@dataclass(frozen=True, slots=True)
class Series:
    """One number's history, oldest first. `object` None: the check's worst. `first` and `second` are its limits."""

    check: str
    title: str
    object: str | None
    unit: str
    points: tuple[Point, ...]
    first: float | None = None
    second: float | None = None


@dataclass(frozen=True, slots=True)
class CheckRow:
    """How one check ended, what it measured and what it cost; `reason` says why it could not look, and the cure."""

    check: str
    title: str
    status: str
    seconds: float
    value: float | None = None
    unit: str = ""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One alert. `state` is pending, firing …; the times are words already; `note` is a silence's reason and end."""

    database: str
    check: str
    object: str | None
    state: str
    severity: str
    since: str
    notified: str
    note: str


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """One database's health. `why` and `links` are the explanations by check; `at` is when it was looked at.

    `history` None: nothing is kept of it, for the reason in `history_note`.
    """

    database: str
    server_version: str | None
    status: str
    at: datetime
    seconds: float
    findings: tuple[FindingRow, ...]
    checks: tuple[CheckRow, ...]
    why: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Series, ...] | None = None
    history_note: str = ""


@dataclass(frozen=True, slots=True)
class HealthPage:
    """All databases' health on one page; plots run from `since` to `generated_at`. `alerts` None: none are kept.

    Before `full_from` only each hour's worst measurement is kept; None: all are.
    """

    generated_at: datetime
    since: datetime
    databases: tuple[DatabaseHealth, ...]
    alerts: tuple[AlertRow, ...] | None = None
    alerts_note: str = ""
    full_from: datetime | None = None

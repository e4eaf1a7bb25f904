"""What the page of `health report` says, and in which order: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chanuka_ops.report import rules
from chanuka_ops.report.model import (
    AlertRow,
    CheckRow,
    Columns,
    DatabaseHealth,
    FindingRow,
    HealthPage,
    Row,
    Section,
    Series,
)
from chanuka_ops.report.plots import Plot, Span, plot, spanning
from chanuka_ops.report.rules import Verdict

MOST_FINDINGS = 60  # open on the page; of the rest, and of what is only information, a folded list
MOST_DETAILED = 12  # databases with plots and costs: a fleet's page stays a page
MOST_PLOTS, MOST_OF_A_CHECK = 60, 4
MOST_NAMED = 3  # checks, of those that cost most

_GRAVITY = ("critical", "unknown", "warning", "info", "ok")


@dataclass(frozen=True, slots=True)
class Item:
    """One finding as it is read: whose it is, what is wrong, by how much, what to do, why, where to read on."""

    database: str
    row: FindingRow
    measured: str
    why: str
    link: str


@dataclass(frozen=True, slots=True)
class Detail:
    """One database's numbers over time, and its checks with their cost."""

    anchor: str
    database: str
    plots: tuple[Plot, ...]
    left_out: int
    start: str
    end: str
    note: str
    checks: Section


@dataclass(frozen=True, slots=True)
class Laid:
    """The page, laid out."""

    title: str
    meta: tuple[str, ...]
    verdict: Verdict
    fleet: Section | None
    findings: tuple[Item, ...]
    advice: tuple[Item, ...]
    unknown: Section
    alerts: Section
    details: tuple[Detail, ...]
    undetailed: int


def laid(page: HealthPage) -> Laid:
    """Lay the page out, the worst first."""
    databases = sorted(page.databases, key=lambda one: (_gravity(one.status), one.database))
    items = sorted(_items(databases), key=lambda item: (_gravity(item.row.status), item.database, item.row.check))
    wrong = [item for item in items if item.row.status not in {"info", "unknown"}]
    advice = [item for item in items if item.row.status == "info"]
    return Laid(
        title=f"Health of {databases[0].database if len(databases) == 1 else f'{len(databases)} databases'}",
        meta=tuple(_meta(page, databases)),
        verdict=_verdict(databases, wrong),
        fleet=_fleet(databases) if len(databases) > 1 else None,
        findings=tuple(wrong[:MOST_FINDINGS]),
        advice=(*wrong[MOST_FINDINGS:], *advice),
        unknown=_unknown(databases),
        alerts=_alerts(page),
        details=tuple(_detail(one, page, number) for number, one in enumerate(databases[:MOST_DETAILED])),
        undetailed=max(0, len(databases) - MOST_DETAILED),
    )


def judged(one: DatabaseHealth) -> str:
    """Say what share of the checks could be judged."""
    unseen = sum(check.status == "unknown" for check in one.checks) + sum(map(len, _noted(one).values()))
    return f"{rules.count(len(one.checks) - unseen)} of {rules.count(len(one.checks))} checks could be judged"


def _noted(one: DatabaseHealth) -> dict[str, list[str]]:
    """Return the checks that looked and could not judge, by the reason: there is no baseline yet, for one."""
    told = {row.check for row in one.findings}
    found: dict[str, list[str]] = {}
    for check in one.checks:
        if check.reason and check.status == "info" and check.value is None and check.check not in told:
            found.setdefault(check.reason, []).append(check.check)
    return found


def _gravity(status: str) -> int:
    return _GRAVITY.index(status) if status in _GRAVITY else 1


def _meta(page: HealthPage, databases: list[DatabaseHealth]) -> Iterator[str]:
    if len(databases) == 1 and databases[0].server_version:
        yield f"PostgreSQL {databases[0].server_version}"
    looks = [one.at for one in databases]
    if len(databases) == 1 or min(looks) == max(looks):
        yield f"looked at {rules.utc(max(looks))}"
    else:
        yield f"looked at between {rules.utc(min(looks))} and {rules.utc(max(looks))}"
    yield f"history since {rules.utc(page.since)}"


def _verdict(databases: list[DatabaseHealth], wrong: list[Item]) -> Verdict:
    statuses = [one.status for one in databases]
    worst = min(statuses, key=_gravity)
    counts = {status: sum(item.row.status == status for item in wrong) for status in ("critical", "warning")}
    blind = sum(check.status == "unknown" for one in databases for check in one.checks)
    words = [
        f"{rules.count(number)} {status if number == 1 or status == 'critical' else f'{status}s'}"
        for status, number in counts.items()
        if number
    ]
    words += [f"{rules.count(blind)} unknown"] if blind else []
    ill = sum(_gravity(status) < _gravity("info") for status in statuses)
    where = f" on {rules.count(ill)} of {rules.count(len(databases))} databases" if len(databases) > 1 else ""
    unjudged = sum(len(checks) for one in databases for checks in _noted(one).values())
    well = f"Nothing wrong was found; {rules.count(unjudged)} checks could not judge yet" if unjudged else "All is well"
    headline = f"{', '.join(words)}{where}" if words else well
    facts = [f"{one.database}: {judged(one)}, in {rules.seconds(one.seconds)}." for one in databases[:MOST_DETAILED]]
    return Verdict(rules.tone(worst), worst, headline, tuple(facts))


def _items(databases: Iterable[DatabaseHealth]) -> Iterator[Item]:
    for one in databases:
        for row in one.findings:
            measured = ""
            if row.value is not None:
                measured = rules.quantity(row.value, row.unit)
                limit = rules.quantity(row.threshold, row.unit)
                measured += f", limit {limit}" if row.threshold is not None else ""
            yield Item(one.database, row, measured, one.why.get(row.check, ""), one.links.get(row.check, ""))


def _fleet(databases: list[DatabaseHealth]) -> Section:
    rows: list[Row] = [
        (
            one.database,
            one.status,
            *(rules.count(sum(row.status == status for row in one.findings)) for status in ("critical", "warning")),
            rules.count(sum(check.status == "unknown" for check in one.checks)),
            judged(one),
            one.server_version or "no answer",
            rules.utc(one.at),
        )
        for one in databases
    ]
    return Section("fleet", "Databases", (), _FLEET, tuple(rows))


def _unknown(databases: list[DatabaseHealth]) -> Section:
    rows: list[Row] = [
        (one.database, check.check, check.title, cure)
        for one in databases
        for check in one.checks
        if check.status == "unknown"
        for cure in _cures(one, check)
    ]
    lines = (
        ("What could not be looked at may be worse than all above. Each says what would cure it.",)
        if rows
        else ("Nothing: every check could look.",)
    )
    notes = tuple(
        f"{f'{one.database}: ' if len(databases) > 1 else ''}not judged: {', '.join(checks)}: {reason}"
        for one in databases[:MOST_DETAILED]
        for reason, checks in _noted(one).items()
    )
    return Section("unknown", "What is not known", (*lines, *notes), _UNKNOWN, tuple(rows))


def _cures(one: DatabaseHealth, check: CheckRow) -> list[str]:
    """Return why a check could not look, and what would cure it: by its findings, else its own reason."""
    told = [
        f"{row.object}: {row.summary}. {row.remedy}" if row.object else f"{row.summary}. {row.remedy}"
        for row in one.findings
        if row.check == check.check and row.status == "unknown"
    ]
    return told or [check.reason or "no reason was given"]


def _alerts(page: HealthPage) -> Section:
    if page.alerts is None:
        return Section("alerts", "Alerts", (page.alerts_note or "No alerts are kept here.",), absent=True)
    rows = [_alert(row) for row in page.alerts]
    lines = () if rows else ("None is pending or firing.",)
    lines = (page.alerts_note, *lines) if page.alerts_note else lines
    return Section("alerts", "Alerts", lines, _ALERTS, tuple(rows))


def _alert(row: AlertRow) -> Row:
    return (row.state, row.severity, row.database, row.check, row.object or "", row.since, row.notified, row.note)


def _detail(one: DatabaseHealth, page: HealthPage, number: int) -> Detail:
    looks = {point.at for series in one.history or () for point in series.points if point.at >= page.since}
    start = min(looks) if len(looks) > 1 else page.since  # a young history has the whole width all the same
    span = spanning(start, max([page.generated_at, *looks]), looks, page.full_from)
    shown, left_out = _chosen(one.history or (), span)
    within = [series for series in shown if any(span.start <= point.at for point in series.points)]
    note = one.history_note or ("" if within else "No measurement is kept of this time yet.")
    rows: list[Row] = [
        (c.status, c.check, c.title, rules.quantity(c.value, c.unit), rules.seconds(c.seconds))
        for c in sorted(one.checks, key=lambda check: -check.seconds)
    ]
    return Detail(
        anchor=f"database-{number}",
        database=one.database,
        plots=tuple(plot(series, span) for series in within),
        left_out=left_out,
        start=rules.utc(span.start),
        end=rules.utc(span.end),
        note=note,
        checks=Section(
            f"checks-{number}",
            f"Checks of {one.database} and what they cost",
            (_cost(one),),
            _CHECKS,
            tuple(rows),
        ),
    )


def _cost(one: DatabaseHealth) -> str:
    total = rules.seconds(sum(check.seconds for check in one.checks))
    dear = sorted(one.checks, key=lambda check: -check.seconds)[:MOST_NAMED]
    named = ", ".join(f"{check.check} {rules.seconds(check.seconds)}" for check in dear)
    return f"{rules.count(len(one.checks))} checks took {total} of queries and judging; most of it: {named}."


def _chosen(history: Iterable[Series], span: Span) -> tuple[list[Series], int]:
    """Return what is plotted: the worst first, of one check no more than a few objects; and how many are left out."""

    def place(series: Series) -> tuple[int, str, float]:
        last = series.points[-1]
        gravity = len(_GRAVITY) if span.is_over(series) else _gravity(last.status)
        return gravity, series.check, -last.value

    ordered = sorted(history, key=place)
    kept: list[Series] = []
    of: dict[str, int] = {}
    for series in ordered:
        of[series.check] = of.get(series.check, 0) + 1
        if of[series.check] <= MOST_OF_A_CHECK and len(kept) < MOST_PLOTS:
            kept.append(series)
    return kept, len(ordered) - len(kept)


_FLEET: Columns = (
    ("Database", "code"), ("Status", "pill"), ("Critical", "number"), ("Warnings", "number"), ("Unknown", "number"),
    ("Coverage", "text"), ("Server", "text"), ("Looked at", "text"),
)  # fmt: skip
_UNKNOWN: Columns = (
    ("Database", "code"),
    ("Check", "code"),
    ("What it would say", "text"),
    ("Why, and the cure", "text"),
)
_ALERTS: Columns = (
    ("State", "pill"), ("Severity", "pill"), ("Database", "code"), ("Check", "code"), ("Object", "code"),
    ("Since", "text"), ("Told", "text"), ("Note", "text"),
)  # fmt: skip
_CHECKS: Columns = (
    ("Status", "pill"), ("Check", "code"), ("What it says", "text"), ("Measured", "number"), ("Took", "number"),
)  # fmt: skip

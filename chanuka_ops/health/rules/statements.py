"""Statements: what is slow, and what has become slower than it usually is."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Rates, Row, Rows, Scope, Status
from chanuka_ops.health.rules.rates import span
from chanuka_ops.health.sampling.rules import SLOWER_FACTOR, added

# Half a second is long enough for a person to wait for; once or twice it's an accident.
SLOW_MS = 500.0
SLOW_FLOOR_CALLS = 3
# Timing varies by half, or by two with a cold cache; three times as long is something else.
REGRESSION_FACTOR = SLOWER_FACTOR
# Of a mean of fewer calls one slow one makes a regression.
REGRESSION_FLOOR_CALLS = 10
USUAL_FLOOR_CALLS = 50
# From 0.1 ms to 0.4 ms is four times as long, and nobody's trouble.
REGRESSION_FLOOR_MS = 5.0
_SHOWN = 90

_NOT_INSTALLED = (
    "pg_stat_statements is not there, so statements are not looked at: add it to shared_preload_libraries, restart,"
    " and: create extension pg_stat_statements"
)
_NOT_LOADED = (
    "the extension pg_stat_statements is installed, but its library isn't loaded: add it to shared_preload_libraries"
    " and restart"
)


def _counted(rows: Rows) -> list[Row]:
    return [row for row in rows if "calls" in row]


def _absence(rows: Rows) -> str | None:
    """Say why no statements are looked at; None where they are."""
    for row in rows:
        if "installed" in row:
            if not row["installed"]:
                return _NOT_INSTALLED
            if not row["loaded"]:
                return _NOT_LOADED
    return None


def slow(rows: Rows, case: Case) -> Iterator[Finding]:
    """Statements whose calls take long."""
    if why := _absence(rows):
        yield case.note(why)
    for row in _counted(rows):
        calls = added(row, "calls")
        if calls < SLOW_FLOOR_CALLS:
            continue
        mean_ms = added(row, "total_ms") / calls
        found = case.finding(
            row["key"],
            f"{calls:.0f} calls {span(row, case)} took {mean_ms:.0f} ms each: {_short(row['query'])}",
            "explain (analyze, buffers) the statement with values of yours",
            value=mean_ms,
        )
        if found.status is not Status.OK:
            yield found


def regression(rows: Rows, case: Case) -> Iterator[Finding]:
    """Statements that take several times what they usually do."""
    if why := _absence(rows):
        yield case.note(why)
    for row in _counted(rows):
        usual, calls = row.get("usual"), added(row, "calls")
        if row["was"] is None or usual is None or calls < REGRESSION_FLOOR_CALLS or usual["calls"] < USUAL_FLOOR_CALLS:
            continue
        mean_ms = added(row, "total_ms") / calls
        if mean_ms - usual["mean_ms"] < REGRESSION_FLOOR_MS:
            continue
        found = case.finding(
            row["key"],
            f"{calls:.0f} calls {span(row, case)} took {mean_ms:.1f} ms each, {mean_ms / usual['mean_ms']:.1f} times"
            f" the usual {usual['mean_ms']:.1f} ms: {_short(row['query'])}",
            "ask what changed: a dropped index, stale statistics (analyze), a new plan, more rows, a migration",
            value=mean_ms / usual["mean_ms"],
        )
        if found.status is not Status.OK:
            yield found


def _short(query: str | None) -> str:
    text = query or "(its text is hidden)"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


_RATES = Rates(("calls", "total_ms"))

CHECKS = (
    Check(
        "query.slow",
        "statements are quick",
        (Status.INFO,),
        slow,
        "The mean time of a call since the look before, of this database's dearest statements. A nightly report may"
        " take its time: it's advice.",
        remedy="explain (analyze, buffers) the statement with real values; look for a scan of many rows that keeps few,"
        " and for estimates far from what was found (analyze). Give a report a limit of its own by its query id.",
        link="https://www.postgresql.org/docs/current/pgstatstatements.html",
        query="statements",
        scope=Scope.SESSION,
        unit="ms",
        limits=Limits(SLOW_MS),
        needs=(Need.SESSIONS,),
        probes=True,
        rates=_RATES,
        learns=True,
    ),
    Check(
        "query.regression",
        "statements take as long as usual",
        (Status.WARNING,),
        regression,
        "Compared with what the same statement usually takes, which is learnt from look to look; a slow time is not"
        " learnt before it has lasted three days. A statement that was never seen has nothing to be compared with, and"
        " few calls or a few milliseconds more say nothing.",
        remedy="Ask what changed at that time: a migration, a dropped index, statistics (analyze the tables), a generic"
        " plan (plan_cache_mode), a table that grew. auto_explain shows the plan that is used now.",
        link="https://www.postgresql.org/docs/current/pgstatstatements.html",
        query="statements",
        scope=Scope.SESSION,
        unit="times the usual",
        limits=Limits(REGRESSION_FACTOR),
        needs=(Need.SESSIONS,),
        probes=True,
        rates=_RATES,
        learns=True,
    ),
)

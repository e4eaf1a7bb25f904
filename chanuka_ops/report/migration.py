"""What the report of a migration says, from JSON documents: pure. Whoever ran it puts the document together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chanuka_ops.report import rules
from chanuka_ops.report.model import Columns, Row, Section
from chanuka_ops.report.rules import Verdict

Document = Mapping[str, Any]
_Laid = tuple[list[str], list[Row]]

_HOLDS_UP = {"": "nobody", "w": "writers", "rw": "readers and writers"}
_OUTCOMES = {"done": "good", "failed": "bad", "refused": "info", "aborted": "bad", "unknown": "unknown"}
_LONGEST_SQL = 400


@dataclass(frozen=True, slots=True)
class _Part:
    """How the value of one key is laid out; `nothing` is said where there is no line and no row."""

    key: str
    title: str
    columns: Columns
    lay: Callable[[Any], _Laid]
    nothing: str


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page says."""

    title: str
    meta: tuple[str, ...]
    verdict: Verdict
    sections: tuple[Section, ...]


def page(document: Document) -> Page:
    """Lay a migration's document out. A key that is absent, or None, gives a section that says "not done"."""
    database = str(document.get("database") or "?")
    named = (("run", "run_id"), ("by", "actor"), ("began", "started_at"), ("ended", "finished_at"))
    meta = tuple(f"{label} {document[key]}" for label, key in named if document.get(key))
    sections = (
        *(_section(document, part) for part in _BEFORE),
        _predictions(document),
        *(_section(document, part) for part in _AFTER),
    )
    return Page(f"Migration of {database}", meta, _verdict(document), sections)


def predictions(document: Document) -> list[dict[str, Any]]:
    """Return what was predicted beside what it took: as stated, else by revision, summed over its statements.

    A revision has an interval only where each of its statements has one.
    """
    stated = document.get("predictions")
    if stated is not None:
        return [dict(item) for item in stated]
    rehearsal, applied = document.get("rehearsal"), document.get("applied")
    if not rehearsal or not applied:
        return []
    return [
        {"revision": step["revision"], "actual_s": step["seconds"], **_interval(rehearsal, step["revision"])}
        for step in applied
    ]


def _interval(rehearsal: Document, revision: str) -> dict[str, float | None]:
    of = [item for item in rehearsal["statements"] if item["revision"] == revision and item["direction"] == "up"]
    found = [item.get("prediction") for item in of]
    if not found or None in found:
        return {"low_s": None, "high_s": None}
    return {key: round(sum(item[key] for item in found if item), 3) for key in ("low_s", "high_s")}


def _verdict(document: Document) -> Verdict:
    outcome = str(document.get("outcome") or "unknown")
    tone, left = _OUTCOMES.get(outcome, "unknown"), document.get("left") or ()
    applied = document.get("applied") or ()
    if outcome == "done":
        headline = f"{rules.count(len(applied))} revision{'' if len(applied) == 1 else 's'} went through"
        headline = headline if applied else "Nothing was to be done"
        tone = "warn" if left else tone
    else:
        headline = {"refused": "Refused, and nothing was changed", "failed": "The migration failed",
                    "aborted": "The migration was cancelled"}.get(outcome, "How it ended is not known")  # fmt: skip
    return Verdict(tone, outcome, headline, tuple(_facts(document, left)))


def _facts(document: Document, left: Sequence[Document]) -> Iterator[str]:
    if document.get("error"):
        yield str(document["error"])
    if document.get("outcome") == "done" and "from" in document and "to" in document:
        yield f"From {document['from'] or 'empty'} to {document['to'] or 'empty'}."
    rehearsal = document.get("rehearsal")
    if not rehearsal:
        yield "It was not rehearsed."
    else:
        how = "passed" if rehearsal["passed"] else f"failed: {rehearsal['problem']}"
        yield f"Its rehearsal on {rehearsal['backup_id']} ({rehearsal['tier']}) {how}."
    if left:
        yield f"{rules.count(len(left))} left unfinished: see below."


def _section(document: Document, part: _Part) -> Section:
    found = document.get(part.key)
    if found is None:
        return Section(part.key, part.title, ("Not done.",), absent=True)
    lines, rows = part.lay(found)
    nothing = () if rows or lines else (part.nothing,)
    return Section(part.key, part.title, (*lines, *nothing), part.columns, tuple(rows))


def _plan(found: Document) -> _Laid:
    lines = [f"The database stood at {found['current'] or 'empty'}; plan {found['plan_hash']}."]
    lines += [f"{problem['kind']}: {problem['message']}" for problem in found["problems"]]
    rows: list[Row] = [
        (
            r["revision"],
            r["doc"],
            "can lose data" if r["destructive"] else "",
            "in one transaction" if r["transactional"] else "not in one transaction",
            r["sha256"][:12],
        )
        for r in found["pending"]
    ]
    return lines, rows


def _lint(found: Document) -> _Laid:
    rows: list[Row] = [
        (
            f"waived until {f['waived_until']}" if f.get("waived_until") else f["severity"],
            f["rule"],
            f.get("revision") or "",
            f["message"],
            f.get("safer") or "",
        )
        for f in found["findings"]
    ]
    return list(map(str, found.get("notes") or ())), rows


def _gate(found: Document) -> _Laid:
    lines = ["It may run." if found["allowed"] else "It may not run.", *map(str, found["notes"])]
    return lines, [(r["kind"], r["message"], r["remedy"]) for r in found["refusals"]]


def _rehearsal(found: Document) -> _Laid:
    lines = [f"{leg['name'].replace('_', ' ')}: {'passed' if leg['passed'] else leg['error']}, in"
             f" {rules.seconds(leg['seconds'])}" for leg in found["legs"]]  # fmt: skip
    restored = found["schema_restored"]
    if restored is not None:
        lines.append(f"The schema after the way down was {'as before' if restored else 'not as before'}.")
    lines += [f"on backup {found['backup_id']} of {found['backup_at']}, {found['tier']}", *found["warnings"]]
    return lines, [_statement(item) for item in found["statements"]]


def _statement(item: Document) -> Row:
    predicted = item.get("prediction")
    return (
        item["direction"],
        _short(item["sql"]),
        "; ".join(f"{name}: {mode}" for name, mode in item["locks"].items()) or "none",
        _HOLDS_UP[item["blocks"]],
        rules.count(item["scanned_rows_while_blocking"]),
        ", ".join(item["rewritten"]),
        rules.size(item["wal_bytes"]),
        rules.seconds(item["seconds"]),
        _span(predicted["low_s"], predicted["high_s"]) if predicted else item.get("no_prediction") or "none",
        item["error"] or "",
    )


def _predictions(document: Document) -> Section:
    title, found = "Predicted, and what it took", predictions(document)
    if not found:
        return Section("predictions", title, ("Not done.",), absent=True)
    rows: list[Row] = [
        (
            item.get("revision") or "",
            _short(item.get("sql") or "all statements"),
            _span(item["low_s"], item["high_s"]) if item.get("high_s") is not None else "no prediction",
            rules.seconds(item.get("actual_s")),
            _within(item),
        )
        for item in found
    ]
    return Section("predictions", title, (), _PREDICTED, tuple(rows))


def _within(item: Document) -> str:
    """Tell whether it kept to the interval; what has no interval, or was not timed, isn't judged."""
    actual, high = item.get("actual_s"), item.get("high_s")
    if actual is None or high is None:
        return "unknown"
    return "ok" if actual <= high else "warning"


def _applied(found: Iterable[Document]) -> _Laid:
    return [], [(s["revision"], rules.seconds(s["seconds"]), rules.count(s["attempts"])) for s in found]


def _blockers(found: Iterable[Document | str]) -> _Laid:
    rows: list[Row] = [
        ("", item) if isinstance(item, str) else (str(item.get("revision") or ""), _blocker(item)) for item in found
    ]
    return [], rows


def _blocker(item: Document) -> str:
    """Say what is known of one that held it up; its words where it has some."""
    if item.get("message"):
        return str(item["message"])
    return ", ".join(f"{key} {value}" for key, value in item.items() if key != "revision" and value is not None)


def _journal(found: Iterable[Document]) -> _Laid:
    return [], [
        (
            e["revision"],
            e["direction"],
            e["outcome"],
            str(e["started_at"]),
            rules.seconds(e["seconds"]),
            rules.count(e["attempts"]),
            f"{e['actor']} on {e['host']}",
            e["sha256"][:12],
            e["message"] or "",
        )
        for e in found
    ]


def _left(found: Iterable[Document]) -> _Laid:
    return [], [(item["object"], item["summary"], item["remedy"]) for item in found]


def _health(found: Document | str) -> _Laid:
    """Show a status alone, or a document with findings."""
    if isinstance(found, str):
        return [f"{found}: `chanuka-ops health check` says of what."], []
    wrong = [item for item in found["findings"] if item["status"] != "ok"]
    rows: list[Row] = [(item["status"], item["check"], item["object"] or "", item["summary"]) for item in wrong]
    return [f"{found['status']}, by {rules.count(len(found['checks']))} checks"], rows


def _short(sql: str) -> str:
    one_line = " ".join(sql.split())
    return one_line if len(one_line) <= _LONGEST_SQL else one_line[: _LONGEST_SQL - 1] + "…"


def _span(low_s: float, high_s: float) -> str:
    return f"{rules.seconds(low_s)} to {rules.seconds(high_s)}"


_PREDICTED: Columns = (
    ("Revision", "code"), ("Statement", "code"), ("Predicted", "number"), ("Took", "number"), ("Kept", "pill"),
)  # fmt: skip
_STATEMENTS: Columns = (
    ("Way", "text"), ("Statement", "code"), ("Locks", "text"), ("Holds up", "text"), ("Rows read meanwhile", "number"),
    ("Rewrites", "code"), ("WAL", "number"), ("Took", "number"), ("Predicted", "text"), ("Error", "text"),
)  # fmt: skip
_JOURNAL: Columns = (
    ("Revision", "code"), ("Way", "text"), ("Outcome", "pill"), ("Began", "text"), ("Took", "number"),
    ("Attempts", "number"), ("By", "text"), ("File", "code"), ("Message", "text"),
)  # fmt: skip
_PLAN: Columns = (("Revision", "code"), ("What", "text"), ("Data", "text"), ("How", "text"), ("File", "code"))
_LINT: Columns = (("Severity", "pill"), ("Rule", "code"), ("Revision", "code"), ("What", "text"), ("Safer", "text"))
_HEALTH: Columns = (("Status", "pill"), ("Check", "code"), ("Object", "code"), ("What", "text"))
_APPLIED: Columns = (("Revision", "code"), ("Took", "number"), ("Attempts", "number"))
_GATE: Columns = (("Missing", "text"), ("Why", "text"), ("What to do", "text"))
_LEFT: Columns = (("Object", "code"), ("What", "text"), ("What to do", "code"))
_BEFORE = (
    _Part("plan", "Plan", _PLAN, _plan, "Nothing was pending."),
    _Part("lint", "Lint", _LINT, _lint, "Nothing was found."),
    _Part("rehearsal", "Rehearsal", _STATEMENTS, _rehearsal, "Nothing was rehearsed."),
    _Part("gate", "Gate", _GATE, _gate, ""),
    _Part("applied", "Applied", _APPLIED, _applied, "Nothing was applied."),
)
_AFTER = (
    _Part("blockers", "Who held it up", (("Revision", "code"), ("Who", "text")), _blockers, "Nobody."),
    _Part("journal", "Journal", _JOURNAL, _journal, "The journal has no entry of this run."),
    _Part("left", "Left unfinished", _LEFT, _left, "Nothing."),
    _Part("health", "Health afterwards", _HEALTH, _health, ""),
)

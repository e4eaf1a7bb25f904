"""The report of a migration: every part of the document is on the page, what wasn't done says so, nothing leaks."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.errors import StoreError
from chanuka_ops.report.migration import page, predictions
from chanuka_ops.report.service import render_migration, write_migration

SQL = "ALTER TABLE bills ADD COLUMN u uuid DEFAULT gen_random_uuid()"
SECTIONS = ("plan", "lint", "rehearsal", "gate", "applied", "predictions", "blockers", "journal", "left", "health")


def statement(seconds: float, high_s: float | None, direction: str = "up") -> dict[str, Any]:
    predicted = None if high_s is None else {"low_s": seconds / 2, "high_s": high_s, "heap_ratio": 1.0}
    return {
        "sql": SQL, "revision": "b2", "direction": direction, "seconds": seconds, "blocks": "rw",
        "locks": {"bills": "AccessExclusiveLock"}, "rewritten": ["bills"], "scanned_rows_while_blocking": 4711,
        "wal_bytes": 2048, "error": None, "prediction": predicted, "no_prediction": None if predicted else "a subset",
    }  # fmt: skip


def document(**changed: Any) -> dict[str, Any]:
    rehearsal = {
        "passed": True, "problem": None, "backup_id": "main-1-abc", "backup_at": "2026-11-28T10:00:00+00:00",
        "tier": "proven", "schema_restored": True, "warnings": ["tablespace fast couldn't be made"],
        "legs": [{"name": "up_again", "passed": True, "seconds": 0.25, "error": None, "revisions": ["b2"]}],
        "statements": [statement(0.2, 0.9), statement(0.1, 0.3, "down")],
    }  # fmt: skip
    plan = {
        "current": "a1", "heads": ["b2"], "plan_hash": "ab" * 32,
        "pending": [{"revision": "b2", "doc": "Add u.", "sha256": "cd" * 32, "destructive": True,
                     "transactional": False}],
        "problems": [{"kind": "drift", "revision": None, "message": "the schema isn't the recorded one"}],
    }  # fmt: skip
    finding = {
        "rule": "volatile-default", "severity": "danger", "revision": "b2", "message": "rewrites bills",
        "safer": "add it nullable", "waived_until": None,
    }  # fmt: skip
    entry = {
        "revision": "b2", "direction": "up", "outcome": "done", "started_at": "2026-11-28T11:00:00+00:00",
        "seconds": 0.4, "attempts": 2, "actor": "ada", "host": "ops1", "sha256": "cd" * 32, "message": "",
    }  # fmt: skip
    left = {"kind": "invalid_index", "object": "public.ix", "remedy": "reindex it", "summary": "ix is invalid"}
    full = {
        "database": "main", "run_id": "3fa1", "actor": "ada", "started_at": "2026-11-28T11:00:00+00:00",
        "finished_at": "2026-11-28T11:00:01+00:00", "outcome": "done", "from": "a1", "to": "b2",
        "plan": plan, "lint": {"findings": [finding], "notes": []}, "rehearsal": rehearsal,
        "gate": {"allowed": True, "refusals": [], "notes": ["approved by grace: urgent"]},
        "applied": [{"revision": "b2", "seconds": 0.4, "attempts": 2}],
        "blockers": [{"pid": 99, "application_name": "reporting", "age_s": 12.5, "query": "select 1"}, "pid 7, vacuum"],
        "journal": [entry], "left": [left], "health": "warning",
    }  # fmt: skip
    return {**full, **changed}


class Page(HTMLParser):
    """What a browser would take from it: text, and whatever would load or run something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.loads: list[str] = []
        self.headings: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [tag] if tag in {"script", "img", "link", "iframe"} else []
        self.loads += [name for name, _ in attrs if name in {"src", "href", "onclick"}]
        if tag == "h2":
            self.headings.append(dict(attrs)["id"] or "")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_every_part_of_the_document_is_on_the_page() -> None:
    shown = Page(render_migration(document()))
    assert shown.open == []
    assert shown.loads == [], "it needs nothing beside itself"
    assert tuple(shown.headings) == SECTIONS
    for words in (
        "1 revision went through", "From a1 to b2.", "main-1-abc (proven) passed", "1 left unfinished", "can lose data",
        "drift: the schema isn't", "rewrites bills", "add it nullable", "up again: passed, in 250 ms", "as before", SQL,
        "bills: AccessExclusiveLock", "readers and writers", "4 711", "100 ms to 900 ms", "approved by grace",
        "reporting", "pid 7, vacuum", "ada on ops1", "reindex it", "ix is invalid", "tablespace fast", "run 3fa1",
    ):  # fmt: skip
        assert words in shown.text, words
    assert "Not done." not in shown.text


def test_what_was_not_done_says_so() -> None:
    found = page({"database": "main"})
    assert found.verdict.tone == "unknown"
    assert [section.anchor for section in found.sections if section.absent] == list(SECTIONS)
    assert Page(render_migration({})).text.count("Not done.") == len(SECTIONS)
    failed = {"outcome": "failed", "from": None, "to": None}
    assert "From empty to empty" not in Page(render_migration(failed)).text, "how far it came isn't known"
    refused = {"allowed": False, "notes": [], "refusals": [{"kind": "backup", "message": "none", "remedy": "take one"}]}
    shown = Page(render_migration({"outcome": "refused", "gate": refused, "error": "no proven backup"})).text
    assert "Refused, and nothing was changed no proven backup" in shown
    assert "take one" in shown


@pytest.mark.parametrize(
    ("changed", "tone"),
    [
        ({"left": []}, "good"),
        ({}, "warn"),
        ({"outcome": "failed"}, "bad"),
        ({"outcome": "refused"}, "info"),
        ({"outcome": "something else"}, "unknown"),
        ({"outcome": None}, "unknown"),
    ],
)
def test_the_page_never_looks_better_than_the_run(changed: dict[str, Any], tone: str) -> None:
    assert page(document(**changed)).verdict.tone == tone


def test_predictions_are_beside_what_it_took() -> None:
    assert predictions(document()) == [{"revision": "b2", "actual_s": 0.4, "low_s": 0.1, "high_s": 0.9}]
    late = document(applied=[{"revision": "b2", "seconds": 1.4, "attempts": 1}])
    kept = {section.anchor: section.rows for section in page(late).sections}["predictions"]
    assert kept == (("b2", "all statements", "100 ms to 900 ms", "1.40 s", "warning"),)
    half = document()
    half["rehearsal"]["statements"].append(statement(0.1, None))
    kept = {section.anchor: section.rows for section in page(half).sections}["predictions"]
    assert kept == (("b2", "all statements", "no prediction", "400 ms", "unknown"),), "half a sum is none"
    own = [{"revision": "b2", "sql": SQL, "low_s": 0.1, "high_s": 0.2, "actual_s": 0.15}]
    assert predictions(document(predictions=own)) == own


def test_both_files_are_written_and_hold_no_password_nor_markup(tmp_path: Path) -> None:
    sql = "<script>alert(1)</script> create subscription s connection 'host=a password=hunter2' \u202e"
    changed = document(run_id="../../x", error="postgresql://ops:hunter2@db/x is down", outcome="failed")
    changed["rehearsal"]["statements"][0]["sql"] = sql
    path = write_migration(tmp_path / "reports", changed)
    assert path == tmp_path / "reports" / "migration-main-.._.._x.html"
    html, beside = path.read_text(encoding="utf-8"), path.with_name("migration-main-.._.._x.json")
    assert Page(html).loads == []
    assert "\u202e" not in html
    assert "hunter2" not in html + beside.read_text(encoding="utf-8")
    assert json.loads(beside.read_text(encoding="utf-8"))["rehearsal"]["statements"][1]["sql"] == SQL
    assert sorted(path.parent.iterdir()) == sorted([path, beside])


def test_a_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("")
    with pytest.raises(StoreError, match="the report can't be written to"):
        write_migration(tmp_path / "reports", document())

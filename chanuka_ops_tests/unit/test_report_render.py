"""The report as a document: complete, escaped, self-contained, and honest about what wasn't done."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops.errors import StoreError
from chanuka_ops.report import rules
from chanuka_ops.report.model import AdviceRow, FindingRow, Health, Proof, Report, Step, TableProof
from chanuka_ops.report.service import MOST_ROWS, MOST_TODOS, render, write

VOID = {"meta", "line", "rect", "link", "br", "img", "input"}

FINDING = FindingRow("stats.missing", "warning", "public.bills", 1200, "rows", 0, "never analysed", "ANALYZE it")
PROOF = Proof(
    backup_id="20261122T031500Z-ab12",
    tier="proven",
    files=14,
    bytes=1 << 20,
    source_bytes=3 << 20,
    tables_compared=2,
    rows_compared=12345,
    coverage=1.0,
    restore_seconds=3.2,
    tables=(TableProof("public.bills", 12000, 12000, equal=True), TableProof("public.users", 345, 345, equal=True)),
)
ADVICE = AdviceRow(
    "vacuum",
    "public.bills",
    "many dead",
    "VACUUM (ANALYZE) public.bills",
    None,
    "low",
    "SHARE",
    "applied",
    None,
    8192,
    1.0,
)
REPORT = Report(
    title="demo",
    generated_at=datetime(2026, 11, 22, 5, 0, tzinfo=timezone(timedelta(hours=2))),
    database="chanuka",
    server_version="18.6",
    status="ok",
    steps=(Step("migrate", "done", 1.0, "7 revisions"), Step("backup", "done", 3.0)),
    health=Health("ok", (), {"ok": 19}, 19),
    proof=PROOF,
    advice=(ADVICE,),
    run_id="3fa1",
)


class Document(HTMLParser):
    """What a browser would see; fails on tags that don't match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, content) for name, content in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, content) for name, content in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data


def test_everything_of_the_run_is_on_the_page() -> None:
    text = " ".join(Document(render(REPORT)).text.split())
    for words in (
        "All is well",
        "2026-11-22 03:00:00 UTC",
        "PostgreSQL 18.6",
        "20261122T031500Z-ab12",
        "12 345",  # split() takes the thin space for a space
        "1.0 MiB",
        "public.users",
        "VACUUM (ANALYZE) public.bills",
        "8.0 KiB",
        "7 revisions",
        "19 checks judged",
    ):
        assert words in text, words


def test_the_verdict_comes_first_then_what_to_do_then_the_proof() -> None:
    text = Document(render(replace(REPORT, health=Health("warning", (FINDING,), {}, 19)))).text
    places = [
        text.index(words) for words in ("something wants attention", "What to do", "The proof", "Steps", "Health\n")
    ]
    assert places == sorted(places)


def test_nothing_comes_from_elsewhere_and_nothing_runs() -> None:
    text = render(REPORT)
    document = Document(text)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(document.tags)
    assert not [name for _, name, _ in document.attributes if name in {"src", "style"} or name.startswith("on")]
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def poisoned(value: Any, poison: str) -> Any:
    """Put the poison into every text of a tree of dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: poisoned(getattr(value, field.name), poison) for field in fields(value)}
        return replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(poisoned(item, poison) for item in value)
    if isinstance(value, dict):
        return {poison + key: content for key, content in value.items()}
    return poison + value if isinstance(value, str) else value


def full() -> Report:
    return replace(
        REPORT,
        health=Health("warning", (FINDING, replace(FINDING, object=None)), {"warning": 2}, 18, 1),
        proof=replace(PROOF, mismatches=("public.bills differs",)),
        advice=(ADVICE, replace(ADVICE, outcome="refused", outcome_reason="not approved")),
    )


def test_no_text_of_any_field_becomes_markup() -> None:
    plain, evil = Document(render(full())), Document(render(poisoned(full(), EVIL)))
    assert set(evil.tags) <= set(plain.tags)
    assert "script" not in evil.tags
    assert "img" not in evil.tags
    assert not [name for _, name, _ in evil.attributes if name.startswith("on")]
    assert EVIL in evil.text


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\ud800"])
def test_what_hides_or_turns_text_is_shown(hidden: str) -> None:
    text = render(replace(REPORT, database=f"a{hidden}b"))
    assert f"a\\u{ord(hidden):04x}b" in text
    assert hidden not in text
    text.encode()


def test_tables_have_captions_and_headers_and_the_chart_a_text() -> None:
    document = Document(render(full()))
    assert document.tags.count("table") == document.tags.count("caption") == 4
    assert {content for tag, name, content in document.attributes if tag == "th" and name == "scope"} == {"col", "row"}
    svg = {name: content for tag, name, content in document.attributes if tag == "svg"}
    assert svg["role"] == "img"
    ids = {content for _, name, content in document.attributes if name == "id"}
    assert set((svg["aria-labelledby"] or "").split()) <= ids
    assert "migrate: done, 1.00 s." in document.text


def test_parts_that_were_not_done_are_said_to_be_missing() -> None:
    text = Document(render(replace(REPORT, steps=(), health=None, proof=None, advice=None))).text
    for words in ("No step was run", "Health was not checked", "No backup was taken", "optimiser was not run"):
        assert words in text


def test_long_lists_are_folded_but_nothing_is_lost() -> None:
    tables = tuple(TableProof(f"public.t{n}", n, n, equal=n != 7) for n in range(MOST_ROWS + 1))
    rows = tuple(replace(FINDING, object=f"public.t{n}") for n in range(MOST_TODOS + 3))
    report = replace(REPORT, proof=replace(PROOF, tables=tables), health=Health("warning", rows, {}, 19))
    document = Document(render(report))
    assert "details" in document.tags
    assert all(table.table in document.text for table in tables)
    assert document.text.index("Tables that differ") < document.text.index("tables that are equal")
    assert "And 3 more" in document.text


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "latest.html"
    write(REPORT, path)
    first = path.read_text(encoding="utf-8")
    write(replace(REPORT, title="second"), path)
    assert first == render(REPORT)
    assert "second" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["latest.html"]


def test_the_old_report_stays_where_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "latest.html"
    write(REPORT, path)

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StoreError, match=r"latest\.html: No space left"):
        write(replace(REPORT, title="second"), path)
    assert path.read_text(encoding="utf-8") == render(REPORT)
    assert [file.name for file in tmp_path.iterdir()] == ["latest.html"]


def test_a_place_that_is_none_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can't be written"):
        write(REPORT, tmp_path / "file" / "latest.html")


def test_any_time_zone_is_shown_as_utc() -> None:
    aware = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
    assert render(replace(REPORT, generated_at=aware)) == render(REPORT)


def test_every_tone_has_its_colours() -> None:
    text = render(REPORT)
    for tone in {*rules.TONES.values(), "unknown"}:
        assert f".{tone} {{ --tone: var(--{tone})" in text

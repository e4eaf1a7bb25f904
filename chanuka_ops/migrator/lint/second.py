"""A second opinion: the findings of `squawk`, where that program is on the PATH. It never decides anything."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

from chanuka_ops.migrator.lint.model import Finding, Report, Rule, Source
from chanuka_ops.postgres import process

PROGRAM = "squawk"
DEADLINE_S = 60.0
DOCS = "https://squawkhq.com/docs/rules"


def joined(report: Report, content: bytes, path: str, *, version: int | None) -> Report:
    """Return the report with squawk's findings, each of them style; without the program, with a note.

    Errors: `ToolFailed`.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        note = f"no second opinion: {PROGRAM} is not on the PATH (pip install squawk-cli)"
        return replace(report, notes=(*report.notes, note))
    argv = [program, "--reporter", "json", "--stdin-filepath", path]
    argv += ["--pg-version", f"{version}.0"] if version else []
    lines: list[str] = []
    finished = process.run(
        argv,
        deadline_s=DEADLINE_S,
        stdin=content.decode("utf-8-sig"),
        on_line=lines.append,
        check=False,  # it ends with 1 where it finds something
    )
    try:
        answer = json.loads("\n".join(lines) or "[]")
    except json.JSONDecodeError:
        said = finished.stderr.strip().splitlines()[-1:] or ["nothing"]
        return replace(report, notes=(*report.notes, f"no second opinion: {PROGRAM} said {said[0]}"))
    source = Source(path)
    return replace(report, findings=(*report.findings, *((source, _finding(item)) for item in answer)))


def _finding(item: dict[str, Any]) -> Finding:
    """Turn one of squawk's findings into one of ours; its lines count from 0."""
    name = f"squawk:{item.get('rule_name', 'unknown')}"
    message = str(item.get("message", "")).strip()
    safer = str(item.get("help") or "see its documentation")
    rule = Rule(name, "style", message, message, safer, f"{DOCS}#{name.partition(':')[2]}")
    return Finding(rule, "style", "", int(item.get("line", 0)) + 1, "", message)

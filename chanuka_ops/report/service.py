"""Render a report and put it in its place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from chanuka_ops import durable
from chanuka_ops.errors import StoreError
from chanuka_ops.logs import redact
from chanuka_ops.report import health, migration, plots, rules
from chanuka_ops.report.model import HealthPage, Report

MOST_TODOS = 12  # more than a person takes in at once; the rest stands under Health
MOST_ROWS = 40  # a longer table is folded, what differs in it is not


def render(report: Report) -> str:
    """Return the whole HTML document; it needs nothing beside itself, and no script."""
    return _page(
        "template.html",
        title=report.title,
        report=report,
        verdict=rules.verdict(report),
        todos=rules.todos(report),
        chart=rules.chart(report.steps),
        tiers=rules.TIERS,
        most_todos=MOST_TODOS,
        most_rows=MOST_ROWS,
    )


def write(report: Report, path: Path) -> None:
    """Write the document: whoever looks finds the old file or the whole new one.

    Errors: `StoreError` naming the path and why it can't be written.
    """
    _put(path, render(report))


def render_migration(document: Mapping[str, Any]) -> str:
    """Return the HTML document of a migration's run; see `write_migration` for what it is made of."""
    page = migration.page(document)
    return _page("migration.html", title=page.title, verdict=page.verdict, page=page)


def write_migration(directory: Path, document: Mapping[str, Any]) -> Path:
    """Write a migration's run as migration-<database>-<run>.html, and the same as .json; return the HTML's path.

    The document's keys, each of which may be absent or None (its section then says "not done"): ::

        database, run_id, actor, started_at, finished_at  (words; times in ISO 8601), direction, from, to
        outcome      done · failed · refused · aborted · unknown;  error: its sentence
        plan, lint, gate, rehearsal   the documents of `migrate plan, lint, gate, rehearse`
        applied      [{revision, seconds, attempts}]
        predictions  [{revision, sql, low_s, high_s, actual_s}]; absent: by revision, from
                     rehearsal and applied
        blockers     [sentence, or {revision, pid, application_name, query, age_s, …} or {revision, message}]
        journal      the entries of `migrate history`
        left         [{kind, object, remedy, summary}]
        health       the status, or the document of `health check`

    Passwords in URLs and conninfo strings are masked in both files. Errors: `StoreError`.
    """
    safe = _masked(json.loads(json.dumps(document, default=str)))
    names = (re.sub(r"[^A-Za-z0-9_.-]", "_", str(safe.get(key) or "unknown")) for key in ("database", "run_id"))
    path = directory / f"migration-{'-'.join(names)}.html"
    _put(path.with_name(f"{path.name.removesuffix('.html')}.json"), json.dumps(safe, indent=1, ensure_ascii=False))
    _put(path, render_migration(safe))
    return path


def render_health(page: HealthPage) -> str:
    """Return the HTML document of `health report`."""
    found = health.laid(page)
    size = {"width": f"{plots.WIDTH:g}", "height": plots.HEIGHT}
    return _page("health.html", title=found.title, verdict=found.verdict, page=found, **size)


def write_health(page: HealthPage, path: Path) -> None:
    """Write the page of `health report`, old or whole. Errors: `StoreError`."""
    _put(path, render_health(page))


def _masked(found: Any) -> Any:
    """Mask every sentence by itself, so that the document stays one."""
    if isinstance(found, dict):
        return {key: _masked(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_masked(value) for value in found]
    return redact(found) if isinstance(found, str) else found


def _page(template: str, **said: Any) -> str:
    css = Markup(_read("template.css"))  # noqa: S704 - a file of this package, without anything from outside
    return _environment().get_template(template).render(css=css, **said)


def _put(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(path, content.encode(errors="backslashreplace"))
    except OSError as error:
        raise StoreError(f"the report can't be written to {path}: {error.strerror or error}") from None


def _read(name: str) -> str:
    return resources.files(__package__ or "chanuka_ops.report").joinpath(name).read_text(encoding="utf-8")


def _finalize(value: Any) -> Any:
    """Pass every value on its way to the page; what is Markup already comes from this package."""
    return rules.visible(redact(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=rules.size,
        count=rules.count,
        seconds=rules.seconds,
        quantity=rules.quantity,
        tone=rules.tone,
        counts=rules.counts,
        findings=rules.findings,
        waiting=rules.waiting,
        utc=rules.utc,
    )
    return environment

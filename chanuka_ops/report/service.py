"""Render a report and put it in its place."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from chanuka_ops import durable
from chanuka_ops.errors import StoreError
from chanuka_ops.report import rules
from chanuka_ops.report.model import Report

MOST_TODOS = 12  # more than a person takes in at once; the rest stands under Health
MOST_ROWS = 40  # a longer table is folded, what differs in it is not


def render(report: Report) -> str:
    """Return the whole HTML document; it needs nothing beside itself, and no script."""
    template = _environment().get_template("template.html")
    return template.render(
        report=report,
        verdict=rules.verdict(report),
        todos=rules.todos(report),
        chart=rules.chart(report.steps),
        css=Markup(_read("template.css")),  # noqa: S704 - a file of this package, without anything from outside
        tiers=rules.TIERS,
        most_todos=MOST_TODOS,
        most_rows=MOST_ROWS,
    )


def write(report: Report, path: Path) -> None:
    """Write the document: whoever looks finds the old file or the whole new one.

    Errors: `StoreError` naming the path and why it can't be written.
    """
    content = render(report).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(path, content)
    except OSError as error:
        raise StoreError(f"the report can't be written to {path}: {error.strerror or error}") from None


def _read(name: str) -> str:
    return resources.files(__package__ or "chanuka_ops.report").joinpath(name).read_text(encoding="utf-8")


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _finalize(value: Any) -> Any:
    """Pass every value on its way to the page; what is Markup already comes from this package."""
    return rules.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


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
        utc=_utc,
    )
    return environment

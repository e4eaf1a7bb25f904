"""`chanuka-ops migrate new`: a revision file with the safe form of a change, and its downgrade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chanuka_ops.cli.face import Face, common
from chanuka_ops.migrator import forms, writing
from chanuka_ops.migrator.forms import Request


@click.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(forms.KINDS), default="empty", show_default=True, help="What it changes.")
@click.option("--table", metavar="NAME", help="The table that is changed.")
@click.option("--schema", metavar="NAME", help="The table's schema (default: as the search path has it).")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="Its column; may be given several times.")
@click.option("--type", "type_", metavar="TYPE", help="The column's type; the enum's name for enum-value.")
@click.option("--value", metavar="SQL", help="What backfill fills in, as SQL; the new value for enum-value.")
@click.option(
    "--condition", metavar="SQL", help="What check demands; which rows backfill changes (default: the nulls)."
)
@click.option("--references", metavar="TABLE", help="What a foreign key refers to.")
@click.option(
    "--referenced-column",
    "referenced_columns",
    multiple=True,
    default=("id",),
    show_default=True,
    metavar="NAME",
    help="The column there; may be given several times.",
)
@click.option("--completes", metavar="REVISION", help="The expand half that drop-column or drop-table completes.")
@click.option("--message", "-m", metavar="WORDS", help="The first line of the file (default: by its kind).")
@click.option("--head", metavar="REVISION", help="After which revision, where there are several heads.")
@common
def new(face: Face, *, head: str | None, **options: Any) -> None:
    """Write a revision file with the safe form of a change, and its downgrade; print its path."""
    path = writing.write(Request(**options), face.settings().operations.migration, Path.cwd(), head=head)
    if face.as_json:
        face.answer({"path": str(path)})
    else:
        face.say(str(path))

"""Tables as the UI shows them."""

from collections.abc import Iterable, Sequence

import dagster as dg


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """Write a table as Markdown; what a cell holds can't break out of it."""
    lines = [_row(columns), "|" + "---|" * len(columns), *map(_row, rows)]
    return dg.MetadataValue.md("\n".join(lines))


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

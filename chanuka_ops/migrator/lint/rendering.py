"""The rendering process: `python -m chanuka_ops.migrator.lint.rendering`.

Revisions are code, and Alembic keeps its state in module-level proxies, so they are rendered in a process of their own,
without env.py, and on a connection that isn't one (see `pretending`). The request comes on standard input,
`{location}`; the answer is one JSON document on standard output:
`{"revisions": [{revision, path, direction, items: [{sql, line}], fault}], "unreadable": […]}`.
A mark (`-- @tx`, `-- @autocommit`) stands where Alembic would begin or end its transaction. `fault` says why what is
rendered may not be all.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script

from chanuka_ops.migrator.lint.pretending import Pretended, install
from chanuka_ops.migrator.scripts import load

_SQL = re.compile(
    r"^\s*(?:alter|analy[sz]e|call|cluster|comment|copy|create|delete|do|drop|grant|insert|lock|merge|refresh|reindex"
    r"|revoke|select|set|truncate|update|vacuum|with)\s",
    re.IGNORECASE,
)
_MARKS = ("-- @tx", "-- @autocommit")


def main() -> int:
    """Read the request, render every revision both ways, print the answer."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a revision prints goes to standard error
    request = json.load(sys.stdin)
    install()
    found = load(Path(request["location"]))
    rendered = [
        _render(found.directory.get_revision(script.revision), direction)
        for script in found.scripts
        for direction in ("up", "down")
    ]
    json.dump({"revisions": rendered, "unreadable": list(found.unreadable)}, answer)
    answer.flush()
    return 0


def _render(script: Script, direction: str) -> dict[str, Any]:
    there, asked, fault = _attempt(script, direction, full=True)
    items = there.items
    if asked or fault:
        bare, _, other_fault = _attempt(script, direction, full=False)
        seen = {(item["sql"], item["line"]) for item in items}
        items += [item for item in bare.items if not item["line"] or (item["sql"], item["line"]) not in seen]
        if fault and other_fault:
            items += _literals(script, direction, items)
        fault = fault or other_fault or "what it does depends on the answer"
    return {
        "revision": script.revision,
        "path": script.path,
        "direction": direction,
        "items": items,
        "fault": fault,
    }


def _attempt(script: Script, direction: str, *, full: bool) -> tuple[_Output, int, str | None]:
    """Run one direction on a connection that isn't one: what it sent, how much it asked, and what it raised."""
    output, fault = _Output(script.path), None
    options = {"as_sql": True, "literal_binds": True, "transaction_per_migration": True, "output_buffer": io.StringIO()}
    context = MigrationContext.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, opts=options)
    pretended = Pretended(context.dialect, output.take, full=full)
    implementation: Any = context.impl
    implementation.connection = pretended
    implementation.static_output = output.take
    implementation.emit_begin = lambda: output.mark(_MARKS[0])
    implementation.emit_commit = lambda: output.mark(_MARKS[1])
    output.mark(_MARKS[0])
    try:
        with Operations.context(context):
            work = script.module.upgrade if direction == "up" else script.module.downgrade
            work()
    except Exception as error:  # noqa: BLE001 - a revision is code: without a connection it may raise anything
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
    return output, pretended.asked, fault


def _literals(script: Script, direction: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rendered = "".join(item["sql"] for item in items)
    source = Path(script.path).read_text(encoding="utf-8")
    entry = "upgrade" if direction == "up" else "downgrade"
    return [{"sql": sql, "line": line} for sql, line in literals(source, entry) if sql not in rendered]


class _Output:
    """Takes each statement with the line of the revision's file that it comes from."""

    def __init__(self, path: str) -> None:
        self.items: list[dict[str, Any]] = []
        self._path = path

    def take(self, sql: str) -> None:
        frame: FrameType | None = sys._getframe()  # noqa: SLF001 - the one way to the line that asked
        while frame is not None and frame.f_code.co_filename != self._path:
            frame = frame.f_back
        self.items.append({"sql": sql, "line": frame.f_lineno if frame is not None else 1})

    def mark(self, mark: str) -> None:
        self.items.append({"sql": mark, "line": 0})


def literals(source: str, entry: str) -> Iterator[tuple[str, int]]:
    """Yield the SQL that stands as text in a function of a revision, and in the constants that it names."""
    tree = ast.parse(source)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or function.name != entry:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id in constants:
                yield from _texts(constants[node.id])
            yield from _texts(node)


def _texts(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and _SQL.match(node.value):
        yield node.value, node.lineno


if __name__ == "__main__":
    sys.exit(main())

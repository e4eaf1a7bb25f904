"""A script read: its statements with their lines, transactions' marks, psql's commands, and waivers.

Two comments on a line of their own begin a section: `-- @tx`, whose statements run in one transaction that the tool
opens and ends, as those of a revision; and `-- @autocommit`, whose statements run one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from chanuka_ops.errors import ConfigurationError
from chanuka_ops.migrator.lint import grammar, waivers
from chanuka_ops.migrator.lint.lexer import Piece, pieces
from chanuka_ops.migrator.lint.model import Statement, Waiver
from chanuka_ops.migrator.lint.tree import Node

_VARIABLE = re.compile(r"(?<![:\w]):(?P<quote>['\"]?)(?P<name>\w+)(?P=quote)")
_MARK = re.compile(r"^--\s*@(?P<mark>tx|autocommit)\s*$", re.IGNORECASE)
# PostgreSQL 19's, which the parser of 18 doesn't know yet
_REPACK = re.compile(
    r"^repack\b\s*(?:\((?P<options>[^)]*)\))?\s*(?P<concurrently>concurrently\b)?\s*(?P<name>[\w.\"]+)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Script:
    """A script's statements in their order, and the waivers that stand nowhere before a statement."""

    statements: tuple[Statement, ...]
    stray: tuple[Waiver, ...] = ()


def decode(content: bytes, *, name: str) -> str:
    """Return a file's text; a byte order mark and carriage returns are taken off.

    Errors: `ConfigurationError` naming the byte that is no UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigurationError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is no UTF-8: save the script as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(text: str, *, name: str, first_line: int = 1, managed: bool = False) -> Script:
    """Read a script. `managed`: it begins within a transaction of the tool's, as after `-- @tx`.

    Errors: `ConfigurationError` naming the line that PostgreSQL's parser doesn't accept.
    """
    statements: list[Statement] = []
    variables: dict[str, str] = {}
    section, waiting = 0, list[Waiver]()
    for piece in pieces(text):
        line = piece.line + first_line - 1
        if piece.kind == "comment":
            mark = _MARK.match(piece.text)
            if mark is not None:
                section, managed = section + 1, mark["mark"].lower() == "tx"
            found = waivers.read_comment(piece.text, line)
            waiting += [found] if found is not None else []
            continue
        frame = Statement(piece.text, line, None, section, managed, allows=tuple(waiting))
        waiting = []
        if piece.kind == "command":
            statements.append(replace(frame, command=piece.text.split()[0]))
            _remember(piece.text, variables)
        else:
            statements += [replace(frame, node=node) for node in _parsed(piece, name, first_line, variables)]
    return Script(tuple(statements), tuple(waiting))


def _remember(command: str, variables: dict[str, str]) -> None:
    """Note what psql's command `set` gives a variable."""
    words = command.split(maxsplit=2)
    if words[0] == "\\set" and len(words) > 1:
        value = words[2].strip() if len(words) > 2 else ""  # noqa: PLR2004 - \\set, name, value
        variables[words[1]] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == "'" else value


def _filled(sql: str, variables: Mapping[str, str]) -> str:
    """Return a statement as psql sends it: with its variables' values. One that is set elsewhere gets a name of it.

    Only what doesn't parse comes here, so a cast or a slice that looks like a variable isn't touched where it's right.
    """

    def fill(match: re.Match[str]) -> str:
        value = variables.get(match["name"], f"variable_{match['name']}")
        quote = match["quote"] or ""
        return quote + value.replace(quote, quote * 2) + quote if quote else value

    return _VARIABLE.sub(fill, sql)


def _parsed(piece: Piece, name: str, first_line: int, variables: Mapping[str, str]) -> tuple[Node, ...]:
    repack = _REPACK.match(piece.text)
    if repack is not None:
        options = (repack["options"] or "").lower()
        concurrent = "concurrently" in options or bool(repack["concurrently"])
        return (Node("RepackStmt", {"name": (repack["name"] or "").strip('"'), "concurrent": concurrent}),)
    try:
        return grammar.parse(piece.text)
    except grammar.SyntaxFault as fault:
        filled = _filled(piece.text, variables)
        if filled != piece.text:
            with suppress(grammar.SyntaxFault):
                return grammar.parse(filled)
        line = piece.line + piece.text[: fault.offset].count("\n") + first_line - 1
        raise ConfigurationError(f"{name}, line {line}: {fault}. Nothing of it was looked at.") from None

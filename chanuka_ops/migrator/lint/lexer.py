"""A script cut into its statements as psql cuts it: quotes, dollar quotes, nested comments, bodies, COPY's data.

Pure, and no parser: what psql would send is told apart from what psql does itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PieceKind = Literal["sql", "command", "comment"]

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*)
  | (?P<block>/\*)
  | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$)
  | (?P<escape>[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<quoted>'(?:[^']|'')*')
  | (?P<name>"(?:[^"]|"")*")
  | (?P<open>\()
  | (?P<close>\))
  | (?P<end>;)
  | (?P<psql>\\[^\n]*)
  | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
  | (?P<space>\s+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK = re.compile(r"/\*|\*/")
_COPY = re.compile(r"^\s*copy\b.*\bfrom\s+stdin\b", re.IGNORECASE | re.DOTALL)
_ROUTINE = re.compile(r"^create\s+(or\s+replace\s+)?(function|procedure)\b", re.IGNORECASE)
_SENDS = ("\\g", "\\gx", "\\gset", "\\gexec", "\\gdesc", "\\crosstabview", "\\watch")


@dataclass(frozen=True, slots=True)
class Piece:
    """A statement, a command of psql, or a comment. `line` counts from 1 and is that of its first word."""

    kind: PieceKind
    text: str
    line: int
    offset: int


def pieces(script: str) -> Iterator[Piece]:
    """Cut a script. Comments within a statement are part of it; those before it are pieces of their own."""
    return _Cutter(script).cut()


class _Cutter:
    """Walks the text once."""

    def __init__(self, script: str) -> None:
        self._text = script
        self._lines = _line_starts(script)
        self._start: int | None = None
        self._depth = 0
        self._body = 0
        self._words: list[str] = []

    def cut(self) -> Iterator[Piece]:
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:  # pragma: no cover - the last alternative takes anything
                raise AssertionError(position)
            kind, end = str(match.lastgroup), self._end_of(match)
            if kind == "comment" and self._start is None:
                yield self._piece("comment", position, end)
            elif kind == "psql":
                yield from self._command(position, end)
            elif kind == "end" and not self._depth and not self._body:
                if self._start is not None:
                    yield self._piece("sql", self._start, position)
                    end = self._after_data(self._text[self._start : position], end)
                self._fresh()
            elif kind not in ("space", "block", "comment"):
                self._count(kind, match.group())
                self._start = position if self._start is None else self._start
            position = end
        if self._start is not None:
            yield self._piece("sql", self._start, len(self._text))

    def _fresh(self) -> None:
        self._start, self._depth, self._body, self._words = None, 0, 0, []

    def _command(self, position: int, end: int) -> Iterator[Piece]:
        words = self._text[position:end].split()
        if words[0] == "\\;":
            return
        if self._start is not None and words[0] in _SENDS:
            yield self._piece("sql", self._start, position)
            self._fresh()
        yield self._piece("command", position, end)

    def _count(self, kind: str, token: str) -> None:
        if kind == "open":
            self._depth += 1
        elif kind == "close":
            self._depth = max(0, self._depth - 1)
        elif kind == "word":
            word = token.lower()
            if len(self._words) < 5:  # noqa: PLR2004 - CREATE OR REPLACE FUNCTION name
                self._words.append(word)
            if word == "atomic" or (self._body and word == "case"):
                self._body += 1 if self._in_routine() else 0
            elif self._body and word == "end":
                self._body -= 1

    def _in_routine(self) -> bool:
        return _ROUTINE.match(" ".join(self._words)) is not None

    def _end_of(self, match: re.Match[str]) -> int:
        if match.lastgroup == "block":
            return self._end_of_comment(match.end())
        if match.lastgroup == "dollar":
            closing = self._text.find(match.group(), match.end())
            return len(self._text) if closing < 0 else closing + len(match.group())
        return match.end()

    def _end_of_comment(self, position: int) -> int:
        depth = 1
        while depth:
            mark = _BLOCK.search(self._text, position)
            if mark is None:
                return len(self._text)
            depth += 1 if mark.group() == "/*" else -1
            position = mark.end()
        return position

    def _after_data(self, statement: str, position: int) -> int:
        """Return where the next statement may begin: after the rows that COPY … FROM STDIN is sent."""
        if not _COPY.match(statement):
            return position
        ended = re.compile(r"^\\\.[ \t]*$", re.MULTILINE).search(self._text, position)
        return len(self._text) if ended is None else ended.end()

    def _piece(self, kind: PieceKind, start: int, end: int) -> Piece:
        return Piece(kind, self._text[start:end].rstrip(), line_at(self._lines, start), start)


def _line_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer("\n", text))]


def line_at(starts: list[int], offset: int) -> int:
    """Return the line, counted from 1, of a position."""
    low, high = 0, len(starts)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if starts[middle] <= offset else (low, middle)
    return low + 1

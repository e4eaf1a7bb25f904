r"""Turns PostgreSQL's text form of COPY into CSV, row by row. Pure.

In: columns between tabs, a row a line, `\N` for null, backslash escapes.
https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2

Out: RFC 4180, its rows ended by CR LF. Null is nothing at all and an empty text is two quotes, as PostgreSQL's own CSV
has it, so that both come back as they were. Bytes stay what they are: the encoding is the dump's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NULL = b"\\N"
END = b"\\."
NEWLINE = b"\r\n"
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_SPECIAL = re.compile(rb'[",\r\n]')
_PLAIN = re.compile(rb'(?!\t)[^\\",\r]+(?<!\t)')  # nothing escaped, quoted or null; neither end is an empty column


def fields(line: bytes) -> list[bytes | None]:
    r"""Take a line of COPY's text form apart, its line break aside; None is null.

    >>> fields(b"1\t\\N\ta\\tb\t")
    [b'1', None, b'a\tb', b'']
    """
    return [None if field == NULL else _unescaped(field) for field in line.split(b"\t")]


def csv(values: Sequence[bytes | None]) -> bytes:
    """Write a row of CSV, without its line break.

    >>> csv([b"1", None, b'a"b, c', b""])
    b'1,,"a""b, c",""'
    """
    alone = len(values) == 1
    return b",".join([_quoted(value, alone=alone) for value in values])


def row(line: bytes, columns: int, order: Sequence[int] | None = None) -> bytes:
    r"""Write a line of COPY's text form as a row of CSV, its columns in the order of these positions.

    >>> row(b"1\ta", 2), row(b"1\t\\N", 2, [1, 0]), row(b"", 0)
    (b'1,a', b',1', b'')
    """
    if columns == 0:
        return b""
    if order is None and _PLAIN.fullmatch(line) and b"\t\t" not in line:
        return line.replace(b"\t", b",")
    values = fields(line)
    return csv(values if order is None else [values[position] for position in order])


def _quoted(value: bytes | None, *, alone: bool) -> bytes:
    if value is None:
        return b""
    # a line of nothing but \. would end the data for PostgreSQL
    if value == b"" or _SPECIAL.search(value) or (alone and value == END):
        return b'"' + value.replace(b'"', b'""') + b'"'
    return value


def _unescaped(field: bytes) -> bytes:
    return _ESCAPE.sub(_meant, field) if b"\\" in field else field


def _meant(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, letter = match.groups()
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal is not None:
        return bytes([int(hexadecimal, 16)])
    return _LETTERS.get(letter, letter)

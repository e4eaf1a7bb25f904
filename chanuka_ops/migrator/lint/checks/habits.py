"""Habits that are regretted later: types, names, defaults."""

from __future__ import annotations

import re

from chanuka_ops.migrator.lint.catalogue import is_serial, type_of
from chanuka_ops.migrator.lint.keywords import RESERVED
from chanuka_ops.migrator.lint.tree import Node, literal
from chanuka_ops.migrator.lint.world import Effects

NAME_BYTES = 63
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
_AMOUNT = re.compile(r"(^|_)(amount|price|cost|total|balance|fee|tax|salary|revenue|payment|discount|sum)(_|$)")
_COUNTER = re.compile(r"(^|_)(count|counter|hits|views|total|bytes|cents|sequence|seq|offset|position)(_|$)")
_TYPE_RULES = {"timetz": "timetz", "json": "json-type", "money": "money-type", "int2": "smallint"}


def column(node: Node, table: str, fx: Effects, *, key: bool) -> None:
    """Look at a column's definition. `key`: a constraint of the table makes it its primary key."""
    where = f"{table}.{node.colname}"
    named(node.colname, where, fx)
    kind = type_of(node.type_name)
    kinds = {constraint.contype for constraint in node.constraints or ()}
    if is_serial(node.type_name):
        fx.hit("serial", where)
    if node.type_name is not None:
        type_style(node.type_name, where, fx)
    name = kind.name if kind is not None else ""
    is_key = key or "CONSTR_PRIMARY" in kinds
    small = name == "int4" and not (kind is not None and kind.array)
    refers = "CONSTR_FOREIGN" in kinds or node.colname == "id" or node.colname.endswith("_id")
    if small and (is_key or refers or "CONSTR_IDENTITY" in kinds or is_serial(node.type_name)):
        fx.hit("integer-key", where)
    elif small and _COUNTER.search(node.colname):
        fx.hit("integer-counter", where)
    if name in ("float4", "float8") and _AMOUNT.search(node.colname):
        fx.hit("float-money", where)
    if name == "bool" and not kinds & {"CONSTR_NOTNULL", "CONSTR_PRIMARY"}:
        fx.hit("nullable-boolean", where)
    for constraint in node.constraints or ():
        if constraint.contype == "CONSTR_DEFAULT" and name.startswith(("timestamp", "date", "time")):
            value = literal(constraint.raw_expr)
            if isinstance(value, str) and value.strip().lower() in ("now", "today", "tomorrow", "yesterday"):
                fx.hit("default-now-literal", where)


def type_style(node: Node, where: str, fx: Effects) -> None:
    """Look at a type."""
    kind = type_of(node)
    if kind is None:
        return
    if kind.name == "bpchar":
        fx.hit("char-type", where)
    elif kind.name == "varchar" and kind.mods:
        fx.hit("varchar-length", where)
    elif kind.name == "timestamp":
        fx.hit("timestamp-without-zone", where)
    elif kind.name in _TYPE_RULES:
        fx.hit(_TYPE_RULES[kind.name], where)
    if kind.name in ("timestamp", "timestamptz") and kind.mods:
        fx.hit("timestamp-precision", where, str(kind.mods[0]))


def named(name: str | None, what: str, fx: Effects) -> None:
    """Look at a name that is made. The parser cuts a long one to 63 bytes, as the server would."""
    if not name:
        return
    if not _PLAIN.fullmatch(name) or name in RESERVED:
        fx.hit("name-needs-quotes", what)
    if len(name.encode()) >= NAME_BYTES:
        fx.hit("name-too-long", what)

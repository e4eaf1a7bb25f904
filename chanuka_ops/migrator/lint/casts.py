"""What ALTER COLUMN … TYPE costs: PostgreSQL keeps the heap where the new type reads the old bytes as they are."""

from __future__ import annotations

from typing import Literal

from chanuka_ops.migrator.lint.catalogue import Type

Cost = Literal["none", "reindex", "rewrite", "unknown", "likely"]

# (from, to) whose bytes are the same, so that no row is touched: pg_cast's casts without a function.
_SAME_BYTES = frozenset(
    {
        ("varchar", "text"), ("text", "varchar"), ("cidr", "inet"), ("xml", "text"), ("xml", "varchar"),
        ("int4", "oid"), ("oid", "int4"), ("bit", "varbit"), ("citext", "text"), ("text", "citext"),
        ("varchar", "citext"), ("citext", "varchar"), ("int4", "regclass"), ("oid", "regclass"), ("regclass", "oid"),
        ("int4", "regproc"), ("int4", "regtype"), ("pg_node_tree", "text"),
    }
)  # fmt: skip
# Of these pairs an index's operator class is another, so the index is built again.
_OTHER_OPERATORS = frozenset(
    {
        ("int4", "oid"), ("oid", "int4"), ("citext", "text"), ("text", "citext"), ("varchar", "citext"),
        ("citext", "varchar"), ("timestamp", "timestamptz"), ("timestamptz", "timestamp"), ("bit", "varbit"),
        ("int4", "regclass"),
    }
)  # fmt: skip
_MOMENTS = {("timestamp", "timestamptz"), ("timestamptz", "timestamp")}
_LENGTHS = frozenset({"varchar", "varbit", "timestamp", "timestamptz", "time", "timetz", "interval"})
_FINEST = {"timestamp": 6, "timestamptz": 6, "time": 6, "timetz": 6}
# What may be a harmless widening of the same type: nobody can tell without knowing the old one.
_MAYBE = frozenset({"varchar", "text", "numeric", "varbit", "inet", "citext"})


def cost(old: Type | None, new: Type, *, utc: bool) -> Cost:
    """Return what changing a column's type costs, without USING. `utc`: the session's time zone is UTC.

    >>> cost(Type("varchar", (50,)), Type("varchar", (80,)), utc=False)
    'none'
    >>> cost(Type("varchar", (50,)), Type("varchar", (20,)), utc=False)
    'rewrite'
    """
    if old is None:
        return _guess(new, utc=utc)
    if old.array or new.array:
        return "none" if old == new else _arrays(old, new)
    if old.name == new.name:
        return _same_type(old, new)
    pair = (old.name, new.name)
    if pair in _MOMENTS:
        return "reindex" if utc and _precision(new) >= _precision(old) else "rewrite"
    if pair not in _SAME_BYTES or (new.mods and not _keeps(old, new)):
        return "rewrite"
    return "reindex" if pair in _OTHER_OPERATORS else "none"


def _guess(new: Type, *, utc: bool) -> Cost:
    if new.name in _MAYBE and not new.array:
        return "unknown"
    return "likely" if utc and new.name in ("timestamptz", "timestamp") and not new.mods else "rewrite"


def _arrays(old: Type, new: Type) -> Cost:
    same = old.array and new.array and old.name == new.name
    return _same_type(old, new) if same and old.name == "varchar" and not new.mods else "rewrite"


def _same_type(old: Type, new: Type) -> Cost:
    if old.mods == new.mods:
        return "none"
    return "none" if _keeps(old, new) else "rewrite"


def _keeps(old: Type, new: Type) -> bool:
    """Tell whether each value of the old type is one of the new as it stands."""
    if not new.mods:
        return new.name not in ("bpchar", "bit")
    if not old.mods and new.name not in _FINEST:
        return False
    if new.name == "numeric":
        (old_digits, *old_scale), (digits, *scale) = old.mods, new.mods
        return digits >= old_digits and (scale or [0]) == (old_scale or [0])
    if new.name in _FINEST:
        return _precision(new) >= _precision(old)
    return new.name in _LENGTHS and len(old.mods) == len(new.mods) and new.mods[0] >= old.mods[0]


def _precision(of: Type) -> int:
    return of.mods[0] if of.mods else 6

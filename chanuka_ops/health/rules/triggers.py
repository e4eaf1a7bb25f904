"""The point at which autovacuum comes to a table: its own settings before the server's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chanuka_ops.health.model import Facts, Row


def option(row: Row, name: str, default: float, *, toast: bool = False) -> float:
    """Return a table's own setting; a TOAST table without one follows its owner, as autovacuum does."""
    own: Mapping[str, Any] = row["options"]
    toasts: Mapping[str, Any] = row["toast_options"]
    value = toasts.get(name, own.get(name)) if toast else own.get(name)
    return default if value is None else float(value)


def vacuum_trigger(row: Row, facts: Facts, *, toast: bool = False) -> float:
    """Return the dead rows at which autovacuum comes to this table, by its own settings.

    https://www.postgresql.org/docs/current/routine-vacuuming.html#AUTOVACUUM
    """
    tuples = float(row["toast_reltuples"] or 0 if toast else row["reltuples"])
    if tuples < 0:  # -1: never vacuumed or analysed
        tuples = 0.0 if toast else float(row["live"])
    base = option(row, "autovacuum_vacuum_threshold", facts.number("autovacuum_vacuum_threshold", 50), toast=toast)
    scale = option(
        row, "autovacuum_vacuum_scale_factor", facts.number("autovacuum_vacuum_scale_factor", 0.2), toast=toast
    )
    # from 18 on; -1 switches the ceiling off, and older servers have none
    ceiling = option(
        row, "autovacuum_vacuum_max_threshold", facts.number("autovacuum_vacuum_max_threshold", -1), toast=toast
    )
    trigger = base + scale * tuples
    return min(trigger, ceiling) if ceiling >= 0 else trigger


def insert_trigger(row: Row, facts: Facts) -> float | None:
    """Return the inserted rows at which autovacuum comes to freeze them; None where that is switched off.

    From 18 on only the share of the pages not yet frozen counts, so this is the most it can be.
    """
    base = option(row, "autovacuum_vacuum_insert_threshold", facts.number("autovacuum_vacuum_insert_threshold", 1000))
    if base < 0:
        return None
    setting = "autovacuum_vacuum_insert_scale_factor"
    tuples = float(row["reltuples"] if row["reltuples"] >= 0 else row["live"])
    return base + option(row, setting, facts.number(setting, 0.2)) * tuples

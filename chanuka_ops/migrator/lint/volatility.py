"""Whether a default has another value in each row: what makes ADD COLUMN rewrite a table."""

from __future__ import annotations

import re
from typing import Any, Literal

from chanuka_ops.migrator.lint import grammar
from chanuka_ops.migrator.lint.catalogue import Routine, calls
from chanuka_ops.migrator.lint.functions import STABLE, VOLATILE
from chanuka_ops.migrator.lint.world import World

Verdict = Literal["stable", "volatile", "unknown"]

_READS = re.compile(r"\b(from|with|union|insert|update|delete|limit|order)\b", re.IGNORECASE)


def of(default: Any, world: World, depth: int = 0) -> tuple[Verdict, str]:
    """Return the verdict on an expression, and the function that it hangs on."""
    doubt: tuple[Verdict, str] = ("stable", "")
    for name in calls(default):
        verdict = _of_function(name, world, depth)
        if verdict == "volatile":
            return verdict, name
        if verdict == "unknown":
            doubt = (verdict, name)
    return doubt


def _of_function(name: str, world: World, depth: int) -> Verdict:
    bare = name.rpartition(".")[2].lower()
    known = world.routine(world.joined(tuple(name.split(".")))) or world.routine(bare)
    if known is not None:
        return _of_routine(known, world, depth)
    if bare in VOLATILE:
        return "volatile"
    if world.catalogue is not None:
        return "volatile" if bare in world.catalogue.builtin_volatile else "stable"
    return "stable" if bare in STABLE else "unknown"


def _of_routine(routine: Routine, world: World, depth: int) -> Verdict:
    """A function that isn't volatile; or SQL so plain that the planner puts it in the place of the call."""
    if routine.volatility != "v":
        return "stable"
    body = routine.body.strip().rstrip(";")
    plain = routine.language == "sql" and body.lower().startswith("select") and not _READS.search(body)
    if not plain or ";" in body or depth > 5 or routine.guarded:  # noqa: PLR2004 - calls within calls
        return "volatile"
    try:
        inner = grammar.expression(body[len("select") :])
    except grammar.SyntaxFault:
        return "volatile"
    return of(inner, world, depth + 1)[0]

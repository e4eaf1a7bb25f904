"""How far a statement is, as the server tells it of some and as the rehearsal lets one guess of others. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from chanuka_ops.context import Progress

AFTER_S = 1.0  # what takes less isn't told of
ESTIMATE = "estimate: the rehearsal's time"
NOT_KNOWN = "the server doesn't tell how far it is"


@dataclass(frozen=True, slots=True)
class Reported:
    """A row of the server's progress views: of which command, in which phase, `done` of `total` (0: not known)."""

    command: str
    phase: str
    unit: str
    done: int
    total: int


def of_statement(
    revision: str, shown: str, elapsed_s: float, reported: Reported | None, rehearsed_s: float | None
) -> Progress:
    """Return what is to be told.

    >>> of_statement("a1", "create index …", 2.0, Reported("create index", "building", "blocks", 3, 9), None).words()
    'a1: create index …: 3 of 9 blocks, building'
    >>> of_statement("a1", "alter table …", 2.4, None, 7.8).words()
    "a1: alter table …: 2 of 8 s, estimate: the rehearsal's time, about 5 s left"
    """
    label = f"{revision}: {shown}"
    if reported is not None:
        return Progress(label, reported.done, reported.total or None, reported.unit, None, reported.phase)
    if rehearsed_s is None:
        return Progress(label, round(elapsed_s), None, "s", None, NOT_KNOWN)
    left_s = rehearsed_s - elapsed_s
    return Progress(label, round(elapsed_s), round(rehearsed_s), "s", left_s if left_s > 0 else None, ESTIMATE)

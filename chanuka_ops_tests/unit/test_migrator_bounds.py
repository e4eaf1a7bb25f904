"""The abort line: on which side of it a statement is."""

from __future__ import annotations

import pytest

from chanuka_ops.migrator.rehearsal import prediction
from chanuka_ops.migrator.running.bounds import LEAST_S, Bound, Line, by_statement, crossed
from chanuka_ops.migrator.running.statement import fingerprint

BOUND = Bound("a1", "f", 1.0, 2.0)
SHORT = Bound("a1", "f", 0.001, 0.02)


@pytest.mark.parametrize(
    ("line", "bound", "elapsed_s", "waited_s", "blocked", "is_crossed"),
    [
        (Line(3.0, 5), BOUND, 6.0, 0.0, 5, False),
        (Line(3.0, 5), BOUND, 6.1, 0.0, 0, True),
        (Line(3.0, 5), BOUND, 6.1, 0.2, 0, False),  # its own time is less
        (Line(3.0, 5), BOUND, 0.1, 0.0, 6, True),
        (Line(3.0, 0), None, 0.1, 0.0, 1, True),
        (Line(3.0, 5), None, 9e9, 0.0, 5, False),
        (Line(3.0, None), None, 9e9, 0.0, 9999, False),
        (Line(None, 5), BOUND, 9e9, 0.0, 0, False),
        (Line(3.0, 5), SHORT, LEAST_S, 0.0, 0, False),
        (Line(3.0, 5), SHORT, LEAST_S + 0.1, 0.0, 0, True),
    ],
)
def test_on_which_side_it_is(  # noqa: PLR0917 - a table of cases
    line: Line,
    bound: Bound | None,
    elapsed_s: float,
    waited_s: float,
    blocked: int,
    is_crossed: bool,  # noqa: FBT001 - a case
) -> None:
    found = crossed(line, bound, shown="s", elapsed_s=elapsed_s, waited_s=waited_s, blocked=blocked)
    assert (found is not None) is is_crossed


def test_the_message_names_what_was_crossed() -> None:
    many = crossed(Line(3.0, 5), BOUND, shown="alter …", elapsed_s=0.44, waited_s=0.0, blocked=6)
    long = crossed(Line(3.0, 5), SHORT, shown="alter …", elapsed_s=2.2, waited_s=0.5, blocked=1)
    assert many is not None
    assert long is not None
    assert many.words() == (
        "alter …: cancelled after 0.4 s, 6 sessions were blocked by it: 5 are the limit"
        " (operations.migration.max_blocked_sessions)"
    )
    assert long.words() == (
        "alter …: cancelled after 2.2 s (0.5 s of that it waited for locks), 1 session was blocked by it: it was"
        " predicted to take 0.02 s at most, and 3 times that (at least 1 s) is the limit"
        " (operations.migration.abort_factor)"
    )


def test_bounds_come_from_a_rehearsal_where_it_could_predict() -> None:
    def told(sql: str, seconds: float, high_s: float | None, **more: object) -> dict[str, object]:
        predicted = None if high_s is None else {"low_s": 0.0, "high_s": high_s, "heap_ratio": 1.0}
        item = {"sql": sql, "seconds": seconds, "prediction": predicted, "direction": "up", "revision": "a1"}
        return {**item, **more}

    document = {
        "statements": [
            told("select  1 -- one", 0.1, 0.5),
            told("select 1", 0.2, 0.4),
            told("select 2", 0.2, None),
            told("select 3", 0.2, 0.4, direction="down"),
            told("select 4", 0.2, 0.4, revision=None),
        ]
    }
    found = prediction.bounds(document)
    assert by_statement(found) == {("a1", fingerprint("select 1")): Bound("a1", fingerprint("select 1"), 0.1, 0.5)}
    assert [Bound.from_json(bound.to_json()) for bound in found] == found

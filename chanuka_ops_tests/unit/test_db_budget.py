"""The connection budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops.db.budget import Budget, Room

COUNTS = st.integers(0, 500)


@pytest.mark.parametrize(
    ("room", "available"),
    [
        (Room(100, 3), 97),
        (Room(100, 13), 87),
        (Room(100, 3, (20,)), 20),
        (Room(100, 3, (50, 20)), 20),
        (Room(100, 3, (500,)), 97),
        (Room(100, 3, (0,)), 0),
    ],
)
def test_what_ordinary_roles_can_open(room: Room, available: int) -> None:
    assert room.available == available


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_it_fits_up_to_the_last_slot(runs: int, size: int, overflow: int, available: int) -> None:
    budget = Budget(runs, size, overflow, available)
    assert budget.needed == sum(size + overflow for _ in range(runs))
    assert budget.fits == (budget.needed <= available)
    assert Budget(runs, size, overflow, budget.needed).fits
    assert not Budget(runs, size, overflow, budget.needed - 1).fits


@pytest.mark.parametrize(("available", "verdict"), [(30, "it fits"), (29, "it does not fit")])
def test_it_says_how_it_was_reckoned(available: int, verdict: str) -> None:
    said = str(Budget(10, 1, 2, available))
    assert said == f"10 runs x (1 + 2) = 30 connections; the server has {available} for ordinary roles: {verdict}"

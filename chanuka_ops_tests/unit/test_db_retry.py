"""How long to wait before another try."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops.db.retry import Backoff

BACKOFFS = st.builds(Backoff, st.floats(0.01, 10), st.floats(10, 100))
ATTEMPTS = st.integers(1, 10**9)


@given(BACKOFFS, ATTEMPTS, st.floats(0, 1))
def test_a_wait_is_anything_from_nothing_to_its_ceiling(backoff: Backoff, attempt: int, roll: float) -> None:
    ceiling = backoff.wait_s(attempt, 1.0)
    assert backoff.wait_s(attempt, 0.0) == 0.0
    assert 0 <= backoff.wait_s(attempt, roll) <= ceiling <= backoff.most_s
    assert backoff.wait_s(attempt, roll) == roll * ceiling, "full jitter: in proportion, with no fixed part"


@given(BACKOFFS, ATTEMPTS)
def test_the_ceilings_double_up_to_the_most(backoff: Backoff, attempt: int) -> None:
    now, then = backoff.wait_s(attempt, 1.0), backoff.wait_s(attempt + 1, 1.0)
    assert backoff.wait_s(1, 1.0) == min(backoff.first_s, backoff.most_s)
    assert then == min(backoff.most_s, 2 * now)


@given(BACKOFFS, ATTEMPTS, st.floats(0, 1), st.floats(0, 200))
def test_a_wait_that_would_outlast_what_is_left_is_none(
    backoff: Backoff, attempt: int, roll: float, left_s: float
) -> None:
    wait_s = backoff.within(attempt, roll, left_s)
    assert (wait_s is None) == (backoff.wait_s(attempt, roll) >= left_s)
    assert wait_s in {None, backoff.wait_s(attempt, roll)}

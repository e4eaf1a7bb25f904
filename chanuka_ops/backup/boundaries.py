"""The boundaries between a backup's steps, by name: where a test may stop the world and look at what is left.

`reached` calls whatever `on_reached` holds, which is nothing. A driver in a process of its own replaces it, and kills
itself there: what is promised at each boundary is then seen, not argued.
"""

from __future__ import annotations

from collections.abc import Callable


def _nobody_looks(_: str) -> None:
    """Pass on."""


on_reached: Callable[[str], None] = _nobody_looks


def reached(step: str) -> None:
    """Say that a step's boundary is reached."""
    on_reached(step)

"""The boundaries of a migration's statements, by name: where a test may stop the world and look at what is left.

`reached` calls whatever `on_reached` holds, which is nothing. A driver in a process of its own replaces it, and kills
itself, its session or its server there: what is promised at each boundary is then seen, not argued.

::

    before:N   step N of the revision is about to be sent (what the journal has to know of it is written)
    after:N    step N has succeeded
    commit:N   the transaction that ends after step N is about to be committed
    committed:N  it was committed, and nobody has been told yet
"""

from __future__ import annotations

from collections.abc import Callable


def _nobody_looks(_: str) -> None:
    """Pass on."""


on_reached: Callable[[str], None] = _nobody_looks


def reached(boundary: str) -> None:
    """Say that a boundary is reached."""
    on_reached(boundary)

"""The abort line: when a statement that is under way is to be ended, for it does more harm than it was expected to.

Pure. Time that a statement waits for a lock isn't counted as its work: the lock timeout is the limit of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

LEAST_S = 1.0  # what is predicted in milliseconds is left that long: a busy moment is no harm


@dataclass(frozen=True, slots=True)
class Bound:
    """What is known beforehand of a statement of a revision, in seconds: rehearsed, and at most in production.

    `fingerprint` is `statement.fingerprint` of its text, without values.
    """

    revision: str
    fingerprint: str
    rehearsed_s: float
    upper_s: float

    def to_json(self) -> dict[str, Any]:
        """Return it for the migration process's request."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read back what `to_json` wrote."""
        return cls(**document)


Bounds = Mapping[tuple[str, str], Bound]


def by_statement(bounds: Iterable[Bound]) -> Bounds:
    """Return bounds by revision and fingerprint: of one that stands several times, the widest.

    >>> found = by_statement([Bound("a1", "f", 1.0, 2.0), Bound("a1", "f", 0.5, 1.0)])
    >>> found["a1", "f"].upper_s
    2.0
    """
    found: dict[tuple[str, str], Bound] = {}
    for bound in bounds:
        key = (bound.revision, bound.fingerprint)
        if key not in found or bound.upper_s > found[key].upper_s:
            found[key] = bound
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """How far a statement may go: that many times its upper bound, that many sessions blocked; None: any number."""

    factor: float | None
    most_blocked: int | None


@dataclass(frozen=True, slots=True)
class Crossed:
    """That the line was crossed. `shown` is the statement, its literals masked; "" between two statements."""

    shown: str
    elapsed_s: float
    waited_s: float
    blocked: int
    most_blocked: int | None = None
    bound: Bound | None = None
    factor: float = 0.0

    def words(self) -> str:
        """Say what was ended, and why.

        >>> bound = Bound("a1", "f", 0.5, 1.0)
        >>> Crossed("alter table t", 3.21, 0.0, 2, None, bound, 3.0).words()  # doctest: +NORMALIZE_WHITESPACE
        'alter table t: cancelled after 3.2 s, 2 sessions were blocked by it: it was predicted to take 1 s at most, and
        3 times that is the limit (operations.migration.abort_factor)'
        """
        what = f"{self.shown}: cancelled" if self.shown else "its session was ended between two statements,"
        waited = f" ({self.waited_s:.1f} s of that it waited for locks)" if self.waited_s else ""
        told = f"{what} after {self.elapsed_s:.1f} s{waited}, {_sessions(self.blocked)} blocked by it: "
        if self.bound is not None:
            return (
                f"{told}it was predicted to take {self.bound.upper_s:.3g} s at most, and {self.factor:g} times that"
                f"{_or_least(self.bound.upper_s * self.factor)} is the limit (operations.migration.abort_factor)"
            )
        return f"{told}{self.most_blocked} are the limit (operations.migration.max_blocked_sessions)"


def crossed(
    line: Line, bound: Bound | None, *, shown: str, elapsed_s: float, waited_s: float, blocked: int
) -> Crossed | None:
    """Say whether the line is crossed, or None. `waited_s` of `elapsed_s` it waited for locks."""
    if line.most_blocked is not None and blocked > line.most_blocked:
        return Crossed(shown, elapsed_s, waited_s, blocked, line.most_blocked)
    if bound is None or line.factor is None or elapsed_s - waited_s <= max(LEAST_S, bound.upper_s * line.factor):
        return None
    return Crossed(shown, elapsed_s, waited_s, blocked, None, bound, line.factor)


def remains(*, transactional: bool) -> str:
    """Say what is left of a revision that failed."""
    if transactional:
        return "Nothing of that revision was changed."
    return "It runs outside a transaction: what it finished stays, and it is safe to run it again."


def _sessions(number: int) -> str:
    return f"{number} session{' was' if number == 1 else 's were'}"


def _or_least(limit_s: float) -> str:
    return f" (at least {LEAST_S:g} s)" if limit_s < LEAST_S else ""

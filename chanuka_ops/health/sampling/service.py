"""Gives rows the ones before them, and keeps what the next look needs. What can't be kept is said, no more."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from chanuka_ops.errors import KeepingError
from chanuka_ops.health.keeping import Keeper
from chanuka_ops.health.model import Check, CheckResult, Row, Rows, Status
from chanuka_ops.health.sampling import rules
from chanuka_ops.health.sampling.model import Measurement, Sample

USUAL = "usual"
_FOLLOWING = "/following"
# The worst few tell the story; a check that finds thousands must not fill the file with each look.
MOST_OBJECTS = 20
MOST_USUAL = 5_000  # statements; those that were learnt last stay
_LOSS_TOLD_FOR_S = 24 * 3600.0


@dataclass(slots=True)
class Sampler:
    """The samples of one look at one database. `problems` are what could not be read or kept, in words."""

    keeper: Keeper | None
    database: str
    incarnation: str = ""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    problems: list[str] = field(default_factory=list)
    _before: dict[str, Sample] = field(default_factory=dict)
    _samples: dict[str, Sample] = field(default_factory=dict)

    def begin(self) -> None:
        """Read what the last look left."""
        if self.keeper is None:
            return
        try:
            self._before = self.keeper.samples(self.database)
            told_since = datetime.fromtimestamp(time.time() - _LOSS_TOLD_FOR_S, UTC)
            self.problems += [
                f"the file of past health was damaged at {at:%Y-%m-%d %H:%M UTC} ({reason}) and set aside: history,"
                " samples and alerts began anew"
                for at, reason in self.keeper.losses(told_since)
            ]
        except KeepingError as error:
            self.problems.append(str(error))
            self.keeper = None

    def compared(self, one: Check, rows: Rows) -> tuple[list[Row], float | None, str]:
        """Return a check's rows with those before them, how old those are, and else why there are none."""
        rates = one.rates
        if rates is None or one.query is None:
            raise TypeError(f"check {one.id} has no rates")
        now_rows = [rules.plain(row) for row in rows]
        if self.keeper is None:
            return rules.paired(now_rows, None, rates.counters), None, "nothing is kept of this look"
        sample = Sample(self.now, self.incarnation, tuple(now_rows))
        following = one.query + _FOLLOWING
        turned = rules.turn(self._before.get(one.query), self._before.get(following), sample, rates.window)
        self._samples[one.query] = turned.base
        if turned.following is not None:
            self._samples[following] = turned.following
        pairs = rules.paired(now_rows, turned.before, rates.counters)
        if one.learns:
            pairs = self._with_usual(pairs, first=turned.before is None)
        return pairs, turned.elapsed_s, turned.reason

    def _with_usual(self, rows: list[Row], *, first: bool) -> list[Row]:
        """Give each statement what it usually takes, and learn from what was added since the last look.

        Without a baseline only what was never seen is learnt, from its totals: of the others they were learnt before.
        """
        before = self._before.get(USUAL)
        known = {} if before is None else {row[rules.KEY]: row for row in before.rows}
        if USUAL not in self._samples:
            counted = [row for row in rows if "calls" in row and not (first and row[rules.KEY] in known)]
            learnt = {row[rules.KEY]: row for row in rules.usual(counted, known, self.now.timestamp())}
            # what isn't among the dearest today keeps what it was
            of_all = list({**known, **learnt}.values())[-MOST_USUAL:]
            self._samples[USUAL] = Sample(self.now, self.incarnation, tuple(of_all))
        return [{**row, "usual": known.get(row[rules.KEY])} for row in rows]

    def end(self, results: Iterable[CheckResult]) -> None:
        """Keep samples and measurements for the next look and for the plots."""
        if self.keeper is None:
            return
        try:
            self.keeper.keep(self.database, self._samples, measurements(self.database, results))
        except KeepingError as error:
            self.problems.append(str(error))


def measurements(database: str, results: Iterable[CheckResult]) -> Sequence[Measurement]:
    """Return a look's numbers: each check's worst, and those of its first findings."""
    now = datetime.now(UTC)
    found = []
    for result in results:
        if result.value is not None:
            found.append(Measurement(now, database, result.check, None, result.value, result.unit, result.status))
        named = [one for one in result.findings if one.object is not None and one.value is not None]
        found += [
            Measurement(now, database, one.check, one.object, one.value, one.unit, one.status)
            for one in named[:MOST_OBJECTS]
            if one.value is not None and one.status is not Status.UNKNOWN
        ]
    return found

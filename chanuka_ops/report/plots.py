"""Where the lines of a small plot run: pure. A number's history over a time that all plots of a page share.

Where nobody looked, or a check could not, the line has a gap: what isn't known isn't drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from chanuka_ops.report import rules
from chanuka_ops.report.model import Point, Series

WIDTH, HEIGHT = 320.0, 72.0
MOST_COLUMNS = 160  # more points than that fall on each other: of a column the lowest and the highest are kept
LOOKED_FOR = 2.5  # a look that comes so many intervals after the one before: in between nobody looked
NEAR = 4.0  # a limit so many times the highest number is named, not drawn: the line would lie flat on the ground
_MARGIN = 4.0


@dataclass(frozen=True, slots=True)
class Dot:
    """One point that is drawn for itself."""

    x: float
    y: float
    tone: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit as a line across the plot."""

    y: float
    tone: str
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One small plot. `lines` are SVG polylines' points; `words` say the same to whoever can't see it."""

    title: str
    check: str
    object: str | None
    tone: str
    latest: str
    top: str
    lines: tuple[str, ...]
    dots: tuple[Dot, ...]
    limits: tuple[Rule, ...]
    beyond: str
    words: str


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is plotted. Make it with `spanning`.

    `order` numbers the looks at which anything was measured; before `full_from`, where each hour's worst is all that
    is kept, it numbers hours. `waits` are after how long nobody can have looked: before `full_from`, and since.
    """

    start: datetime
    end: datetime
    full_from: datetime
    order: Mapping[datetime, int]
    waits: tuple[timedelta, timedelta]

    def across(self, at: datetime) -> float:
        """Return how far from the left a time stands."""
        length = (self.end - self.start).total_seconds()
        share = (at - self.start).total_seconds() / length if length > 0 else 1.0
        return round(min(1.0, max(0.0, share)) * WIDTH, 1)

    def is_over(self, series: Series) -> bool:
        """Tell whether a number wasn't there any more at the last look: then its newest value is not today's."""
        return self.order.get(_slot(series.points[-1].at, self.full_from), 0) < len(self.order) - 1

    def is_gap(self, before: datetime, after: datetime) -> bool:
        """Tell whether nobody looked in between, or somebody did and this number wasn't there."""
        missed = self.order.get(_slot(after, self.full_from), 0) - self.order.get(_slot(before, self.full_from), 0) > 1
        return missed or after - before > self.waits[before >= self.full_from]


def spanning(start: datetime, end: datetime, looks: Iterable[datetime], full_from: datetime | None = None) -> Span:
    """Return the span of these looks; `full_from` None: all are kept."""
    since = start if full_from is None else full_from
    slots = sorted({_slot(at, since) for at in looks})
    waits = (_longest([at for at in slots if at < since]), _longest([at for at in slots if at >= since]))
    return Span(start, end, since, {at: number for number, at in enumerate(slots)}, waits)


def _slot(at: datetime, full_from: datetime) -> datetime:
    return at if at >= full_from else at.replace(minute=0, second=0, microsecond=0)


def _longest(slots: Sequence[datetime]) -> timedelta:
    """Return after how long without a look nobody looked, by the usual interval between them."""
    steps = [(later - sooner).total_seconds() for sooner, later in pairwise(slots)]
    return timedelta(seconds=median(steps) * LOOKED_FOR) if steps else timedelta.max


def plot(series: Series, span: Span) -> Plot:
    """Lay one number's history out. A series has at least one point within the span."""
    points = [point for point in series.points if span.start <= point.at <= span.end]
    values = [point.value for point in points]
    floor, top, drawn, beyond = _scale(series, values)

    def height(value: float) -> float:
        share = (value - floor) / (top - floor) if top > floor else 0.0
        return round(HEIGHT - _MARGIN - share * (HEIGHT - 2 * _MARGIN), 1)

    runs = [_thinned(run, span) for run in _unbroken(points, span)]
    lines = tuple(
        " ".join(f"{span.across(point.at)},{height(point.value)}" for point in run) for run in runs if len(run) > 1
    )
    last, over = points[-1], span.is_over(series)
    newest = rules.quantity(last.value, series.unit)
    return Plot(
        title=series.title,
        check=series.check,
        object=series.object,
        tone="over" if over else rules.tone(last.status),
        latest=f"was {newest}" if over else newest,
        top=rules.quantity(top, series.unit),
        lines=lines,
        dots=tuple(Dot(span.across(p.at), height(p.value), rules.tone(p.status)) for p in _single(runs, last)),
        limits=tuple(Rule(height(value), tone, rules.quantity(value, series.unit)) for value, tone in drawn),
        beyond=", ".join(rules.quantity(value, series.unit) for value in beyond),
        words=_words(series, values, len(runs), f"at last {newest}" if over else f"now {newest}"),
    )


def _scale(series: Series, values: Sequence[float]) -> tuple[float, float, list[tuple[float, str]], list[float]]:
    """Return floor and top of the plot, the limits that are drawn, and those too far above to be."""
    floor, top = min(0.0, *values), max(values)
    limits = [(limit, tone) for limit, tone in ((series.first, "warn"), (series.second, "bad")) if limit is not None]
    drawn = [(limit, tone) for limit, tone in limits if floor <= limit <= max(top, 0.0) * NEAR]
    top = max([top, *(limit for limit, _ in drawn)])
    top = top if top > floor else floor + 1.0
    return floor, top, drawn, [limit for limit, _ in limits if limit not in {value for value, _ in drawn}]


def _unbroken(points: Sequence[Point], span: Span) -> Iterator[list[Point]]:
    """Split the points where a look between two of them found no number, and where nobody looked for long."""
    run: list[Point] = []
    for point in points:
        if run and span.is_gap(run[-1].at, point.at):
            yield run
            run = []
        run.append(point)
    if run:
        yield run


def _thinned(run: list[Point], span: Span) -> list[Point]:
    """Keep of the points in one column the lowest and the highest: a peak of one look is still to be seen."""
    columns: dict[int, list[Point]] = {}
    for point in run:
        columns.setdefault(int(span.across(point.at) / WIDTH * MOST_COLUMNS), []).append(point)
    kept: list[Point] = []
    for column in columns.values():
        ends = {min(column, key=lambda p: p.value).at, max(column, key=lambda p: p.value).at}
        kept += [point for point in column if point.at in ends]
    return kept


def _single(runs: Iterable[Sequence[Point]], last: Point) -> list[Point]:
    """Return what is drawn as a dot: the newest, what has no neighbour, and where a status begins to be bad."""
    found = {last.at: last}
    for run in runs:
        if len(run) == 1:
            found[run[0].at] = run[0]
        for before, after in pairwise(run):
            if after.status != before.status:
                found[after.at] = after
    return [found[at] for at in sorted(found)]


def _words(series: Series, values: Sequence[float], runs: int, newest: str) -> str:
    lowest, highest = (rules.quantity(value, series.unit) for value in (min(values), max(values)))
    gaps = f", with {runs - 1} gap{'' if runs == 2 else 's'}" if runs > 1 else ""  # noqa: PLR2004 - one gap between two
    return f"{series.title}: {rules.count(len(values))} measurements from {lowest} to {highest}{gaps}, {newest}"

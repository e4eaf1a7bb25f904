"""The page of health: whole, worst first, escaped, and honest about gaps and about what isn't known."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chanuka_ops.errors import StoreError
from chanuka_ops.report.health import MOST_DETAILED, MOST_FINDINGS, MOST_OF_A_CHECK, laid
from chanuka_ops.report.model import AlertRow, CheckRow, DatabaseHealth, FindingRow, HealthPage, Point, Series
from chanuka_ops.report.plots import HEIGHT, MOST_COLUMNS, WIDTH, Span, plot, spanning
from chanuka_ops.report.service import render_health, write_health
from chanuka_ops_tests.unit.test_report_render import EVIL, Document, poisoned

NOW = datetime(2026, 11, 28, 20, 0, tzinfo=UTC)
SINCE = NOW - timedelta(hours=10)


def points(*values: float | None, status: str = "ok") -> tuple[Point, ...]:
    """One point for each quarter of an hour; None: nothing was measured then."""
    return tuple(
        Point(SINCE + timedelta(minutes=15 * n), value, status) for n, value in enumerate(values) if value is not None
    )


def series(*values: float | None, **changed: object) -> Series:
    stated = Series("connections.saturation", "connections leave room", None, "%", points(*values), 70.0, 90.0)
    return replace(stated, **changed)  # type: ignore[arg-type]  # a table of cases says what differs


FINDING = FindingRow(
    "sequence.exhaustion", "critical", "public.t_id_seq", 97.3, "%", 90, "it runs out", "alter table t …"
)
CHECKS = (
    CheckRow("sequence.exhaustion", "sequences are far from their end", "critical", 0.004, 97.3, "%"),
    CheckRow(
        "wal.directory_size", "the WAL is as planned", "unknown", 0.0, reason="role ops may not: grant pg_monitor"
    ),
)
MAIN = DatabaseHealth(
    "main", "18.6", "critical", NOW, 0.41,
    (replace(FINDING, check="schema.fk_unindexed", status="info", summary="an index is missing"), FINDING), CHECKS,
    {"sequence.exhaustion": "inserts will fail"}, {"sequence.exhaustion": "https://www.postgresql.org/docs/x.html"},
    (series(50.0, 55.0, 62.5),),
)  # fmt: skip
ALERT = AlertRow("main", "lock.blocked", "pid 7", "firing", "critical", "19:00", "19:01", "until noon: a test")
PAGE = HealthPage(NOW, SINCE, (MAIN,), (ALERT,))


def words(page: HealthPage) -> str:
    return " ".join(Document(render_health(page)).text.split())


def test_everything_is_on_the_page_the_worst_first() -> None:
    text = words(PAGE)
    places = [
        text.index(part)
        for part in (
            "1 critical, 1 unknown", "main: 1 of 2 checks could be judged", "it runs out", "alter table t …",
            "inserts will fail", "an index is missing", "role ops may not: grant pg_monitor", "until noon: a test",
            "each number over time", "connections leave room", "62.5%", "Checks of main and what they cost", "4 ms",
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_it_needs_nothing_beside_itself_and_runs_nothing() -> None:
    html = render_health(PAGE)
    document = Document(html)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(document.tags)
    assert not [n for _, n, _ in document.attributes if n in {"src", "style", "href"} or n.startswith("on")]
    assert "default-src 'none'" in html
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def full() -> HealthPage:
    other = replace(MAIN, database="shop", history=(series(1.0, object="public.x", points=points(1.0, 2.0)),))
    return replace(PAGE, databases=(MAIN, other))


def test_no_name_of_any_field_becomes_markup() -> None:
    plain, evil = Document(render_health(full())), Document(render_health(poisoned(full(), EVIL)))
    assert set(evil.tags) <= set(plain.tags)
    assert not [name for _, name, _ in evil.attributes if name.startswith("on")]
    assert EVIL in evil.text


def test_a_password_in_a_message_is_masked() -> None:
    told = replace(MAIN, findings=(replace(FINDING, summary="postgresql://ops:s3cret@db/x is down"),))
    html = render_health(replace(PAGE, databases=(told,)))
    assert "s3cret" not in html
    assert "postgresql://ops:" in html


def test_what_is_unknown_is_never_green() -> None:
    blind = replace(MAIN, status="unknown", findings=(), checks=CHECKS[1:])
    assert laid(replace(PAGE, databases=(blind,))).verdict.tone == "unknown"
    assert "1 unknown" in laid(replace(PAGE, databases=(blind,))).verdict.headline


def test_what_has_no_baseline_yet_is_said_and_not_counted_as_judged() -> None:
    new = CheckRow("lock.deadlocks", "deadlocks are rare", "info", 0.0, reason="no baseline yet")
    text = words(replace(PAGE, databases=(replace(MAIN, checks=(*CHECKS, new)),)))
    assert "main: 1 of 3 checks could be judged" in text
    assert "not judged: lock.deadlocks: no baseline yet" in text
    well = replace(MAIN, status="ok", findings=(), checks=(replace(CHECKS[0], status="ok"), new))
    assert "Nothing wrong was found; 1 checks could not judge yet" in words(replace(PAGE, databases=(well,)))


def test_all_well_is_said() -> None:
    well = replace(MAIN, status="ok", findings=(), checks=(replace(CHECKS[0], status="ok"),))
    text = words(replace(PAGE, databases=(well,), alerts=()))
    assert "All is well" in text
    assert "Nothing: every check could look." in text
    assert "None is pending or firing." in text


def test_what_is_kept_nowhere_is_said() -> None:
    silent = replace(MAIN, history=None, history_note="the file is locked")
    page = replace(PAGE, databases=(silent,), alerts=None, alerts_note="alerts are off")
    assert "the file is locked" in words(page)
    assert "alerts are off" in words(page)


def test_of_a_fleet_the_worst_stand_first_and_the_page_stays_a_page() -> None:
    fleet = [replace(MAIN, database=f"db{n:04}", status="ok", findings=()) for n in range(300)]
    many = tuple(replace(FINDING, object=f"public.t{n}") for n in range(MOST_FINDINGS + 5))
    fleet[250] = replace(fleet[250], status="critical", findings=many)
    page = replace(PAGE, databases=tuple(fleet))
    found = laid(page)
    assert found.fleet is not None
    assert found.fleet.rows[0][:2] == ("db0250", "critical")
    assert (len(found.findings), len(found.advice), len(found.details)) == (MOST_FINDINGS, 5, MOST_DETAILED)
    html = render_health(page)
    assert f"And {300 - MOST_DETAILED} more databases" in html
    assert all(f"db{n:04}" in html for n in range(300))
    assert len(html) < 1_000_000


def test_of_one_check_few_objects_are_drawn_and_the_others_are_counted() -> None:
    many = tuple(series(float(n), object=f"public.t{n}") for n in range(30))
    detail = laid(replace(PAGE, databases=(replace(MAIN, history=many),))).details[0]
    assert [one.object for one in detail.plots] == [f"public.t{n}" for n in (29, 28, 27, 26)]
    assert detail.left_out == 30 - MOST_OF_A_CHECK


def span(*looks: datetime) -> Span:
    return spanning(SINCE, NOW, looks)


LOOKS = tuple(SINCE + timedelta(minutes=15 * n) for n in range(41))


def test_a_line_runs_from_the_left_to_the_right_and_a_higher_number_stands_higher() -> None:
    drawn = plot(series(*[float(n) for n in range(41)]), span(*LOOKS))
    (line,) = drawn.lines
    places = [tuple(map(float, pair.split(","))) for pair in line.split()]
    assert (places[0][0], places[-1][0]) == (0, WIDTH)
    assert places == sorted(places, key=lambda xy: (xy[0], -xy[1]))
    assert all(0 <= y <= HEIGHT for _, y in places)


def test_where_a_look_found_no_number_the_line_is_broken() -> None:
    drawn = plot(series(1.0, 2.0, None, 4.0, 5.0), span(*LOOKS[:5]))
    assert len(drawn.lines) == 2
    assert "with 1 gap" in drawn.words


def test_where_nobody_looked_the_line_is_broken() -> None:
    looks = LOOKS[:10] + LOOKS[30:]
    values = [1.0 if at in looks else None for at in LOOKS]
    assert len(plot(series(*values), span(*looks)).lines) == 2
    late = LOOKS[:10] + LOOKS[11:]  # one look left out is no gap: nobody looks to the second
    values = [1.0 if at in late else None for at in LOOKS]
    assert len(plot(series(*values), span(*late)).lines) == 1


def test_where_only_each_hours_worst_is_kept_other_numbers_worst_ones_make_no_gaps() -> None:
    """Each number's worst of an hour is of another minute: between two of one there are always some of others."""
    mine = [SINCE + timedelta(hours=n, minutes=5) for n in range(9)]
    others = [SINCE + timedelta(hours=n, minutes=40) for n in range(9)]
    kept = series(points=tuple(Point(at, 1.0, "ok") for at in mine))
    hourly = spanning(SINCE, NOW, [*mine, *others], NOW - timedelta(minutes=59))
    assert len(plot(kept, hourly).lines) == 1
    without = replace(kept, points=(*kept.points[:3], *kept.points[4:]))  # an hour in which it wasn't measured
    assert len(plot(without, hourly).lines) == 2


def test_a_point_by_itself_is_a_dot() -> None:
    drawn = plot(series(1.0, None, 3.0, None, 5.0), span(*LOOKS[:5]))
    assert drawn.lines == ()
    assert len(drawn.dots) == 3


@pytest.mark.parametrize(
    ("highest", "drawn", "beyond"), [(10.0, [], "70%, 90%"), (20.0, ["70%"], "90%"), (50.0, ["70%", "90%"], "")]
)
def test_a_limit_is_drawn_where_it_is_near_and_named_where_it_is_far(
    highest: float, drawn: list[str], beyond: str
) -> None:
    found = plot(series(1.0, highest), span(*LOOKS[:2]))
    assert [limit.label for limit in found.limits] == drawn
    assert found.beyond == beyond
    assert all(0 <= limit.y <= HEIGHT for limit in found.limits)


@pytest.mark.parametrize("values", [(0.0, 0.0), (-5.0, -5.0), (-3.0, 7.0), (1e15, 1e15), (5.0,)])
def test_any_numbers_fit(values: tuple[float, ...]) -> None:
    drawn = plot(series(*values, first=None, second=None), span(*LOOKS[: len(values)]))
    heights = [float(y) for line in drawn.lines for y in re.findall(r",([\d.-]+)", line)] + [d.y for d in drawn.dots]
    assert heights
    assert all(0 <= y <= HEIGHT for y in heights)


def test_a_number_that_is_gone_is_not_shown_as_todays() -> None:
    gone = series(80.0, 80.0, object="public.gone", points=points(80.0, 80.0, status="warning"))
    drawn = plot(gone, span(*LOOKS[:3]))
    assert (drawn.latest, drawn.tone) == ("was 80%", "over")
    assert "at last 80%" in drawn.words
    history = (gone, series(1.0, 1.0, 1.0, check="txn.wraparound"))
    detail = laid(replace(PAGE, databases=(replace(MAIN, history=history),))).details[0]
    assert [one.latest for one in detail.plots] == ["1%", "was 80%"], "what is, before what was"
    assert detail.start == "2026-11-28 10:00:00 UTC"


def test_a_peak_of_one_look_among_thousands_is_still_there() -> None:
    minutes = [SINCE + timedelta(seconds=6 * n) for n in range(6000)]
    many = tuple(Point(at, 99.0 if n == 3333 else 1.0, "ok") for n, at in enumerate(minutes))
    drawn = plot(series(points=many), span(*minutes))
    (line,) = drawn.lines
    assert len(line.split()) <= 2 * (MOST_COLUMNS + 1)
    assert min(float(pair.split(",")[1]) for pair in line.split()) == 4.0
    assert drawn.top == "99%"


def test_a_dot_shows_where_it_became_worse() -> None:
    turned = (*points(1.0, 2.0), *(replace(p, status="warning") for p in points(None, None, 80.0, 81.0)))
    tones = [dot.tone for dot in plot(series(points=turned), span(*LOOKS[:4])).dots]
    assert tones == ["warn", "warn"]


def test_written_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "pages" / "health.html"
    write_health(PAGE, path)
    assert path.read_text(encoding="utf-8") == render_health(PAGE)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can't be written"):
        write_health(PAGE, tmp_path / "file" / "health.html")

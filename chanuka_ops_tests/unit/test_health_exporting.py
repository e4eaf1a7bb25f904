"""Nagios's line and Prometheus's text: read back, whatever a database's names hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from chanuka_ops.health.exporting import nagios, prometheus
from chanuka_ops.health.exporting.model import Seen, listed, noted, shown
from chanuka_ops.health.model import CheckResult, Finding, HealthReport, Limits, Status, worst

AT = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
KEY = "sequence.exhaustion"
HOSTILE = "a|b\nc\"d\\e'f=g\u202e\x1b\r;<script>"
# 'label'=value[unit];warn;crit;min;max
DATUM = re.compile(
    r"'([^'=|]+)'=(-?[\d.]+|U)(%|s|ms|B)?(?:;(-?[\d.]*)(?:;(-?[\d.]*)(?:;(-?[\d.]*)(?:;(-?[\d.]*))?)?)?)?"
)


def finding(status: Status, check: str = KEY, **changed: object) -> Finding:
    stated = Finding(check, status, "public.t_id_seq", 97.3, "%", 75.0, "it runs out", "alter …")
    return replace(stated, **changed)  # type: ignore[arg-type]  # a table of cases says what differs


def result(*findings: Finding, check: str = KEY, **changed: object) -> CheckResult:
    status = worst(found.status for found in findings)
    stated = CheckResult(check, status, 0.01, findings, value=97.3 if findings else None, unit="%")
    return replace(stated, **changed)  # type: ignore[arg-type]


def seen(*results: CheckResult, database: str = "main", at: datetime = AT) -> Seen:
    reachable = CheckResult("server.reachable", Status.OK, 0.0)
    checks = results if any(one.check == "server.reachable" for one in results) else (reachable, *results)
    found = tuple(item for one in checks for item in one.findings)
    report = HealthReport(database, worst(one.status for one in checks), "18.6", 0.25, found, checks)
    return Seen(report, at, {KEY: Limits(75.0, 90.0)})


def parsed(content: bytes) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values, in the labels' order; one that occurs twice fails."""
    samples: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(content.decode()):
        assert family.documentation
        assert family.type == "gauge"
        for sample in family.samples:
            key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert key not in samples
            samples[key] = sample.value
    return samples


BLIND = CheckResult("wal.directory_size", Status.UNKNOWN, 0.0, reason="role ops may not look: grant pg_monitor")


@pytest.mark.parametrize(
    ("results", "word", "code"),
    [
        ((), "OK", 0),
        ((result(finding(Status.INFO)),), "OK", 0),
        ((result(finding(Status.WARNING)),), "WARNING", 1),
        ((result(finding(Status.WARNING)), BLIND), "UNKNOWN", 3),
        ((result(finding(Status.CRITICAL)), BLIND), "CRITICAL", 2),
    ],
)
def test_nagios_says_the_worst_in_its_own_words_and_codes(
    results: tuple[CheckResult, ...], word: str, code: int
) -> None:
    answer = nagios.answer([seen(*results)])
    assert answer.line.startswith(f"{word} - main: ")
    assert answer.code == code


def test_the_line_names_what_is_wrong_and_the_numbers_with_their_limits() -> None:
    answer = nagios.answer([seen(BLIND, result(finding(Status.CRITICAL)))])
    text, data = answer.line.split(" | ")
    assert text == (
        "CRITICAL - main: 1 critical, 1 unknown: sequence.exhaustion public.t_id_seq 97.3 %;"
        " wal.directory_size role ops may not look: grant pg_monitor"
    )
    assert data.split(" ") == [
        "'critical'=1;;;0", "'unknown'=1;;;0", "'warning'=0;;;0", "'info'=0;;;0", "'judged'=2;;;0;3",
        "'time'=0.25s;;;0", "'sequence.exhaustion'=97.3%;75;90",
    ]  # fmt: skip


def test_a_healthy_line_says_how_much_could_be_judged() -> None:
    assert nagios.answer([seen()]).line.startswith("OK - main: 1 of 1 checks could be judged | ")


def test_more_findings_than_fit_are_counted() -> None:
    many = [finding(Status.CRITICAL, object=f"public.t{n}") for n in range(40)]
    text = nagios.answer([seen(result(*many))]).line.split(" | ")[0]
    assert text.startswith("CRITICAL - main: 40 critical: ")
    assert text.endswith("; and 35 more")


def test_of_several_databases_each_finding_says_whose_it_is() -> None:
    answer = nagios.answer([seen(), seen(result(finding(Status.WARNING)), database="shop")])
    text, data = answer.line.split(" | ")
    assert text == "WARNING - 2 databases: 1 warning: shop sequence.exhaustion public.t_id_seq 97.3 %"
    assert "'shop/sequence.exhaustion'=97.3%;75;90" in data
    assert "'main/critical'=0;;;0" in data
    assert answer.code == 1


def test_what_goes_wrong_before_a_check_is_unknown() -> None:
    answer = nagios.failed("chanuka.toml: unknown key|\nsecond line")
    assert answer == nagios.Answer("UNKNOWN - chanuka.toml: unknown key\u00a6 second line", 3)


@settings(max_examples=60)
@given(st.text(), st.text(min_size=1), st.floats(), st.text())
def test_no_name_and_no_number_breaks_the_line(object_: str, database: str, value: float, summary: str) -> None:
    found = finding(Status.CRITICAL, object=object_, value=value, summary=summary)
    blind = replace(BLIND, reason=summary)
    line = nagios.answer([seen(result(found, value=value), blind, database=database), seen()]).line
    assert line.splitlines() == [line]
    assert shown(line) == line
    line.encode()  # no lone surrogate
    text, data = line.split("|")
    assert text.startswith("CRITICAL - 2 databases: 1 critical, 1 unknown")
    items = re.findall(r"'[^']*'=\S+", data)
    assert "".join(data.split()) == "".join("".join(item.split()) for item in items)
    assert all(DATUM.fullmatch(item) for item in items)


def test_a_fleets_line_keeps_whole_items_only() -> None:
    fleet = [seen(result(finding(Status.WARNING)), database=f"database_{n:04}") for n in range(1000)]
    line = nagios.answer(fleet).line
    assert len(line.encode()) < 8192
    assert all(DATUM.fullmatch(item) for item in line.split(" | ")[1].split(" "))


def test_prometheus_has_each_check_with_the_same_id() -> None:
    samples = parsed(prometheus.text([seen(BLIND, result(finding(Status.CRITICAL)))]))
    assert samples["chanuka_health_up", "main"] == 1
    assert samples["chanuka_health_status", KEY, "main"] == 4
    assert samples["chanuka_health_status", "wal.directory_size", "main"] == 3
    assert samples["chanuka_health_status", "server.reachable", "main"] == 0
    assert samples["chanuka_health_value", KEY, "main", "", "%"] == 97.3
    assert samples["chanuka_health_value", KEY, "main", "public.t_id_seq", "%"] == 97.3
    assert samples["chanuka_health_findings", KEY, "main"] == 1
    assert samples["chanuka_health_findings", "server.reachable", "main"] == 0
    assert samples["chanuka_health_checks", "main"] == 3
    assert samples["chanuka_health_checks_judged", "main"] == 2
    assert samples["chanuka_health_last_run_timestamp_seconds", "main"] == AT.timestamp()
    assert samples["chanuka_health_last_run_seconds", "main"] == 0.25
    assert samples["chanuka_health_check_seconds", KEY, "main"] == 0.01
    assert samples["chanuka_health_server_info", "main", "18.6"] == 1


@pytest.mark.parametrize(("status", "number"), [(s, n) for n, s in enumerate(Status)])
def test_each_status_has_its_number(status: Status, number: int) -> None:
    samples = parsed(prometheus.text([seen(CheckResult(KEY, status, 0.0))]))
    assert samples["chanuka_health_status", KEY, "main"] == number


def test_a_server_that_is_down_is_not_up() -> None:
    down = CheckResult("server.reachable", Status.CRITICAL, 0.0)
    assert parsed(prometheus.text([seen(down)]))["chanuka_health_up", "main"] == 0


def test_whether_it_is_up_is_not_said_where_nobody_asked() -> None:
    report = HealthReport("main", Status.OK, "18.6", 0.1, (), (result(),))
    assert ("chanuka_health_up", "main") not in parsed(prometheus.text([Seen(report, AT)]))


@settings(max_examples=40)
@given(st.lists(st.text(), min_size=1, max_size=4), st.text(min_size=1))
def test_every_name_is_read_back(objects: list[str], database: str) -> None:
    found = [finding(Status.WARNING, object=name) for name in objects]
    samples = parsed(prometheus.text([seen(result(*found), database=shown(database))]))
    read = {key[3] for key in samples if key[0] == "chanuka_health_value"} - {""}
    assert read == {shown(name)[:199] + "…" if len(shown(name)) > 200 else shown(name) for name in objects if name}


def test_a_hostile_name_is_one_label() -> None:
    content = prometheus.text([seen(result(finding(Status.WARNING, object=HOSTILE)))])
    assert ("chanuka_health_value", KEY, "main", shown(HOSTILE), "%") in parsed(content)
    assert all(line.isprintable() for line in content.decode().splitlines())


def test_ten_thousand_objects_are_twenty_series_and_a_count() -> None:
    many = [finding(Status.WARNING, object=f"public.t{n}", value=float(n)) for n in range(10_000)]
    samples = parsed(prometheus.text([seen(result(*many))]))
    values = {key[3]: value for key, value in samples.items() if key[0] == "chanuka_health_value"}
    assert len(values) == prometheus.MOST_OBJECTS + 1
    assert values["public.t9999"] == 9999, "the worst ones"
    assert samples["chanuka_health_findings", KEY, "main"] == 10_000


def names(samples: Iterable[tuple[str, ...]], database: str) -> set[str]:
    return {key[0].removeprefix("chanuka_health_") for key in samples if database in key}


def test_what_is_too_old_is_said_to_be_and_not_shown_as_it_was() -> None:
    old, new = seen(result(finding(Status.WARNING)), database="old", at=AT - timedelta(seconds=181)), seen()
    samples = parsed(prometheus.text([old, new], now=AT, stale_after_s=180))
    assert names(samples, "old") == {"age_seconds", "stale", "last_run_timestamp_seconds"}
    assert samples["chanuka_health_stale", "old"] == 1
    assert samples["chanuka_health_age_seconds", "old"] == 181
    assert samples["chanuka_health_stale", "main"] == 0
    assert {"status", "up"} <= names(samples, "main")


def test_what_is_listed_stands_worst_first_and_says_of_the_blind_why() -> None:
    report = seen(BLIND, result(finding(Status.WARNING), finding(Status.CRITICAL))).report
    assert [(item.status, item.summary) for item in listed(report)] == [
        (Status.CRITICAL, "it runs out"),
        (Status.UNKNOWN, "role ops may not look: grant pg_monitor"),
        (Status.WARNING, "it runs out"),
    ]


def test_what_has_no_baseline_yet_was_not_judged() -> None:
    new = CheckResult("lock.deadlocks", Status.INFO, 0.0, reason="no baseline yet")
    partly = CheckResult("wal.rate", Status.INFO, 0.0, value=1.0, unit="%", reason="one directory is not looked at")
    one = seen(BLIND, new, partly)
    assert noted(one.report) == {"no baseline yet": ["lock.deadlocks"]}
    assert (one.judged, len(one.report.checks)) == (2, 4)
    assert one.coverage == "2 of 4 checks could be judged"

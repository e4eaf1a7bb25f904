"""Who is told what, and in which words: tables, nothing is sent."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from chanuka_ops import notify
from chanuka_ops.config import NotifySettings, RouteSettings
from chanuka_ops.notify import BODY_MAX_CHARS, SEVERITIES, TITLE_MAX_CHARS, Notice, Severity, message, routes_for

URL = {"env": "UNSET_ROUTE_URL"}


def notice(**fields: Any) -> Notice:
    given: dict[str, Any] = {
        "event": "backup.failed", "severity": "critical", "database": "main", "title": "backup failed", "body": "why",
    }  # fmt: skip
    return Notice(**given | fields)


def settings(**routes: dict[str, Any]) -> NotifySettings:
    return NotifySettings.model_validate({"routes": {name: {"url": URL, **route} for name, route in routes.items()}})


def test_severities_go_from_bad_to_worse_and_are_those_of_the_settings() -> None:
    assert SEVERITIES == ("info", "warning", "critical") == get_args(Severity)
    assert set(SEVERITIES) == RouteSettings.model_validate({"url": URL}).severities
    assert max("warning", "critical", "info", key=SEVERITIES.index) == "critical"


@pytest.mark.parametrize(
    ("route", "told", "goes"),
    [
        ({}, {}, True),
        ({"severities": ["critical"]}, {}, True),
        ({"severities": ["critical"]}, {"severity": "warning"}, False),  # no more and no less than it says
        ({"severities": ["info"]}, {}, False),
        ({"severities": []}, {}, False),
        ({"events": ["backup.failed"]}, {}, True),
        ({"events": ["backup.*"]}, {}, True),
        ({"events": ["*.failed"]}, {}, True),
        ({"events": ["drill.*", "*.failed"]}, {}, True),
        ({"events": ["BACKUP.*"]}, {}, False),
        ({"events": ["backup"]}, {}, False),
        ({"events": []}, {}, False),
        ({"databases": ["main"]}, {}, True),
        ({"databases": ["ma?n"]}, {}, True),
        ({"databases": ["prod-*"]}, {}, False),
        ({"databases": ["prod-*"]}, {"database": "prod-eu"}, True),
        ({"databases": ["prod-*"]}, {"database": None}, True),  # of none in particular: of all of them
        ({"tags": {"tier": "gold"}}, {"database": None}, True),
        ({"databases": ["prod-*"], "events": ["x"]}, {"database": None}, False),
        ({"tags": {"tier": "gold"}}, {}, True),
        ({"tags": {"tier": "gold", "team": "a"}}, {}, True),
        ({"tags": {"tier": "silver"}}, {}, False),
        ({"tags": {"tier": "gold", "team": "b"}}, {}, False),
        ({"tags": {"tier": "g*"}}, {}, False),  # a tag is no pattern
        ({"tags": {"owner": "x"}}, {}, False),
        ({"severities": ["critical"], "events": ["drill.*"]}, {}, False),  # all of it must fit
    ],
)
def test_a_route_takes_what_fits_all_of_it(route: dict[str, Any], told: dict[str, Any], *, goes: bool) -> None:
    tags = {"tier": "gold", "team": "a"}
    assert routes_for(notice(**told), settings(pager=route), tags) == (["pager"] if goes else [])


def test_each_route_that_fits_is_named_once_in_the_order_of_the_settings() -> None:
    several = settings(zulu={}, pager={"events": ["*", "backup.*"]}, quiet={"severities": []}, alpha={})
    assert routes_for(notice(), several, {}) == ["zulu", "pager", "alpha"]


def test_without_a_route_nobody_is_told() -> None:
    assert routes_for(notice(), NotifySettings(), {}) == []
    assert notify.send(notice(), NotifySettings()) == ()
    assert notify.send(notice(), settings(pager={"events": ["drill.*"]}), tags={}) == ()


def test_that_no_route_fits_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="chanuka_ops"):
        notify.send(notice(), settings(pager={"events": ["drill.*"]}))
    assert [(record.__dict__["event"], record.__dict__["notice"]) for record in caplog.records] == [
        ("notice.unrouted", "backup.failed")
    ]


def test_a_message_says_how_bad_where_what_and_with_which_figures() -> None:
    title, body = message(notice(facts={"backup_id": "main-1", "bytes": 7}))
    assert title == "[critical] main: backup failed"
    assert body == "why\n\nbackup_id: main-1\nbytes: 7\nevent: backup.failed"
    assert message(notice(database=None))[0] == "[critical] backup failed"


def test_a_title_is_one_line() -> None:
    """It becomes a header of a mail."""
    assert (
        message(notice(title="a\r\nBcc: everybody@example.org\n"))[0] == "[critical] main: a Bcc: everybody@example.org"
    )


@pytest.mark.parametrize("place", ["title", "body", "facts"])
def test_no_password_is_in_a_message(place: str) -> None:
    secret = "postgresql://ops:hunter2@db/x password='hunter2 too' "
    said = "".join(message(notice(**{place: {"why": secret} if place == "facts" else secret})))
    assert "hunter2" not in said
    assert "ops:********@db" in said


def test_what_is_too_long_keeps_its_ends_and_says_how_much_is_gone() -> None:
    title, body = message(notice(title="t" * 999, body="B" + "b" * 20_000, facts={"rows": 5}))
    assert len(title) <= TITLE_MAX_CHARS
    assert len(body) <= BODY_MAX_CHARS
    assert body.startswith("Bbb")
    assert body.endswith("rows: 5\nevent: backup.failed")
    assert " more … " in body
    exact = message(notice(body="x" * (BODY_MAX_CHARS - len("\n\nevent: backup.failed"))))[1]
    assert len(exact) == BODY_MAX_CHARS
    assert " more … " not in exact

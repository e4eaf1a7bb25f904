"""One message for one incident, the cause first; and the times in which nothing is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from chanuka_ops.config.alerts import AlertSettings, MaintenanceWindow
from chanuka_ops.health.alerting import grouping, service
from chanuka_ops.health.alerting.model import REACHABLE, Alert, Change, Event, Key, State
from chanuka_ops.health.model import Scope, Status

START = datetime(2026, 11, 28, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CHECK = "index.bloat"


def fires(check: str, database: str = "main", status: Status = Status.CRITICAL, **more: object) -> Change:
    alert = Alert(Key(database, check), State.FIRING, status, START, START, f"{check}: it is so", "mend it",
                  server="s", told=status, told_at=START)  # fmt: skip
    return Change(Event.FIRING, replace(alert, **more))  # type: ignore[arg-type]


def test_what_fires_at_once_is_one_message_with_the_cause_first() -> None:
    changes = [fires(check) for check in ("connections.saturation", "lock.blocked", "lock.ddl_queue")]
    changes += [fires("index.bloat", status=Status.WARNING)]
    [incident] = grouping.incidents(changes)
    assert incident.checks[0] == "lock.ddl_queue"
    assert incident.severity is Status.CRITICAL
    assert incident.title() == "lock.ddl_queue, and 3 more"
    assert "what to do: mend it" in incident.body()


def test_what_is_the_whole_servers_is_told_once_for_all_of_its_databases() -> None:
    changes = [fires("archive.failing", f"d{n}", scope=Scope.CLUSTER) for n in range(60)]
    changes.append(fires("archive.failing", "far", scope=Scope.CLUSTER, server="other"))
    found = grouping.incidents(changes)
    assert sorted(len(incident.databases) for incident in found) == [1, 60]
    assert {len(incident.changes) for incident in found} == {1}


def test_databases_broken_in_their_own_ways_are_incidents_of_their_own() -> None:
    down = "unavailable: nobody answers"
    changes = [fires(REACHABLE, f"d{n}", scope=Scope.CLUSTER, summary=down) for n in range(3)]
    changes.append(fires(REACHABLE, "gone", scope=Scope.CLUSTER, summary="missing: there is no such database"))
    changes.append(fires(REACHABLE, "key", scope=Scope.CLUSTER, summary="authentication: wrong password"))
    assert sorted(incident.databases for incident in grouping.incidents(changes)) == [
        ("d0", "d1", "d2"), ("gone",), ("key",),
    ]  # fmt: skip


def test_an_unknown_is_a_warning_to_who_is_told() -> None:
    [incident] = grouping.incidents([fires(CHECK, status=Status.UNKNOWN)])
    assert service.document(incident)["severity"] == "warning"


def of_server(number: int, database: str, event: Event = Event.FIRING, **more: object) -> Change:
    at = START + number * MINUTE
    alert = replace(fires("archive.failing", database).alert, scope=Scope.CLUSTER, told_at=at, **more)  # type: ignore[arg-type]
    return Change(event, alert)


def test_what_is_the_whole_servers_is_told_once_though_its_databases_are_looked_at_one_after_the_other() -> None:
    first, second = of_server(0, "a"), of_server(1, "b")
    assert grouping.once_a_server([first], [first.alert], 3600) == ([first], {})
    told, moved = grouping.once_a_server([second], [first.alert, second.alert], 3600)
    assert (told, moved) == ([], {second.alert.key: START})  # so that the next is due when the first's is
    assert grouping.once_a_server([of_server(61, "b", Event.REMINDER)], [first.alert], 3600)[0]
    assert grouping.once_a_server([of_server(1, "b", server="t")], [first.alert], 3600)[0]
    milder = replace(first.alert, told=Status.WARNING)
    assert grouping.once_a_server([second], [milder, second.alert], 3600)[0]
    over = of_server(2, "b", Event.RESOLVED, told=None)
    assert grouping.once_a_server([over], [first.alert, over.alert], 3600) == ([], {})
    assert grouping.once_a_server([over], [replace(first.alert, told=None), over.alert], 3600)[0] == [over]


# ------------------------------------------------------------------ maintenance


@pytest.mark.parametrize(
    ("window", "at", "is_open"),
    [
        ({"begins": "02:00", "ends": "04:00"}, "2026-11-28T03:00+00:00", True),
        ({"begins": "02:00", "ends": "04:00"}, "2026-11-28T04:00+00:00", False),
        ({"begins": "02:00", "ends": "04:00"}, "2026-11-28T04:30+02:00", True),  # 02:30 UTC
        ({"begins": "02:00", "ends": "04:00", "days": ["sun"]}, "2026-11-28T03:00+00:00", False),
        ({"begins": "23:00", "ends": "01:00", "days": ["sat"]}, "2026-11-28T23:30+00:00", True),
        ({"begins": "23:00", "ends": "01:00", "days": ["sat"]}, "2026-11-29T00:30+00:00", True),
        ({"begins": "23:00", "ends": "01:00", "days": ["sat"]}, "2026-11-28T00:30+00:00", False),
        ({"begins": "2026-11-28T00:00+00:00", "ends": "2026-11-29T00:00+00:00"}, "2026-11-28T23:59+00:00", True),
        ({"begins": "2026-11-28T00:00+00:00", "ends": "2026-11-29T00:00+00:00"}, "2026-11-29T00:00+00:00", False),
    ],
)
def test_a_maintenance_window(window: dict[str, object], at: str, *, is_open: bool) -> None:
    stated = MaintenanceWindow.model_validate({"reason": "patches", **window})
    assert stated.covers(datetime.fromisoformat(at)) is is_open


@pytest.mark.parametrize(
    "window",
    [
        {"begins": "02:00", "ends": "2026-11-29T00:00+00:00"},
        {"begins": "2026-11-29T00:00+00:00", "ends": "2026-11-28T00:00+00:00"},
        {"begins": "2026-11-28T00:00", "ends": "2026-11-29T00:00"},
        {"begins": "02:00", "ends": "02:00"},
        {"begins": "02:00", "ends": "03:00", "reason": ""},
    ],
)
def test_a_window_that_can_not_be_meant(window: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"begins|ends|reason|zone|timezone"):
        MaintenanceWindow.model_validate({"reason": "patches", **window})


def test_a_window_is_a_silence_for_whom_it_names() -> None:
    stated = AlertSettings.model_validate(
        {"maintenance": [{"reason": "patches", "databases": ["arch*"], "begins": "11:00", "ends": "13:00"}]}
    )
    [silence] = service.windows(stated, START)
    assert silence.covers(Key("archive", CHECK), START)
    assert not silence.covers(Key("main", CHECK), START)
    assert service.windows(stated, START + timedelta(hours=2)) == []

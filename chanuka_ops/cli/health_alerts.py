"""`chanuka-ops health alerts` and what belongs to it: evaluate, silence, silences, unsilence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
from pydantic import TypeAdapter, ValidationError

from chanuka_ops import context
from chanuka_ops.cli.face import Face, common
from chanuka_ops.config.databases import Seconds
from chanuka_ops.errors import ConfigurationError
from chanuka_ops.health.alerting import service
from chanuka_ops.health.alerting.keeping import AlertKeeper
from chanuka_ops.health.alerting.model import Alert, Silence, State
from chanuka_ops.orchestrators import alerting
from chanuka_ops.orchestrators.database import known_names


def _duration(_: click.Context, __: click.Parameter, stated: str) -> timedelta:
    try:
        return timedelta(seconds=TypeAdapter(Seconds).validate_python(stated))
    except ValidationError:
        raise click.BadParameter("a number with s, min or h, as 90min") from None


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also what waits to fire, and what is over.")
@common
def alerts(face: Face, *, everything: bool) -> int:
    """List what fires, and what was to be told and isn't yet; 1 if something of that couldn't be told."""
    keeper, now = AlertKeeper(face.settings().state_dir), datetime.now(UTC)
    silences = [*keeper.silences(now), *service.windows(face.settings().operations.monitoring.alerts, now)]
    found = [alert for alert in keeper.alerts() if everything or alert.state is State.FIRING]
    waiting = keeper.undelivered()
    if face.as_json:
        face.answer(
            {
                "alerts": [{**alert.to_json(), "silenced_until": _until(alert, silences, now)} for alert in found],
                "undelivered": [
                    {
                        "title": one.document["title"],
                        "since": one.made_at.isoformat(),
                        "tries": one.tries,
                        "problem": one.problem,
                    }
                    for one in waiting
                ],
            }
        )
    else:
        rows = [
            (a.severity, a.state, a.key.database, a.key.check, a.key.object, _short(a.since), a.summary,
             _until(a, silences, now) or "")
            for a in found
        ]  # fmt: skip
        columns = ("status", "state", "database", "check", "object", "since", "summary", "silent until")
        face.table("Alerts", columns, rows)
        for one in waiting:
            face.warn(f"not told yet, after {one.tries} tries: {one.document['title']}: {one.problem or 'it is new'}")
    return int(any(one.tries for one in waiting))


@click.command()
@click.option("--all-databases", is_flag=True, help="Every database of the settings.")
@common
def evaluate(face: Face, *, all_databases: bool) -> int:
    """Look, take the alerts on, and tell what is new: one step, for who has a scheduler and no Dagster; 1 if untold."""
    settings = face.settings()
    with face.watched():
        done = alerting.evaluate(settings, known_names(settings) if all_databases else [face.database])
    if face.as_json:
        face.answer(done.to_json())
    else:
        rows = [(str(i.severity), str(i.event), ", ".join(i.databases), i.title()) for i in done.incidents]
        face.table("Told", ("status", "event", "databases", "title"), rows)
        if done.untold:
            face.warn(f"{done.untold} messages are not told yet: chanuka-ops health alerts")
    return int(done.untold > 0)


@click.command()
@click.option("--check", "check_id", default="*", show_default=True, metavar="PATTERN", help="Which checks.")
@click.option("--on", "databases", default="*", show_default=True, metavar="PATTERN", help="Which databases.")
@click.option("--object", "objects", default="*", show_default=True, metavar="PATTERN", help="Which objects.")
@click.option("--for", "lasts", required=True, callback=_duration, metavar="DURATION", help="How long: 90min, 2h.")
@click.option("--reason", required=True, help="Why: whoever wonders finds it beside the alert.")
@common
def silence(face: Face, *, check_id: str, databases: str, objects: str, lasts: timedelta, reason: str) -> None:
    """Tell nothing of some alerts for a while; what fires still when it is over is told then."""
    if not reason.strip():
        raise ConfigurationError("--reason is empty: say why it's silent, for who wonders at night")
    now = datetime.now(UTC)
    made = Silence(0, databases, check_id, objects, now, now + lasts, reason, context.current().actor)
    number = AlertKeeper(face.settings().state_dir).silence(made)
    if face.as_json:
        face.answer({**made.to_json(), "id": number})
    else:
        face.say(f"silence {number}: {check_id} of {databases} until {_short(made.ends)} UTC")


@click.command()
@common
def silences(face: Face) -> None:
    """List the silences that are not over, and the maintenance windows that are open."""
    settings, now = face.settings(), datetime.now(UTC)
    kept = AlertKeeper(settings.state_dir).silences(now)
    windows = service.windows(settings.operations.monitoring.alerts, now)
    if face.as_json:
        face.answer({"silences": [one.to_json() for one in kept], "maintenance": [one.to_json() for one in windows]})
        return
    rows = [
        (one.id or "window", one.database, one.check, one.object, _short(one.ends) if one.id else "", one.reason,
         one.actor)
        for one in (*kept, *windows)
    ]  # fmt: skip
    face.table("Silences", ("id", "database", "check", "object", "until", "reason", "actor"), rows)


@click.command()
@click.argument("number", type=int)
@common
def unsilence(face: Face, *, number: int) -> None:
    """End a silence now."""
    if not AlertKeeper(face.settings().state_dir).unsilence(number, datetime.now(UTC)):
        raise ConfigurationError(f"there is no silence {number} that isn't over (see `health silences`)")
    if face.as_json:
        face.answer({"ended": number})
    else:
        face.say(f"silence {number} is over")


def _until(alert: Alert, silences_: list[Silence], now: datetime) -> str | None:
    silent = service.silenced(alert, silences_, now)
    if silent is None:
        return None
    return silent.ends.isoformat() if silent.id else f"maintenance: {silent.reason}"


def _short(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"

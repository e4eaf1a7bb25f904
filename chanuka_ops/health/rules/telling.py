"""The tool's own voice: whether those who are to be told of alerts are reached."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Rows, Scope, Status

# A receiver that restarts is back by the third try, two minutes later; who isn't needs somebody to look.
TRIES = 3
# One is enough: it was of something that somebody has to do.
MESSAGES = 1.0


def undelivered(rows: Rows, case: Case) -> Iterator[Finding]:
    """Say how many messages did not arrive though they were tried `TRIES` times; the rows are those that wait."""
    for row in rows:
        if row["unknown"] is not None:
            yield case.unknown(None, f"what was told can't be read: {row['unknown']}", "look at the state directory")
            return
    late = [row for row in rows if row["tries"] >= TRIES]
    if not late:
        yield case.finding(None, "every message arrived, or is being tried", "", value=0.0)
        return
    oldest = max(late, key=lambda row: row["age_s"])
    yield case.finding(
        None,
        f"{len(late)} messages of alerts have not arrived, the oldest for {oldest['age_s'] / 60:.0f} minutes and"
        f" {oldest['tries']} tries: {oldest['problem']}",
        "chanuka-ops health alerts lists them; correct the route under operations.notify.routes, or its receiver",
        value=float(len(late)),
    )


CHECKS = (
    Check(
        "self.undelivered",
        "alerts reach whom they should",
        (Status.WARNING,),
        undelivered,
        "An alert that doesn't arrive is no alert. What can't be delivered is kept and tried again, later each time and"
        " for ever; this says so by the other routes, and to who looks here or scrapes the numbers.",
        remedy="chanuka-ops health alerts lists the messages with what went wrong. Correct the route's URL or its"
        " receiver; what waits is then told within a quarter of an hour, and says that it is late.",
        link="https://www.postgresql.org/docs/current/monitoring.html",
        scope=Scope.CLUSTER,
        unit="messages",
        limits=Limits(MESSAGES),
        handed=True,
    ),
)

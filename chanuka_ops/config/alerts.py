"""When health alerts fire, clear and are told again; when nothing is told."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from chanuka_ops.config.databases import Seconds, Section

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class MaintenanceWindow(Section):
    """A time in which nothing is told, in UTC: each week on `days` from `begins` until `ends`, or once.

    `databases` and `checks` are shell patterns. A window that ends before it begins goes past midnight.
    """

    reason: str = Field(min_length=1)
    databases: tuple[str, ...] = ("*",)
    checks: tuple[str, ...] = ("*",)
    days: tuple[Day, ...] = DAYS
    begins: time | AwareDatetime
    ends: time | AwareDatetime

    @model_validator(mode="after")
    def _both_of_a_kind(self) -> Self:
        if isinstance(self.begins, datetime) != isinstance(self.ends, datetime):
            raise ValueError("begins and ends are both a time of the day, or both a date with a time and a zone")
        if isinstance(self.begins, datetime) and isinstance(self.ends, datetime) and self.begins >= self.ends:
            raise ValueError("it ends before it begins")
        if isinstance(self.begins, time) and self.begins == self.ends:
            raise ValueError("it begins and ends at the same time: leave out what is to be silent for good")
        return self

    def covers(self, now: datetime) -> bool:
        """Tell whether the window is open."""
        match (self.begins, self.ends):
            case datetime() as begins, datetime() as ends:
                return begins <= now < ends
            case time() as begins, time() as ends:
                return self._is_within(begins, ends, now.astimezone(UTC))
        raise AssertionError("both are of a kind")  # pragma: no cover

    def _is_within(self, begins: time, ends: time, now: datetime) -> bool:
        at, today = now.time(), DAYS[now.weekday()]
        if begins < ends:
            return today in self.days and begins <= at < ends
        yesterday = DAYS[(now.weekday() - 1) % len(DAYS)]
        return (today in self.days and at >= begins) or (yesterday in self.days and at < ends)


class AlertSettings(Section):
    """When an alert fires and clears: counted in looks, so the schedule of the looks says how long that is.

    What each means is said at `Policy`, in health/alerting/model.py.
    """

    warning_after: int = Field(2, ge=1, le=100)
    critical_after: int = Field(1, ge=1, le=100)
    clear_after: int = Field(2, ge=1, le=100)
    hysteresis: float = Field(0.05, ge=0, le=0.5)
    remind_every_s: Seconds = Field(4 * 3600.0, alias="remind_every")
    unknown_after_s: Seconds = Field(900.0, alias="unknown_after")
    flaps: int = Field(3, ge=2, le=100)
    flap_window_s: Seconds = Field(3600.0, alias="flap_window")
    steady_after: int = Field(8, ge=1, le=1000)
    gather_s: Seconds = Field(300.0, alias="gather")
    maintenance: tuple[MaintenanceWindow, ...] = ()

"""What health checks look at, where they draw the line, and for how long they may look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from pydantic import Field, field_validator

from chanuka_ops.config.alerts import AlertSettings
from chanuka_ops.config.databases import Seconds, Section

_T = TypeVar("_T")


class ObjectThreshold(Section):
    """Limits of one check for the objects that a pattern names, in the check's unit; None leaves the check's own."""

    warning: float | None = Field(None, allow_inf_nan=False)
    critical: float | None = Field(None, allow_inf_nan=False)


class Threshold(ObjectThreshold):
    """Limits of one check; `objects` by the shell pattern of an object's name: `"public.events"`, `"archive.*"`."""

    objects: dict[str, ObjectThreshold] = Field({})

    @field_validator("objects", mode="before")
    @classmethod
    def _bare_number(cls, value: object) -> object:
        return _first_limit(value)


def _first_limit(value: object) -> object:
    """Take a bare number for the first limit."""
    if isinstance(value, Mapping):
        return {key: {"warning": v} if isinstance(v, int | float | str) else v for key, v in value.items()}
    return value


class DatabaseMonitoring(Section):
    """What is otherwise for the databases that a pattern names."""

    thresholds: dict[str, Threshold] = Field({})
    disabled: frozenset[str] = frozenset()

    @field_validator("thresholds", mode="before")
    @classmethod
    def _bare_number_is_the_first_limit(cls, value: object) -> object:
        return _first_limit(value)


class MonitoringSettings(DatabaseMonitoring):
    """What health checks look at and where they draw the line.

    `databases` by the shell pattern of a database's name in the settings: its thresholds go before the general ones,
    those of a longer pattern before those of a shorter one. `budget_s` is what a look at one database may take: what is
    not looked at by then is unknown.
    """

    databases: dict[str, DatabaseMonitoring] = Field({})
    budget_s: Seconds = Field(30.0, alias="budget")
    alerts: AlertSettings = AlertSettings()

    def of(self, database: str) -> MonitoringSettings:
        """Return what holds for one database."""
        meant = [one for pattern, one in _by_length(self.databases.items()) if fnmatchcase(database, pattern)]
        thresholds = dict(self.thresholds)
        for one in meant:
            for check, stated in one.thresholds.items():
                thresholds[check] = _over(thresholds.get(check), stated)
        disabled = self.disabled.union(*(one.disabled for one in meant))
        return self.model_copy(update={"thresholds": thresholds, "disabled": disabled, "databases": {}})

    def named(self) -> frozenset[str]:
        """Return the ids of all checks that the settings name anywhere."""
        sections = (self, *self.databases.values())
        return frozenset().union(*({*one.thresholds, *one.disabled} for one in sections))


def object_threshold(stated: Threshold, name: str) -> ObjectThreshold | None:
    """Return the limits of one object: those of the longest pattern that fits its name."""
    found = [one for pattern, one in _by_length(stated.objects.items()) if fnmatchcase(name, pattern)]
    return found[-1] if found else None


def _over(general: Threshold | None, special: Threshold) -> Threshold:
    if general is None:
        return special
    return Threshold(
        warning=general.warning if special.warning is None else special.warning,
        critical=general.critical if special.critical is None else special.critical,
        objects={**general.objects, **special.objects},
    )


def _by_length(named: Iterable[tuple[str, _T]]) -> list[tuple[str, _T]]:
    return sorted(named, key=lambda item: len(item[0]))

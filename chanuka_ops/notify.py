"""Placeholder of the lead's, so that the tree imports while the module is being written; overwrite it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True)
class Notice:
    event: str
    severity: Severity
    database: str
    title: str
    body: str
    facts: Mapping[str, object]


def send(notice: Notice, settings: object, *, tags: Mapping[str, str]) -> tuple[object, ...]:
    return ()


def heartbeat(settings: object, facts: Mapping[str, object]) -> tuple[object, ...]:
    return ()

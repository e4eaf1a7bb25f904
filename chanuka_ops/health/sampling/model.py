"""The nouns of rates. Frozen, and without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chanuka_ops.health.model import Status


@dataclass(frozen=True, slots=True)
class Sample:
    """What one query counted. `at` is the server's clock; `incarnation` names who counted, and since which start."""

    at: datetime
    incarnation: str
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number at a time, for a plot; `object` None: of the database as a whole, or the worst of its objects."""

    at: datetime
    database: str
    check: str
    object: str | None
    value: float
    unit: str
    status: Status
